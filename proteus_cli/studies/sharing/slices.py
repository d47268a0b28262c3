"""Slices: workloads of devices for a short time, and the batches that ran."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.interference import SharingModel
from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.profile import Profile

MAX_BATCHES = 20_000
"""Of a workload in a slice: what comes after is not run, so that an answer fits in memory."""


class Work(msgspec.Struct, frozen=True):
    """A batch of a variant; without a ``key``, some memory that is streamed."""

    key: VariantKey | None
    batch: int


STREAM = Work(None, 0)


class Arrival(msgspec.Struct, frozen=True, array_like=True):
    """A batch of the workload's ``work`` arrives so long after the slice began."""

    at_s: float
    work: int


class Workload(msgspec.Struct, frozen=True):
    """What a device does in a slice: works in turn without a pause; or, with ``arrivals`` in order, as they arrive."""

    works: tuple[Work, ...]
    arrivals: tuple[Arrival, ...] | None = None

    def part_of(self, slot: int, slots: int) -> "Workload":
        """What one of several slots does: each takes every so many arrivals."""
        return self if self.arrivals is None else Workload(self.works, self.arrivals[slot::slots])


class Ran(msgspec.Struct, frozen=True, array_like=True):
    """A batch of a workload: the place of its work, and when it arrived, began and ended, from the begin of the slice.

    ``batch_s`` is what it took, without the time in which its device had no core, as other programs had it.
    """

    work: int
    arrived_s: float
    began_s: float
    ended_s: float
    batch_s: float

    @property
    def latency_s(self) -> float:
        return self.ended_s - self.arrived_s


@dataclass(frozen=True, slots=True)
class SliceClock:
    """``now_s`` is 0 when the slice begins; ``busy_s`` goes on with it only while the device has its cores."""

    now_s: Callable[[], float]
    busy_s: Callable[[], float]
    sleep_until: Callable[[float], object]


def run_workload(
    workload: Workload, run: Callable[[Work], object], length_s: float, clock: SliceClock, *, first: int = 0
) -> list[Ran]:
    """Run the batches of a workload until ``length_s``; the last may end after the slice.

    ``first`` is the place of the work whose turn is first.
    """
    arrivals = workload.arrivals if workload.arrivals is not None else _in_turn(len(workload.works), first)
    done: list[Ran] = []
    for arrival in islice(arrivals, MAX_BATCHES):
        if arrival.at_s > 0:
            clock.sleep_until(arrival.at_s)
        began_s, busy_s = clock.now_s(), clock.busy_s()
        if began_s >= length_s:
            break
        run(workload.works[arrival.work])
        took_s, ended_s = clock.busy_s() - busy_s, clock.now_s()
        arrived_s = began_s if workload.arrivals is None else arrival.at_s
        done.append(Ran(arrival.work, arrived_s, began_s, ended_s, took_s))
    return done


def _in_turn(works: int, first: int) -> Iterator[Arrival]:
    """Each batch arrives when there is a turn for it."""
    return (Arrival(0.0, (first + turn) % works) for turn in count())


TURN_BYTES = 64 * 2**20
"""Of a turn on a device that is shared: more than the engines that share a device read between two batches."""

STREAM_TURN_S = 0.01
"""What a turn takes, about."""

LARGEST_BYTES = 2**30
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
_UNKNOWN_CACHE_BYTES = 64 * 2**20


def largest_cache_bytes(caches: Path = _CACHES) -> int:
    """The size of the largest cache of the first core; 64 MiB where the system does not say it."""
    sizes = []
    for path in caches.glob("index*/size"):
        text = path.read_text(encoding="ascii").strip()
        if text[:-1].isdigit() and text[-1:] in _UNITS:
            sizes.append(int(text[:-1]) * _UNITS[text[-1]])
    return max(sizes, default=_UNKNOWN_CACHE_BYTES)


def stream_bytes(free_bytes: int, cache_bytes: int) -> int:
    """How much memory to stream: twice the largest cache, but no more than 1 GiB or an eighth of what is free."""
    return max(min(2 * cache_bytes, LARGEST_BYTES, free_bytes // 8), 2**20)


class Stream:
    """Reads so many bytes over and over, `TURN_BYTES` at a time."""

    def __init__(self, size_bytes: int) -> None:
        self._words = np.ones(max(size_bytes, 8) // 8, np.int64)  # ones, as zeros may be one page of the system
        self._at = 0

    def read_on(self) -> int:
        """Read the next part; returns the sum of its words."""
        if self._at >= len(self._words):
            self._at = 0
        part = self._words[self._at : self._at + TURN_BYTES // 8]
        self._at += len(part)
        return int(part.sum())


class Bench(Protocol):
    """Some devices that are alike. ``slots``: how many batches each runs at once."""

    @property
    def slots(self) -> int: ...

    def run(self, workloads: Sequence[Workload], length_s: float) -> list[list[Ran]]:
        """Run a workload on each of the first devices, all from the same moment; the batches by device.

        Raises `EngineError`.
        """
        ...


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
