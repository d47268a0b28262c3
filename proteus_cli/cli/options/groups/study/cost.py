"""Options of `proteus study cost`."""

from pathlib import Path
from typing import Annotated

from typer import Option

from proteus_cli.cli.command_line import completion, sections

Traffic = Annotated[Path, Option(metavar="TRACE", help="The trace of the queries that are to be served (CSV).")]
SomeTraffic = Annotated[
    Path | None,
    Option(
        "--traffic",
        metavar="TRACE",
        show_default="no costs are studied",
        help="A trace of queries (CSV): what it costs to serve them is studied, too.",
    ),
]
Prices = Annotated[
    str | None,
    Option(
        "--price",
        metavar="TYPE=PRICE/h,…",
        show_default="those of the catalog",
        help="What devices cost per hour, such as `cpu-1c=0.03/h,gpu0=0.35/h`, in any one currency.",
        rich_help_panel=sections.DEVICES,
    ),
]
Headroom = Annotated[
    float,
    Option(
        "--headroom",
        min=1.0,
        max=1000.0,
        metavar="FACTOR",
        help="Fleets have to keep the SLO on devices whose batches take so many times as long as profiled.",
        rich_help_panel=sections.DEVICES,
    ),
]
Fleet = Annotated[
    str | None,
    Option(
        "--fleet",
        metavar="TYPE:COUNT,…",
        autocompletion=completion.fleets,
        show_default="16 of each profiled type",
        help="The most devices of each type that a fleet may have, such as `cpu-1c:8,v100:2`.",
        rich_help_panel=sections.DEVICES,
    ),
]
