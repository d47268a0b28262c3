"""A chain in virtual time, whose stages scatter, change their speed and are interrupted as those of real cores.

Scatter and speeds are of the kind that 12,000 requests of the sample zoo's chain showed on two virtual cores: half of
the times of a stage lay within 6 to 8 % of what the requests before it took, the level of 50 requests between 0.6 and
1.5 times its median, and other programs took the core for some milliseconds.
"""

import math
from dataclasses import dataclass

import numpy as np

from benchmarks.planner_instances import NOBODY
from proteus_cli.arrays import Floats, Ints
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import BackendInfo, Point, Profile, VariantProfile
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.pace import StagePace
from proteus_cli.domain.stages.stage_forecast import ExitBounds
from proteus_cli.domain.stages.walk import ProfiledChain

STAGES_S = (73e-6, 177e-6, 108e-6, 154e-6)
"""Mean times of the four stages of the sample zoo, as `proteus profile` found them on a core without other programs."""
BEFORE_S, BEHIND_S, BETWEEN_S = 15e-6, 5e-6, 0.7e-3
"""From the arrival of a request to its first stage, from the last to the answer, and to the next request."""
WAY_SCATTER, WAY_INTERRUPTED = 0.3, 0.01
"""From the chain to a server: how much the logarithm of the time scatters, and the part of ways that is interrupted,
for as long as a stage; of the stages of live runs, 1 to 3 % took over twice their median."""
PROFILED = 2000
"""Runs of the profile."""
DRIFT_S, FAST_S, SLOW_S = 1.0, 20.0, 5.0
"""The level forgets within the first; a fast time lasts for the second in the mean, a slow one for the third."""


@dataclass(frozen=True, slots=True)
class Core:
    """How a core behaves: standard deviations of the logarithms of its level and of a stage; how many times longer a
    stage takes in a slow time; how often a second of work is interrupted, and for how long in the mean; and how long
    answers are on their way to a server.
    """

    name: str
    drift: float
    scatter: float
    slow: float
    interruptions: float
    interrupted_s: float
    way_s: float = 0.0


CORES = (
    Core("quiet", 0.05, 0.05, 1.2, 1.0, 0.3e-3),
    Core("shared", 0.10, 0.08, 1.5, 3.0, 1e-3),
    Core("busy", 0.15, 0.12, 2.0, 20.0, 4e-3),
    Core("served", 0.05, 0.05, 1.2, 1.0, 0.3e-3, way_s=50e-6),
)


class EmulatedChain:
    """Answers of samples are those at the exits where they stop (``stops_at``), unless they are cut short before."""

    def __init__(self, core: Core, stops_at: Ints, rng: np.random.Generator) -> None:
        self._core, self._stops_at, self._rng = core, stops_at, rng
        self._level, self._is_slow, self._now_s, self._pace = 0.0, False, 0.0, StagePace()
        self.way_s = 0.0
        self.exits = self._profiled(np.bincount(stops_at, minlength=len(STAGES_S) + 1)[1:] / len(stops_at))
        stages = [lambda _rows, place=place: float(self._stages_s[place]) for place in range(len(STAGES_S))]
        self._chain = ProfiledChain(self.exits, stages)

    def clock(self) -> float:
        return self._now_s

    def arrives(self, sample: int) -> None:
        self._now_s += BETWEEN_S
        self._sample = sample
        self._draw()

    def run(self, bounds: ExitBounds) -> int:
        begun_s = self._now_s + self._before_s
        walk = self._chain.walk(self._stops_at[[self._sample]], bounds, self._pace, begun_s, out_s=self._behind_s)
        self._now_s = begun_s + walk.took_s + self._behind_s + self.way_s
        return int(walk.exits[0])

    def ends_s(self) -> Floats:
        ends_s: Floats = self._before_s + np.cumsum(self._stages_s) + self._behind_s + self.way_s
        return ends_s

    def _draw(self) -> None:
        """The times of the next request."""
        core, rng, took_s = self._core, self._rng, BETWEEN_S + sum(STAGES_S)
        kept = math.exp(-took_s / DRIFT_S)
        self._level = kept * self._level + core.drift * math.sqrt(1 - kept**2) * rng.normal()
        if rng.random() < took_s / (SLOW_S if self._is_slow else FAST_S):
            self._is_slow = not self._is_slow
        level = math.exp(self._level) * (core.slow if self._is_slow else 1.0)
        self._before_s, self._behind_s = level * np.array((BEFORE_S, BEHIND_S)) * np.exp(rng.normal(0.0, 0.2, 2))
        times_s = level * np.array(STAGES_S) * np.exp(rng.normal(0.0, core.scatter, len(STAGES_S)))
        for place, count in enumerate(rng.poisson(core.interruptions * times_s)):
            times_s[place] += rng.exponential(core.interrupted_s, count).sum()
        self._stages_s = times_s
        if core.way_s:
            self.way_s = level * core.way_s * math.exp(rng.normal(0.0, WAY_SCATTER))
            if rng.random() < WAY_INTERRUPTED:
                self.way_s += rng.exponential(core.interrupted_s)

    def _profiled(self, shares: Floats) -> tuple[ExitProfile, ...]:
        measured_s = np.array([self._measure() for _ in range(PROFILED)])
        tails_s = np.percentile(measured_s, (95, 99, 99.5), axis=0).T.tolist()
        each = zip(shares.tolist(), measured_s.mean(axis=0).tolist(), tails_s, strict=True)
        return tuple(ExitProfile(share, points=(StagePoint(1, mean_s, *tails),)) for share, mean_s, tails in each)

    def _measure(self) -> Floats:
        self._draw()
        return self._stages_s


def profile_of(chain: EmulatedChain, key: VariantKey) -> Profile:
    """As if it had been measured; for the whole, percentiles of stages are added."""
    points = [each.points[0] for each in chain.exits]
    mean_s, p95_s = sum(each.mean_s for each in points), sum(each.p95_s for each in points)
    whole = Point(1, PROFILED, mean_s, mean_s, p95_s, p95_s, p95_s, 1 / mean_s)
    measured = VariantProfile(key.family, key.variant, 1.0, None, "", None, 0.0, 0.0, 0, (whole,), exits=chain.exits)
    device = Device("cpu0", "cpu", "cpu", "", 0, (0,))
    return Profile(FORMAT, NOBODY, device, device.id, BackendInfo("", {}), (measured,))
