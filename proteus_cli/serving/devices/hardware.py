"""What batches run on: the devices of this machine, or emulated ones."""

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from proteus_cli.backends import emulated
from proteus_cli.backends.base import Backend, Signature
from proteus_cli.backends.opening import open_backend
from proteus_cli.domain.catalog import Catalog, Family, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Profile
from proteus_cli.serving.devices.emulated import EmulatedExecutor, TimerThread
from proteus_cli.serving.devices.executor import Executor, ThreadExecutor
from proteus_cli.serving.devices.process.executor import ProcessExecutor
from proteus_cli.serving.devices.process.inner import DeviceSpec, Emulated, OnCpu, OnGpu
from proteus_cli.serving.fleet.worker import INLINE_S

REAL = {"onnxruntime", "tensorrt"}
"""Backends of other names are doubles of these: what is said of their times counts as emulated."""

NO_MODEL = Path()
"""Where the model of an emulated engine is."""

_READER = Device("reader", "cpu", "cpu", "whatever is here", memory_bytes=0, cores=(0,))

ModelPaths = Mapping[VariantKey, Path]


@dataclass(frozen=True, slots=True)
class Hardware:
    """``executor`` opens a device, also again once it was lost, or raises `DeviceUnavailable`.

    ``platform`` is what the models' metadata says of all.

    ``models`` are what executors load, ``signatures`` what each family takes and gives; ``stubs`` are families whose
    signature is made up. Batches that take ``inline_s`` at most may run on the loop.
    """

    platform: str
    models: ModelPaths
    signatures: Mapping[str, Signature]
    executor: Callable[[Device], Executor]
    inline_s: float = INLINE_S
    is_emulated: bool = False
    stubs: frozenset[str] = frozenset()


@asynccontextmanager
async def local_devices(
    devices: Mapping[str, Device],
    catalog: Catalog,
    models: ModelPaths,
    built: Path,
    slots: Mapping[str, int],
    *,
    in_processes: bool = False,
) -> AsyncIterator[Hardware]:
    """The devices that are here, by id, until left.

    GPUs run in processes of their own, as a CUDA context that is lost takes its process along; CPUs do where they are
    to be ``in_processes``. GPUs run the engines in ``built``, which are built where they are missing; ``slots``: how
    many batches may be on each at once.

    Raises `BackendUnavailable`, `DeviceUnavailable`, and `EngineError` where a model can't be read.
    """
    inners = in_own_processes(devices.values(), built, slots, in_processes=in_processes)
    with _processes(inners) as opened:
        reader = open_backend(_READER)  # the files tell what models take, also where other backends run them
        signatures = {
            f.name: _signature(reader, models, VariantKey(f.name, f.variants[0].name)) for f in catalog.families
        }
        platforms = [
            await opened[device].opened() if device in opened else open_backend(found).versions.name
            for device, found in devices.items()
        ]
        yield Hardware(
            platform=platforms[0],
            is_emulated=not REAL.issuperset(platforms),
            models=models,
            signatures=signatures,
            executor=lambda device: _executor(device, inners, opened),
        )


@contextmanager
def emulated_devices(
    profiles: Mapping[str, Profile], catalog: Catalog, models: ModelPaths, *, in_processes: bool = False
) -> Iterator[Hardware]:
    """Emulated devices, until left: those of ``profiles``, by id; each in a process of its own where that is wanted.

    A family's signature is that of one of its models, where there is any. Raises `EngineError` where that can't be
    read.
    """
    known = {family.name: found for family in catalog.families if (found := _any_model(family, models)) is not None}
    signatures = dict.fromkeys(catalog.names, emulated.STUB)
    if known:
        backend = open_backend(_READER)
        signatures |= {family: _signature(backend, models, key) for family, key in known.items()}
    with TimerThread() as alarm:

        def executor(device: Device) -> Executor:
            profile = profiles[device.id]
            if in_processes:
                return ProcessExecutor(Emulated(profile, signatures))
            return EmulatedExecutor(profile, signatures, time.monotonic, alarm.at)

        yield Hardware(
            platform=emulated.NAME,
            models={VariantKey(f.name, v.name): NO_MODEL for f in catalog.families for v in f.variants},
            signatures=signatures,
            executor=executor,
            inline_s=0.0,  # one device would hold up all others
            is_emulated=True,
            stubs=frozenset(catalog.names) - known.keys(),
        )


def in_own_processes(
    devices: Iterable[Device], built: Path, slots: Mapping[str, int], *, in_processes: bool
) -> dict[str, DeviceSpec]:
    """What runs in a process of its own, by device: GPUs always, CPUs where they are to be ``in_processes``."""
    return {
        device.id: OnGpu(device, str(built), slots[device.id]) if device.kind == "gpu" else OnCpu(device)
        for device in devices
        if in_processes or device.kind == "gpu"
    }


@contextmanager
def _processes(inners: Mapping[str, DeviceSpec]) -> Iterator[dict[str, ProcessExecutor]]:
    """Devices in processes, all opened at once; leaving closes those that nobody took out."""
    opened: dict[str, ProcessExecutor] = {}
    try:
        for device, inner in inners.items():
            opened[device] = ProcessExecutor(inner)
        yield opened
    finally:
        for executor in opened.values():
            executor.close()


def _executor(device: Device, inners: Mapping[str, DeviceSpec], opened: dict[str, ProcessExecutor]) -> Executor:
    if device.id not in inners:
        return ThreadExecutor(device, open_backend(device))
    if device.id in opened and not opened[device.id].is_lost:
        return opened.pop(device.id)
    return ProcessExecutor(inners[device.id])


def _signature(backend: Backend, models: ModelPaths, key: VariantKey) -> Signature:
    with backend.runner(models[key], key) as runner:
        return runner.signature


def _any_model(family: Family, models: ModelPaths) -> VariantKey | None:
    return next((key for variant in family.variants if (key := VariantKey(family.name, variant.name)) in models), None)
