"""TensorRT on one GPU: an engine for each model, built where the cache has no current one."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path

from proteus_cli.backends.base import ANY_RUNNER_TAKES, BuildContext, OnBuildProgress, PowerMeter, Runner
from proteus_cli.backends.discovery import describe_gpu, ordinal_of
from proteus_cli.backends.exits.loading import name_of
from proteus_cli.backends.nvml import nvml_device
from proteus_cli.backends.tensorrt.bindings import tensorrt_version, trt
from proteus_cli.backends.tensorrt.building import build, key_of
from proteus_cli.backends.tensorrt.cache import (
    CachedEngine,
    EngineRequest,
    directory_of,
    files_of,
    find_or_build,
    stage_name,
)
from proteus_cli.backends.tensorrt.chain import ChainPlans, LoadedChain, LoadedStages
from proteus_cli.backends.tensorrt.cuda import primary_context
from proteus_cli.backends.tensorrt.engine import LoadedEngine
from proteus_cli.backends.tensorrt.records import BuildOptions
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import BackendInfo
from proteus_cli.errors import ArtefactError, EngineError
from proteus_cli.input_files import WEIGHTS, read_bytes
from proteus_cli.store.digests import model_digest
from proteus_cli.store.models.exit_chains import is_chain_file, unpacked


class TensorRT:
    """The backend of a GPU. Its name is the name of TensorRT's Python module, so that a double does not pass for it."""

    max_slots = 4

    def __init__(self, device: Device, builds: BuildContext) -> None:
        """Raises `BackendUnavailable` without TensorRT or pycuda, `DeviceUnavailable` without the GPU."""
        version = tensorrt_version()
        self._device, self._builds = device, builds
        self.gpu = describe_gpu(device)
        self.context = primary_context(ordinal_of(device))
        self.versions = BackendInfo(str(trt.__name__), {"tensorrt": version, "driver": self.gpu.driver})

    @cached_property
    def meter(self) -> PowerMeter | None:
        """The GPU's counters of power and energy. Where there are none, a line says so, once."""
        facts = self._device.gpu
        found = nvml_device(facts.uuid, is_slice=facts.is_slice) if facts is not None else "its UUID is unknown"
        if isinstance(found, str):
            self._builds.say(f"{self._device.id}: its power is not measured: {found}")
            return None
        return found

    def prepare(self, model: Path, owner: VariantKey | None = None) -> float:
        """Build the engine of a model, or of each of its stages, unless it is current; returns what building took."""
        if not is_chain_file(model):
            return self._find_or_build(model, owner).record.build_s
        with unpacked(model) as chain:
            return sum(engine.record.build_s for engine in self._stages(chain.stages, owner))

    def plan(self, model: Path, owner: VariantKey | None = None) -> bytes | ChainPlans:
        """The serialized engines of a model or of its stages, each built unless it is current.

        Raises `EngineError`, `ArtefactError`.
        """
        if not is_chain_file(model):
            return _read(self._find_or_build(model, owner))
        with unpacked(model) as chain:
            stages = tuple(map(_read, self._stages(chain.stages, owner)))
            return ChainPlans(stages, chain.stop_when, chain.confidence, name_of(model, owner))

    def plan_file(self, model: Path, owner: VariantKey | None = None) -> Path:
        """The file of the engine of a model that has one. Raises like `plan`."""
        return self._find_or_build(model, owner).plan

    @contextmanager
    def runner(self, model: Path, owner: VariantKey | None = None) -> Iterator[Runner]:
        """Load the engine of a model. Raises like `plan`, `OutOfDeviceMemory` and `DeviceLost`."""
        plan = self.plan(model, owner)
        if isinstance(plan, ChainPlans):
            with closing(LoadedStages(plan.stages, self.context, slots=1)) as stages:
                yield LoadedChain(stages, plan, self.context)
            return
        with closing(LoadedEngine(plan, self.context, slots=1)) as engine:
            yield engine

    def _stages(self, stages: Sequence[Path], owner: VariantKey | None) -> Iterator[CachedEngine]:
        """The engines of a multi-exit model. They are kept by their content: variants of a family may share them."""
        for place, stage in enumerate(stages, start=1):
            name = owner and VariantKey(owner.family, stage_name(place, model_digest(stage)))
            yield self._find_or_build(stage, name)

    def _find_or_build(self, model: Path, owner: VariantKey | None) -> CachedEngine:
        if owner is None:
            raise EngineError(
                f"`{model}` belongs to no variant of the catalog, so its engine cannot be kept.",
                hint="add it to engines/catalog.toml",
            )
        family, variant = owner
        options = self._options(family, variant)
        wanted = EngineRequest(self._device.type, family, variant, key_of(model, self.gpu, options))
        timings = directory_of(self._builds.built, self._device.type)

        def make(progress: OnBuildProgress) -> bytes:
            return build(model, options, timings, progress, on_device=self.context.current)

        return find_or_build(self._builds.built, wanted, make, self._builds.say, self._builds.watch)

    def _options(self, family: str, variant: str) -> BuildOptions:
        """The options of the engine that was built before, if it takes batches that are large enough; else new ones.

        The profiled engine is then the one that is served.
        """
        best = self._builds.best_batch
        files = files_of(self._builds.built, self._device.type, family, variant)
        try:
            options = files.read_record().key.options if files.record.is_file() else None
        except ArtefactError:
            options = None  # `find_or_build` says so, and builds it anew
        if options is not None and options.max_batch >= best:
            return options
        return BuildOptions(opt_batch=best, max_batch=max(best, ANY_RUNNER_TAKES))


def _read(engine: CachedEngine) -> bytes:
    return read_bytes(engine.plan, WEIGHTS, hint="delete it: it is built anew")
