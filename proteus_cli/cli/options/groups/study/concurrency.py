"""Options of `proteus study concurrency`."""

from functools import partial
from typing import Annotated

from typer import Option

from proteus_cli.cli.command_line import sections

_measuring = partial(Option, rich_help_panel=sections.MEASURING)

Variants = Annotated[
    str | None,
    _measuring(
        "--variants",
        metavar="VARIANT,…",
        show_default="the most accurate of each family",
        help="The variants to measure, such as `digits-s,signals-l`.",
    ),
]
Batch = Annotated[
    int | None,
    _measuring(min=1, max=1024, metavar="N", show_default="that of plans", help="The rows of each batch."),
]
InFlight = Annotated[
    int | None,
    _measuring(
        min=2, max=16, metavar="N", show_default="slots and 2 more", help="The most batches in flight to measure."
    ),
]
