"""``proteus init``: make a workspace with the sample models."""

from pathlib import Path
from typing import Annotated

import typer

from proteus_cli.cli import console

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The directory of the workspace.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")]


def init(directory: Directory = Path(), *, force: Force = False) -> None:
    """Make a workspace with the sample models: two families of small models, with data to measure their accuracy."""
    from proteus_cli.zoo import copy_zoo

    files = copy_zoo(directory, force=force)
    console.say(f"made a workspace in `{directory}`: {len(files)} files")
    console.say("next: `proteus profile` measures the models on this machine's devices")
