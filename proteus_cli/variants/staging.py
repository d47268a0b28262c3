"""Files on their way into a workspace."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from proteus_cli import store
from proteus_cli.domain.catalog.catalog import Family
from proteus_cli.errors import ArtefactError
from proteus_cli.input_files import CATALOG, WEIGHTS, open_input, read_text
from proteus_cli.store.models.prepared_models import NO_PREPARATION, Preparation, prepared


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

    The directory is beside the catalog: ``engines/`` may be another file system than the rest of the workspace.
    """
    parent = place.catalog_path.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        directory = TemporaryDirectory(dir=parent, prefix=".adding-")
    except OSError as error:
        raise ArtefactError(
            f"Can't write to `{parent}`: {error.strerror or error}.",
            hint="choose another place with `--workspace`",
        ) from error
    with directory as name:
        yield Staging(place, Path(name))
