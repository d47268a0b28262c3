"""Options of `proteus study startup`."""

from functools import partial
from typing import Annotated

from typer import Option

from proteus_cli.cli.command_line import completion, sections
from proteus_cli.cli.options.groups.study.shared import NAMES

_measuring = partial(Option, rich_help_panel=sections.MEASURING)

Families = Annotated[
    list[str] | None,
    Option(**NAMES, metavar="FAMILY", show_default="all", help="A family whose variants are started. Repeatable."),
]
Variants = Annotated[
    list[str] | None,
    Option(
        **NAMES,
        metavar="VARIANT",
        show_default="all with a model",
        help="A variant to start, or FAMILY/VARIANT. Repeatable.",
    ),
]
Device = Annotated[
    str | None,
    Option(
        metavar="DEVICE,…",
        autocompletion=completion.devices,
        show_default="the first one of each type",
        help="Ids of devices that variants are loaded on.",
    ),
]
Runs = Annotated[int, _measuring(min=3, max=1000, metavar="N", help="Starts of each variant, cold and warm each.")]
