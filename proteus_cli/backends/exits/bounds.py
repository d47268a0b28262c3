"""How far the rows of a batch may go: a bound is held before it is passed, not noticed after.

Before each next stage, its time is predicted: the p95 of the profile for as many rows as would go on, times the
slowdown of the device. Rows whose time is up before the end of that stage stop with the answer that they have. The
fewer rows go on, the sooner the stage ends, so as many of those with the most time go on as the stage is in time for.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from proteus_cli.arrays import Bools, Floats, Ints
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint


class ExitBounds(msgspec.Struct, frozen=True, array_like=True):
    """When each part of a batch must be answered (``due_s``, by `time.monotonic`), and how many ``rows`` it has.

    ``exits`` are those of the variant's profile on the device, which is slowed by the factor ``slowdown``. Where there
    is a text ``stop_when``, that condition counts in place of the variant's own. No part stops where it is less
    confident than its ``min_confidence``; empty: none asks for that.
    """

    due_s: Sequence[float]
    rows: Sequence[int]
    exits: Sequence[ExitProfile]
    slowdown: float = 1.0
    stop_when: str | None = None
    min_confidence: Sequence[float] = ()

    def by_row(self) -> Floats:
        return np.repeat(np.asarray(self.due_s, np.float64), self.rows)

    def least_by_row(self) -> Floats | None:
        """The confidence that each row asks for; None where none does."""
        return np.repeat(np.asarray(self.min_confidence, np.float64), self.rows) if self.min_confidence else None


class StageTimes:
    """What a stage takes at the p95, by rows: linear between measured sizes, and by the row beyond the largest."""

    def __init__(self, points: Sequence[StagePoint]) -> None:
        self._batches = [point.batch for point in points]
        self._p95_s = np.maximum.accumulate([point.p95_s for point in points])

    def __call__(self, rows: int) -> Floats:
        """Seconds of batches of one row, two, … and so many."""
        sizes = np.arange(1, rows + 1)
        times_s: Floats = np.interp(sizes, self._batches, self._p95_s)
        beyond = sizes > self._batches[-1]
        times_s[beyond] = sizes[beyond] * (self._p95_s[-1] / self._batches[-1])
        return times_s


class StageForecast:
    """Which rows a stage is in time for."""

    def __init__(self, bounds: ExitBounds) -> None:
        self._due_s, self._slowdown = bounds.by_row(), bounds.slowdown
        self._stages = [StageTimes(each.points) for each in bounds.exits]

    def in_time(self, stage: int, rows: Ints, now_s: float) -> Bools:
        """Of ``rows``, those that may enter a stage now, counted from 1: it ends before each of them is due."""
        left_s = self._due_s[rows] - now_s
        takes_s = self._slowdown * self._stages[stage - 1](len(left_s))
        if left_s.min() >= takes_s[-1]:
            return np.ones(len(left_s), np.bool_)
        order = np.argsort(-left_s, kind="stable")
        fits = np.flatnonzero(left_s[order] >= takes_s)
        allowed = np.zeros(len(left_s), np.bool_)
        allowed[order[: fits[-1] + 1 if len(fits) else 0]] = True
        return allowed
