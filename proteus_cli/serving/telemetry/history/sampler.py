"""The last 15 minutes, a sample a second. Requests cost nothing more for it: samples are differences of counters."""

import asyncio
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from proteus_cli import __version__
from proteus_cli.arrays import Floats
from proteus_cli.domain.rollouts import RolloutStatus
from proteus_cli.errors import BadRequest
from proteus_cli.serving.adaptation.plan_journal import PlanChange
from proteus_cli.serving.devices.remote.links.link_state import LinkState
from proteus_cli.serving.fleet.worker import Clock
from proteus_cli.serving.requests.counts import FamilyCounts
from proteus_cli.serving.requests.data_plane import DataPlane
from proteus_cli.serving.telemetry.events import EventLog
from proteus_cli.serving.telemetry.history.counters import Counters, read_counters
from proteus_cli.serving.telemetry.history.history import (
    DeviceHistory,
    DeviceSamples,
    FamilyHistory,
    FamilySamples,
    Flows,
    History,
)
from proteus_cli.serving.telemetry.history.sample_ring import SAMPLES, SampleRing
from proteus_cli.serving.telemetry.history.snapshot import (
    DeviceSnapshot,
    FamilySnapshot,
    Snapshot,
    make_snapshot,
)
from proteus_cli.serving.telemetry.slots import lately_changed
from proteus_cli.serving.telemetry.stages import cascades_of, exits_of

EVERY_S = 1.0
CURSOR = "([0-9a-f]{8})-([0-9]{1,12})"

SNAPSHOT_SAMPLES = 5
"""A snapshot is the mean of so many samples …"""

TAIL_SAMPLES = 10
"""… but a 99th percentile needs more of them."""

TAIL = 0.99
SNAPSHOT_EVENTS = 20

MAX_NUMBERS = 8000
"""In one answer of `MetricsSampler.feed`: to write more would delay other requests."""

# The columns of families and of devices, with the digits behind the point that they are read with.
FAMILY_DIGITS = {
    "demand_qps": 2, "throughput_qps": 2, "goodput_qps": 2, "late_qps": 2, "dropped_qps": 2, "rejected_qps": 2,
    "failed_qps": 2, "accuracy": 5, "p99_s": 6, "waiting": 0,
}  # fmt: skip
DEVICE_DIGITS = {"load": 4, "mean_batch": 2}
VARIANT_DIGITS = {"answered_qps": 2}

_NO_FLOWS = Flows(*([] for _ in Flows.__struct_fields__))
_RATES = 7  # the first columns of families, which are those of `Counters.families`


