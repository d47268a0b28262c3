"""The cells of a study: which variants meet where, with which batches, at which load."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement

from proteus_cli.domain.capacity import points_in_time, slo_fraction
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.interference import Where
from proteus_cli.domain.profile import VariantProfile
from proteus_cli.studies.results import FULL_LOAD, format_load
from proteus_cli.studies.sharing.bench.slices import Work

LARGE_BATCH_S = 0.005
"""Batches that take longer are not measured: what a batch costs more beside others is a small part of so long a time,
and a round would take seconds."""


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """The batch sizes that a variant is measured with: of a server with little to do, and of a busy one."""

    small: int
    large: int

    @classmethod
    def of(cls, measured: VariantProfile, slo_s: float) -> "BatchSizes":
        """The smallest that was profiled, and the largest that takes no longer than `LARGE_BATCH_S` or the SLO allows.

        It has points.
        """
        in_time = points_in_time(measured.points, slo_fraction(1) * slo_s)
        small = measured.points[0].batch
        quick = [point.batch for point in in_time if point.mean_s <= LARGE_BATCH_S]
        return cls(small, max((small, *quick)))

    @property
    def all(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys((self.small, self.large)))


@dataclass(frozen=True, slots=True)
class SharingCell:
    """Variants with their batches, together on one device or on neighbours, at a load."""

    where: Where
    load: float
    works: tuple[Work, ...]
    with_stream: bool = False

    def key(self, labels: Mapping[VariantKey, str]) -> str:
        """What the cell is called within the study: ``"device, load 100 %: digits-s ×1 + digits-l ×1"``."""
        named = [f"{labels[work.key]} ×{work.batch}" for work in self.works if work.key is not None]
        stream = ["stream"] if self.with_stream else []
        return f"{self.where}, load {format_load(self.load)}: {' + '.join((*named, *stream))}"


def cells_of(
    sizes: Mapping[VariantKey, BatchSizes],
    loads: Sequence[float],
    sets: Sequence[tuple[VariantKey, ...]],
    devices: Mapping[Where, int],
    *,
    has_stream: bool,
) -> list[SharingCell]:
    """All cells, the most important first: what plans count with, pairs, then larger sets; streams; other loads.

    ``sets`` are of three or more variants. ``devices`` are the ways to share that are studied, with how many alike
    devices there are for each, the one that is studied included. Below full load, batches are small, as a server with
    little to do has them.
    """
    found: dict[SharingCell, None] = {}
    for load in sorted(loads, reverse=True):
        for where, number in devices.items():
            for keys in (*_pairs(where, sizes, number), *(each for each in sets if _fits(each, where, number))):
                found |= dict.fromkeys(_at_load(where, load, keys, sizes))
        if load == FULL_LOAD and has_stream:
            found |= dict.fromkeys(_streams(sizes, devices))
    return list(found)


def _pairs(where: Where, sizes: Mapping[VariantKey, BatchSizes], devices: int) -> Iterable[tuple[VariantKey, ...]]:
    """All pairs; on two devices, also of a variant with itself."""
    if where == "device":
        return combinations(sizes, 2)
    return combinations_with_replacement(sizes, 2) if devices > 1 else ()


def _fits(keys: tuple[VariantKey, ...], where: Where, devices: int) -> bool:
    return where == "device" or len(keys) <= devices


def _at_load(
    where: Where, load: float, keys: tuple[VariantKey, ...], sizes: Mapping[VariantKey, BatchSizes]
) -> Iterator[SharingCell]:
    yield SharingCell(where, load, tuple(Work(key, sizes[key].small) for key in keys))
    if load == FULL_LOAD:
        yield SharingCell(where, load, tuple(Work(key, sizes[key].large) for key in keys))


def _streams(sizes: Mapping[VariantKey, BatchSizes], devices: Mapping[Where, int]) -> Iterator[SharingCell]:
    for key, batches in sizes.items():
        for where, number in devices.items():
            for batch in batches.all if where == "device" or number > 1 else ():
                yield SharingCell(where, FULL_LOAD, (Work(key, batch),), with_stream=True)
