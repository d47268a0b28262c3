"""Built engines on the disk, in the layout of a model repository of Triton.

::

    engines/built/<device type>/<family>__<variant>/1/model.plan      the engine
                                                     /model.json      what it was built from (`BuiltEngine`)

Both files are written together, the plan first. An engine whose record does not describe its plan is stale. The engine
of a stage of a multi-exit model has the `stage_name` in place of a variant's name.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from proteus_cli import store
from proteus_cli.backends.base import OnBuildProgress, WatchBuild, unwatched
from proteus_cli.backends.tensorrt.file_lock import file_lock
from proteus_cli.backends.tensorrt.records import BuiltEngine, EngineKey
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.catalog import is_name
from proteus_cli.errors import ArtefactError, UsageError
from proteus_cli.input_files import WEIGHTS, sha256_of

PLAN_NAME = "model.plan"
RECORD_NAME = "model.json"

_LOCK = ".lock"
_WAITING = "waiting for another process that builds"
_HINT = "delete it: it is built anew"


@dataclass(frozen=True, slots=True)
class EngineFiles:
    """The files of an engine; ``directory`` is the model's in Triton's repository."""

    directory: Path

    @property
    def version(self) -> Path:
        """The directory that both files are in: the only version that there is."""
        return self.directory / "1"

    @property
    def plan(self) -> Path:
        return self.version / PLAN_NAME

    @property
    def record(self) -> Path:
        return self.version / RECORD_NAME

    def belong_to(self, device_type: str, family: str, variant: str) -> bool:
        """Whether these are the files of that engine, by their place."""
        return (self.directory.parent.name, self.directory.name) == (device_type, _folder(family, variant))

    def read_record(self) -> BuiltEngine:
        """The record of the engine. Raises `ArtefactError`."""
        return store.read_json(self.record, BuiltEngine, hint=_HINT)

    def damage(self, record: BuiltEngine) -> str:
        """Why the plan is not the one of the record, in words; empty where it is."""
        if not self.plan.is_file():
            return "the plan is missing"
        is_same = sha256_of(self.plan, WEIGHTS, hint=_HINT).hex() == record.plan_digest
        return "" if is_same else "the plan is not the one that was built"


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """An engine that is needed, and what it must have been built from."""

    device_type: str
    family: str
    variant: str
    key: EngineKey

    @property
    def name(self) -> str:
        return f"{self.family}/{self.variant}"


@dataclass(frozen=True, slots=True)
class CachedEngine:
    """An engine that is current."""

    plan: Path
    record: BuiltEngine


def directory_of(built: Path, device_type: str) -> Path:
    """The directory of a device type's engines. Raises `UsageError` where the type cannot name a directory."""
    if not is_name(device_type):
        raise UsageError(
            f"The device type `{device_type}` can't name a directory of engines.",
            hint="types of GPUs are letters, digits, `.`, `_` and `-`",
        )
    return built / device_type


def files_of(built: Path, device_type: str, family: str, variant: str) -> EngineFiles:
    """The files of an engine, which need not exist. Raises like `directory_of`."""
    return EngineFiles(directory_of(built, device_type) / _folder(family, variant))


def _folder(family: str, variant: str) -> str:
    """The directory's name. It is ambiguous, as names may contain `__`; the record says which engine it is."""
    return f"{family}__{variant}"


def stage_name(place: int, model_digest: str) -> str:
    """The name of the engine of a stage in its family, by its place in the chain, from 1, and its content.

    Variants of a family with the same stages share their engines.
    """
    return f"stage{place}-{model_digest[:16]}"


def building_lock(directory: Path) -> Path:
    """The lock for building and removing engines of a device type: two builds would spoil each other's timings."""
    return directory / _LOCK


def find_or_build(
    built: Path,
    wanted: EngineRequest,
    build: Callable[[OnBuildProgress], bytes],
    say: Callable[[str], object],
    watch: WatchBuild = unwatched,
) -> CachedEngine:
    """The engine on the disk if it is current, else a new one.

    ``build`` makes the plan. Before that, ``say`` is called with a line that says why; ``watch`` follows the build, and
    waiting for another process that builds.
    Raises what ``build`` raises, `BuildCancelled` where ``watch`` cancels, `ArtefactError` where the files cannot be
    written; the engine on the disk then stays.
    """
    files = files_of(built, wanted.device_type, wanted.family, wanted.variant)
    if not why_stale(files, wanted):
        return CachedEngine(files.plan, files.read_record())
    lock = building_lock(files.directory.parent)
    with watch(wanted.name) as progress, file_lock(lock, lambda: progress(_WAITING, 0.0)):
        reasons = why_stale(files, wanted)
        if not reasons:  # another process built it meanwhile
            return CachedEngine(files.plan, files.read_record())
        say(f"building {wanted.name} for {wanted.device_type}: {', '.join(reasons)}")
        start_s = time.perf_counter()
        plan = build(progress)
        record = _record(wanted, plan, time.perf_counter() - start_s)
        store.write_in_order({files.plan: plan, files.record: store.to_json(record)})
    return CachedEngine(files.plan, record)


def why_stale(files: EngineFiles, wanted: EngineRequest) -> tuple[str, ...]:
    """Why the engine on the disk is not the one that is wanted, in words; empty where it is."""
    if not files.record.exists():
        return ("there is none yet",) if not files.plan.exists() else ("its record is missing",)
    try:
        record = files.read_record()
    except ArtefactError:
        return ("its record can't be read",)
    if (record.device_type, record.family, record.variant) != (wanted.device_type, wanted.family, wanted.variant):
        return (f"what is there is {record.family}/{record.variant} for {record.device_type}",)
    if changes := wanted.key.changed_from(record.key):
        return changes
    damage = files.damage(record)
    return (damage,) if damage else ()


def _record(wanted: EngineRequest, plan: bytes, build_s: float) -> BuiltEngine:
    return BuiltEngine(
        format=FORMAT,
        made_by=store.made_by(),
        device_type=wanted.device_type,
        family=wanted.family,
        variant=wanted.variant,
        key=wanted.key,
        plan_digest=hashlib.sha256(plan).hexdigest(),
        plan_bytes=len(plan),
        build_s=build_s,
    )
