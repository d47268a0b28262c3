"""What first stages of cascades defer while serving, and what cascades are planned with then.

Nobody labels the queries of a server, so what is measured is how many are less sure than each threshold, and no
accuracy. So a threshold costs what was measured, and is counted on to be as accurate as it was profiled, like the
variants alone: ways to answer stay comparable. What sure and unsure queries are worth apart must add up to that, and
is made to, as nobody knows it.
"""

from collections.abc import Sequence
from itertools import pairwise

from msgspec.structs import replace

from proteus_cli.domain.base import Value, is_count, require
from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.domain.profile.profile import Profile
from proteus_cli.domain.stages.cascade import CascadePoint, CascadeProfile


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
    """The profile with cascades that defer what was measured; those of which no threshold was measured are left out."""
    by_first = {each.key: each for each in measured}
    found = []
    for cascade in profile.cascades:
        deferral = by_first.get(VariantKey(cascade.family, cascade.first))
        if deferral is None:
            found.append(cascade)
        elif (moved := moved_cascade(cascade, deferral)) is not None:
            found.append(moved)
    return replace(profile, cascades=tuple(found))


def moved_cascade(cascade: CascadeProfile, measured: MeasuredDeferral) -> CascadeProfile | None:
    """The cascade with the measured fractions.

    Points that were not measured, or defer no more than the one before, are left out; None where none is left.
    """
    fractions = dict(zip(measured.thresholds, measured.deferred_frac, strict=True))
    points: list[CascadePoint] = []
    for point in cascade.points:
        found = fractions.get(point.threshold)
        if found is not None and (not points or found > points[-1].deferred_frac):
            points.append(_moved(point, found))
    return replace(cascade, points=tuple(points)) if points else None


def _moved(point: CascadePoint, deferred_frac: float) -> CascadePoint:
    """The point where it defers so much: as accurate, with parts that are as far from that as they can be, at most."""
    kept_frac, accuracy = 1 - deferred_frac, point.accuracy
    apart = point.deferred_frac * (accuracy - point.second_accuracy)
    most, least = min(kept_frac * (1 - accuracy), deferred_frac * accuracy), -kept_frac * accuracy
    apart = min(max(apart, least, -deferred_frac * (1 - accuracy)), most)
    second = min(max(accuracy - apart / deferred_frac, 0.0), 1.0)
    lost = point.accuracy - point.accuracy_with(1.0)
    return replace(
        point,
        deferred_frac=deferred_frac,
        sure_accuracy=min(max(accuracy + apart / kept_frac, 0.0), 1.0),
        unsure_accuracy=max(second - lost / deferred_frac, 0.0),
        second_accuracy=second,
        profiled_frac=point.rank,
    )
