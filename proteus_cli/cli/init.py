"""``proteus init``: make a workspace with the sample models."""

from pathlib import Path
from typing import Annotated

import typer

from proteus_cli.cli import console


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The directory of the workspace.")] = Path(),
    *,
    exits: Annotated[
        bool,
        typer.Option(
            "--exits",
            help="And a third family: a model with four exits, at three operating points. Needs the extra `derive`.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
) -> None:
    """Make a workspace with the sample models: two families of small models, with data to measure their accuracy."""
    from proteus_cli.cli.catalog import split
    from proteus_cli.store import remove
    from proteus_cli.store.models.onnx_files import onnx_package
    from proteus_cli.variants.zoo import EXIT_SAMPLE, copy_zoo

    if exits:  # where it is missing, there is no half of a workspace
        onnx_package("cut a model into stages")
    files = copy_zoo(directory, force=force)
    console.say(f"made a workspace in `{directory}`: {len(files)} files")
    if not exits:
        console.say("next: `proteus profile` measures the models on this machine's devices")
        return
    sample = EXIT_SAMPLE
    for stage in (directory / sample.stages).glob("*.onnx") if force else ():
        remove(stage)
    split(
        sample.family, directory / sample.model,
        at=sample.at, slo=sample.slo, eval=directory / sample.eval, workspace_dir=directory,
    )  # fmt: skip
