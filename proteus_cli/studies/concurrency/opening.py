"""Devices are opened as a server opens them, with one variant loaded on each."""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import DeviceLost
from proteus_cli.serving.devices.executor import Batch, Executor
from proteus_cli.serving.devices.hardware import Hardware, emulated_devices, local_devices
from proteus_cli.studies.results import StudiedWay


@dataclass(frozen=True, slots=True)
class DeviceSetup:
    """What devices are opened with: the ``catalog``, the file of each model, the directory of engines for GPUs.

    ``slots`` are those to open a GPU with; an emulated device has those of its ``profile``.
    """

    catalog: Catalog
    models: dict[VariantKey, Path]
    built: Path
    profile: Profile
    slots: int


@asynccontextmanager
async def opened(
    setup: DeviceSetup, devices: Iterable[Device], key: VariantKey, batch: int, way: StudiedWay
) -> AsyncIterator[tuple[dict[str, Executor], Batch]]:
    """The executors of these devices by id, with the variant loaded, and a batch for each of them.

    Raises `EngineError`, `BackendUnavailable` and `DeviceUnavailable`.
    """
    by_id = {device.id: device for device in devices}
    async with AsyncExitStack() as stack:
        hardware = await _hardware(stack, setup, by_id, key, way)
        executors = dict[str, Executor]()
        for device in by_id:
            executor = executors[device] = hardware.open_device(device, _lost)
            stack.callback(executor.close)
            await executor.load(key, hardware.models[key], batch)
        part = hardware.signatures[key.family].sample_part(batch, np.random.default_rng(0))
        yield executors, Batch(key, [part], batch)


async def _hardware(
    stack: AsyncExitStack, setup: DeviceSetup, devices: dict[str, Device], key: VariantKey, way: StudiedWay
) -> Hardware:
    catalog = _only(setup.catalog, key)
    if way == "emulated":
        return stack.enter_context(emulated_devices({setup.profile.device.id: setup.profile}, catalog, {}))
    models = {key: setup.models[key]}
    slots = dict.fromkeys(devices, setup.slots)
    return await stack.enter_async_context(
        local_devices(devices, catalog, models, setup.built, slots, in_processes=way != "thread")
    )


def _only(catalog: Catalog, key: VariantKey) -> Catalog:
    """The catalog with that variant alone: no other model need be there."""
    family = catalog.family(key.family)
    alone = msgspec.structs.replace(family, variants=(family.variant(key.variant),))
    return msgspec.structs.replace(catalog, families=(alone,))


def _lost(loss: DeviceLost) -> None:
    """The batches that run there fail with the loss, which ends the cell."""
