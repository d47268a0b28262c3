"""The engines that are built in a workspace: their states, and the removal of others than current ones.

It needs neither TensorRT nor a GPU.
"""

from functools import cached_property
from pathlib import Path
from typing import Literal

from proteus_cli import store
from proteus_cli.backends.tensorrt.cache import PLAN_NAME, RECORD_NAME, EngineFiles, building_lock, stage_name
from proteus_cli.backends.tensorrt.file_lock import file_lock
from proteus_cli.backends.tensorrt.records import BuiltEngine
from proteus_cli.domain.base import Value
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import ArtefactError

EngineState = Literal["current", "stale", "orphan"]


class ListedEngine(Value, frozen=True):
    """One engine on the disk. ``record`` is None where it cannot be read.

    ``directory`` is relative to the workspace, or to the state where there is one.

    An engine is *current* when model and plan match its record (more cannot be known without a GPU). It is an *orphan*
    when the catalog has no variant that needs it, else *stale*. ``why`` says why it is not current.
    """

    device_type: str
    name: str
    state: EngineState
    why: str
    directory: str
    record: BuiltEngine | None


def list_engines(place: store.Workspace) -> list[ListedEngine]:
    """All engines that are built, in order. Raises `ArtefactError` where the catalog or a model cannot be read."""
    judge = _Judge(place)
    return [
        judge.listed(files) for directory in _device_types(place) for files in _engines(directory) if _is_engine(files)
    ]


def prune(place: store.Workspace, *, dry_run: bool) -> list[ListedEngine]:
    """Remove the engines that are not current, and leftovers of interrupted builds; returns those engines.

    Removes only files that this program writes, and directories that are empty then. Waits for running builds. Raises
    like `list_engines`, and `ArtefactError` where a file cannot be removed.
    """
    judge = _Judge(place)
    removed: list[ListedEngine] = []
    for directory in _device_types(place):
        with file_lock(building_lock(directory)):
            for files in _engines(directory):
                found = judge.listed(files) if _is_engine(files) else None
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


class _Judge:
    """Finds the states of engines. It reads the catalog once, and each model once."""

    def __init__(self, place: store.Workspace) -> None:
        self._place, self._catalog, self._models = place, place.catalog(), place.model_files()
        self._digests: dict[VariantKey, str | None] = {}

    def listed(self, files: EngineFiles) -> ListedEngine:
        """An engine with its state. Raises `ArtefactError` where its model cannot be read."""
        device_type, name = files.directory.parent.name, files.directory.name
        directory = files.directory.relative_to(self._place.state or self._place.root).as_posix()
        try:
            record = files.read_record()
        except ArtefactError:
            why = "its record can't be read" if files.record.exists() else "its record is missing"
            return ListedEngine(device_type, name, "stale", why, directory, record=None)
        state, why = self._state(files, record)
        return ListedEngine(device_type, f"{record.family}/{record.variant}", state, why, directory, record)

    def _state(self, files: EngineFiles, record: BuiltEngine) -> tuple[EngineState, str]:
        """The state of an engine that has this record, and why it is not current."""
        digest = self._digest(VariantKey(record.family, record.variant))
        if digest is None:
            return "orphan", "not in the catalog"
        if not files.belong_to(record.device_type, record.family, record.variant):
            return "stale", f"it was built for {record.device_type}"
        if digest != record.key.model_digest:
            return "stale", "another model"
        damage = files.damage(record)
        return ("stale", damage) if damage else ("current", "")

    def _digest(self, key: VariantKey) -> str | None:
        """The digest of what an engine of that name is built from; None where the catalog has nothing for it."""
        if key not in self._models:
            return self._stage_digests.get(key)
        if key not in self._digests:
            family = self._catalog.family(key.family)
            self._digests[key] = self._place.loaded_digest(family, family.variant(key.variant))
        return self._digests[key]

    @cached_property
    def _stage_digests(self) -> dict[VariantKey, str]:
        """The digest of each stage of a multi-exit model, by what its engine is called."""
        return {
            VariantKey(family.name, stage_name(number, digest)): digest
            for family, variant in self._catalog.variants
            if variant.exits
            for number, digest in enumerate(self._place.stage_digests(family, variant), start=1)
        }


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
