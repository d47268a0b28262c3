"""Times of batches: of any size between measured ones, and on a device that hosts several variants.

The cost of sharing (`interference`) multiplies the times of a variant alone, batch size by batch size. Plans, dispatch,
simulations and emulated devices all call `beside`, so they use the same times.

**One more never costs less.** By chance a set may be measured as faster than a part of it. Here a variant beside
several others costs at least its cost beside any part of them. Dropping a variant never makes the others slower. Parts
of up to `MAX_IN_PART` others count, and the whole set.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations
from typing import Any

from msgspec.structs import replace

from proteus_cli.domain.catalog import VariantKey, name_in_catalog
from proteus_cli.domain.interference import SharingCost, SharingModel
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.domain.stages.exits import slower_exit

MAX_IN_PART = 3
"""Others in a part of a set. With up to four others this covers every part. Larger parts of larger sets (`study share
--sets`) count only if the whole set was not measured."""
MODELS_KEPT = 64
TIMES_KEPT = 8192
"""Variants beside sets of others in the cache: enough for the largest planning models."""


@dataclass(frozen=True, slots=True, eq=False)
class _Same:
    """A cache key that compares by identity: comparing whole values would take longer than computing the times."""

    value: Any

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value


def beside(profile: Profile, measured: VariantProfile, others: Collection[VariantKey]) -> VariantProfile:
    """The profile of a variant while these ``others`` are active on its device.

    It is ``measured`` itself if sharing costs nothing, or the cost is unknown.
    """
    if not profile.sharing or not others:
        return measured
    return _beside(_Same(profile.sharing), _Same(measured), frozenset(others))


@lru_cache(maxsize=TIMES_KEPT)
def _beside(costs: _Same, same: _Same, others: frozenset[VariantKey]) -> VariantProfile:
    measured: VariantProfile = same.value
    batches = {point.batch for point in chain(measured.points, measured.concurrent)}
    by = {batch: sharing_factor(costs.value, measured.key, others, batch) for batch in batches}
    if all(factor == 1 for factor in by.values()):
        return measured
    return replace(
        measured,
        points=tuple(point.scaled(by[point.batch]) for point in measured.points),
        concurrent=tuple(point.scaled(by[point.batch]) for point in measured.concurrent),
        exits=tuple(
            slower_exit(each, lambda batch: sharing_factor(costs.value, measured.key, others, batch))
            for each in measured.exits
        ),
    )


def sharing_factor(costs: Sequence[SharingCost], key: VariantKey, others: Collection[VariantKey], batch: int) -> float:
    """The factor, at least 1, by which batches of ``batch`` rows take longer beside these others.

    ``costs`` are those of a profile. Versions of a variant cost as much as the variant.
    """
    mine, *theirs = (VariantKey(each.family, name_in_catalog(each.variant)) for each in (key, *others))
    known = sorted(set(theirs) - {mine})
    parts = (combinations(known, count) for count in range(1, min(MAX_IN_PART, len(known) - 1) + 1))
    model = _model(_Same(costs))
    return max(model.factor(mine, part, batch=batch) for part in chain([known], *parts))


@lru_cache(maxsize=MODELS_KEPT)
def _model(same: _Same) -> SharingModel:
    return SharingModel(same.value)
