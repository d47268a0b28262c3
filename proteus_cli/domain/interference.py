"""Interference: what it costs a variant that others share its device, or run on a neighbouring device.

A `SharingCost` says by which *ratio* the mean time of a variant's batches grows beside others, with the 95 % interval
of that ratio. There are two ways to share:

* ``device``: the others run on the same device, one batch at a time, in turn with those of the variant. What they leave
  in the caches is what costs.
* ``neighbour``: the others run at the same time on other devices of the machine. Memory bandwidth, shared caches and
  the clock are what costs.

The *factor* of a cost is its ratio where that is more than noise, so where the whole interval is above 1 by more
than rounding; else 1. It never falls below 1.

**Sets that were not measured** follow from those that were, mostly pairs:

* on one device, a variant beside several others takes as long as beside the worst part of them that was measured. The
  first large model that runs between two of its batches evicts what is to be evicted, and further ones find nothing
  left. Where parts of a set fit the caches and all together do not, this is too little; so it is the set of all
  variants of a device that is worth measuring itself.
* on neighbours, the excess (factor less 1) is the sum of the excesses beside each: the bandwidth that each takes adds
  up.

A *stream*, a program that does nothing but read memory, stands for the worst that can be beside. No set counts with it.

**Batch sizes between those measured** are interpolated, linear in the logarithm of the batch; beyond them the nearest
counts. On one device the excess falls with the batch, as caches are filled once for all of its rows.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

from proteus_cli.domain.base import LARGEST_BATCH, LONGEST_S, SHORTEST_S, MadeBy, Value, is_count, require
from proteus_cli.domain.catalog import VariantKey

SHARING_FORMAT = 1
MAX_BESIDE = 8
LARGEST_RATIO = 1e6
ROUNDING = 1e-9
"""A ratio that differs by no more from another is the same: times that are alike make 1.0000000000000002."""

Where = Literal["device", "neighbour"]
"""Where the others run: on the same device, or at the same time on other devices of the machine."""


Others = tuple[VariantKey, ...]
"""What runs beside a variant, in order of the names; on neighbouring devices perhaps several times the same."""
Place = tuple[VariantKey, Where, Others]


class CostPoint(Value, frozen=True):
    """One batch size of the variant: its batches took ``ratio`` times as long beside others as ``alone_s``.

    ``low`` to ``high`` is the 95 % interval of the ratio, from so many paired ``rounds``.
    """

    batch: int
    rounds: int
    alone_s: float
    ratio: float
    low: float
    high: float

    def __post_init__(self) -> None:
        require(is_count(self.batch, 1, LARGEST_BATCH), f"batch must be from 1 to {LARGEST_BATCH:,}")
        require(is_count(self.rounds, 1), f"rounds of batch {self.batch} must be at least 1")
        require(SHORTEST_S <= self.alone_s <= LONGEST_S, f"alone_s of batch {self.batch} must be a time of a batch")
        is_interval = 0 < self.low <= self.ratio <= self.high <= LARGEST_RATIO
        require(is_interval, f"ratio of batch {self.batch} must be above zero and in its interval")

    @property
    def slowdown(self) -> "Slowdown":
        """What counts of it: nothing where 1 is in the interval, or above it, but for rounding."""
        is_costly = self.low > 1 + ROUNDING
        return Slowdown(self.ratio, self.low, self.high) if is_costly else Slowdown(1.0, 1.0, max(self.high, 1.0))


class VariantName(Value, frozen=True):
    """A variant as a file names it."""

    family: str
    variant: str

    @property
    def key(self) -> VariantKey:
        return VariantKey(self.family, self.variant)


class MeasuredVariant(VariantName, frozen=True):
    """A variant that was measured. ``digest`` is of what was measured, as the profile says it."""

    digest: str


class SharingCost(Value, frozen=True):
    """What a variant's batches cost beside others, by batch size. No ``beside``: beside a stream of memory."""

    family: str
    variant: str
    where: Where
    beside: tuple[VariantName, ...]
    points: tuple[CostPoint, ...]

    def __post_init__(self) -> None:
        require(len(self.beside) <= MAX_BESIDE, f"beside `{self.variant}` there may be {MAX_BESIDE} variants")
        is_once = self.where == "neighbour" or len({self.key, *self.others}) == 1 + len(self.others)
        require(is_once, f"a device has `{self.variant}`, and what is beside it, once")
        batches = [point.batch for point in self.points]
        require(bool(batches) and batches == sorted(set(batches)), f"batches of `{self.variant}` must rise")

    @property
    def key(self) -> VariantKey:
        return VariantKey(self.family, self.variant)

    @property
    def others(self) -> "Others":
        """The variants beside it, in order."""
        return _in_order(other.key for other in self.beside)

    @property
    def place(self) -> "Place":
        """What it is the cost of; a file has one of each."""
        return self.key, self.where, self.others


