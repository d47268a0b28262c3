"""TensorRT on one GPU: an engine for each model, built where the cache has none that fits."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from proteus_cli.backends.base import ANY_RUNNER_TAKES
from proteus_cli.backends.discovery import describe_gpu, ordinal_of
from proteus_cli.backends.nvml import nvml_device
from proteus_cli.backends.tensorrt.bindings import tensorrt_version, trt
from proteus_cli.backends.tensorrt.building import build, key_of
from proteus_cli.backends.tensorrt.cache import CachedEngine, EngineRequest, directory_of, files_of, find_or_build
from proteus_cli.backends.tensorrt.cuda import primary_context
from proteus_cli.backends.tensorrt.engine import LoadedEngine
from proteus_cli.domain.engine import BuildOptions
from proteus_cli.domain.profile import BackendInfo
from proteus_cli.errors import ArtefactError, EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from proteus_cli.backends.base import PowerMeter, Runner
    from proteus_cli.backends.build_context import BuildContext, OnBuildProgress
    from proteus_cli.domain.catalog import VariantKey
    from proteus_cli.domain.device import Device


class TensorRT:
    """Runs engines on a GPU, one batch at a time.

    The backend is named as TensorRT's module names itself, so what stands in for it doesn't pass for it.
    """

    max_slots = 4

    def __init__(self, device: Device, engines: BuildContext) -> None:
        """Raises `BackendUnavailable` without TensorRT or pycuda, `DeviceUnavailable` without the GPU."""
        version = tensorrt_version()
        self._device, self._engines = device, engines
        self.gpu = describe_gpu(device)
        self.context = primary_context(ordinal_of(device))
        self.versions = BackendInfo(str(trt.__name__), {"tensorrt": version, "driver": self.gpu.driver})

    @cached_property
    def meter(self) -> PowerMeter | None:
        """What tells how much the GPU draws. Where nothing does, that is said once."""
        facts = self._device.gpu
        found = (
            nvml_device(facts.uuid, is_slice=facts.is_slice) if facts is not None else "it isn't known which GPU it is"
        )
        if isinstance(found, str):
            self._engines.say(f"{self._device.id}: what it draws is not measured: {found}")
            return None
        return found

    def prepare(self, model: Path, owner: VariantKey | None = None) -> float:
        """Build the engine of a model where there is none that fits; how many seconds building it took."""
        return self._ensure(model, owner).record.build_s

    def plan(self, model: Path, owner: VariantKey | None = None) -> bytes:
        """The serialized engine of a model, built first if need be. Raises `EngineError`, `ArtefactError`."""
        return self.plan_file(model, owner).read_bytes()

    def plan_file(self, model: Path, owner: VariantKey | None = None) -> Path:
        """Where that lies. Raises like `plan`."""
        return self._ensure(model, owner).plan

    @contextmanager
    def runner(self, model: Path, owner: VariantKey | None = None) -> Iterator[Runner]:
        """Load the engine of a model. Raises like `plan`, `OutOfDeviceMemory` and `DeviceLost`."""
        engine = LoadedEngine(self.plan(model, owner), self.context, slots=1)
        try:
            yield engine
        finally:
            engine.close()

    def _ensure(self, model: Path, owner: VariantKey | None) -> CachedEngine:
        if owner is None:
            raise EngineError(
                f"`{model}` belongs to no variant of the catalog, so no engine of it can be kept.",
                hint="add it to engines/catalog.toml",
            )
        family, variant = owner
        options = self._options(family, variant)
        wanted = EngineRequest(self._device.type, family, variant, key_of(model, self.gpu, options))
        timings = directory_of(self._engines.built, self._device.type)

        def make(progress: OnBuildProgress) -> bytes:
            return build(model, options, timings, progress, on_device=self.context.current)

        return find_or_build(self._engines.built, wanted, make, self._engines.say, self._engines.watch)

    def _options(self, family: str, variant: str) -> BuildOptions:
        """Those of the engine that is there, where it takes batches that are large enough: that one was profiled."""
        best = self._engines.best_batch
        files = files_of(self._engines.built, self._device.type, family, variant)
        try:
            options = files.read_record().key.options if files.record.is_file() else None
        except ArtefactError:
            options = None  # `find_or_build` says so, and builds it anew
        if options is not None and options.max_batch >= best:
            return options
        return BuildOptions(opt_batch=best, max_batch=max(best, ANY_RUNNER_TAKES))
