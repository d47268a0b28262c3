"""Options of `proteus study share`."""

import re
from enum import StrEnum
from functools import partial
from typing import Annotated

from typer import Option

from proteus_cli.cli.command_line import sections
from proteus_cli.units import parse_share

_ALL = re.compile(r"1(\.0*)?|100(\.0*)?%")
_measuring = partial(Option, rich_help_panel=sections.MEASURING)


class SharingPlace(StrEnum):
    """Where others run."""

    DEVICE = "device"
    NEIGHBOUR = "neighbour"
    BOTH = "both"


def parse_loads(text: str) -> frozenset[float]:
    """``"50%,100%"`` → 0.5 and 1.0. Raises `UsageError`."""
    parts = [each.strip() for each in text.split(",")]
    return frozenset(1.0 if _ALL.fullmatch(each) else parse_share(each) for each in parts)


Variants = Annotated[
    str | None,
    _measuring(
        metavar="VARIANT,…",
        show_default="the fastest, the slowest, one between",
        help="The variants that share it, 2 to 24, such as `digits-s,signals-l`.",
    ),
]
Load = Annotated[
    frozenset[float],
    _measuring(
        parser=parse_loads,
        metavar="SHARE,…",
        help="Parts of what the variants can do alone. Plans count with the costs at `100%`.",
    ),
]
Where = Annotated[
    SharingPlace,
    _measuring(
        "--where",
        help="Where others run: on the same `device`, which is what plans count with; on a `neighbour`; or `both`.",
    ),
]
Sets = Annotated[
    str | None,
    _measuring(
        metavar="VARIANT+…,…",
        show_default="all variants together, up to four",
        help="Sets of three or more to measure as well, such as `a+b+c,a+b+d`.",
    ),
]