class Interference(Value, frozen=True):
    """What sharing costs on devices of one type (``profiles/<device>.sharing.json``).

    ``emulated``: it was measured on an emulated device, so it says what that was told and nothing of hardware.
    """

    format: int
    made_by: MadeBy
    device_type: str
    measured_on: str
    emulated: bool
    variants: tuple[MeasuredVariant, ...]
    costs: tuple[SharingCost, ...]

    def __post_init__(self) -> None:
        require(self.format == SHARING_FORMAT, f"`format` is {self.format}; this version reads {SHARING_FORMAT}")
        known = {each.key for each in self.variants}
        require(len(known) == len(self.variants), "a variant is listed twice")
        places = {cost.place for cost in self.costs}
        require(len(places) == len(self.costs), "what a variant costs beside others is listed twice")
        for cost in self.costs:
            named = {cost.key, *cost.others}
            require(named <= known, f"costs of `{cost.variant}` name a variant that is not listed")

    def without(self, gone: Collection[VariantKey]) -> "Interference":
        """The same without some variants, and without all costs that have to do with them."""
        return Interference(
            self.format,
            self.made_by,
            self.device_type,
            self.measured_on,
            self.emulated,
            tuple(each for each in self.variants if each.key not in gone),
            tuple(cost for cost in self.costs if not ({cost.key, *cost.others} & set(gone))),
        )


@dataclass(frozen=True, slots=True)
class Slowdown:
    """The factor, at least 1, by which batches take longer beside others, and its 95 % interval."""

    factor: float = 1.0
    low: float = 1.0
    high: float = 1.0

    @property
    def is_free(self) -> bool:
        """Whether sharing costs nothing."""
        return self.factor == 1


FREE = Slowdown()

_Points = tuple[CostPoint, ...]


class SharingModel:
    """What any set of variants costs on a device, measured or composed; see the theory above."""

    def __init__(self, costs: Iterable[SharingCost]) -> None:
        self._points: Mapping[Place, _Points] = {cost.place: cost.points for cost in costs}
        self._on_device: dict[VariantKey, list[tuple[frozenset[VariantKey], _Points]]] = {}
        for (variant, where, others), points in self._points.items():
            if where == "device" and others:
                self._on_device.setdefault(variant, []).append((frozenset(others), points))

    def slowdown(
        self, variant: VariantKey, beside: Iterable[VariantKey], *, batch: int = 1, where: Where = "device"
    ) -> Slowdown:
        """By how much batches of ``batch`` rows take longer beside these others. What is unknown costs nothing.

        On one device, others count once, and the variant itself does not; on neighbouring devices, as often as given.
        """
        others = _in_order(set(beside) - {variant} if where == "device" else beside)
        if not others:
            return FREE
        measured = self._points.get((variant, where, others))
        if measured:
            return _at(measured, batch)
        return (self._worst_part if where == "device" else self._summed)(variant, others, batch)

    def is_measured(self, variants: Collection[VariantKey]) -> bool:
        """Whether it was measured of each of these variants what it costs beside all the others on one device."""
        together = set(variants)
        return all((one, "device", _in_order(together - {one})) in self._points for one in together)

    def is_free(self, variants: Collection[VariantKey]) -> bool:
        """Whether nothing that was measured of these variants on one device, of any of them, costs any time."""
        together = set(variants)
        found = ((part, points) for one in together for part, points in self._on_device.get(one, ()))
        return all(point.slowdown.is_free for part, points in found if part <= together for point in points)

    def unmeasured(self, variants: Collection[VariantKey]) -> list[tuple[VariantKey, VariantKey]]:
        """The pairs (a variant, the one beside it on a device) of which nothing is known."""
        return [pair for pair in permutations(variants, 2) if (pair[0], "device", pair[1:]) not in self._points]

    def _worst_part(self, variant: VariantKey, others: Others, batch: int) -> Slowdown:
        """Beside the worst of all measured sets of which the others have each."""
        parts = (points for part, points in self._on_device.get(variant, ()) if part <= set(others))
        return max((_at(points, batch) for points in parts), key=lambda each: each.factor, default=FREE)

    def _summed(self, variant: VariantKey, others: Others, batch: int) -> Slowdown:
        found = (self._points.get((variant, "neighbour", (other,))) for other in others)
        pairs = [_at(points, batch) for points in found if points]
        return Slowdown(
            1 + sum(each.factor - 1 for each in pairs),
            1 + sum(each.low - 1 for each in pairs),
            1 + sum(each.high - 1 for each in pairs),
        )


def _in_order(others: Iterable[VariantKey]) -> Others:
    return tuple(sorted(others))


def _at(points: _Points, batch: int) -> Slowdown:
    """Interpolated between the batches that were measured, in the logarithm of the batch."""
    above = next((place for place, point in enumerate(points) if point.batch >= batch), len(points) - 1)
    upper, lower = points[above], points[max(above - 1, 0)]
    if upper.batch <= batch or above == 0:
        return upper.slowdown
    part = math.log(batch / lower.batch) / math.log(upper.batch / lower.batch)
    one, other = lower.slowdown, upper.slowdown
    return Slowdown(
        one.factor + part * (other.factor - one.factor),
        one.low + part * (other.low - one.low),
        one.high + part * (other.high - one.high),
    )
