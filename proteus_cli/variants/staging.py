"""Files on their way into a workspace."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from proteus_cli import store
from proteus_cli.domain.catalog.catalog import Family
from proteus_cli.ending_signals import ending_by_exception
from proteus_cli.errors import ArtefactError
from proteus_cli.input_files import CATALOG, WEIGHTS, open_input, read_text
from proteus_cli.store.models.prepared_models import NO_PREPARATION, Preparation, prepared

_PREFIX = ".adding-"


class Staging:
    """New files for the catalog to name, in a directory of their own until `commit` moves all of them to their places.

    Files are named as in the catalog: relative to it. Those that were not staged are where they are.
    """

    def __init__(self, place: store.Workspace, directory: Path) -> None:
        self._place, self._directory = place, directory
        self._names: list[str] = []

    @property
    def scratch(self) -> Path:
        """A directory for files that are only loaded meanwhile."""
        return self._directory / "prepared"

    def path(self, name: str) -> Path:
        """Where the file is until `commit`."""
        return self._directory / name if name in self._names else self._place.model_path(name)

    def loaded(self, family: Family | None, model: Path) -> Path:
        """The file that is loaded for a model of a family: with the family's preparation, if it has one.

        Raises `ArtefactError`, `BackendUnavailable` as `prepared` does.
        """
        preparation = NO_PREPARATION if family is None else self.preparation(family)
        return prepared(model, preparation, self.scratch) if preparation else model

    def preparation(self, family: Family) -> Preparation:
        """What the models of a family are loaded with."""
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
        self._names.remove(name)

    def _new(self, name: str) -> Path:
        target = self._place.model_path(name)
        if target.exists() or name in self._names:
            raise ArtefactError(f"`{target}` is there already.", hint="remove it, or move it out of the way")
        self._names.append(name)
        return self._directory / name

    def commit(self, catalog: str, *, before: str | None) -> None:
        """Move all files to their places, and write the catalog: all of it, or nothing.

        ``before`` is the text that ``catalog`` was made of; None where there was no catalog. Raises `ArtefactError`,
        also where the catalog says something else by now.
        """
        self._require_unchanged(before)
        text = self._directory / self._place.catalog_path.name
        store.write_text(text, catalog)
        files = {self._directory / name: self._place.model_path(name) for name in self._names}
        store.move_in_order(files | {text: self._place.catalog_path})

    def _require_unchanged(self, before: str | None) -> None:
        path, hint = self._place.catalog_path, "run it again, so that what was changed is kept"
        if (read_text(path, CATALOG, hint=hint) if path.exists() else None) != before:
            raise ArtefactError(f"`{path}` was changed meanwhile, so nothing was added to it.", hint=hint)


@contextmanager
def staging(place: store.Workspace) -> Iterator[Staging]:
    """A `Staging` whose directory is removed at the end, with whatever was not committed. Raises `ArtefactError`.

    The directory is beside the catalog: ``engines/`` may be another file system than the rest of the workspace. It is
    removed after SIGTERM and SIGHUP, too; that of a process that was killed, by the next `staging` there.
    """
    parent = place.catalog_path.parent
    with ending_by_exception(), _locked_directory(parent) as name:
        yield Staging(place, Path(name))


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
