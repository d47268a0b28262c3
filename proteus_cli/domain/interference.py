"""Interference: the cost for a variant of others that share its device.

The others run on the same device, one batch at a time, in turn with the variant. The cost comes from the caches, which
they fill. A `SharingCost` is the *ratio* by which the mean time of a variant's batches grows beside others, with its
95 % interval.

The *factor* of a cost is its ratio if the whole interval is above 1 by more than rounding, else 1.

**Sets that were not measured** follow from measured ones, mostly pairs. A variant beside several others takes as long
as beside the worst part of them that was measured. The first large model between two of its batches evicts its data,
and further ones find nothing left to evict. This is too little if parts of a set fit the caches and all together do
not. The set of all variants of a device is therefore worth measuring itself.

**Batch sizes between measured ones** are interpolated, linear in the logarithm of the batch. Beyond them the nearest
counts. The excess falls with the batch: caches are filled once for all of its rows.
"""

import math
from collections.abc import Collection, Iterable
from itertools import permutations
from typing import Annotated

import msgspec
from msgspec import Meta

from proteus_cli.domain.base import (
    BatchSeconds,
    BatchSize,
    MadeBy,
    PositiveCount,
    Value,
    require,
    require_format,
    require_rising,
)
from proteus_cli.domain.catalog import VariantKey

SHARING_FORMAT = 2
MAX_BESIDE = 8
LARGEST_RATIO = 1e6
ROUNDING = 1e-9
"""Ratios that differ by no more are equal: the ratio of equal times may be 1.0000000000000002."""

Others = tuple[VariantKey, ...]
"""Variants beside another one, sorted by name."""
Place = tuple[VariantKey, Others]
Ratio = Annotated[float, Meta(gt=0, le=LARGEST_RATIO)]


class CostPoint(Value, frozen=True):
    """One batch size of the variant: its batches took ``ratio`` times as long beside others as ``alone_s``.

    ``low`` to ``high`` is the 95 % interval of the ratio over the paired ``rounds``.
    """

    batch: BatchSize
    rounds: PositiveCount
    alone_s: BatchSeconds
    ratio: Ratio
    low: Ratio
    high: Ratio

    def __post_init__(self) -> None:
        require(self.low <= self.ratio <= self.high, f"ratio of batch {self.batch} must be in its interval")

    @property
    def factor(self) -> float:
        """The ratio if it is proven to be above 1, else 1."""
        return self.ratio if self.low > 1 + ROUNDING else 1.0


class VariantName(Value, frozen=True):
    """A variant as a file names it."""

    family: str
    variant: str

    @property
    def key(self) -> VariantKey:
        return VariantKey(self.family, self.variant)


class MeasuredVariant(VariantName, frozen=True):
    """A variant that was measured. ``digest`` is the digest of what was measured, from its profile."""

    digest: str


class SharingCost(VariantName, frozen=True):
    """The cost for a variant's batches beside others, by batch size."""

    beside: Annotated[tuple[VariantName, ...], Meta(min_length=1, max_length=MAX_BESIDE)]
    points: Annotated[tuple[CostPoint, ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        is_once = len({self.key, *self.others}) == 1 + len(self.others)
        require(is_once, f"a device has `{self.variant}`, and what is beside it, once")
        require_rising([point.batch for point in self.points], f"batches of `{self.variant}`")

    @property
    def others(self) -> Others:
        """The variants beside it, sorted."""
        return tuple(sorted(other.key for other in self.beside))

    @property
    def place(self) -> Place:
        """The variant and the others: unique in a file."""
        return self.key, self.others


class Interference(Value, frozen=True):
    """The costs of sharing on devices of one type (``profiles/<device>.sharing.json``).

    ``emulated``: measured on an emulated device, so it repeats the settings of the emulation.
    """

    format: int
    made_by: MadeBy
    device_type: str
    measured_on: str
    emulated: bool
    variants: tuple[MeasuredVariant, ...]
    costs: tuple[SharingCost, ...]

    def __post_init__(self) -> None:
        require_format(self.format, SHARING_FORMAT)
        known = {each.key for each in self.variants}
        require(len(known) == len(self.variants), "a variant is listed twice")
        places = {cost.place for cost in self.costs}
        require(len(places) == len(self.costs), "the cost of a variant beside others is listed twice")
        for cost in self.costs:
            named = {cost.key, *cost.others}
            require(named <= known, f"costs of `{cost.variant}` name a variant that is not listed")

    def without(self, gone: Collection[VariantKey]) -> "Interference":
        """A copy without some variants, and without all costs that involve them."""
        return msgspec.structs.replace(
            self,
            variants=tuple(each for each in self.variants if each.key not in gone),
            costs=tuple(cost for cost in self.costs if not {cost.key, *cost.others}.intersection(gone)),
        )


class SharingModel:
    """The cost of any set of variants on a device, measured or composed; see the theory above."""

    def __init__(self, costs: Iterable[SharingCost]) -> None:
        self._points = {cost.place: cost.points for cost in costs}
        self._on_device: dict[VariantKey, list[tuple[frozenset[VariantKey], tuple[CostPoint, ...]]]] = {}
        for (variant, others), points in self._points.items():
            self._on_device.setdefault(variant, []).append((frozenset(others), points))

    def factor(self, variant: VariantKey, beside: Iterable[VariantKey], *, batch: int = 1) -> float:
        """The factor, at least 1, by which batches of ``batch`` rows take longer beside these others.

        Unknown costs are none. Others count once, and the variant itself does not.
        """
        others = set(beside) - {variant}
        if measured := self._points.get((variant, tuple(sorted(others)))):
            return _factor_at(measured, batch)
        parts = [points for part, points in self._on_device.get(variant, ()) if part <= others]
        return max((_factor_at(points, batch) for points in parts), default=1.0)

    def is_measured(self, variants: Collection[VariantKey]) -> bool:
        """Whether each of these variants was measured beside all the others on one device."""
        together = set(variants)
        return all((one, tuple(sorted(together - {one}))) in self._points for one in together)

    def is_free(self, variants: Collection[VariantKey]) -> bool:
        """Whether no measured part of these variants on one device costs any time."""
        together = set(variants)
        found = ((part, points) for one in together for part, points in self._on_device.get(one, ()))
        return all(point.factor == 1 for part, points in found if part <= together for point in points)

    def unmeasured(self, variants: Collection[VariantKey]) -> list[tuple[VariantKey, VariantKey]]:
        """The pairs (a variant, the other one on its device) that were not measured."""
        return [pair for pair in permutations(variants, 2) if (pair[0], pair[1:]) not in self._points]


def _factor_at(points: tuple[CostPoint, ...], batch: int) -> float:
    """The factor, linear in the logarithm of the batch between measured batches."""
    above = next((place for place, point in enumerate(points) if point.batch >= batch), len(points) - 1)
    upper, lower = points[above], points[max(above - 1, 0)]
    if upper.batch <= batch or above == 0:
        return upper.factor
    part = math.log(batch / lower.batch) / math.log(upper.batch / lower.batch)
    return lower.factor + part * (upper.factor - lower.factor)
