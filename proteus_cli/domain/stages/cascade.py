"""Cascades: a first variant answers where it is confident, and defers the other queries to a second one."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from msgspec import UNSET, UnsetType

from proteus_cli.domain.base import Value, is_count, is_rate, require
from proteus_cli.intervals import wilson

SPLITS = (0.25, 0.5)
"""The parts of the SLO that plans may give to the first stage of a cascade; the second gets the rest. First stages are
the faster ones: to let them have 3/4, too, improves no plan for the paper's cluster, and makes a model larger."""
SLO_PARTS = tuple(sorted({*SPLITS, *(1 - part for part in SPLITS), 1.0}))
"""All parts of the SLO that plans may give to a variant, the whole among them."""
MAX_POINTS = 8
"""Of a cascade: plans have a column for each."""
ROUNDING = 1e-6
"""Accuracies that agree to so much are the same number, written by different programs."""


class SureRows(Value, frozen=True):
    """Rows of an eval split of which the first of two variants is sure: on ``differ`` of them, their classes do."""

    rows: int
    differ: int

    def __post_init__(self) -> None:
        is_part = is_count(self.rows, 1) and is_count(self.differ) and self.differ <= self.rows
        require(is_part, "sure rows must be at least 1, and no fewer than those on which classes differ")

    def disagreement(self) -> tuple[float, float]:
        """From and to which part of such rows classes are expected to differ: the 95 % confidence interval."""
        return wilson(self.differ, self.rows)


class CascadePoint(Value, frozen=True):
    """One threshold of a cascade, as judged on an eval split whose labels had no part in the choice of it.

    A query is deferred to the second variant if its confidence from the first is below ``threshold``;
    ``deferred_frac`` of queries are. ``accuracy`` is that of the composition, the answers of both together, and from
    ``low`` to ``high`` its 95 % confidence interval. ``sure_accuracy`` is that of the first variant on the queries that
    are not deferred. On those that are, the second has ``second_accuracy``, and the first ``unsure_accuracy``: what its
    answer is worth as a fallback. All are fractions. ``profiled_frac`` is only in plans of a server that has measured
    another ``deferred_frac`` than was profiled, and is what was. ``sure_rows`` are those that are not deferred;
    profiles of earlier versions do not know them.
    """

    threshold: float
    deferred_frac: float
    accuracy: float
    low: float
    high: float
    sure_accuracy: float
    unsure_accuracy: float
    second_accuracy: float
    profiled_frac: float | UnsetType = UNSET
    sure_rows: SureRows | UnsetType = UNSET

    def __post_init__(self) -> None:
        require(math.isfinite(self.threshold), "the threshold of a cascade must be a finite number")
        at = f"of threshold {self.threshold:g}"
        require(0 < self.deferred_frac < 1, f"deferred_frac {at} must be above 0 and below 1")
        require(0 < self.rank < 1, f"profiled_frac {at} must be above 0 and below 1")
        for part in (self.sure_accuracy, self.unsure_accuracy, self.second_accuracy):
            require(0 <= part <= 1, f"accuracies {at} must be fractions from 0 to 1")
        interval = f"accuracy {at} must be within its interval, and that from 0 to 1"
        require(0 <= self.low <= self.accuracy <= self.high <= 1, interval)
        is_whole = abs(self.accuracy - self.accuracy_with(0.0)) <= ROUNDING
        require(is_whole, f"accuracy {at} must be that of its parts, sure_accuracy and second_accuracy")

    @property
    def rank(self) -> float:
        """The part of all queries of which the first variant was less sure than this, when it was profiled."""
        return self.deferred_frac if isinstance(self.profiled_frac, UnsetType) else self.profiled_frac

    def accuracy_with(self, fallback_frac: float) -> float:
        """The accuracy where that part of the deferred queries (0 to 1) gets the first answer, for want of time."""
        deferred = (1 - fallback_frac) * self.second_accuracy + fallback_frac * self.unsure_accuracy
        return (1 - self.deferred_frac) * self.sure_accuracy + self.deferred_frac * deferred


class CascadeProfile(Value, frozen=True):
    """A pair of variants of a family of which some thresholds are worth planning with.

    ``eval_digest`` is that of the eval split that they were judged on. There are 1 to `MAX_POINTS`
    ``points``; their thresholds, deferred fractions and accuracies rise. `proteus profile` keeps those on the concave
    hull of (deferred_frac, accuracy).
    """

    family: str
    first: str
    second: str
    eval_digest: str
    points: tuple[CascadePoint, ...]

    def __post_init__(self) -> None:
        require(self.first != self.second, f"`{self.first}` can't be both variants of a cascade")
        pair = f"cascade `{self.first}` → `{self.second}`"
        require(1 <= len(self.points) <= MAX_POINTS, f"{pair} must have 1 to {MAX_POINTS} points")
        for before, after in pairwise(self.points):
            rises = (
                before.threshold < after.threshold
                and before.deferred_frac < after.deferred_frac
                and before.accuracy < after.accuracy
            )
            require(rises, f"thresholds, deferred fractions and accuracies of {pair} must rise")


class PlannedCascade(Value, frozen=True):
    """A cascade that a plan uses at one point of its profile.

    ``rate_qps`` of the queries that ``first`` gets go this way, which is ``share`` of the family's served queries.
    """

    family: str
    first: str
    second: str
    point: CascadePoint
    rate_qps: float
    share: float

    def __post_init__(self) -> None:
        pair = f"cascade `{self.first}` → `{self.second}`"
        require(self.first != self.second, f"`{self.first}` can't be both variants of a cascade")
        require(is_rate(self.rate_qps), f"rate_qps of {pair} must be from 0 to 2^53")
        require(0 <= self.share <= 1 + 1e-9, f"share of {pair} must be within 0 and 1")

    @property
    def deferred_qps(self) -> float:
        """What the second variant gets of it."""
        return self.point.deferred_frac * self.rate_qps


def accuracy_by_level(
    points: Sequence[CascadePoint], thresholds: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The accuracy of the first and of the second variant on queries that reach so many of the ``thresholds``.

    ``points`` are of one pair, and say it of the queries between two of their thresholds, which are among these; of
    those above their last one, the second variant is taken to be as accurate as on those below it.
    """
    bands = [(points[0].unsure_accuracy, points[0].second_accuracy)]
    for low, high in pairwise(points):
        rows = high.rank - low.rank
        first = high.rank * high.unsure_accuracy - low.rank * low.unsure_accuracy
        second = high.rank * high.second_accuracy - low.rank * low.second_accuracy
        bands.append((_fraction(first / rows), _fraction(second / rows)))
    bands.append((points[-1].sure_accuracy, points[-1].second_accuracy))
    own = [point.threshold for point in points]
    found = [bands[bisect_right(own, reached)] for reached in (-math.inf, *thresholds)]
    return tuple(first for first, _ in found), tuple(second for _, second in found)


def _fraction(value: float) -> float:
    return min(max(value, 0.0), 1.0)
