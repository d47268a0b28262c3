"""The cascades of a family: all pairs of its variants, and what is left of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from proteus_cli.arrays import Bools, Ints, Singles
from proteus_cli.domain.stages.cascade import CascadePoint, CascadeProfile
from proteus_cli.profiling.cascades.choosing import thresholds
from proteus_cli.profiling.cascades.hull import hull
from proteus_cli.profiling.cascades.judging import JudgedThreshold, judged
from proteus_cli.units import counted

MIN_ROWS = 200
"""Of an eval split: of fewer, an accuracy is known to no better than some 5 points, and few cascades gain as much."""
MAX_CHANCE = 0.05
"""How probable it may be that any threshold of a family passes by chance alone."""


@dataclass(frozen=True, slots=True)
class StageAnswers:
    """What is known of a variant of a family: accuracy on the whole split, queries per second, answers by row.

    ``classes`` is None where these are unknown.
    """

    variant: str
    accuracy: float
    qps: float
    confidences: Singles
    correct: Bools
    classes: Ints | None = None


@dataclass(frozen=True, slots=True)
class FoundCascades:
    """The cascades of a family; ``why_not`` says in words what stands against all, or some, of them."""

    cascades: tuple[CascadeProfile, ...]
    why_not: tuple[str, ...]


def cascades_of(family: str, eval_digest: str, stages: Sequence[StageAnswers]) -> FoundCascades:
    """The cascades of a family: all pairs of its variants that are better than chance.

    A pair is kept if at one of its thresholds a random choice of as many rows to defer gains as much with a probability
    of `MAX_CHANCE` at most, over the number of thresholds in the family (Bonferroni's bound). All variants answered the
    same rows.
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
