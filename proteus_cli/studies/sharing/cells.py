"""The question of a sharing study, and its cells."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, combinations_with_replacement

from proteus_cli.domain.capacity import points_in_time, slo_fraction
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.interference import MAX_BESIDE, Where
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.errors import UsageError
from proteus_cli.studies.results import FULL_LOAD, format_load
from proteus_cli.studies.sharing.slices import Work

MAX_VARIANTS = 24
MAX_TOGETHER = 4
"""All variants are measured together where there are no more; plans have few on a device."""
MAX_IN_SET = 1 + MAX_BESIDE
WAYS: tuple[Where, ...] = ("device", "neighbour")
_PAIR = 2
_WITHOUT_NAMES = 3
"""So many variants are studied where none is named: pairs grow with the square."""


@dataclass(frozen=True, slots=True)
class SharingQuestion:
    """What sharing costs these variants on a device, at these loads.

    ``sets`` come on top of pairs and all together. ``where``: which ways to share are studied. ``emulated``: on the
    emulated device of its profile. Raises `UsageError` where it makes no sense.
    """

    device: str
    variants: tuple[VariantKey, ...]
    loads: tuple[float, ...]
    sets: tuple[tuple[VariantKey, ...], ...] = ()
    where: tuple[Where, ...] = WAYS
    emulated: bool = False

    def __post_init__(self) -> None:
        _require_distinct(self.variants)
        if not _PAIR <= len(self.variants) <= MAX_VARIANTS:
            raise UsageError(
                f"Sharing is studied of 2 to {MAX_VARIANTS} variants.", hint="`--variants digits-s,digits-l`"
            )
        for each in self.sets:
            _require_distinct(each)
            if not _PAIR < len(each) <= MAX_IN_SET:
                raise UsageError(
                    f"A set has 3 to {MAX_IN_SET} variants.", hint="all pairs are measured; `--sets a+b+c` adds a set"
                )
        strays = [key.variant for key in chain.from_iterable(self.sets) if key not in self.variants]
        if strays:
            raise UsageError(f"`--sets` names `{strays[0]}`, and `--variants` does not.", hint="name it there, too")
        if not self.loads or not all(0 < load <= 1 for load in self.loads):
            raise UsageError("A load is above 0 % and at most 100 %.", hint="`--load 50%,90%,100%`")

    @property
    def larger_sets(self) -> tuple[tuple[VariantKey, ...], ...]:
        """The sets of three or more: all variants together, and those that are asked for."""
        everything = self.variants if _PAIR < len(self.variants) <= MAX_TOGETHER else ()
        asked = (tuple(sorted(each, key=self.variants.index)) for each in self.sets)
        return tuple(dict.fromkeys(each for each in (everything, *asked) if each))


def _require_distinct(keys: Sequence[VariantKey]) -> None:
    twice = next((key for place, key in enumerate(keys) if key in keys[:place]), None)
    if twice is not None:
        raise UsageError(f"`{twice.variant}` is named twice.", hint="a device has a variant once")


def usual_variants(catalog: Catalog, profile: Profile) -> tuple[VariantKey, ...]:
    """Up to three profiled variants of the catalog: the fastest, the slowest, and one between them."""
    known = [measured for measured in profile.variants if measured.key in catalog.keys and measured.points]
    by_time = [each.key for each in sorted(known, key=lambda each: each.points[0].mean_s)]
    if len(by_time) <= _WITHOUT_NAMES:
        return tuple(by_time)
    return (by_time[0], by_time[len(by_time) // 2], by_time[-1])


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