class MetricsSampler:
    """Reads the counters once a second. ``changes`` are all changes of plan so far, oldest first.

    With hundreds of devices a snapshot takes longer than all else here. So it is made when it is asked for, except
    where a thread shows snapshots.

    ``unix_s`` gives the time of day. ``links`` tells how the hosts of a cluster are reached, ``rollouts`` how far
    versions are rolled out, and ``is_shifted`` whether requests of a family are no longer like its eval split.
    """

    def __init__(
        self,
        plane: DataPlane,
        clock: Clock,
        changes: Collection[PlanChange] = (),
        unix_s: Callable[[], float] = time.time,
        links: Callable[[], Mapping[str, LinkState]] = dict,
        rollouts: Callable[[], Sequence[RolloutStatus]] = tuple,
        is_shifted: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._rollouts, self._is_shifted = rollouts, is_shifted
        self._plane, self._clock, self._unix_s, self._links = plane, clock, unix_s, links
        self._server = secrets.token_hex(4)  # tells a cursor of this process from one of another
        self._start_s = clock()
        self._families = SampleRing(tuple(plane.families.by_name), FAMILY_DIGITS)
        self._devices: SampleRing[str] = SampleRing((), DEVICE_DIGITS)
        self._variants: SampleRing[tuple[str, str]] = SampleRing((), VARIANT_DIGITS)
        self._at_s = np.zeros(SAMPLES)
        self._taken = 0
        first = read_counters(plane, self._start_s)
        self._readings: deque[Counters] = deque([first], TAIL_SAMPLES + 1)
        self._ended = np.repeat(first.ended()[np.newaxis], SAMPLES, axis=0)  # at each of the last samples
        self._events = EventLog(plane.fleet, changes, self._start_s, unix_s)
        self._use_rows()
        self._tails_s, self._recent = self._p99_s(), self._ended[0] * 0
        self._is_shown = False
        self._now: Snapshot | None = None

    @property
    def now(self) -> Snapshot:
        """Rates since the last sample, and what the server is."""
        self._use_rows()
        return self._last()

    def shown(self) -> Callable[[], Snapshot]:
        """From now on a snapshot of each sample is made; returns what gives the last one, in any thread."""
        self._is_shown, self._now = True, self.now
        return self._last

    async def run(self) -> None:
        """Take a sample every `EVERY_S`, until cancelled."""
        due_s = self._clock()
        while True:
            due_s = max(due_s + EVERY_S, self._clock() + EVERY_S / 2)  # a sample that was missed is left out
            await asyncio.sleep(due_s - self._clock())
            self.sample()

    def sample(self) -> None:
        """Take a sample now."""
        self._use_rows()
        counters, before = read_counters(self._plane, self._clock()), self._readings[-1]
        self._readings.append(counters)
        self._tails_s = self._p99_s()
        self._families.put(self._taken, self._of_families(counters.family_rates(before), self._tails_s))
        self._devices.put(self._taken, counters.device_loads(before))
        self._variants.put(self._taken, counters.variant_rates(before, self._variants.names))
        place = self._taken % SAMPLES
        self._at_s[place] = counters.at_s - self._start_s
        ended = counters.ended()
        self._recent = ended - self._ended[place]  # that was read `SAMPLES` ago, or at the start
        self._ended[place] = ended
        self._events.notice(self._taken, counters.at_s)
        self._taken += 1
        self._now = self._snapshot() if self._is_shown else None

    def feed(self, since: str | None = None) -> History:
        """The samples after ``since``, the cursor of an earlier answer; all, if that was another server's.

        At most `MAX_NUMBERS`: unless the answer is ``complete``, there are more to ask for. Numbers that are not known
        are NaN, which msgspec writes as null. Raises `BadRequest`.
        """
        self._use_rows()
        first = max(self._number(since), self._taken - SAMPLES)
        columns = self._families.width + self._devices.width + self._variants.width
        last = min(self._taken, first + max(1, MAX_NUMBERS // max(1, columns)))
        numbers, now = range(first, last), self.now
        families, devices, variants = (
            self._families.read(numbers),
            self._devices.read(numbers),
            self._variants.read(numbers),
        )
        return History(
            server=self._server,
            cursor=f"{self._server}-{last}",
            complete=last == self._taken,
            every_s=EVERY_S,
            keeps_s=SAMPLES * EVERY_S,
            version=__version__,
            state=self._plane.lifecycle.state,
            policy=now.policy,
            emulated=now.is_emulated,
            inside=now.inside,
            unix_s=round(self._unix_s(), 3),
            uptime_s=round(self._clock() - self._start_s, 3),
            at_s=[round(float(self._at_s[number % SAMPLES]), 3) for number in numbers],
            families={
                name: FamilyHistory(
                    **_rounded(of, FAMILY_DIGITS),
                    cascades=cascades_of(self._plane.controller, name),
                    exits=exits_of(self._plane.controller, name),
                    stop_when=str(live) if (live := self._plane.controller.dispatch.stop_when.get(name)) else None,
                    variants=self._plane.families.by_name[name].variants,
                    samples=FamilySamples(
                        **families[name],
                        answered_qps={
                            variant: variants[name, variant]["answered_qps"]
                            for variant in self._plane.families.by_name[name].variants
                        },
                    ),
                )
                for name, of in now.families.items()
            },
            devices={
                name: DeviceHistory(**_rounded(of, DEVICE_DIGITS), samples=DeviceSamples(**devices[name]))
                for name, of in now.devices.items()
            },
            hosts=now.hosts,
            rollouts=list(self._rollouts()),
            slots=lately_changed(self._plane.fleet.tuners, self._clock()),
            flows=Flows(*map(list, zip(*now.flows, strict=True))) if now.flows else _NO_FLOWS,
            events=self._events.between(first, last),
        )

    @property
    def nbytes(self) -> int:
        """Memory of the samples, which grows only with families, devices and variants that join."""
        rings = self._families.nbytes + self._devices.nbytes + self._variants.nbytes
        return rings + self._at_s.nbytes + self._ended.nbytes

    def _last(self) -> Snapshot:
        if self._now is None:
            self._now = self._snapshot()
        return replace(self._now, state=self._plane.lifecycle.state.value)

    def _use_rows(self) -> None:
        """Have rows for what there is now: families and variants come and go, devices join."""
        self._devices.use(self._plane.fleet.workers)
        families, counts = self._plane.families.by_name, self._plane.counts.by_family
        self._variants.use((name, variant) for name, of in families.items() for variant in of.variants)
        before = self._readings[-1].counts
        if list(before) != list(counts) or any(before[name] is not of for name, of in counts.items()):
            self._use_families(before, counts)

    def _use_families(self, before: Mapping[str, FamilyCounts], now: Mapping[str, FamilyCounts]) -> None:
        """A family that has gone, and has come back, is a new one."""
        same = {name for name, of in now.items() if before.get(name) is of}
        self._families.use(name for name in self._families.names if name in same)
        self._families.use(now)
        for place, reading in enumerate(self._readings):
            self._readings[place] = reading.with_families(now)
        rows = {name: row for row, name in enumerate(before) if name in same}
        ended, recent = np.zeros((SAMPLES, len(now), 2), np.int64), np.zeros((len(now), 2), np.int64)
        for row, name in enumerate(now):
            if name in rows:
                ended[:, row], recent[row] = self._ended[:, rows[name]], self._recent[rows[name]]
        self._ended, self._recent, self._tails_s = ended, recent, self._p99_s()
        self._now = self._snapshot() if self._is_shown else None

    def _number(self, cursor: str | None) -> int:
        if cursor is None:
            return 0
        found = re.fullmatch(CURSOR, cursor)
        if found is None:
            raise BadRequest("`since` is the `cursor` of an earlier answer, or left out")
        return min(int(found[2]), self._taken) if found[1] == self._server else 0

    def _of_families(self, rates: Floats, p99_s: Sequence[float | None]) -> Floats:
        rows = np.empty((len(self._families.names), len(FAMILY_DIGITS)))
        rows[:, :_RATES] = rates[:, :_RATES]
        served, accuracy = rates[:, _RATES : _RATES + 2].T
        with np.errstate(invalid="ignore"):
            rows[:, _RATES] = accuracy / served
        rows[:, _RATES + 1] = [np.nan if each is None else each for each in p99_s]
        rows[:, _RATES + 2] = [self._plane.controller.families[family].waiting for family in self._families.names]
        return rows

    def _p99_s(self) -> list[float | None]:
        """By family, over the last `TAIL_SAMPLES`."""
        return self._readings[-1].latency_quantiles_s(self._readings[0], self._plane, TAIL)

    def _snapshot(self) -> Snapshot:
        before = self._readings[max(0, len(self._readings) - 1 - SNAPSHOT_SAMPLES)]
        events = self._events.latest(SNAPSHOT_EVENTS)
        return make_snapshot(
            self._plane, self._readings[-1], before, self._tails_s, self._recent, self._start_s, events, self._links(),
            self._is_shifted,
        )  # fmt: skip


def _rounded(of: FamilySnapshot | DeviceSnapshot, digits: Mapping[str, int]) -> dict[str, Any]:
    """The fields of a snapshot, with the digits that samples have."""
    values = msgspec.structs.asdict(of)
    return {
        name: round(value, digits.get(name, 5)) if isinstance(value, float) else value for name, value in values.items()
    }
