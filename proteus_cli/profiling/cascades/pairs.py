"""The cascades of a family: all pairs of its variants, and what is left of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from proteus_cli.arrays import Bools, Singles
from proteus_cli.domain.cascade import MAX_POINTS, CascadePoint, CascadeProfile
from proteus_cli.profiling.cascades.choosing import hull, thresholds
from proteus_cli.profiling.cascades.halves import halves
from proteus_cli.profiling.cascades.judging import Judged, judged
from proteus_cli.units import counted

MIN_ROWS = 200
"""Of an eval split: of 100 rows to judge on, an accuracy is known to some 10 points, and few cascades gain as much."""
MAX_CHANCE = 0.05
"""How probable it may be that any pair of a family passes by chance alone."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What is known of a variant of a family: accuracy on the whole split, queries per second, answers by row."""

    variant: str
    accuracy: float
    qps: float
    confidences: Singles
    correct: Bools


@dataclass(frozen=True, slots=True)
class Found:
    """The cascades of a family; ``why_not`` says in words what stands against all, or some, of them."""

    cascades: tuple[CascadeProfile, ...]
    why_not: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two variants, what is left of the thresholds that were chosen, and the one that the pair is tested by."""

    first: str
    second: str
    points: tuple[CascadePoint, ...]
    tested: Judged


def cascades_of(family: str, eval_digest: str, stages: Sequence[Stage]) -> Found:
    """The cascades of a family: all pairs of its variants that are better than chance.

    Of each pair one threshold is tested, the one that on the half to choose on is the least like chance. The pair is
    kept if on the other half a random choice of as many rows to defer gains as much with a probability of `MAX_CHANCE`
    at most, over the number of pairs (Bonferroni's bound). All variants answered the same rows.
    """
    if len(stages) < 2:  # noqa: PLR2004
        return Found((), ("it takes two variants",))
    rows = len(stages[0].correct)
    if rows < MIN_ROWS:
        return Found((), (f"the eval split has {counted(rows, 'row')}, and it takes {MIN_ROWS}",))
    ordered = [
        (first, second)
        for one, other in combinations(stages, 2)
        for first, second in ((one, other), (other, one))
        if first.accuracy < second.accuracy and first.qps > second.qps
    ]
    if not ordered:
        return Found((), ("no variant is both faster and less accurate than another",))
    doubts = {first.variant: doubt for first, _ in ordered if (doubt := _doubt(first)) is not None}
    sure = [(first, second) for first, second in ordered if first.variant not in doubts]
    pairs = [pair for first, second in sure if (pair := _pair(first, second)) is not None]
    cascades = tuple(
        CascadeProfile(family, pair.first, pair.second, eval_digest, pair.points)
        for pair in pairs
        if pair.points and pair.tested.p_value <= MAX_CHANCE / len(pairs)
    )
    nothing = ("no pair is better than chance, beyond noise",) if sure and not cascades else ()
    return Found(cascades, (*doubts.values(), *nothing))


def _doubt(stage: Stage) -> str | None:
    """Why a variant can't be the first of a cascade, in words."""
    unknown = int(np.isnan(stage.confidences).sum())
    if unknown:
        return f"the confidence of {stage.variant} is not a number in {counted(unknown, 'row')}"
    if stage.confidences.min() == stage.confidences.max():
        return f"the confidence of {stage.variant} is the same in all rows"
    return None


def _pair(first: Stage, second: Stage) -> _Pair | None:
    """Two variants with thresholds chosen on one half of the rows and judged on the other; None where there are none.

    A threshold must defer some rows, and not all, of either half.
    """
    choosing, judging = halves(first.correct, second.correct)
    halved = [(first.confidences[rows], first.correct[rows], second.correct[rows]) for rows in (choosing, judging)]
    chosen = thresholds(*halved[0], MAX_POINTS)
    both = [(judged(threshold, *halved[0]), judged(threshold, *halved[1])) for threshold in chosen]
    points = [
        (as_chosen, as_judged) for as_chosen, as_judged in both if as_chosen is not None and as_judged is not None
    ]
    if not points:
        return None
    _, tested = min(points, key=lambda point: point[0].p_value)
    _, first_right, second_right = halved[1]
    ends = float(first_right.mean()), float(second_right.mean())
    return _Pair(first.variant, second.variant, _on_hull([as_judged.point for _, as_judged in points], *ends), tested)


def _on_hull(points: Sequence[CascadePoint], first: float, second: float) -> tuple[CascadePoint, ...]:
    """The points on their concave hull with the accuracies of the variants alone: all deferred, or nothing."""
    vertices = hull([*((point.deferred_frac, point.accuracy) for point in points), (1.0, second)], (0.0, first))
    return tuple(points[vertex.place] for vertex in vertices if vertex.place < len(points))
