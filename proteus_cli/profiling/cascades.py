"""Cascades of a family: pure functions of the answers of its variants.

A pair has a first variant that is faster and less accurate than the second. Its thresholds are *chosen* without labels:
quantiles of the first variant's confidence. Each is *judged* on all rows: the rows that it defers, the accuracy of the
pair, and the chance that a random choice of as many rows to defer does as well. A plan that shares queries between the
two variants makes a random choice. Pairs that are better stand in the profile, with the thresholds on the concave hull
of (deferred, accuracy).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from proteus_cli.arrays import Bools, Floats, Ints, Singles
from proteus_cli.domain.stages.cascade import CascadePoint, CascadeProfile
from proteus_cli.intervals import wilson
from proteus_cli.units import counted

FRACTIONS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7)
"""Fractions of rows to defer. A plan mixes two neighbouring thresholds, so that finer steps gain little, and each
further threshold may look good by luck."""
MIN_ROWS = 200
"""Minimum number of rows of an eval split. Fewer show an accuracy to some 5 points, more than most cascades gain."""
MAX_CHANCE = 0.05
"""Maximum probability that any threshold of a family passes by chance alone."""
IMPOSSIBLE = 1e-15
"""Probability of counts that are left out of a sum."""


@dataclass(frozen=True, slots=True)
class StageAnswers:
    """A variant of a family: accuracy on the whole split, queries per second, answers by row.

    ``classes`` is None if they are unknown.
    """

    variant: str
    accuracy: float
    qps: float
    confidences: Singles
    correct: Bools
    classes: Ints | None = None


@dataclass(frozen=True, slots=True)
class JudgedThreshold:
    """A threshold as judged. ``p_value``: how probable a gain as large is if the rows to defer are drawn at random."""

    point: CascadePoint
    p_value: float


class Vertex(NamedTuple):
    """A point of a concave hull, and its place among the points."""

    x: float
    y: float
    place: int


@dataclass(frozen=True, slots=True)
class FoundCascades:
    """The cascades of a family; ``why_not`` has the reasons against all, or some, of them, in words."""

    cascades: tuple[CascadeProfile, ...]
    why_not: tuple[str, ...]


def cascades_of(family: str, eval_digest: str, stages: Sequence[StageAnswers]) -> FoundCascades:
    """The cascades of a family: all pairs of its variants that are better than chance.

    A pair is kept if one of its thresholds has a p-value of at most `MAX_CHANCE` over the number of thresholds in the
    family (Bonferroni's bound). All variants answered the same rows.
    """
    if len(stages) < 2:  # noqa: PLR2004
        return FoundCascades((), ("it takes two variants",))
    rows = len(stages[0].correct)
    if rows < MIN_ROWS:
        return FoundCascades((), (f"the eval split has {counted(rows, 'row')}, and it takes {MIN_ROWS}",))
    ordered = [
        (first, second)
        for one, other in combinations(stages, 2)
        for first, second in ((one, other), (other, one))
        if first.accuracy < second.accuracy and first.qps > second.qps
    ]
    if not ordered:
        return FoundCascades((), ("no variant is both faster and less accurate than another",))
    doubts = {first.variant: doubt for first, _ in ordered if (doubt := _doubt(first)) is not None}
    sure = [(first, second, _points(first, second)) for first, second in ordered if first.variant not in doubts]
    max_p_value = MAX_CHANCE / max(sum(len(points) for _, _, points in sure), 1)
    cascades = tuple(
        CascadeProfile(family, first.variant, second.variant, eval_digest, kept)
        for first, second, points in sure
        if any(each.p_value <= max_p_value for each in points) and (kept := _on_hull(points, first, second))
    )
    nothing = ("no pair is better than chance, beyond noise",) if sure and not cascades else ()
    return FoundCascades(cascades, (*doubts.values(), *nothing))


def _doubt(stage: StageAnswers) -> str | None:
    """Why a variant can't be the first of a cascade, in words."""
    unknown = int(np.isnan(stage.confidences).sum())
    if unknown:
        return f"the confidence of {stage.variant} is not a number in {counted(unknown, 'row')}"
    if stage.confidences.min() == stage.confidences.max():
        return f"the confidence of {stage.variant} is the same in all rows"
    return None


def _points(first: StageAnswers, second: StageAnswers) -> list[JudgedThreshold]:
    """The thresholds of a pair, each judged on all rows."""
    chosen = (judged(each, first.confidences, first.correct, second.correct) for each in thresholds(first.confidences))
    return [point for point in chosen if point is not None]


def _on_hull(points: Sequence[JudgedThreshold], first: StageAnswers, second: StageAnswers) -> tuple[CascadePoint, ...]:
    """The points on their concave hull with the accuracies of the variants alone: nothing deferred, or all."""
    ends = float(first.correct.mean()), float(second.correct.mean())
    found = [(each.point.deferred_frac, each.point.accuracy) for each in points]
    vertices = hull([*found, (1.0, ends[1])], (0.0, ends[0]))
    return tuple(points[vertex.place].point for vertex in vertices if vertex.place < len(points))


# --- thresholds


def thresholds(confidences: Singles) -> list[float]:
    """The thresholds, rising, that defer the most nearly `FRACTIONS` of the rows: at most one for each.

    A row is deferred if its confidence is below the threshold. Rows of one confidence are deferred together, so that
    there are fewer thresholds where there are few confidences; each defers some rows, and not all.
    """
    by_confidence = np.sort(confidences)
    deferred = np.flatnonzero(by_confidence[1:] > by_confidence[:-1]) + 1  # where the next confidence is a higher one
    deferred = deferred[np.isfinite(by_confidence[deferred])]
    if not len(deferred):
        return []
    wanted = np.array(FRACTIONS) * len(confidences)
    nearest = np.abs(deferred[None, :] - wanted[:, None]).argmin(axis=1)
    return [float(by_confidence[deferred[place]]) for place in np.unique(nearest)]


def judged(threshold: float, confidences: Singles, first: Bools, second: Bools) -> JudgedThreshold | None:
    """The threshold on these rows; None where it defers none of them, or all.

    ``first`` and ``second``: which rows each variant gets right.
    """
    unsure = ~(confidences >= threshold)
    deferred, rows = int(unsure.sum()), len(unsure)
    if not 0 < deferred < rows:
        return None
    right = int(np.where(unsure, second, first).sum())
    low, high = wilson(right, rows)
    point = CascadePoint(
        threshold=threshold,
        deferred_frac=deferred / rows,
        accuracy=right / rows,
        low=low,
        high=high,
        sure_accuracy=float(first[~unsure].mean()),
        unsure_accuracy=float(first[unsure].mean()),
        second_accuracy=float(second[unsure].mean()),
    )
    only_second, only_first = second & ~first, first & ~second
    gain = int(only_second[unsure].sum()) - int(only_first[unsure].sum())
    return JudgedThreshold(point, p_value_of(gain, deferred, rows, int(only_second.sum()), int(only_first.sum())))


def p_value_of(gain: int, deferred: int, rows: int, only_second: int, only_first: int) -> float:
    """How probable it is that ``deferred`` rows, drawn at random of ``rows``, gain ``gain`` right answers or more.

    The second variant is right on ``only_second`` rows where the first is wrong, and wrong on ``only_first`` where the
    first is right; on the others deferring changes nothing. This is Fisher's permutation test, exact: of all ways to
    choose the rows to defer, the part that does as well (R. A. Fisher, The Design of Experiments (1935), §21). A plan
    that shares queries between both variants defers rows at random.
    """
    lost = np.arange(min(only_first, deferred) + 1)
    total = 0.0
    for count, weight in zip(lost.tolist(), _hypergeometric(lost, rows, only_first, deferred).tolist(), strict=True):
        if weight > IMPOSSIBLE:
            won = np.arange(max(gain + count, 0), min(only_second, deferred - count) + 1)
            total += weight * float(_hypergeometric(won, rows - only_first, only_second, deferred - count).sum())
    return min(total, 1.0)


def _hypergeometric(found: Ints, rows: int, marked: int, drawn: int) -> Floats:
    """The probability of each number of marked rows among ``drawn`` of ``rows``, ``marked`` of them marked."""
    ways = _log_ways(marked, found) + _log_ways(rows - marked, drawn - found) - _log_ways(rows, drawn)
    probability: Floats = np.exp(ways)
    return probability


def _log_ways(count: int, chosen: Ints | int) -> Any:
    """The logarithm of the number of ways to choose; none for more than there are."""
    from scipy.special import gammaln  # noqa: PLC0415 - servers import this module, and no SciPy

    return gammaln(count + 1) - gammaln(np.add(chosen, 1)) - gammaln(count - np.add(chosen, -1))


# --- the hull


def hull(points: Sequence[tuple[float, float]], origin: tuple[float, float] = (0.0, 0.0)) -> list[Vertex]:
    """The vertices of the concave hull of points, in order of x, from the ``origin``, left out, to the highest.

    Each is higher than the one before, and the slope falls from vertex to vertex (Andrew's monotone chain). Of points
    with one x, the first counts.
    """
    found = [Vertex(*origin, -1)]
    for place, (x, y) in enumerate(points):
        if x <= found[-1].x:
            continue
        while len(found) > 1 and _slope(found[-2], found[-1]) <= _slope(found[-1], Vertex(x, y, place)):
            found.pop()
        if y > found[-1].y:
            found.append(Vertex(x, y, place))
    return found[1:]


def _slope(left: Vertex, right: Vertex) -> float:
    return (right.y - left.y) / (right.x - left.x)
