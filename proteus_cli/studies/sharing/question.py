"""What a study of sharing is asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.interference import MAX_BESIDE, Where
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import UsageError

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
