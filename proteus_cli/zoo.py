"""The sample zoo that the package carries."""

import os
from pathlib import Path

from proteus_cli.errors import ArtefactError
from proteus_cli.store import read_bytes, write_bytes

_PACKAGE = Path(__file__).parent
INSTALLED = _PACKAGE / "zoo_files"  # where the wheel has it …
CHECKOUT = _PACKAGE.parent  # … and where the repository has it


def zoo_files() -> dict[str, Path]:
    """Every file of the zoo by its path in a workspace. Raises `ArtefactError` where the package lacks them."""
    root = INSTALLED if INSTALLED.is_dir() else CHECKOUT
    wanted = (
        root / "engines" / "catalog.toml",
        *sorted((root / "engines" / "models").rglob("*.*")),
        *sorted((root / "traces").glob("*.csv")),
    )
    files = {path.relative_to(root).as_posix(): path for path in wanted if path.is_file()}
    if "engines/catalog.toml" not in files:
        raise ArtefactError(f"The sample zoo is missing in `{root}`.", hint="install the package again")
    return files


def copy_zoo(directory: Path, *, force: bool) -> list[Path]:
    """Copy the zoo into a workspace; returns the files. Raises `ArtefactError` where one is there already."""
    files = zoo_files()
    there = [name for name in files if os.path.exists(directory / name)]  # noqa: PTH110 - takes any name
    if there and not force:
        raise ArtefactError(
            f"`{directory / there[0]}` is there already.",
            hint="choose an empty directory, or `--force` to overwrite the zoo's files",
        )
    written = []
    for name, source in files.items():
        content = read_bytes(source, hint="install the package again")
        write_bytes(directory / name, content)
        written.append(directory / name)
    return written
