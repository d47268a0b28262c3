"""Emulated devices: batches take what the profile says, times what sharing is said to cost."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from proteus_cli.domain.interference import SharingModel
from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.profile import Profile
from proteus_cli.studies.sharing.bench.slices import Ran, SliceClock, Work, Workload, run_workload
from proteus_cli.studies.sharing.bench.stream import STREAM_TURN_S


class _Timeline:
    """The clock of a device on which nothing happens but its batches."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def read(self) -> float:
        return self.now_s

    def sleep_until(self, at_s: float) -> None:
        self.now_s = max(self.now_s, at_s)


class EmulatedBench:
    """Devices with one profile, and its slots, as slow as when all of these are busy.

    ``sleep`` is called with the length of each slice, so that it takes its time.
    """

    def __init__(self, profile: Profile, sharing: SharingModel, sleep: Callable[[float], object]) -> None:
        self.slots = profile.slots
        self._tables = {
            measured.key: LatencyTable(points, of=lambda point: point.mean_s)
            for measured in profile.variants
            if (points := profile.points_of(measured) or measured.points)
        }
        self._sharing, self._sleep = sharing, sleep

    def run(self, workloads: Sequence[Workload], length_s: float) -> list[list[Ran]]:
        done = [
            self._ran(workload, [*workloads[:place], *workloads[place + 1 :]], length_s) if workload.works else []
            for place, workload in enumerate(workloads)
        ]
        self._sleep(length_s)
        return done

    def _ran(self, workload: Workload, neighbours: Sequence[Workload], length_s: float) -> list[Ran]:
        seconds = {work: self._batch_s(work, workload, neighbours) for work in workload.works}
        in_slots = (_in_slot(workload.part_of(slot, self.slots), slot, seconds, length_s) for slot in range(self.slots))
        return list(chain.from_iterable(in_slots))

    def _batch_s(self, work: Work, workload: Workload, neighbours: Sequence[Workload]) -> float:
        if work.key is None:
            return STREAM_TURN_S
        beside = [other.key for other in workload.works if other.key is not None and other != work]
        near = [other.key for each in neighbours for other in each.works if other.key is not None]
        alone_s = self._tables[work.key](work.batch)
        on_device = self._sharing.factor(work.key, beside, batch=work.batch)
        from_near = self._sharing.factor(work.key, near, batch=work.batch, where="neighbour")
        return alone_s * on_device * from_near


def _in_slot(workload: Workload, slot: int, seconds: Mapping[Work, float], length_s: float) -> list[Ran]:
    """What one slot runs; each begins with the next work, as slots of hardware do."""
    clock = _Timeline()

    def run(work: Work) -> None:
        clock.now_s += seconds[work]

    return run_workload(workload, run, length_s, SliceClock(clock.read, clock.read, clock.sleep_until), first=slot)
