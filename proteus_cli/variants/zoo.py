"""The sample models that the package contains."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from proteus_cli.errors import ArtefactError
from proteus_cli.input_files import MODEL, read_bytes
from proteus_cli.store import remove, write_bytes

_PACKAGE = Path(__file__).parents[1]
INSTALLED = _PACKAGE / "zoo_files"  # in an installed wheel
CHECKOUT = _PACKAGE.parent  # in the repository


class ExitSample(NamedTuple):
    """The sample model with exits: the ``family`` that it is to be, how it is cut, and where its ``stages`` are then.

    Paths are within a workspace.
    """

    family: str = "digits-exits"
    model: str = "engines/models/exits/digits-exits.onnx"
    at: str = "part1,part2,part3"
    slo: str = "100ms"
    eval: str = "engines/models/digits/eval.npz"
    stages: str = "engines/models/digits-exits"


EXIT_SAMPLE = ExitSample()


def zoo_files() -> dict[str, Path]:
    """The files of the sample models, by their paths in a workspace. Raises `ArtefactError` if they are missing."""
    root = INSTALLED if INSTALLED.is_dir() else CHECKOUT
    wanted = (
        root / "engines" / "catalog.toml",
        *sorted((root / "engines" / "models").rglob("*.*")),
        *sorted((root / "traces").glob("*.csv")),
    )
    files = {path.relative_to(root).as_posix(): path for path in wanted if path.is_file()}
    if "engines/catalog.toml" not in files:
        raise ArtefactError(f"The sample models are missing in `{root}`.", hint="install the package again")
    return files


def copy_zoo(directory: Path, *, force: bool) -> list[Path]:
    """Copy the sample models into a workspace; returns the files. Raises `ArtefactError` if one exists already.

    Files that were not there before are removed again where a later one can't be written.
    """
    files = zoo_files()
    existing = [name for name in files if os.path.exists(directory / name)]  # noqa: PTH110 - takes any name
    if existing and not force:
        raise ArtefactError(
            f"`{directory / existing[0]}` exists already.",
            hint="choose an empty directory, or `--force` to overwrite the files of the sample models",
        )
    with ExitStack() as undoing:
        for name, source in files.items():
            content = read_bytes(source, MODEL, hint="install the package again")
            write_bytes(directory / name, content)
            if name not in existing:
                undoing.callback(remove, directory / name)
        undoing.pop_all()
    return [directory / name for name in files]
