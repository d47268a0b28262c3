"""The last 15 minutes, a sample a second, of what the server counts anyway; the page and the terminal show it.

Requests cost nothing more for it: each sample is the difference between two looks at the counters.
"""

import asyncio
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np

from proteus_cli import __version__
from proteus_cli.domain.arrays import Floats
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import BadRequest
from proteus_cli.serving.adaptation.control_loop import PlanChange
from proteus_cli.serving.fleet.worker import Clock
from proteus_cli.serving.requests.counts import quantile
from proteus_cli.serving.requests.dataplane import DataPlane
from proteus_cli.serving.telemetry.history import (
    DeviceHistory,
    DeviceSamples,
    FamilyHistory,
    FamilySamples,
    Flows,
    History,
)
from proteus_cli.serving.telemetry.snapshot import (
    DeviceSnapshot,
    FamilySnapshot,
    Flow,
    ServerEvent,
    ServerEventKind,
    Snapshot,
)

EVERY_S = 1.0
SAMPLES = 900
EVENTS = 1000
CURSOR = "([0-9a-f]{8})-([0-9]{1,12})"
NOW_EVENTS = 20
NOW_SAMPLES = 5  # what is told as the present is the mean of so many
TAIL_SAMPLES = 10  # and a 99th percentile needs more
TAIL = 0.99
MAX_NUMBERS = 8000  # in one answer: writing more would hold up the requests of others

# What is kept of each family and of each device, and the digits behind the point that are told.
FAMILY_DIGITS = {
    "demand_qps": 2, "throughput_qps": 2, "goodput_qps": 2, "late_qps": 2, "dropped_qps": 2, "rejected_qps": 2,
    "failed_qps": 2, "accuracy": 5, "p99_s": 6, "waiting": 0,
}  # fmt: skip
DEVICE_DIGITS = {"load": 4, "mean_batch": 2}

_RATES = 7  # of the families' columns, the first ones are rates
_ENDINGS = (Outcome.LATE, Outcome.DROPPED, Outcome.REJECTED, Outcome.FAILED, Outcome.SERVED)

Breakers = Callable[[], Mapping[str, tuple[str, str]]]
"""State (`open`, `half-open`) and reason by device; those that aren't there are `closed`."""


@dataclass(frozen=True, slots=True)
class _Look:
    """The counters at one moment: of families (rows; columns as `_totals`), of latencies, of devices, of answers."""

    clock_s: float
    families: Floats
    latencies: Floats
    devices: Floats
    answers: Mapping[tuple[str, str, str], int]


class _Ring:
    """The last `SAMPLES` rows of a table by name and column; not known is NaN."""

    def __init__(self, names: Sequence[str], digits: Mapping[str, int]) -> None:
        self.names, self.columns = names, tuple(digits)
        self._scale = 10.0 ** np.array(list(digits.values()))
        self._rows = np.full((SAMPLES, len(names), len(digits)), np.nan, np.float32)

    def put(self, number: int, values: Floats) -> None:
        self._rows[number % SAMPLES] = values

    def told(self, numbers: Sequence[int]) -> dict[str, dict[str, list[float]]]:
        """By name and column, the values of the samples with these numbers."""
        rows = self._rows[[number % SAMPLES for number in numbers]].astype(np.float64)
        values = (np.round(rows * self._scale) / self._scale).transpose(1, 2, 0).tolist()
        return {name: dict(zip(self.columns, of, strict=True)) for name, of in zip(self.names, values, strict=True)}

    @property
    def nbytes(self) -> int:
        return self._rows.nbytes


