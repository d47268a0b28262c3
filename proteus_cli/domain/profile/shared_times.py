"""What batches take on a device that hosts several variants.

The cost of sharing (`interference`) multiplies what was measured of a variant alone, batch size by batch size. Plans,
dispatch, simulations and emulated devices all take it from `beside`, so they count with the same times.

**Never less with one more.** What is measured of a set may be less than what is measured of a part of it, by chance.
Here a variant beside several others costs at least what it costs beside any of them, so that to leave a variant out
never makes the others slower: of parts of up to `MAX_IN_PART` others, and of the whole set.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations
from typing import Any

from msgspec.structs import replace

from proteus_cli.domain.catalog.catalog import VariantKey, name_in_catalog
from proteus_cli.domain.profile.interference import SharingCost, SharingModel
from proteus_cli.domain.profile.profile import Point, Profile, VariantProfile
from proteus_cli.domain.stages.exits import slower_exit

MAX_IN_PART = 3
"""Others in a part of a set that is looked at. With up to four others that is every part; of more, as `study share`
measures with ``--sets``, larger parts count only where the whole set was not measured."""
MODELS_KEPT = 64
TIMES_KEPT = 8192  # variants beside sets of others: what the largest models ask for


def beside(profile: Profile, measured: VariantProfile, others: Collection[VariantKey]) -> VariantProfile:
    """What was measured of a variant, as it is where these ``others`` are active on its device.

    It is ``measured`` itself where sharing costs nothing, or nothing is known of it.
    """
    if not profile.sharing or not others:
        return measured
    return _beside(_Same(profile.sharing), _Same(measured), frozenset(others))


@lru_cache(maxsize=TIMES_KEPT)
def _beside(costs_: "_Same", measured_: "_Same", others: frozenset[VariantKey]) -> VariantProfile:
    measured: VariantProfile = measured_.value
    costs = _Costs.of(costs_.value, measured.key, others)
    batches = {point.batch for point in chain(measured.points, measured.concurrent)}
    if all(costs.factor(batch) == 1 for batch in batches):
        return measured
    return replace(
        measured,
        points=tuple(_slower(point, costs.factor(point.batch)) for point in measured.points),
        concurrent=tuple(_slower(point, costs.factor(point.batch)) for point in measured.concurrent),
        exits=tuple(slower_exit(each, costs.factor) for each in measured.exits),
    )


def sharing_factor(profile: Profile, key: VariantKey, others: Collection[VariantKey], batch: int) -> float:
    """How many times as long batches of ``batch`` rows take beside these others; at least 1."""
    return _Costs.of(profile.sharing, key, others).factor(batch)


@dataclass(frozen=True, slots=True)
class _Costs:
    """What a variant costs beside others, by batch."""

    costs: tuple[SharingCost, ...]
    key: VariantKey
    others: frozenset[VariantKey]

    @classmethod
    def of(cls, costs: tuple[SharingCost, ...], key: VariantKey, others: Collection[VariantKey]) -> "_Costs":
        """Versions of a variant cost what it does."""
        mine, *theirs = (VariantKey(each.family, name_in_catalog(each.variant)) for each in (key, *others))
        return cls(costs, mine, frozenset(theirs) - {mine})

    def factor(self, batch: int) -> float:
        model = _model(_Same(self.costs))
        return max(model.slowdown(self.key, part, batch=batch).factor for part in self._parts())

    def _parts(self) -> Iterator[Collection[VariantKey]]:
        yield self.others
        for count in range(1, min(MAX_IN_PART, len(self.others) - 1) + 1):
            yield from combinations(sorted(self.others), count)


@dataclass(frozen=True, slots=True, eq=False)
class _Same:
    """A value that is found again by being the same object: to compare all of it would take longer than to use it."""

    value: Any

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value


@lru_cache(maxsize=MODELS_KEPT)
def _model(same: _Same) -> SharingModel:
    return SharingModel(same.value)


def _slower(point: Point, by: float) -> Point:
    return replace(
        point,
        mean_s=point.mean_s * by,
        p50_s=point.p50_s * by,
        p90_s=point.p90_s * by,
        p95_s=point.p95_s * by,
        p99_s=point.p99_s * by,
        qps=point.qps / by,
        compute_s=None if point.compute_s is None else point.compute_s * by,
        energy_j=None if point.energy_j is None else point.energy_j * by,
    )
