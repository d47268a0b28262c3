"""The rival of quantiles: thresholds that labels choose on one half of the rows, and that the other half judges."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from proteus_cli.arrays import Bools, Ints, Singles
from proteus_cli.domain.stages.cascade import MAX_POINTS, CascadePoint, CascadeProfile
from proteus_cli.profiling.cascades import MAX_CHANCE, FoundCascades, StageAnswers, Vertex, hull, judged


def cascades_by_labels(family: str, eval_digest: str, stages: Sequence[StageAnswers]) -> FoundCascades:
    """As `cascades_of`, by one test for each pair: at the threshold that chance explains least where it was chosen."""
    pairs = [
        found
        for one, other in combinations(stages, 2)
        for first, second in ((one, other), (other, one))
        if first.accuracy < second.accuracy and first.qps > second.qps
        if (found := _pair(first, second)) is not None
    ]
    cascades = (
        CascadeProfile(family, *names, eval_digest, points)
        for names, points, p_value in pairs
        if points and p_value <= MAX_CHANCE / len(pairs)
    )
    return FoundCascades(tuple(cascades), ())


def _pair(first: StageAnswers, second: StageAnswers) -> tuple[tuple[str, str], tuple[CascadePoint, ...], float] | None:
    halved = [(first.confidences[part], first.correct[part], second.correct[part]) for part in _halves(first, second)]
    both = [(judged(each, *halved[0]), judged(each, *halved[1])) for each in _thresholds(*halved[0])]
    found = [(chosen, tested) for chosen, tested in both if chosen is not None and tested is not None]
    if not found:
        return None
    p_value = min(found, key=lambda pair: pair[0].p_value)[1].p_value
    points = [tested.point for _, tested in found]
    ends = float(halved[1][1].mean()), float(halved[1][2].mean())
    vertices = hull([*((each.deferred_frac, each.accuracy) for each in points), (1.0, ends[1])], (0.0, ends[0]))
    kept = tuple(points[vertex.place] for vertex in vertices if vertex.place < len(points))
    return (first.variant, second.variant), kept, p_value


def _halves(first: StageAnswers, second: StageAnswers) -> tuple[Ints, Ints]:
    """Halves on which both variants are as accurate as on the whole: each pattern of who is right is halved."""
    shuffled = np.random.default_rng(0).permutation(len(first.correct))
    pattern = 2 * first.correct[shuffled].astype(np.int64) + second.correct[shuffled]
    in_order = shuffled[np.argsort(pattern, kind="stable")]
    return in_order[::2], in_order[1::2]


def _thresholds(confidences: Singles, first: Bools, second: Bools) -> list[float]:
    """The thresholds on the concave hull of (deferred, right) rows; of too many, those go that it needs least."""
    order = np.argsort(confidences, kind="stable")
    ranked = confidences[order]
    gain = np.concatenate(([0], np.cumsum(second[order].astype(np.int64) - first[order])))
    deferred = np.flatnonzero(ranked[1:] > ranked[:-1]) + 1
    vertices = hull([(float(count), float(gain[count])) for count in (*deferred, len(ranked))])
    kept = [Vertex(0.0, 0.0, -1), *(vertex for vertex in vertices if vertex.x < len(ranked))]
    while len(kept) - 1 > MAX_POINTS:
        del kept[1 + int(np.argmin([_area(*three) for three in zip(kept, kept[1:], kept[2:], strict=False)]))]
    return [float(ranked[deferred[vertex.place]]) for vertex in kept[1:]]


def _area(left: Vertex, middle: Vertex, right: Vertex) -> float:
    return abs((middle.x - left.x) * (right.y - left.y) - (right.x - left.x) * (middle.y - left.y)) / 2
