"""A cell is measured in rounds: each variant alone and all together, in random order, one straight after another."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from proteus_cli.errors import EngineError
from proteus_cli.intervals import hodges_lehmann
from proteus_cli.progress import Advance
from proteus_cli.studies.results import FULL_LOAD, Served, SharingMember, SharingResult
from proteus_cli.studies.sharing.cells import SharingCell
from proteus_cli.studies.sharing.slices import STREAM, Arrival, Bench, Ran, Work, Workload
from proteus_cli.units import format_duration

Combination = tuple[int, ...]
"""The places of the cell's variants that run: one alone, or all."""

_MIDDLE = 4
"""A quarter of the batches at either end has no part in the midmean."""

FEWEST_COUNTED = 2
"""Arrivals of a work in a slice that count, at least."""
IDLE = Workload(())


def combinations_of(cell: SharingCell) -> tuple[Combination, ...]:
    """Each variant alone, then all together."""
    places = tuple(range(len(cell.works)))
    return (*((place,) for place in places), places)


def device_of(cell: SharingCell, place: int) -> int:
    """The place of the device that runs that variant, in every combination."""
    return place if cell.where == "neighbour" else 0


def workloads_of(
    cell: SharingCell, works: Mapping[int, Work], took_s: Sequence[float], length_s: float, slots: int,
    rng: np.random.Generator, *, with_stream: bool,
) -> list[Workload]:  # fmt: skip
    """What the devices do: the ``works`` by their place in the cell, each on its device, in an order that is random.

    ``took_s`` is what their batches take alone.
    """
    by_device: dict[int, list[int]] = {}
    for place in works:
        by_device.setdefault(device_of(cell, place), []).append(place)
    workloads = [IDLE] * (1 + max(by_device))
    for device, places in by_device.items():
        order = [places[each] for each in rng.permutation(len(places))]
        turns = tuple(works[place] for place in order)
        arrivals = None
        if cell.load < FULL_LOAD:
            rates_qps = [slots * cell.load / len(order) / took_s[place] for place in order]
            arrivals = arrivals_of(rates_qps, length_s, slots + FEWEST_COUNTED, rng)
        workloads[device] = Workload(turns, arrivals)
    if with_stream and cell.where == "device":
        workloads[0] = Workload((*workloads[0].works, STREAM))
    elif with_stream:
        workloads.append(Workload((STREAM,)))
    return workloads


def arrivals_of(
    rates_qps: Sequence[float], length_s: float, fewest: int, rng: np.random.Generator
) -> tuple[Arrival, ...]:
    """Batches that arrive at random: of each work as many as its rate makes, ``fewest`` at least, at independent times.

    These are arrivals of Poisson processes, given how many there are; so each slice has the same work.
    """
    found = [
        Arrival(float(at_s), work)
        for work, rate_qps in enumerate(rates_qps)
        for at_s in rng.uniform(0, length_s, max(round(rate_qps * length_s), fewest))
    ]
    return tuple(sorted(found, key=lambda arrival: arrival.at_s))


@dataclass(frozen=True, slots=True)
class Sight:
    """What a slice shows of one variant: the ``batches`` that count, and all its ``rows`` that ran in ``span_s``."""

    batches: Sequence[Ran]
    rows: int
    span_s: float


def sight_of(work: Work, workload: Workload, ran: Sequence[Ran], length_s: float, slots: int) -> Sight:
    """The batches of a work that count, of a device with so many slots.

    The first of each slot is left out, which finds the caches as the last slice left them, and so is what ended after
    the slice, when others may have stopped.
    """
    of_work = sorted((each for each in ran if workload.works[each.work] == work), key=lambda each: each.began_s)
    counted = [each for each in of_work[slots:] if each.ended_s <= length_s]
    last_s = max((each.ended_s for each in ran), default=length_s)
    first_s = min((each.began_s for each in ran), default=0.0) if workload.arrivals is None else 0.0
    span_s = last_s - first_s if workload.arrivals is None else max(last_s, length_s)
    return Sight(counted, work.batch * len(of_work), span_s)


@dataclass(slots=True)
class Seen:
    """What was seen of one variant in one combination: each round's centre of its batch times, and all latencies."""

    centres_s: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    _rows: int = 0
    _span_s: float = 0.0

    def add(self, sight: Sight) -> None:
        """Note what a round shows."""
        self.centres_s.append(midmean([each.batch_s for each in sight.batches]))
        self.latencies_s += [each.latency_s for each in sight.batches]
        self._rows += sight.rows
        self._span_s += sight.span_s

    @property
    def served(self) -> Served:
        p50_s, p95_s, p99_s = (float(value) for value in np.percentile(self.latencies_s, (50, 95, 99)))
        mean_s = sum(self.latencies_s) / len(self.latencies_s)
        return Served(len(self.latencies_s), self._rows / self._span_s, mean_s, p50_s, p95_s, p99_s)


def midmean(values: Sequence[float]) -> float:
    """The mean of the middle half: it follows a shift of all values, and a few that are far off do not move it."""
    left_out = len(values) // _MIDDLE
    middle = sorted(values)[left_out : len(values) - left_out]
    return sum(middle) / len(middle)


FEWEST_ROUNDS = 6
"""With fewer, there is no interval of 95 %."""
MAX_ROUNDS = 20
MAX_TRIES = 5
"""Of a round."""
PRECISE_FRAC = 0.01
"""Half the width of an interval that is narrow enough, as a part of the ratio."""
BATCHES = 12
"""That each variant runs in a slice, about."""
SHORTEST_SLICE_S = 0.04
TRIAL_BATCHES = 5


