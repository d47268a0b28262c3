"""The last 15 minutes: the counters of families, devices and variants, read once a second into rings.

Rates, loads, quantiles and attainment are differences between two readings, so requests cost nothing more for them.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import takewhile
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from proteus_cli.arrays import Floats
from proteus_cli.control.replanning.replanning import DeviceChanged, told_by_host
from proteus_cli.domain.request import Outcome
from proteus_cli.serving.adaptation.plan_journal import PlanChange
from proteus_cli.serving.fleet.fleet import Fleet
from proteus_cli.serving.fleet.worker import Clock
from proteus_cli.serving.requests.counts import LATENCY_BUCKETS, quantile
from proteus_cli.serving.requests.data_plane import DataPlane
from proteus_cli.serving.telemetry.state import Column, Samples, ServerEvent, ServerEventKind
from proteus_cli.units import format_duration

SAMPLES = 900
LATELY_SAMPLES = 5
"""Present rates are means over these …"""

TAIL_SAMPLES = 10
"""… but a 99th percentile needs more of them."""

TAIL = 0.99
DIGITS = 5
"""Digits behind the point in samples."""

MAX_EVENTS = 1000
_OUTCOMES = (Outcome.LATE, Outcome.DROPPED, Outcome.REJECTED, Outcome.FAILED, Outcome.SERVED)


class FamilyReading(NamedTuple):
    """The counters of a family, or their growth.

    Three count rows: ``arrived``, ``answered`` by batches, and ``in_time``. Then come requests by outcome, and the sum
    of the accuracies of served requests. ``deferred`` counts answered requests that a first stage deferred,
    ``fallbacks`` is the part of them with the first answer, and ``cut`` counts answers cut short. The last two are
    levels: the p99 over `TAIL_SAMPLES` and the waiting requests.
    """

    arrived: Any
    answered: Any
    in_time: Any
    late: Any
    dropped: Any
    rejected: Any
    failed: Any
    served: Any
    accuracy: Any
    deferred: Any
    fallbacks: Any
    cut: Any
    p99_s: Any
    waiting: Any


class DeviceReading(NamedTuple):
    """The counters of a device, or their growth: seconds in which batches ran, batches, and their rows."""

    busy_s: Any
    batches: Any
    rows: Any


Name = TypeVar("Name")


class Ring(Generic[Name]):
    """The last readings of all subjects of a kind, a table each, with a row for each subject.

    A subject that comes after the start had counted nothing before.
    """

    def __init__(self, samples: int, columns: int) -> None:
        self._subjects = dict[Name, object]()
        self._tables = np.full((samples + 1, 0, columns), np.nan)

    def use(self, subjects: Mapping[Name, object], number: int) -> None:
        """Have a row for each of the ``subjects``, and no others; new ones have zeros in the reading ``number``."""
        if [*subjects.items()] == [*self._subjects.items()]:
            return
        samples, _, columns = self._tables.shape
        tables = np.full((samples, len(subjects), columns), np.nan)
        rows = {name: row for row, name in enumerate(self._subjects)}
        for row, (name, subject) in enumerate(subjects.items()):
            if self._subjects.get(name) is subject:
                tables[:, row] = self._tables[:, rows[name]]
            else:
                tables[number % samples, row] = 0.0
        self._subjects, self._tables = dict(subjects), tables

    def put(self, number: int, table: Sequence[Sequence[float]]) -> None:
        """Keep a reading, in place of the oldest."""
        self._tables[number % len(self._tables)] = np.reshape(table, self._tables.shape[1:])

    def growth(self, number: int, samples: int) -> dict[Name, list[float]]:
        """The growth of the counters over the last samples up to ``number``."""
        before = self._tables[max(0, number - min(samples, len(self._tables) - 1)) % len(self._tables)]
        growth = self._tables[number % len(self._tables)] - np.nan_to_num(before)
        return dict(zip(self._subjects, growth.tolist(), strict=True))

    def columns(
        self, first: int, last: int, columns: Callable[[Floats, Floats], Mapping[str, Floats]]
    ) -> dict[Name, dict[str, Column]]:
        """Columns of the samples after ``first`` up to ``last``, by subject.

        ``columns`` makes them from the growth in each sample and from the readings. Axis 0 of both is the counter.
        NaN: not known.
        """
        tables = self._tables[np.arange(first, last + 1) % len(self._tables)].transpose(2, 1, 0)
        with np.errstate(invalid="ignore"):
            found = columns(np.diff(tables), tables[:, :, 1:])
        values = {column: np.round(of, DIGITS).tolist() for column, of in found.items()}
        return {name: {column: of[row] for column, of in values.items()} for row, name in enumerate(self._subjects)}

    @property
    def width(self) -> int:
        """The numbers of a reading."""
        _, rows, columns = self._tables.shape
        return rows * columns


class Recorder:
    """Reads all counters once a second. ``taken`` is the number of samples so far; ``changes`` are plan changes.

    A family that has gone and has come back is another one.
    """

    def __init__(
        self, plane: DataPlane, clock: Clock, changes: Collection[PlanChange], unix_s: Callable[[], float]
    ) -> None:
        self._plane, self._clock, self.start_s, self.taken = plane, clock, clock(), 0
        self._times = np.zeros(SAMPLES + 1)
        self._families = Ring[str](SAMPLES, len(FamilyReading._fields))
        self._latencies = Ring[str](TAIL_SAMPLES, LATENCY_BUCKETS)
        self._variants = Ring[tuple[str, str]](SAMPLES, 1)
        self._devices = Ring[str](SAMPLES, len(DeviceReading._fields))
        self._answered = deque[Counter[tuple[str, str, str]]](maxlen=LATELY_SAMPLES + 1)
        self.events = EventLog(plane.fleet, changes, self.start_s, unix_s)
        self._read()

    def sample(self) -> None:
        """Take a sample now."""
        self.use()
        self.taken += 1
        self._read()
        self.events.notice(self.taken, self._clock())

    def use(self) -> None:
        """Follow families, variants and devices that have come or gone. Call it before what tells of them."""
        counts, families = self._plane.counts.by_family, self._plane.families.by_name
        variants = {(name, variant): counts[name] for name, served in families.items() for variant in served.variants}
        self._families.use(counts, self.taken)
        self._latencies.use(counts, self.taken)
        self._variants.use(variants, self.taken)
        self._devices.use(self._plane.fleet.workers, self.taken)

    def _read(self) -> None:
        self.use()
        plane, number, answered = self._plane, self.taken, Counter[tuple[str, str, str]]()
        counts, families, served = plane.counts.by_family, plane.controller.families, plane.families.by_name
        self._times[number % len(self._times)] = self._clock() - self.start_s
        self._latencies.put(number, [of.latency.counts for of in counts.values()])
        tails_s = self.p99_s()
        self._families.put(
            number,
            [
                (
                    plane.controller.demand.counts_of(family).total, of.answered_rows, of.rows,
                    *map(of.of_outcome, _OUTCOMES), of.accuracy, of.deferred, of.fallbacks, of.cut.total(),
                    np.nan if (tail_s := tails_s[family]) is None else tail_s, families[family].waiting,
                )
                for family, of in counts.items()
            ],
        )  # fmt: skip
        by_variant = {(name, variant): 0 for name, of in served.items() for variant in of.variants}
        for family, of in counts.items():
            for (variant, device, outcome), requests in of.outcomes.items():
                if outcome is Outcome.SERVED and device:
                    answered[family, variant, device] = requests
                    if (family, variant) in by_variant:
                        by_variant[family, variant] += requests
        self._answered.append(answered)
        self._variants.put(number, [(requests,) for requests in by_variant.values()])
        workers = plane.fleet.workers.values()
        self._devices.put(number, [(worker.busy_s, worker.batches, worker.rows) for worker in workers])

    def families(self, samples: int = LATELY_SAMPLES) -> dict[str, FamilyReading]:
        """The growth of each family's counters over the last samples."""
        return {name: FamilyReading(*row) for name, row in self._families.growth(self.taken, samples).items()}

    def devices(self) -> dict[str, DeviceReading]:
        """The growth of each device's counters lately."""
        return {name: DeviceReading(*row) for name, row in self._devices.growth(self.taken, LATELY_SAMPLES).items()}

    def seconds(self) -> float:
        """The time in which they have grown."""
        before = max(0, self.taken - LATELY_SAMPLES)
        return float(self._times[self.taken % len(self._times)] - self._times[before % len(self._times)])

    def answered(self, family: str, variant: str, device: str) -> int:
        """The requests that a variant on a device answered in time lately."""
        key = family, variant, device
        return max(0, self._answered[-1][key] - self._answered[0][key])

    def p99_s(self) -> dict[str, float | None]:
        """By family, the 99th percentile of the latencies of the last `TAIL_SAMPLES`; None where no batch answered.

        Where buckets have changed with the SLO, counts of earlier buckets are left out.
        """
        found = self._latencies.growth(self.taken, TAIL_SAMPLES)
        counts = self._plane.counts.by_family
        return {
            family: quantile(counts[family].latency.bounds, [max(0.0, each) for each in row], TAIL)
            for family, row in found.items()
        }

    def samples(self, first: int, last: int) -> Samples:
        """The samples after ``first`` up to ``last``."""
        times = self._times[np.arange(first, last + 1) % len(self._times)]
        seconds, variants = np.diff(times), dict[str, dict[str, Column]]()

        def of_family(growth: Floats, now: Floats) -> dict[str, Floats]:
            of, levels = FamilyReading(*growth), FamilyReading(*now)
            return {
                "demand_qps": of.arrived / seconds,
                "throughput_qps": of.answered / seconds,
                "goodput_qps": of.in_time / seconds,
                "late_qps": of.late / seconds,
                "dropped_qps": of.dropped / seconds,
                "rejected_qps": of.rejected / seconds,
                "failed_qps": of.failed / seconds,
                "accuracy": of.accuracy / of.served,
                "p99_s": levels.p99_s,
                "waiting": levels.waiting,
            }

        def of_device(growth: Floats, _: Floats) -> dict[str, Floats]:
            of = DeviceReading(*growth)
            return {"load": of.busy_s / seconds, "mean_batch": of.rows / of.batches}

        answered = self._variants.columns(first, last, lambda growth, _: {"answered_qps": growth[0] / seconds})
        for (family, variant), columns in answered.items():
            variants.setdefault(family, {})[variant] = columns["answered_qps"]
        return Samples(
            np.round(times[1:], DIGITS).tolist(),
            self._families.columns(first, last, of_family),
            self._devices.columns(first, last, of_device),
            variants,
        )

    @property
    def width(self) -> int:
        """About the numbers of one sample."""
        return 1 + self._families.width + self._devices.width + self._variants.width


