"""Standbys: variants that a device keeps loaded and warmed up beside its planned variants.

The plan sends a standby no requests. When a plan places it, it needs no load: it is *activated* at once. The variant
that it replaces stays as a standby in turn, as long as memory lasts. Until then, the fastest standby of a family on
each device answers the *overflow*: the requests that all active variants together cannot answer in time.

A device prefers standbys in this order: pinned variants, the fastest variant of each of its families, then the longest
loads. A device without hosts counts all families as its own. The fast variant of a family therefore stands by before a
burst needs it, and the next plan can place variants with long loads at once. All functions here are pure.
"""

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from proteus_cli.control.decision import HostedVariant
from proteus_cli.domain.catalog import NO_VARIANTS, VariantKey, VariantsByDevice

ASK_S = 0.1  # after which a driver asks again for standbys to load
RETRY_S = 60.0  # before a standby that failed is loaded again, and before the next one where memory was short


@dataclass(frozen=True, slots=True)
class Loadable:
    """A variant: its bytes in a device's memory, and the seconds of its load.

    As ``host``, which is one on some device, it serves up to ``qps``. Where no plan may place it, ``qps`` is 0 and
    ``host`` is None.
    """

    memory_bytes: int
    load_s: float
    qps: float
    host: HostedVariant | None = None


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """The memory of a device, in bytes, which all of its variants share; ``loadable`` has variants of known size.

    Each of the ``servers`` that share the device has an equal part.
    """

    memory_bytes: int
    loadable: Mapping[VariantKey, Loadable]
    servers: int = 1
    _order: Sequence[VariantKey] = field(init=False, repr=False, compare=False)  # without regard to pins

    def __post_init__(self) -> None:
        fastest = {key.family: key for key in sorted(self.loadable, key=lambda key: self.loadable[key].qps)}

        def preference(key: VariantKey) -> tuple[bool, bool, float, VariantKey]:
            each = self.loadable[key]
            return not each.qps, fastest[key.family] != key, -each.load_s, key

        object.__setattr__(self, "_order", sorted(self.loadable, key=preference))

    def kept(
        self, loaded: frozenset[VariantKey], needed: frozenset[VariantKey], pinned: Container[VariantKey] = ()
    ) -> frozenset[VariantKey]:
        """The standbys that a device keeps of its ``loaded`` variants, beside the ``needed`` ones."""
        return frozenset(self._fitting(loaded - needed, needed, pinned))

    def next(
        self, active: frozenset[VariantKey], without: Container[VariantKey], pinned: Container[VariantKey] = ()
    ) -> Sequence[VariantKey]:
        """The standbys that a device is to have beside its ``active`` variants, the most preferred first.

        Variants that are not worth a load are left out, and so are the variants in ``without``.
        """
        families = {key.family for key in active} or {key.family for key in self.loadable}
        wanted = {
            key
            for key, each in self.loadable.items()
            if key in pinned or (each.qps > 0 and each.load_s > 0 and key.family in families)
            if key not in active and key not in without
        }
        return self._fitting(wanted, active, pinned)

    def hosts_of(self, standbys: Iterable[VariantKey], families: Container[str]) -> list[HostedVariant]:
        """The ``standbys`` that plans may place, as hosts of some device, if they are of one of the families."""
        found = [self.loadable[key].host for key in sorted(standbys) if key in self.loadable and key.family in families]
        return [host for host in found if host is not None]

    def _fitting(
        self, wanted: Container[VariantKey], needed: Iterable[VariantKey], pinned: Container[VariantKey]
    ) -> list[VariantKey]:
        """The most preferred ``wanted`` variants that fit beside the ``needed`` ones, in order of preference."""
        left_bytes, found = self.memory_bytes // self.servers - sum(map(self._bytes, needed)), list[VariantKey]()
        for key in sorted(self._order, key=lambda key: key not in pinned):
            if key in wanted and self._bytes(key) <= left_bytes:
                left_bytes -= self._bytes(key)
                found.append(key)
        return found

    def _bytes(self, key: VariantKey) -> int:
        """A variant of unknown size counts as all of the memory."""
        return self.loadable[key].memory_bytes if key in self.loadable else self.memory_bytes


def next_standby(
    memory: Mapping[str, DeviceMemory],
    active: VariantsByDevice,
    resident: VariantsByDevice,
    devices: Collection[str],
    without: Collection[tuple[str, str, str]],
    pinned: Container[VariantKey] = (),
) -> tuple[str, VariantKey] | None:
    """The standby to load next, on one of ``devices``: the most preferred that some device lacks. None: there is none.

    ``active`` and ``resident`` variants by device; ``without`` has engines (device, family, variant) not to load.
    """
    found = list[tuple[int, str, VariantKey]]()
    for device in devices:
        if device in memory:
            broken = {VariantKey(*key) for on, *key in without if on == device}
            wanted = memory[device].next(active.get(device, NO_VARIANTS), broken, pinned)
            found += [(rank, device, key) for rank, key in enumerate(wanted) if key not in resident[device]][:1]
    return min(found)[1:] if found else None
