"""The devices of a study of sharing: which ones, and how they are opened."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from proteus_cli import store
from proteus_cli.backends.discovery import discover
from proteus_cli.backends.free_memory import free_bytes
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.interference import SharingModel
from proteus_cli.domain.profile import Profile
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace
from proteus_cli.store.sharing import read_sharing
from proteus_cli.studies.hardware import profiled_here
from proteus_cli.studies.profiled import of_variants
from proteus_cli.studies.sharing.bench.bench import Bench
from proteus_cli.studies.sharing.bench.emulated import EmulatedBench
from proteus_cli.studies.sharing.bench.messages import Engine, Open
from proteus_cli.studies.sharing.bench.processes import opened_bench
from proteus_cli.studies.sharing.bench.stream import largest_cache_bytes, stream_bytes
from proteus_cli.studies.sharing.cells import BatchSizes
from proteus_cli.studies.sharing.core_threads import shares_a_core

MAX_NEIGHBOURS = 3
"""That a study uses: each has all engines in memory."""
_UNKNOWN_FREE_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class HardwareBench:
    """The device of a profile, and neighbours that are like it, as they are on this machine."""

    devices: tuple[Device, ...]
    openings: tuple[Open, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(device.id for device in self.devices)

    @property
    def neighbours(self) -> tuple[str, ...]:
        """The other devices, and which of them are as near as can be."""
        first, *others = self.devices
        return tuple(f"{each.id} (same physical core)" if shares_a_core(first, each) else each.id for each in others)

    @property
    def has_stream(self) -> bool:
        """Whether a stream of memory says anything of these devices."""
        return self.devices[0].kind == "cpu"

    @contextmanager
    def opened(self) -> Iterator[Bench]:
        """The devices, open. Raises `DeviceUnavailable`, `EngineError`."""
        with opened_bench(self.openings) as bench:
            yield bench


@dataclass(frozen=True, slots=True)
class EmulatedPair:
    """Two emulated devices of a profile, with the costs of sharing that are known of it."""

    profile: Profile
    sharing: SharingModel
    has_stream = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.profile.device.id, *self.neighbours)

    @property
    def neighbours(self) -> tuple[str, ...]:
        return (f"{self.profile.device.id} (another)",)

    @property
    def devices(self) -> tuple[Device, ...]:
        return ()

    @contextmanager
    def opened(self) -> Iterator[Bench]:
        yield EmulatedBench(self.profile, self.sharing, time.sleep)


def emulated_devices(workspace: Workspace, profile: Profile) -> EmulatedPair:
    """Raises `ArtefactError` where the sharing file is damaged."""
    known = read_sharing(workspace, profile)
    return EmulatedPair(profile, SharingModel(()) if known is None else known.model)


def hardware_bench(
    workspace: Workspace, catalog: Catalog, profile: Profile, sizes: Mapping[VariantKey, BatchSizes]
) -> HardwareBench:
    """What must be opened to measure. Raises `DeviceUnavailable`, and `ArtefactError` where a profile is stale."""
    here = discover(read_settings(workspace.root).devices)
    device = profiled_here(profile, here)
    engines = _engines(workspace, catalog, profile, sizes)
    devices = (device, *_neighbours(device, here))
    size_bytes = stream_bytes(free_bytes() or _UNKNOWN_FREE_BYTES, largest_cache_bytes()) if device.kind == "cpu" else 0
    built = str(workspace.built_dir)
    return HardwareBench(devices, tuple(Open(each, built, profile.slots, engines, size_bytes) for each in devices))


def _neighbours(device: Device, here: Sequence[Device]) -> tuple[Device, ...]:
    """Other CPU devices that are alike, first those on the same physical core. GPUs have memory of their own."""
    if device.kind != "cpu":
        return ()
    alike = [each for each in here if each.id != device.id and each.is_like(device)]
    return tuple(sorted(alike, key=lambda each: not shares_a_core(device, each)))[:MAX_NEIGHBOURS]


def _engines(
    workspace: Workspace, catalog: Catalog, profile: Profile, sizes: Mapping[VariantKey, BatchSizes]
) -> tuple[Engine, ...]:
    found = []
    for key, batches in sizes.items():
        family = catalog.family(key.family)
        variant = family.variant(key.variant)
        model = workspace.loaded_model_of(family, variant, to="measure", hint=", or use `--emulate`")
        found.append(Engine(key, str(model), batches.all))
    store.require_current_models(catalog, of_variants(profile, sizes), workspace)
    return tuple(found)
