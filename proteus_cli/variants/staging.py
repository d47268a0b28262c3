"""Files on their way into a workspace."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from proteus_cli import store
from proteus_cli.domain.catalog import Family
from proteus_cli.ending_signals import ending_by_exception
from proteus_cli.errors import ArtefactError
from proteus_cli.input_files import CATALOG, WEIGHTS, open_input, read_text
from proteus_cli.store.models.prepared_models import NO_PREPARATION, Preparation, prepared

_PREFIX = ".adding-"
_AGAIN = "run it again, so that what was changed is kept"


class Staging:
    """New files for the catalog to name, in directories of their own until `commit` moves all of them to their places.

    Files are named as in the catalog: relative to it, or absolute. Those that were not staged are where they are. A
    staged file is on the file system of its place, so that it can be moved there. Its path in the directory is the
    whole path of its place: no two collide, none leaves the directory, and a model finds its external data.
    """

    def __init__(self, place: store.Workspace, directory: Path, opened: ExitStack) -> None:
        self._place, self._directory, self._opened = place, directory, opened
        self._by_file_system = {directory.stat().st_dev: directory}
        self._staged: dict[Path, Path] = {}
        """By the place that each file will have."""

    @property
    def scratch(self) -> Path:
        """A directory for files that are only loaded meanwhile."""
        return self._directory / "prepared"

    def path(self, name: str) -> Path:
        """Where the file is until `commit`."""
        return self._staged.get(self._target(name), self._place.model_path(name))

    def loaded(self, family: Family | None, model: Path) -> Path:
        """The file that is loaded for a model of a family: with the family's preparation, if it has one.

        Raises `ArtefactError`, `BackendUnavailable` as `prepared` does.
        """
        preparation = NO_PREPARATION if family is None else self.preparation(family)
        return prepared(model, preparation, self.scratch) if preparation else model

    def preparation(self, family: Family) -> Preparation:
        """The additions to the models of a family."""
        return self._place.preparation(family)

    def write(self, name: str, content: bytes) -> None:
        """Stage a file. Raises `ArtefactError` where its place is taken."""
        store.write_bytes(self._new(name), content)

    def copy(self, source: Path, name: str) -> None:
        """Stage a copy of any size. Raises `ArtefactError` where its place is taken."""
        with (
            open_input(source, WEIGHTS, hint="name a file that is there") as file,
            store.writing(self._new(name)) as copy,
        ):
            shutil.copyfileobj(file, copy)

    def drop(self, name: str) -> None:
        """Leave a staged file behind."""
        del self._staged[self._target(name)]

    def is_taken(self, name: str) -> bool:
        """Whether a file is there, or staged."""
        target = self._target(name)
        return target in self._staged or target.exists()

    def _new(self, name: str) -> Path:
        if self.is_taken(name):
            raise ArtefactError(
                f"`{self._place.model_path(name)}` is there already.", hint="remove it, or move it out of the way"
            )
        target = self._target(name)
        self._staged[target] = self._beside(target)
        return self._staged[target]

    def _target(self, name: str) -> Path:
        """The place of a file, without links, so that each place has one name."""
        return Path(os.path.realpath(self._place.model_path(name)))

    def _beside(self, target: Path) -> Path:
        """Where a file is staged: in a directory of ours on the file system of its place."""
        there = next(parent for parent in target.parents if parent.is_dir())
        file_system = there.stat().st_dev
        if file_system not in self._by_file_system:
            self._by_file_system[file_system] = Path(self._opened.enter_context(_locked_directory(there)))
        return self._by_file_system[file_system] / "files" / target.relative_to(target.anchor)

    def commit(self, catalog: str, *, before: str | None) -> None:
        """Move all files to their places, and write the catalog: all of it, or nothing.

        ``before`` is the text that ``catalog`` was made of; None where there was no catalog. Raises `ArtefactError`,
        also where the catalog says something else by now, or another file has come to a place.
        """
        path = self._target(self._place.catalog_path.name)
        text = self._beside(path)
        store.write_text(text, catalog)
        with _lock(self._place.catalog_path.parent):  # so that of two that commit the second one sees the first
            self._require_unchanged(before)
            for target in self._staged:
                if target.exists():
                    raise ArtefactError(f"`{target}` was written meanwhile, so nothing was added.", hint=_AGAIN)
            try:
                store.rename_in_order({staged: target for target, staged in self._staged.items()} | {text: path})
            except ArtefactError:
                for target, staged in (
                    self._staged.items() if text.exists() else ()
                ):  # else the catalog names them by now
                    if not staged.exists():
                        target.unlink()
                raise

    def _require_unchanged(self, before: str | None) -> None:
        path = self._place.catalog_path
        if (read_text(path, CATALOG, hint=_AGAIN) if path.exists() else None) != before:
            raise ArtefactError(f"`{path}` was changed meanwhile, so nothing was added to it.", hint=_AGAIN)


@contextmanager
def staging(place: store.Workspace) -> Iterator[Staging]:
    """A `Staging` whose directories are removed at the end, with whatever was not committed. Raises `ArtefactError`.

    One is beside the catalog: ``engines/`` may be another file system than the rest of the workspace. Files on other
    file systems have one there, above their places. All are removed after SIGTERM and SIGHUP, too. After a SIGKILL, the
    next `staging` there removes them.
    """
    with ending_by_exception(), ExitStack() as opened:
        directory = opened.enter_context(_locked_directory(place.catalog_path.parent))
        yield Staging(place, Path(directory), opened)


@contextmanager
def _locked_directory(parent: Path) -> Iterator[str]:
    """A new directory that is locked while it is used. Raises `ArtefactError` where ``parent`` can't be written."""
    with ExitStack() as stack:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            with _lock(parent):  # so that nobody takes a directory that is not locked yet for one that was left
                _remove_left(parent)
                directory = TemporaryDirectory(dir=parent, prefix=_PREFIX)
                stack.enter_context(_lock(Path(directory.name)))
        except OSError as error:
            raise ArtefactError(
                f"Can't write to `{parent}`: {error.strerror or error}.",
                hint="choose another place with `--workspace`",
            ) from error
        yield stack.enter_context(directory)


def _remove_left(parent: Path) -> None:
    """Remove the directories of processes that are gone: the system has unlocked these."""
    for directory in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError), _lock(directory, fcntl.LOCK_NB) as is_left:  # it is gone by now, or another user's
            if is_left:
                shutil.rmtree(directory)


@contextmanager
def _lock(directory: Path, flags: int = 0) -> Iterator[bool]:
    """Hold the lock of a directory; False where another process has it, or the file system has no locks."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        yield _is_locked(handle, flags)
    finally:
        os.close(handle)


def _is_locked(handle: int, flags: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | flags)
    except OSError:
        return False
    return True
