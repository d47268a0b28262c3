"""What batches run on: the devices of this machine, or emulated ones."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from proteus_cli.backends import emulated
from proteus_cli.backends.base import Backend, Signature
from proteus_cli.backends.engines import Engines
from proteus_cli.backends.opening import open_backend
from proteus_cli.backends.tensorrt.backend import TensorRT
from proteus_cli.domain.catalog import Catalog, Family
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Profile
from proteus_cli.serving.builds import BuildLog
from proteus_cli.serving.emulation import Alarm, EmulatedExecutor
from proteus_cli.serving.executor import EngineKey, Executor, ThreadExecutor
from proteus_cli.serving.gpu import GpuExecutor
from proteus_cli.serving.lane import INLINE_S

log = logging.getLogger("proteus.hardware")

REAL = {"onnxruntime", "tensorrt"}
"""Backends of other names are doubles of these: what is said of their times counts as emulated."""

NO_MODEL = Path()
"""Where the model of an emulated engine is."""

_READER = Device("reader", "cpu", "cpu", "whatever is here", memory_bytes=0, cores=(0,))

Models = Mapping[EngineKey, Path]


@dataclass(frozen=True, slots=True)
class Hardware:
    """``executor`` opens a device; ``platform`` is what the models' metadata says of all.

    ``models`` are what executors load, ``signatures`` what each family takes and gives; ``stubs`` are families whose
    signature is made up. Batches that take ``inline_s`` at most may run on the loop.
    """

    platform: str
    models: Models
    signatures: Mapping[str, Signature]
    executor: Callable[[Device], Executor]
    inline_s: float = INLINE_S
    is_emulated: bool = False
    stubs: frozenset[str] = frozenset()


def of_this_machine(
    devices: Mapping[str, Device], catalog: Catalog, models: Models, built: Path, goes_on: Callable[[], bool]
) -> Hardware:
    """The devices that are here, by id; GPUs run the engines in ``built``, which are built where they are missing.

    That may take minutes; it ends once ``goes_on``, which any thread may ask, says no.
    Raises `BackendUnavailable`, `DeviceUnavailable`, `BuildCancelled` so, and `EngineError` where a model can't be read
    or built.
    """
    names = {model: key for key, model in models.items()}
    engines = Engines(built, names, say=log.info, watch=BuildLog(goes_on).watch)
    backends = {device: open_backend(found, engines) for device, found in devices.items()}
    first = next(iter(backends.values()))
    return Hardware(
        platform=first.versions.name,
        is_emulated=not {backend.versions.name for backend in backends.values()} <= REAL,
        models=models,
        signatures={f.name: _signature(first, models[f.name, f.variants[0].name]) for f in catalog.families},
        executor=lambda device: _executor(device, backends[device.id]),
    )


@contextmanager
def made_up(profiles: Mapping[str, Profile], catalog: Catalog, models: Models) -> Iterator[Hardware]:
    """Emulated devices, until left: those of ``profiles``, by id.

    A family's signature is that of one of its models, where there is any. Raises `EngineError` where that can't be
    read.
    """
    files = {family.name: found for family in catalog.families if (found := _any_model(family, models)) is not None}
    signatures = dict.fromkeys(catalog.names, emulated.STUB)
    if files:
        backend = open_backend(_READER)
        signatures |= {family: _signature(backend, model) for family, model in files.items()}
    with Alarm() as alarm:
        yield Hardware(
            platform=emulated.NAME,
            models={(f.name, v.name): NO_MODEL for f in catalog.families for v in f.variants},
            signatures=signatures,
            executor=lambda device: EmulatedExecutor(profiles[device.id], signatures, time.monotonic, alarm.at),
            inline_s=0.0,  # one device would hold up all others
            is_emulated=True,
            stubs=frozenset(catalog.names) - files.keys(),
        )


def _executor(device: Device, backend: Backend) -> Executor:
    """One slot on a GPU, as it was profiled with one."""
    if isinstance(backend, TensorRT):
        return GpuExecutor(backend.context, lambda _key, model: backend.plan(model), slots=1)
    return ThreadExecutor(device, backend)


def _signature(backend: Backend, model: Path) -> Signature:
    with backend.runner(model) as runner:
        return runner.signature


def _any_model(family: Family, models: Models) -> Path | None:
    found = (models.get((family.name, variant.name)) for variant in family.variants)
    return next((model for model in found if model is not None), None)
