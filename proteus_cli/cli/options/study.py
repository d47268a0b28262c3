"""Options of `proteus study`."""

from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from proteus_cli.cli.command_line import sections
from proteus_cli.cli.command_line.names import environment
from proteus_cli.cli.options.common import DURATION

_measuring = partial(Option, rich_help_panel=sections.MEASURING)

Budget = Annotated[
    float | None,
    Option(
        **DURATION,
        envvar=environment("budget"),
        show_default="as long as it takes",
        help="The time to measure in, such as `60s`. What is not measured then is, by the same command again.",
    ),
]
Force = Annotated[bool, Option("--force", help="Measure again what is measured already.")]
Name = Annotated[
    str | None,
    Option(
        metavar="NAME", show_default="by what is studied", help="The study's files are studies/NAME.json, .csv, .html."
    ),
]
Names = Annotated[
    list[str] | None, Argument(metavar="NAME", help="Studies of the workspace.", show_default="all of them")
]
Page = Annotated[Path, Option("--output", "-o", metavar="HTML", help="The page to write; `-` is stdout.")]
