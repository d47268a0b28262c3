"""Files on their way into a workspace."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from proteus_cli import store
from proteus_cli.errors import ArtefactError
from proteus_cli.input_files import WEIGHTS, open_input


class Staging:
    """New files for the catalog to name, in a directory of their own until `commit` moves all of them to their places.

    Files are named as in the catalog: relative to it. Those that were not staged are where they are.
    """

    def __init__(self, place: store.Workspace, directory: Path) -> None:
        self._place, self._directory = place, directory
        self._names: list[str] = []

    def path(self, name: str) -> Path:
        """Where the file is until `commit`."""
        return self._directory / name if name in self._names else self._place.model_path(name)

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

    def _new(self, name: str) -> Path:
        target = self._place.model_path(name)
        if target.exists() or name in self._names:
            raise ArtefactError(f"`{target}` is there already.", hint="remove it, or move it out of the way")
        self._names.append(name)
        return self._directory / name

    def commit(self, catalog: str) -> None:
        """Move all files to their places, and write the catalog: all of it, or nothing. Raises `ArtefactError`."""
        text = self._directory / self._place.catalog_path.name
        store.write_text(text, catalog)
        files = {self._directory / name: self._place.model_path(name) for name in self._names}
        store.move_in_order(files | {text: self._place.catalog_path})


@contextmanager
def staging(place: store.Workspace) -> Iterator[Staging]:
    """A `Staging` whose directory is removed at the end, with whatever was not committed. Raises `ArtefactError`."""
    try:
        place.root.mkdir(parents=True, exist_ok=True)
        directory = TemporaryDirectory(dir=place.root, prefix=".adding-")
    except OSError as error:
        raise ArtefactError(
            f"Can't write to `{place.root}`: {error.strerror or error}.",
            hint="choose another place with `--workspace`",
        ) from error
    with directory as name:
        yield Staging(place, Path(name))
