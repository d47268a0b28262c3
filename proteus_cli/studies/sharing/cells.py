"""The question of a sharing study, and its cells: sets of variants, where they meet, and their load."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, combinations_with_replacement

from proteus_cli.domain.capacity import points_in_time, slo_fraction
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.interference import MAX_BESIDE, Where
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.errors import UsageError
from proteus_cli.studies.results import FULL_LOAD, format_load
from proteus_cli.studies.sharing.bench import Work

MAX_VARIANTS = 24
MAX_TOGETHER = 4
"""Maximum number of variants for a cell with all of them; plans have few on a device."""
MAX_IN_SET = 1 + MAX_BESIDE
WAYS: tuple[Where, ...] = ("device", "neighbour")
LARGE_BATCH_S = 0.005
"""Maximum time of a batch that is measured: of a longer one, the cost is a small part, and a round takes seconds."""
_PAIR = 2
_WITHOUT_NAMES = 3
"""Number of variants where the user names none: pairs grow with the square."""

Sizes = tuple[int, int]
"""A small batch, as of a server with little to do, and a large one, as of a busy server."""


@dataclass(frozen=True, slots=True)
class SharingQuestion:
    """The variants, loads and ways of a study of sharing a device.

    ``sets`` come on top of pairs and all together. ``emulated``: on the emulated device of its profile. Raises
    `UsageError` where it makes no sense.
    """

    device: str
    variants: tuple[VariantKey, ...]
    loads: tuple[float, ...]
    sets: tuple[tuple[VariantKey, ...], ...] = ()
    where: tuple[Where, ...] = WAYS
    emulated: bool = False

    def __post_init__(self) -> None:
        for keys in (self.variants, *self.sets):
            if len(set(keys)) < len(keys):
                twice = next(key for key in keys if keys.count(key) > 1)
                raise UsageError(f"`{twice.variant}` is named twice.", hint="a device has a variant once")
        if not _PAIR <= len(self.variants) <= MAX_VARIANTS:
            raise UsageError(
                f"Sharing is studied of 2 to {MAX_VARIANTS} variants.", hint="`--variants digits-s,digits-l`"
            )
        if not all(_PAIR < len(each) <= MAX_IN_SET for each in self.sets):
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
        """The sets of three or more: all variants together, and the ``sets``."""
        everything = [self.variants] if _PAIR < len(self.variants) <= MAX_TOGETHER else []
        asked = (tuple(sorted(each, key=self.variants.index)) for each in self.sets)
        return tuple(dict.fromkeys((*everything, *asked)))


def usual_variants(catalog: Catalog, profile: Profile) -> tuple[VariantKey, ...]:
    """Up to three profiled variants of the catalog: the fastest, the slowest, and one between them."""
    known = [measured for measured in profile.variants if measured.key in catalog.keys and measured.points]
    by_time = [each.key for each in sorted(known, key=lambda each: each.points[0].mean_s)]
    if len(by_time) <= _WITHOUT_NAMES:
        return tuple(by_time)
    return (by_time[0], by_time[len(by_time) // 2], by_time[-1])


def batch_sizes(measured: VariantProfile, slo_s: float) -> Sizes:
    """The smallest profiled batch, and the largest that takes no longer than `LARGE_BATCH_S` or the SLO allows."""
    in_time = points_in_time(measured.points, slo_fraction(1) * slo_s)
    small = measured.points[0].batch
    return small, max((small, *(point.batch for point in in_time if point.mean_s <= LARGE_BATCH_S)))


@dataclass(frozen=True, slots=True)
class SharingCell:
    """Variants with their batches, together on one device or on neighbours, at a load."""

    where: Where
    load: float
    works: tuple[Work, ...]
    with_stream: bool = False

    def key(self, labels: Mapping[VariantKey, str]) -> str:
        """The name of the cell within the study: ``"device, load 100 %: digits-s ×1 + digits-l ×1"``."""
        named = [f"{labels[work.key]} ×{work.batch}" for work in self.works if work.key is not None]
        return f"{self.where}, load {format_load(self.load)}: {' + '.join((*named, *['stream'] * self.with_stream))}"


def cells_of(
    sizes: Mapping[VariantKey, Sizes],
    loads: Collection[float],
    sets: Sequence[tuple[VariantKey, ...]],
    devices: Mapping[Where, int],
    *,
    has_stream: bool,
) -> list[SharingCell]:
    """All cells, the most important first: full load, which plans count with, then other loads, with small batches.

    ``sets`` have three or more variants. ``devices`` has the number of alike devices for each way to share. A variant
    is its own neighbour, too.
    """
    found: list[SharingCell] = []
    for load in sorted(loads, reverse=True):
        for where, number in devices.items():
            if where == "device":
                pairs, fitting = list(combinations(sizes, _PAIR)), list(sets)
            else:
                pairs = list(combinations_with_replacement(sizes, _PAIR)) if number > 1 else []
                fitting = [each for each in sets if len(each) <= number]
            for keys in (*pairs, *fitting):
                found += [
                    SharingCell(where, load, tuple(Work(key, sizes[key][size]) for key in keys))
                    for size in ((0, 1) if load == FULL_LOAD else (0,))
                ]
        if load == FULL_LOAD and has_stream:
            found += [
                SharingCell(where, load, (Work(key, batch),), with_stream=True)
                for key, batches in sizes.items()
                for where, number in devices.items()
                for batch in batches
                if where == "device" or number > 1
            ]
    return list(dict.fromkeys(found))
