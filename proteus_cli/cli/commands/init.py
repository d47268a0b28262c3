"""``proteus init``: a workspace with the sample zoo."""

from pathlib import Path
from typing import Annotated

import typer

from proteus_cli.cli import console


def init(
    directory: Annotated[Path, typer.Argument(help="Where to make the workspace.")] = Path(),
    *,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files of the zoo that are there.")] = False,
) -> None:
    """Make a workspace with the sample zoo: two families of small models, with data to measure them."""
    from proteus_cli.zoo import copy_zoo

    files = copy_zoo(directory, force=force)
    console.say(f"made a workspace in `{directory}`: {len(files)} files")
    console.say("next: `proteus profile` measures the models on this machine's devices")
