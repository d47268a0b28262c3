"""A cell is measured in rounds: each variant alone and all together, in random order, one straight after another."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from proteus_cli.errors import EngineError
from proteus_cli.intervals import hodges_lehmann
from proteus_cli.progress import Advance
from proteus_cli.studies.results import FULL_LOAD, Served, SharingMember, SharingResult
from proteus_cli.studies.sharing.bench import STREAM, STREAM_TURN_S, Arrival, Bench, Ran, Work, Workload
from proteus_cli.studies.sharing.cells import SharingCell
from proteus_cli.units import format_duration

FEWEST_ROUNDS = 6
"""Minimum for an interval of 95 %."""
MAX_ROUNDS = 20
MAX_TRIES = 5
"""Maximum number of tries of a round or of a trial, each twice as long as the one before."""
PRECISE_FRAC = 0.01
"""Half the width of an interval that is narrow enough, as a part of the ratio."""
BATCHES = 12
"""Approximate number of batches of each variant in a slice."""
SHORTEST_SLICE_S = 0.04
TRIAL_BATCHES = 5
FEWEST_COUNTED = 2
"""Minimum number of arrivals of a work in a slice that count."""
IDLE = Workload(())
_MIDDLE = 4  # a quarter of the batches at either end has no part in the midmean


def device_of(cell: SharingCell, place: int) -> int:
    """The place of the device that runs that variant."""
    return place if cell.where == "neighbour" else 0


def workloads_of(
    cell: SharingCell, works: Mapping[int, Work], took_s: Sequence[float], length_s: float, slots: int,
    rng: np.random.Generator, *, with_stream: bool,
) -> list[Workload]:  # fmt: skip
    """A workload for each device: ``works``, by their place in the cell, in random order.

    ``took_s`` is the time of their batches alone. Below full load the rate of a work sets its number of
    arrivals, at independent times (a Poisson process, given its count). Each slice then has equal work.
    """
    by_device: dict[int, list[int]] = defaultdict(list)
    for place in works:
        by_device[device_of(cell, place)].append(place)
    workloads = [IDLE] * (1 + max(by_device))
    for device, places in by_device.items():
        order = [places[each] for each in rng.permutation(len(places))]
        arrivals = None
        if cell.load < FULL_LOAD:
            counts = [
                max(round(slots * cell.load / len(order) / took_s[place] * length_s), slots + FEWEST_COUNTED)
                for place in order
            ]
            found = [
                Arrival(float(at_s), work)
                for work, number in enumerate(counts)
                for at_s in rng.uniform(0, length_s, number)
            ]
            arrivals = tuple(sorted(found, key=lambda arrival: arrival.at_s))
        workloads[device] = Workload(tuple(works[place] for place in order), arrivals)
    if with_stream and cell.where == "device":
        workloads[0] = Workload((*workloads[0].works, STREAM))
    elif with_stream:
        workloads.append(Workload((STREAM,)))
    return workloads


@dataclass(frozen=True, slots=True)
class Sight:
    """One variant in one slice: the ``batches`` that count, and all its ``rows`` that ran in ``span_s``."""

    batches: Sequence[Ran]
    rows: int
    span_s: float

    @property
    def centre_s(self) -> float:
        return midmean([each.batch_s for each in self.batches])


def sight_of(work: Work, workload: Workload, ran: Sequence[Ran], length_s: float, slots: int) -> Sight:
    """The batches of a work that count, on a device with ``slots`` slots.

    The first batch of each slot does not count: it finds the caches as the last slice left them. Batches that ended
    after the slice do not count either: others may have stopped.
    """
    of_work = sorted((each for each in ran if workload.works[each.work] == work), key=lambda each: each.began_s)
    counted = [each for each in of_work[slots:] if each.ended_s <= length_s]
    last_s = max((each.ended_s for each in ran), default=length_s)
    if workload.arrivals is None:
        span_s = last_s - min((each.began_s for each in ran), default=0.0)
    else:
        span_s = max(last_s, length_s)
    return Sight(counted, work.batch * len(of_work), span_s)


def served_of(sights: Sequence[Sight]) -> Served:
    """Rate and latencies of a variant over all rounds."""
    latencies_s = np.array([each.latency_s for sight in sights for each in sight.batches])
    percentiles_s = (float(value) for value in np.percentile(latencies_s, (50, 95, 99)))
    qps = sum(sight.rows for sight in sights) / sum(sight.span_s for sight in sights)
    return Served(len(latencies_s), qps, float(latencies_s.mean()), *percentiles_s)


def midmean(values: Sequence[float]) -> float:
    """The mean of the middle half: it follows a shift of all values, and outliers do not move it."""
    left_out = len(values) // _MIDDLE
    return float(np.mean(sorted(values)[left_out : len(values) - left_out]))


@dataclass(slots=True)
class SharingMeter:
    """Measures one cell on a bench.

    ``expected_s`` is the time of a batch of each variant, by the profile. ``now_s`` is the clock of the allowed time.
    """

    bench: Bench
    cell: SharingCell
    devices: Sequence[str]
    expected_s: Sequence[float]
    rng: np.random.Generator
    now_s: Callable[[], float] = time.monotonic

    def measure(self, allowed_s: float, advance: Advance) -> SharingResult:
        """Rounds until the ratios are precise, or the time is over. Raises `EngineError`."""
        begun_s, cell = self.now_s(), self.cell
        turns = [*zip(cell.works, self.expected_s, strict=True)]
        if cell.with_stream:
            turns.append((STREAM, SHORTEST_SLICE_S / TRIAL_BATCHES))
        took_s = [self._trial(work, expected_s) for work, expected_s in turns]
        length_s = slice_s(took_s, cell.load)
        places = range(len(cell.works))
        seen: dict[tuple[bool, int], list[Sight]] = defaultdict(list)
        for rounds in range(1, MAX_ROUNDS + 1):
            for each, sight in self._round(took_s, length_s).items():
                seen[each].append(sight)
            passed_s = self.now_s() - begun_s
            advance(f"round {rounds}", max(rounds / MAX_ROUNDS, passed_s / allowed_s))
            ratios = [_ratio(seen[True, place], seen[False, place]) for place in places]
            is_precise = all((high - low) / 2 <= PRECISE_FRAC * ratio for ratio, low, high in ratios)
            if rounds >= FEWEST_ROUNDS and (is_precise or passed_s * (rounds + 1) / rounds > allowed_s):
                break
        members = [self._member(place, seen[False, place], seen[True, place]) for place in places]
        return SharingResult(cell.where, cell.load, len(seen[True, 0]), cell.with_stream, tuple(members))

    def _trial(self, work: Work, expected_s: float) -> float:
        """The time of a batch on this machine now, with the time in which other programs have the core."""
        for length_s in _tries(max(SHORTEST_SLICE_S, TRIAL_BATCHES * expected_s)):
            ran, *_ = self.bench.run([Workload((work,))], length_s)
            if ran:
                return sum(each.ended_s - each.began_s for each in ran) / len(ran)
        raise AssertionError("the last try raises")

    def _round(self, took_s: Sequence[float], length_s: float) -> dict[tuple[bool, int], Sight]:
        """Sights by whether all run together, and by place. A try in which some variant has no batch is repeated."""
        places, slots = range(len(self.cell.works)), self.bench.slots
        combinations = [*((False, [place]) for place in places), (True, [*places])]
        for try_s in _tries(length_s):
            sights: dict[tuple[bool, int], Sight] = {}
            for which in self.rng.permutation(len(combinations)):
                together, chosen = combinations[which]
                works = {place: self.cell.works[place] for place in chosen}
                with_stream = together and self.cell.with_stream
                workloads = workloads_of(self.cell, works, took_s, try_s, slots, self.rng, with_stream=with_stream)
                ran = self.bench.run(workloads, try_s)
                for place, work in works.items():
                    at = device_of(self.cell, place)
                    sights[together, place] = sight_of(work, workloads[at], ran[at], try_s, slots)
            if all(sight.batches for sight in sights.values()):
                return sights
        raise AssertionError("the last try raises")

    def _member(self, place: int, alone: Sequence[Sight], together: Sequence[Sight]) -> SharingMember:
        work = self.cell.works[place]
        assert work.key is not None  # noqa: S101 - streams are no members
        ratio, low, high = _ratio(together, alone)
        return SharingMember(
            *work.key,
            self.devices[device_of(self.cell, place)],
            work.batch,
            float(np.median([sight.centre_s for sight in alone])),
            served_of(alone),
            served_of(together),
            ratio,
            min(low, ratio),
            max(high, ratio),
        )


def _ratio(together: Sequence[Sight], alone: Sequence[Sight]) -> tuple[float, float, float]:
    """The centre of the ratios of all rounds, together over alone, and its interval."""
    pairs = zip(together, alone, strict=True)
    centre, low, high = map(math.exp, hodges_lehmann([math.log(t.centre_s / a.centre_s) for t, a in pairs]))
    return centre, low, high


def _tries(length_s: float) -> Iterator[float]:
    """The lengths of the tries of a slice. Raises `EngineError` after the last one."""
    for tried in range(MAX_TRIES):
        yield length_s * 2**tried
    raise EngineError(
        f"No batch of some variant ended within {format_duration(length_s * 2 ** (MAX_TRIES - 1))}.",
        hint="other programs hold the cores; stop them first",
    )


def slice_s(took_s: Sequence[float], load: float = FULL_LOAD) -> float:
    """The length of a slice with `BATCHES` batches of each variant, also together."""
    return max(SHORTEST_SLICE_S, BATCHES * sum(took_s) / load)


def wanted_s(cell: SharingCell, expected_s: Sequence[float], rounds: int) -> float:
    """The approximate time of a number of rounds."""
    turns_s = [*expected_s, *[STREAM_TURN_S] * cell.with_stream]
    trials_s = sum(max(SHORTEST_SLICE_S, TRIAL_BATCHES * each_s) for each_s in turns_s)
    return trials_s + rounds * (len(cell.works) + 1) * slice_s(turns_s, cell.load)