class EventLog:
    """The last `MAX_EVENTS`, each with the number of the sample that noticed it. ``changes`` are plan changes."""

    def __init__(
        self, fleet: Fleet, changes: Collection[PlanChange], start_s: float, unix_s: Callable[[], float]
    ) -> None:
        self._fleet, self._changes, self._start_s, self._unix_s = fleet, changes, start_s, unix_s
        self._events: deque[tuple[int, ServerEvent]] = deque(maxlen=MAX_EVENTS)
        self._last_change: PlanChange | None = None
        self._lost_at_s = dict[str, float]()  # of the devices that did not serve at the last look
        self._known = set(fleet.breakers)
        self._breaker_changes = 0  # at the last look

    def notice(self, sample: int, now_s: float) -> None:
        """Add what has changed since the last call."""
        new = list(takewhile(lambda change: change is not self._last_change, reversed(tuple(self._changes))))
        unix_s = self._unix_s()
        for change in reversed(new):
            ago_s = min(max(0.0, unix_s - change.unix_s), now_s - self._start_s)  # the time of day may have been set
            self._add(sample, now_s - ago_s, ServerEventKind.PLAN, change.what, change.reason)
            self._last_change = change
        if self._fleet.breaker_changes != self._breaker_changes:
            self._breaker_changes = self._fleet.breaker_changes
            self._notice_devices(sample, now_s)

    def between(self, first: int, last: int) -> list[ServerEvent]:
        """Events of the samples after ``first`` up to ``last``."""
        return [event for number, event in self._events if first < number <= last]

    def latest(self, number: int) -> list[ServerEvent]:
        """The last ``number`` events, oldest first."""
        return [event for _, event in self._events][-number:]

    def _notice_devices(self, sample: int, now_s: float) -> None:
        breakers, away, lost_at_s = self._fleet.breakers, self._fleet.away, self._lost_at_s
        lost = [(device, DeviceChanged.LOST) for device in away if device not in lost_at_s and breakers[device].opened]
        back = [
            (device, DeviceChanged.BACK if breakers[device].opened else DeviceChanged.JOINED)
            for device in breakers
            if device not in away and (device in lost_at_s or device not in self._known)
        ]
        for text, device in told_by_host([*lost, *back], breakers, away):
            if device in away:
                reason = breakers[device].reason or ""
            else:
                reason = f"after {format_duration(now_s - lost_at_s.get(device, now_s))}"
            self._add(sample, now_s, ServerEventKind.DEVICE, text, reason)
        self._known |= breakers.keys() - away.keys()
        self._lost_at_s = {device: lost_at_s.get(device, now_s) for device in away}

    def _add(self, sample: int, at_s: float, kind: ServerEventKind, text: str, reason: str) -> None:
        self._events.append((sample, ServerEvent(round(at_s - self._start_s, 3), kind, text, reason)))