@dataclass(slots=True)
class SharingMeter:
    """Measures one cell on a bench. ``expected_s``: what a batch of each of its variants takes, by the profile.

    ``now_s`` is the clock of the time that is allowed.
    """

    bench: Bench
    cell: SharingCell
    devices: Sequence[str]
    expected_s: Sequence[float]
    rng: np.random.Generator
    now_s: Callable[[], float] = time.monotonic
    _seen: dict[tuple[bool, int], Seen] = field(default_factory=dict)

    def measure(self, allowed_s: float, advance: Advance) -> SharingResult:
        """Rounds until the ratios are precise, or the time is over. Raises `EngineError`."""
        begun_s, rounds = self.now_s(), 0
        took_s = [self._trial(work, expected_s) for work, expected_s in self._expected()]
        length_s = slice_s(took_s, self.cell.load)
        places = range(len(self.cell.works))
        self._seen = {(beside, place): Seen() for beside in (False, True) for place in places}
        while rounds < MAX_ROUNDS:
            self._round(took_s, length_s)
            rounds += 1
            passed_s = self.now_s() - begun_s
            advance(f"round {rounds}", max(rounds / MAX_ROUNDS, passed_s / allowed_s))
            is_late = passed_s * (rounds + 1) / rounds > allowed_s
            if rounds >= FEWEST_ROUNDS and (is_late or all(map(self._is_precise, places))):
                break
        return SharingResult(
            self.cell.where,
            self.cell.load,
            rounds,
            self.cell.with_stream,
            tuple(map(self._member, places)),
        )

    def _expected(self) -> list[tuple[Work, float]]:
        stream = [(STREAM, SHORTEST_SLICE_S / TRIAL_BATCHES)] if self.cell.with_stream else []
        return [*zip(self.cell.works, self.expected_s, strict=True), *stream]

    def _trial(self, work: Work, expected_s: float) -> float:
        """What a batch takes on this machine now, with the time in which other programs have the core."""
        for length_s in _longer_and_longer(max(SHORTEST_SLICE_S, TRIAL_BATCHES * expected_s)):
            ran, *_ = self.bench.run([Workload((work,))], length_s)
            if ran:
                return sum(each.ended_s - each.began_s for each in ran) / len(ran)
        raise _busy(length_s)

    # --- rounds

    def _round(self, took_s: Sequence[float], length_s: float) -> None:
        """All combinations in random order; again, with more time, where other programs left none for some variant."""
        combinations = combinations_of(self.cell)
        for slice_length_s in _longer_and_longer(length_s):
            sights: dict[tuple[bool, int], Sight] = {}
            for which in self.rng.permutation(len(combinations)):
                is_together = int(which) == len(combinations) - 1
                found = self._slice(combinations[which], took_s, slice_length_s, is_together=is_together)
                sights |= {(is_together, place): sight for place, sight in found.items()}
            if all(sight.batches for sight in sights.values()):
                for seen, sight in sights.items():
                    self._seen[seen].add(sight)
                return
        raise _busy(slice_length_s)

    def _slice(
        self, combination: Combination, took_s: Sequence[float], length_s: float, *, is_together: bool
    ) -> dict[int, Sight]:
        works = {place: self.cell.works[place] for place in combination}
        with_stream = is_together and self.cell.with_stream
        workloads = workloads_of(
            self.cell, works, took_s, length_s, self.bench.slots, self.rng, with_stream=with_stream
        )  # fmt: skip
        ran = self.bench.run(workloads, length_s)
        at = {place: device_of(self.cell, place) for place in works}
        slots = self.bench.slots
        return {
            place: sight_of(work, workloads[at[place]], ran[at[place]], length_s, slots)
            for place, work in works.items()
        }

    # --- what the rounds say

    def _ratio(self, place: int) -> tuple[float, float, float]:
        """The centre of the ratios of all rounds, together over alone, and its interval."""
        together, alone = self._seen[True, place].centres_s, self._seen[False, place].centres_s
        logs = [math.log(beside_s / alone_s) for beside_s, alone_s in zip(together, alone, strict=True)]
        centre, low, high = map(math.exp, hodges_lehmann(logs))
        return centre, low, high

    def _is_precise(self, place: int) -> bool:
        ratio, low, high = self._ratio(place)
        return (high - low) / 2 <= PRECISE_FRAC * ratio

    def _member(self, place: int) -> SharingMember:
        work, alone, together = self.cell.works[place], self._seen[False, place], self._seen[True, place]
        assert work.key is not None  # noqa: S101 - streams are no members
        ratio, low, high = self._ratio(place)
        return SharingMember(
            *work.key,
            self.devices[device_of(self.cell, place)],
            work.batch,
            float(np.median(alone.centres_s)),
            alone.served,
            together.served,
            ratio,
            min(low, ratio),
            max(high, ratio),
        )


def _longer_and_longer(length_s: float) -> Iterator[float]:
    """The lengths of the tries of a slice."""
    return (length_s * 2**tried for tried in range(MAX_TRIES))


def _busy(length_s: float) -> EngineError:
    return EngineError(
        f"No batch of some variant ended within {format_duration(length_s)}.",
        hint="other programs hold the cores; stop them first",
    )


def slice_s(took_s: Sequence[float], load: float = FULL_LOAD) -> float:
    """How long a slice is where batches take so long: with `BATCHES` of each in it, also together."""
    return max(SHORTEST_SLICE_S, BATCHES * sum(took_s) / load)


def wanted_s(cell: SharingCell, expected_s: Sequence[float], stream_s: float, rounds: int) -> float:
    """About how long so many rounds take."""
    turns_s = [*expected_s, *([stream_s] if cell.with_stream else [])]
    trials_s = sum(max(SHORTEST_SLICE_S, TRIAL_BATCHES * each_s) for each_s in turns_s)
    return trials_s + rounds * len(combinations_of(cell)) * slice_s(turns_s, cell.load)
