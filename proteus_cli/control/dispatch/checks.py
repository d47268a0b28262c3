"""Checks of sure answers: which are made, by which variant, and where.

An answer that the first stage of a cascade is sure of goes out at once. Some of them are *checked* afterwards: a more
accurate variant is asked, too, and both classes are compared. A check runs only where a device is idle at that moment,
waits in no queue, and is no demand; so the most that it can cost a request is to wait for the end of that one batch.
"""

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet

from proteus_cli.control.decision import Checker
from proteus_cli.control.dispatch.workers import AccuracyTier, WorkerState, WorkSource
from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.domain.stages.cascade import CascadeProfile, PlannedCascade, SureRows


class EveryNth:
    """Counts the sure answers of each first stage that may be checked: every ``nth`` is to be. 0: none is."""

    def __init__(self, nth: int) -> None:
        self._nth = nth
        self._counts: dict[VariantKey, int] = {}

    def is_due(self, first: VariantKey) -> bool:
        """Count an answer of that first stage; whether one is to be checked: this one will do until one was `taken`."""
        count = self._counts[first] = min(self._counts.get(first, 0) + 1, self._nth)
        return count == self._nth > 0

    def taken(self, first: VariantKey) -> None:
        """An answer is checked, as one was due."""
        self._counts[first] = 0

    def forget(self, keys: AbstractSet[VariantKey]) -> None:
        """Forget variants that are gone for good."""
        self._counts = {first: count for first, count in self._counts.items() if first not in keys}


def checker_of(
    cascade: PlannedCascade, accuracy: Mapping[VariantKey, float], profiled: Collection[CascadeProfile]
) -> Checker:
    """The variant that checks the sure answers of a cascade; ``accuracy`` has those that are hosted.

    It is the most accurate one of the family, if its cascade with the first stage was profiled at this threshold: only
    then it is known what to expect. Else it is the second stage, or the most accurate one where not even that is known.
    """
    second = VariantKey(cascade.family, cascade.second)
    of_family = [key for key in accuracy if key.family == cascade.family and key.variant != cascade.first]
    best = max(of_family, key=lambda key: (accuracy[key], key == second))
    for key in (best, second):
        if (rows := _sure_rows(cascade, key, profiled)) is not None:
            return Checker(key, rows.disagreement())
    return Checker(best, None)


def idle_source(tiers: Iterable[AccuracyTier], workers: Mapping[str, WorkerState], by: VariantKey) -> WorkSource | None:
    """What an idle worker that hosts ``by`` takes from: the longest free one of its class; None: none is idle."""
    for each in (host_class for tier in tiers for host_class in tier.classes if host_class.host.variant == by.variant):
        for device in each.free:
            if workers[device].is_idle:
                return next(source for source in workers[device].sources if source.host_class is each)
    return None


def _sure_rows(cascade: PlannedCascade, by: VariantKey, profiled: Collection[CascadeProfile]) -> SureRows | None:
    """What was profiled of the answers of the first stage that are sure, beside those of another variant."""
    pair = cascade.family, cascade.first, by.variant
    points = [point for each in profiled if (each.family, each.first, each.second) == pair for point in each.points]
    if by.variant == cascade.second:
        points.append(cascade.point)
    at_threshold = (point.sure_rows for point in points if point.threshold == cascade.point.threshold)
    return next((rows for rows in at_threshold if isinstance(rows, SureRows)), None)