class MetricsSampler:
    """Looks at the counters once a second. ``changes`` of plan are noticed as they come, oldest first.

    ``unix_s`` tells the time of day.
    """

    def __init__(
        self,
        plane: DataPlane,
        clock: Clock,
        changes: Collection[PlanChange] = (),
        breakers: Breakers = dict,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._plane, self._clock, self._unix_s = plane, clock, unix_s
        self._changes, self._breakers = changes, breakers
        self._server = secrets.token_hex(4)  # tells a cursor of this process from one of another
        self._start_s = clock()
        self._families = _Ring(tuple(plane.counts), FAMILY_DIGITS)
        self._devices = _Ring(tuple(plane.lanes), DEVICE_DIGITS)
        self._at_s = np.zeros(SAMPLES)
        self._taken = 0
        self._looks: deque[_Look] = deque([self._look()], TAIL_SAMPLES + 1)
        self._events: deque[tuple[int, ServerEvent]] = deque(maxlen=EVENTS)
        self._last_change: PlanChange | None = None
        self._states: dict[str, str] = {}
        self._now = self._make_now()

    @property
    def now(self) -> Snapshot:
        """The server at the last sample; its state as it is. May be asked for from any thread."""
        return replace(self._now, state=self._plane.lifecycle.state.value)

    async def run(self) -> None:
        """Until cancelled."""
        due_s = self._clock()
        while True:
            due_s = max(due_s + EVERY_S, self._clock() + EVERY_S / 2)  # what was missed is not made up for
            await asyncio.sleep(due_s - self._clock())
            self.sample()

    def sample(self) -> None:
        """Take a sample now."""
        look, before = self._look(), self._looks[-1]
        self._looks.append(look)
        self._families.put(self._taken, self._of_families(look, before))
        self._devices.put(self._taken, _of_devices(look, before))
        self._at_s[self._taken % SAMPLES] = look.clock_s - self._start_s
        self._note_changes(look.clock_s)
        self._note_breakers(look.clock_s)
        self._taken += 1
        self._now = self._make_now()

    def feed(self, since: str | None = None) -> History:
        """What came after ``since``, the cursor of an earlier answer; all where that was another server's.

        As much as fits in an answer: unless it is ``complete``, there is more to ask for. What isn't known is NaN in
        samples, which msgspec writes as null. Raises `BadRequest`.
        """
        first = max(self._number(since), self._taken - SAMPLES)
        columns = len(self._families.names) * len(FAMILY_DIGITS) + len(self._devices.names) * len(DEVICE_DIGITS)
        last = min(self._taken, first + max(1, MAX_NUMBERS // max(1, columns)))
        numbers, now = range(first, last), self.now
        families, devices = self._families.told(numbers), self._devices.told(numbers)
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
                name: FamilyHistory(**_rounded(of, FAMILY_DIGITS), samples=FamilySamples(**families[name]))
                for name, of in now.families.items()
            },
            devices={
                name: DeviceHistory(**_rounded(of, DEVICE_DIGITS), samples=DeviceSamples(**devices[name]))
                for name, of in now.devices.items()
            },
            flows=_columns(now.flows),
            events=[event for number, event in self._events if first <= number < last],
        )

    @property
    def nbytes(self) -> int:
        """Memory that the samples take, whatever comes."""
        return self._families.nbytes + self._devices.nbytes + self._at_s.nbytes

    def _number(self, cursor: str | None) -> int:
        if cursor is None:
            return 0
        found = re.fullmatch(CURSOR, cursor)
        if found is None:
            raise BadRequest("`since` is the `cursor` of an earlier answer, or left out")
        return min(int(found[2]), self._taken) if found[1] == self._server else 0

    def _look(self) -> _Look:
        plane = self._plane
        counts = plane.counts.values()
        arrived = (plane.controller.demand.counts_of(family).total for family in plane.counts)
        families = [
            (rows, of.batch.total, of.rows, *(of.of_outcome(outcome) for outcome in _ENDINGS), of.accuracy)
            for rows, of in zip(arrived, counts, strict=True)
        ]
        return _Look(
            self._clock(),
            np.array(families, np.float64),
            np.array([of.latency.counts for of in counts], np.float64),
            np.array([(lane.busy_s, lane.batches, lane.rows) for lane in plane.lanes.values()]).reshape(-1, 3),
            {
                (family, variant, device): number
                for family, of in plane.counts.items()
                for (variant, device, outcome), number in of.outcomes.items()
                if outcome is Outcome.SERVED and device
            },
        )

    def _of_families(self, look: _Look, before: _Look) -> Floats:
        rates = _rates(look.families, before.families, look.clock_s - before.clock_s)
        rows = np.empty((len(self._families.names), len(FAMILY_DIGITS)))
        rows[:, :_RATES] = rates[:, :_RATES]
        with np.errstate(invalid="ignore"):
            rows[:, _RATES] = rates[:, 8] / rates[:, 7]
        rows[:, _RATES + 1] = [np.nan if p99_s is None else p99_s for p99_s in self._p99_s(look)]
        rows[:, _RATES + 2] = [self._plane.controller.waiting_of(family) for family in self._families.names]
        return rows

    def _p99_s(self, look: _Look) -> list[float | None]:
        """Of what was answered in the last `TAIL_SAMPLES`, from the difference of two histograms."""
        counts = look.latencies - self._looks[0].latencies
        return [
            quantile(of.latency.bounds, row, TAIL)
            for of, row in zip(self._plane.counts.values(), counts.tolist(), strict=True)
        ]

    def _make_now(self) -> Snapshot:
        plane, look = self._plane, self._looks[-1]
        before = self._looks[max(0, len(self._looks) - 1 - NOW_SAMPLES)]
        took_s = look.clock_s - before.clock_s
        controller, breakers = plane.controller, self._breakers()
        families, devices = _rates(look.families, before.families, took_s).tolist(), _of_devices(look, before).tolist()
        hosted: dict[str, list[str]] = {}
        for placement in controller.placements:
            hosted.setdefault(placement.device, []).append(placement.variant)
        return Snapshot(
            at_s=look.clock_s - self._start_s,
            state=plane.lifecycle.state.value,
            policy=controller.policy.name,
            is_emulated=plane.is_emulated,
            inside=plane.inside,
            families={
                name: self._family_now(name, rates, p99_s)
                for name, rates, p99_s in zip(plane.counts, families, self._p99_s(look), strict=True)
            },
            devices={
                name: DeviceSnapshot(
                    tuple(hosted.get(name, ())), min(1.0, load), _known(batch), *breakers.get(name, ())
                )
                for name, (load, batch) in zip(plane.lanes, devices, strict=True)
            },
            flows=[
                Flow(
                    of.device, of.family, of.variant, of.accuracy, of.weight,
                    _rate(look.answers, before.answers, (of.family, of.variant, of.device), took_s),
                )
                for family in plane.counts
                for of in controller.hosting(family)
            ],
            events=[event for _, event in self._events][-NOW_EVENTS:],
        )  # fmt: skip

    def _family_now(self, name: str, rates: Sequence[float], p99_s: float | None) -> FamilySnapshot:
        demand_qps, throughput_qps, goodput_qps, *violated, served_qps, accuracy = rates
        ended_qps = sum(violated) + served_qps
        return FamilySnapshot(
            slo_s=self._plane.slo_s[name],
            best_accuracy=self._plane.best_accuracy.get(name),
            demand_qps=demand_qps,
            throughput_qps=throughput_qps,
            goodput_qps=goodput_qps,
            violations=sum(violated) / ended_qps if ended_qps else None,
            accuracy=accuracy / served_qps if served_qps else None,
            p99_s=p99_s,
            waiting=self._plane.controller.waiting_of(name),
        )

    def _note_changes(self, clock_s: float) -> None:
        new = list(takewhile(lambda change: change is not self._last_change, reversed(tuple(self._changes))))
        now_s = self._unix_s()
        for change in reversed(new):
            ago_s = min(max(0.0, now_s - change.unix_s), clock_s - self._start_s)  # the time of day may have been set
            self._note(clock_s - ago_s, ServerEventKind.PLAN, change.reason)
            self._last_change = change

    def _note_breakers(self, clock_s: float) -> None:
        breakers = self._breakers()
        for device in self._devices.names:
            state, reason = breakers.get(device, ("closed", ""))
            if state != self._states.get(device, "closed"):
                self._note(
                    clock_s, ServerEventKind.DEVICE, f"{device}: {_TOLD.get(state, state)}{reason and f' ({reason})'}"
                )
            self._states[device] = state

    def _note(self, clock_s: float, kind: ServerEventKind, text: str) -> None:
        self._events.append((self._taken, ServerEvent(round(clock_s - self._start_s, 3), kind, text)))


_TOLD = {"open": "lost", "half-open": "on probation", "closed": "serves again"}


def _rates(totals: Floats, before: Floats, took_s: float) -> Floats:
    """By how much totals have grown, per second."""
    return (totals - before) / took_s if took_s > 0 else np.zeros_like(totals)


def _rate(totals: Mapping[Any, int], before: Mapping[Any, int], key: Any, took_s: float) -> float:
    return (totals.get(key, 0) - before.get(key, 0)) / took_s if took_s > 0 else 0.0


def _of_devices(look: _Look, before: _Look) -> Floats:
    """The load of each device, and the rows of its batches."""
    busy_s, batches, rows = (look.devices - before.devices).T
    took_s = look.clock_s - before.clock_s
    with np.errstate(invalid="ignore"):
        return np.column_stack((busy_s / took_s if took_s > 0 else busy_s * 0, rows / batches))


def _known(value: float) -> float | None:
    return None if value != value else value  # noqa: PLR0124 - NaN


def _rounded(of: FamilySnapshot | DeviceSnapshot, digits: Mapping[str, int]) -> dict[str, Any]:
    """The fields of a snapshot, with the digits that samples have."""
    values = {name: getattr(of, name) for name in type(of).__slots__}
    if isinstance(of, FamilySnapshot):
        values["relative_accuracy"] = of.relative_accuracy
    return {
        name: round(value, digits.get(name, 5)) if isinstance(value, float) else value for name, value in values.items()
    }


def _columns(flows: Sequence[Flow]) -> Flows:
    """Flows, column by column."""
    return Flows(
        device=[flow.device for flow in flows],
        family=[flow.family for flow in flows],
        variant=[flow.variant for flow in flows],
        accuracy=[round(flow.accuracy, 5) for flow in flows],
        planned_qps=[round(flow.planned_qps, 2) for flow in flows],
        answered_qps=[round(flow.answered_qps, 2) for flow in flows],
    )
