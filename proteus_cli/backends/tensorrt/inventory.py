"""The engines that are built in a workspace: their states, and removing those that are not current.

It needs neither TensorRT nor a GPU.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

from proteus_cli import store
from proteus_cli.backends.tensorrt.cache import PLAN_NAME, RECORD_NAME, EngineFiles, building_lock, stage_name
from proteus_cli.backends.tensorrt.file_lock import file_lock
from proteus_cli.domain.base import Value
from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.domain.engine import BuiltEngine
from proteus_cli.errors import ArtefactError

EngineState = Literal["current", "stale", "orphan"]


class ListedEngine(Value, frozen=True):
    """One engine on the disk. ``record`` is None where it cannot be read.

    ``directory`` is relative to the workspace, or to the state where there is one.

    An engine is *current* when model and plan are those of its record (more cannot be known without a GPU), an *orphan*
    when the catalog has no variant that needs it, else *stale*. ``why`` says why it is not current.
    """

    device_type: str
    name: str
    state: EngineState
    why: str
    directory: str
    record: BuiltEngine | None


Judge = Callable[[EngineFiles], ListedEngine]


def list_engines(place: store.Workspace) -> list[ListedEngine]:
    """All engines that are built, in order. Raises `ArtefactError` where the catalog or a model cannot be read."""
    judge = _judge_of(place)
    return [judge(files) for directory in _device_types(place) for files in _engines(directory) if _is_engine(files)]


def prune(place: store.Workspace, *, dry_run: bool) -> list[ListedEngine]:
    """Remove the engines that are not current, and leftovers of interrupted builds; returns those engines.

    Removes only files that this program writes, and directories that are empty then. Waits for running builds. Raises
    like `list_engines`, and `ArtefactError` where a file cannot be removed.
    """
    judge = _judge_of(place)
    removed: list[ListedEngine] = []
    for directory in _device_types(place):
        with file_lock(building_lock(directory)):
            for files in _engines(directory):
                found = judge(files) if _is_engine(files) else None
                waste = found if found is not None and found.state != "current" else None
                if waste is not None:
                    removed.append(waste)
                if not dry_run:
                    _tidy_up(files, whole=waste is not None)
    return removed


def prune_prepared(place: store.Workspace, *, dry_run: bool) -> tuple[int, int]:
    """Remove prepared models that no variant of the catalog is loaded from; returns their number and bytes.

    Raises `ArtefactError` where the catalog or a model cannot be read, or a file cannot be removed.
    """
    unused = place.unused_prepared()
    size_bytes = sum(path.stat().st_size for path in unused)
    for path in unused if not dry_run else ():
        _unlink(path)
    return len(unused), size_bytes


def _judge_of(place: store.Workspace) -> Judge:
    """A function that finds the state of an engine. It reads the catalog now, and each model once."""
    catalog = place.catalog()
    models = place.model_files()

    @cache
    def stages() -> dict[VariantKey, str]:
        """The digest of each stage of a multi-exit model, by what its engine is called."""
        return {
            VariantKey(family.name, stage_name(number, digest)): digest
            for family, variant in catalog.variants
            if variant.exits
            for number, digest in enumerate(place.stage_digests(family, variant), start=1)
        }

    @cache
    def digest_of(key: VariantKey) -> str | None:
        if key not in models:
            return stages().get(key)
        family = catalog.family(key.family)
        return place.loaded_digest(family, family.variant(key.variant))

    def state(files: EngineFiles, record: BuiltEngine) -> tuple[EngineState, str]:
        key = VariantKey(record.family, record.variant)
        digest = digest_of(key)
        if digest is None:
            return "orphan", "not in the catalog"
        if not files.belong_to(record.device_type, record.family, record.variant):
            return "stale", f"it was built for {record.device_type}"
        if digest != record.key.model_digest:
            return "stale", "another model"
        damage = files.damage(record)
        return ("stale", damage) if damage else ("current", "")

    def judge(files: EngineFiles) -> ListedEngine:
        device_type, name = files.directory.parent.name, files.directory.name
        directory = files.directory.relative_to(place.state or place.root).as_posix()
        try:
            record = files.read_record()
        except ArtefactError:
            why = "its record can't be read" if files.record.exists() else "its record is missing"
            return ListedEngine(device_type, name, "stale", why, directory, record=None)
        verdict, why = state(files, record)
        return ListedEngine(device_type, f"{record.family}/{record.variant}", verdict, why, directory, record)

    return judge


def _device_types(place: store.Workspace) -> list[Path]:
    return _directories(place.built_dir)


def _engines(directory: Path) -> list[EngineFiles]:
    found = [EngineFiles(each) for each in _directories(directory)]
    return [files for files in found if files.version in _directories(files.directory)]


def _directories(path: Path) -> list[Path]:
    """The directories within a path, in order, without links: their targets are not ours to remove."""
    if not path.is_dir():
        return []
    return sorted(each for each in path.iterdir() if each.is_dir() and not each.is_symlink())


def _is_engine(files: EngineFiles) -> bool:
    return files.plan.exists() or files.record.exists()


def _tidy_up(files: EngineFiles, *, whole: bool) -> None:
    """Remove leftovers of interrupted builds; with ``whole`` also the engine, its record first."""
    leftovers = [path for name in (PLAN_NAME, RECORD_NAME) for path in files.version.glob(f".{name}.*.tmp")]
    for path in [*([files.record, files.plan] if whole else []), *leftovers]:
        _unlink(path)
    for directory in (files.version, files.directory):
        if not any(directory.iterdir()):  # else the user has files in it
            directory.rmdir()


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ArtefactError(
            f"Can't remove `{path}`: {error.strerror or error}.", hint="may you write to its directory?"
        ) from error
