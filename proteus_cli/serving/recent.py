"""What the last seconds brought, by family: from samples of what is counted since the start."""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from operator import sub

from proteus_cli.domain.request import Outcome
from proteus_cli.serving.counts import FamilyCounts, Tally
from proteus_cli.serving.lane import Clock

EVERY_S = 1.0
OVER_S = 10


@dataclass(frozen=True, slots=True)
class Window:
    """Of ``seconds``: answers per second, requests by outcome, and the 99th percentile of latency.

    Of latencies only the buckets of `FamilyCounts.latency` are known: ``p99_s`` is linear within its bucket, and None
    where nothing was answered or it lies beyond the last bound.
    """

    seconds: float
    throughput_qps: float
    outcomes: dict[str, int]
    p99_s: float | None


@dataclass(frozen=True, slots=True)
class _Sample:
    at_s: float
    tallies: dict[str, Tally]
    latency: dict[str, tuple[int, ...]]


class Recent:
    """Samples the counts of all families once a second, and keeps `OVER_S` seconds of that."""

    def __init__(self, counts: Mapping[str, FamilyCounts], clock: Clock) -> None:
        self._counts, self._clock = counts, clock
        self._samples = deque([self._sampled()], maxlen=OVER_S + 1)

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            self.sample()

    def sample(self) -> None:
        """Remember the counts as they are now."""
        self._samples.append(self._sampled())

    def windows(self) -> dict[str, Window]:
        """The last seconds up to now, by family; fewer than `OVER_S` after the start."""
        now = self._sampled()
        first = next((sample for sample in self._samples if now.at_s - sample.at_s <= OVER_S), self._samples[-1])
        return {family: self._window(family, first, now) for family in self._counts}

    def _sampled(self) -> _Sample:
        return _Sample(
            self._clock(),
            {family: counts.tally() for family, counts in self._counts.items()},
            {family: tuple(counts.latency.counts) for family, counts in self._counts.items()},
        )

    def _window(self, family: str, first: _Sample, now: _Sample) -> Window:
        seconds = now.at_s - first.at_s
        ended = now.tallies[family] - first.tallies[family]
        outcomes = dict(zip(map(str, Outcome), ended.outcomes, strict=True))
        answered = outcomes[Outcome.SERVED] + outcomes[Outcome.LATE]
        latency = list(map(sub, now.latency[family], first.latency[family]))
        bounds_s = self._counts[family].latency.bounds
        return Window(seconds, answered / seconds if seconds > 0 else 0.0, outcomes, quantile(latency, bounds_s, 0.99))


def quantile(counts: list[int], bounds: tuple[float, ...], part: float) -> float | None:
    """That part of what was counted is at most so much; linear within a bucket. None: nothing, or beyond the bounds."""
    wanted, below, floor = part * sum(counts), 0, 0.0
    for bound, count, up_to in zip(bounds, counts, accumulate(counts), strict=False):
        if count and up_to >= wanted:
            return floor + (bound - floor) * (wanted - below) / count
        below, floor = up_to, bound
    return None
