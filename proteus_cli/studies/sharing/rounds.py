"""A cell is measured in rounds: each variant alone and all together, in random order, one straight after another."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from proteus_cli.errors import EngineError
from proteus_cli.intervals import hodges_lehmann
from proteus_cli.progress import Advance
from proteus_cli.studies.results import FULL_LOAD, SharingMember, SharingResult
from proteus_cli.studies.sharing.bench.bench import Bench
from proteus_cli.studies.sharing.bench.slices import STREAM, Work, Workload
from proteus_cli.studies.sharing.cells import SharingCell
from proteus_cli.studies.sharing.combinations import (
    Combination,
    Seen,
    Sight,
    combinations_of,
    device_of,
    sight_of,
    workloads_of,
)
from proteus_cli.units import format_duration

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
