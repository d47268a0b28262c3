"""What first stages of cascades defer while serving, and what cascades are worth with that.

Nobody labels the queries of a server, so what is measured is how many are less sure than each threshold, and no
accuracy. A threshold then is worth what the profile says of as many deferred queries: it moves along the profile's
curve of accuracy by deferred fraction, which is straight between the points of the profile, and ends where the first
variant answers everything and where the second does. That curve is concave, so between its points it promises too
little, if anything; and the accuracies of variants alone stay what they were, so that ways to answer remain comparable.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from msgspec.structs import replace

from proteus_cli.domain.base import Value, is_count, require
from proteus_cli.domain.cascade import CascadePoint, CascadeProfile
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import Profile


class MeasuredDeferral(Value, frozen=True):
    """How many of the last ``rows`` a first variant was less sure of than each of its ``thresholds``, which rise.

    That is ``deferred_frac`` of them, above 0 and below 1.
    """

    family: str
    first: str
    rows: int
    thresholds: tuple[float, ...]
    deferred_frac: tuple[float, ...]

    def __post_init__(self) -> None:
        of = f"what `{self.first}` defers"
        require(is_count(self.rows, 1), f"rows of {of} must be a count from 1 up")
        require(len(self.thresholds) == len(self.deferred_frac), f"{of} must have a fraction for each threshold")
        require(all(0 < each < 1 for each in self.deferred_frac), f"fractions of {of} must be above 0 and below 1")
        rising = (a <= b for of_all in (self.thresholds, self.deferred_frac) for a, b in pairwise(of_all))
        require(all(rising), f"thresholds and fractions of {of} must rise")

    @property
    def key(self) -> VariantKey:
        return VariantKey(self.family, self.first)


def with_measured(profile: Profile, measured: Sequence[MeasuredDeferral]) -> Profile:
    """The profile with cascades that defer what was measured; those that no variant of the two alone is below, go."""
    by_first = {each.key: each for each in measured}
    found = []
    for cascade in profile.cascades:
        deferral = by_first.get(VariantKey(cascade.family, cascade.first))
        second = profile.of(cascade.family, cascade.second)
        if deferral is None or second is None:
            found.append(cascade)
        elif (moved := moved_cascade(cascade, deferral, second.accuracy)) is not None:
            found.append(moved)
    return replace(profile, cascades=tuple(found))


def moved_cascade(cascade: CascadeProfile, measured: MeasuredDeferral, second_accuracy: float) -> CascadeProfile | None:
    """The cascade with the measured fractions; ``second_accuracy`` is that of the second variant alone.

    Points that were not measured, or no longer rise, are left out; None where none is left.
    """
    fractions = dict(zip(measured.thresholds, measured.deferred_frac, strict=True))
    curve, points = _Curve(cascade.points, second_accuracy), list[CascadePoint]()
    for point in cascade.points:
        if point.threshold not in fractions:
            continue
        found = curve.moved(point, fractions[point.threshold])
        before = points[-1] if points else None
        if before is None or (found.deferred_frac > before.deferred_frac and found.accuracy > before.accuracy):
            points.append(found)
    return replace(cascade, points=tuple(points)) if points else None


class _Curve:
    """Of all queries, by the part that is deferred, the parts that are answered right.

    By the first variant of those that it is sure of, by the second of the deferred ones, and by the first of these.
    """

    def __init__(self, points: Sequence[CascadePoint], second_accuracy: float) -> None:
        last, first = points[-1], points[0]
        alone = first.accuracy_with(1.0)
        by_second = last.deferred_frac * last.second_accuracy
        of_all = min(max(second_accuracy, by_second), by_second + 1 - last.deferred_frac)
        self._at = [0.0, *(point.deferred_frac for point in points), 1.0]
        self._sure = [alone, *((1 - point.deferred_frac) * point.sure_accuracy for point in points), 0.0]
        self._second = [0.0, *(point.deferred_frac * point.second_accuracy for point in points), of_all]
        self._unsure = [0.0, *(point.deferred_frac * point.unsure_accuracy for point in points), alone]

    def moved(self, point: CascadePoint, deferred_frac: float) -> CascadePoint:
        """The point where it defers so much; its interval stays as wide."""
        sure, second, unsure = (
            float(np.interp(deferred_frac, self._at, of)) for of in (self._sure, self._second, self._unsure)
        )
        accuracy = min(sure + second, 1.0)
        return replace(
            point,
            deferred_frac=deferred_frac,
            accuracy=accuracy,
            low=max(accuracy - (point.accuracy - point.low), 0.0),
            high=min(accuracy + (point.high - point.accuracy), 1.0),
            sure_accuracy=min(sure / (1 - deferred_frac), 1.0),
            unsure_accuracy=min(unsure / deferred_frac, 1.0),
            second_accuracy=min(second / deferred_frac, 1.0),
            profiled_frac=point.rank,
        )
