"""What batches take on a device that hosts several variants.

The cost of sharing (`interference`) multiplies what was measured of a variant alone, batch size by batch size. Plans,
dispatch, simulations and emulated devices all take it from `beside`, so they count with the same times.

**Never less with one more.** What is measured of a set may be less than what is measured of a part of it, by chance.
Here a variant beside several others costs at least what it costs beside any of them, so that to leave a variant out
never makes the others slower: of parts of up to `MAX_IN_PART` others, and of the whole set.

How long a batch of any size takes, out of those that were measured.
"""

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations
from typing import Any, Protocol, TypeVar

import numpy as np
from msgspec.structs import replace

from proteus_cli.domain.base import require
from proteus_cli.domain.catalog import VariantKey, name_in_catalog
from proteus_cli.domain.interference import SharingCost, SharingModel
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.domain.stages.exits import slower_exit


class OfBatch(Protocol):
    """Something measured of one batch size."""

    @property
    def batch(self) -> int:
        """The number of rows."""
        ...


MeasuredT = TypeVar("MeasuredT", bound=OfBatch)


class LatencyTable:
    """Latency in seconds of every batch size, linear between the measured ones and never falling.

    Beyond the largest measured batch it goes on with the cost per row of that batch.
    """

    def __init__(self, points: Sequence[MeasuredT], of: Callable[[MeasuredT], float]) -> None:
        require(bool(points), "a latency table needs at least one point")
        batches = [point.batch for point in points]
        latencies_s = np.maximum.accumulate([of(point) for point in points])
        # A batch below the first measured one costs what the first one does: it would be padded.
        by_rows_s = np.interp(np.arange(batches[-1] + 1), batches, latencies_s)
        self._by_rows: tuple[float, ...] = (0.0, *by_rows_s[1:].tolist())
        self._per_row_s = self._by_rows[-1] / (len(self._by_rows) - 1)

    def __call__(self, rows: int) -> float:
        """Seconds that a batch of ``rows`` takes."""
        try:
            return self._by_rows[rows]
        except IndexError:
            return self._by_rows[-1] + (rows - len(self._by_rows) + 1) * self._per_row_s

    def max_rows_within(self, budget_s: float, at_most: int) -> int:
        """The largest batch of ``at_most`` rows or fewer that takes ``budget_s`` or less; 0 if none does."""
        measured = len(self._by_rows) - 1
        rows = at_most
        while rows > measured and self(rows) > budget_s:
            rows -= 1
        return rows if rows > measured else bisect_right(self._by_rows, budget_s, 1, rows + 1) - 1


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
        points=tuple(point.scaled(costs.factor(point.batch)) for point in measured.points),
        concurrent=tuple(point.scaled(costs.factor(point.batch)) for point in measured.concurrent),
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
