"""Options of `proteus study share`."""

from enum import StrEnum
from typing import Annotated

from typer import Option

from proteus_cli.cli.command_line import completion, sections
from proteus_cli.units import parse_share


class SharingPlace(StrEnum):
    """Where others run."""

    DEVICE = "device"
    NEIGHBOUR = "neighbour"
    BOTH = "both"


def parse_loads(text: str) -> frozenset[float]:
    """``"50%,100%"`` → 0.5 and 1.0. Raises `UsageError`."""
    parts = [each.strip() for each in text.split(",")]
    return frozenset(1.0 if each in {"100%", "1"} else parse_share(each) for each in parts)


Device = Annotated[
    str,
    Option(
        "--device", metavar="DEVICE", autocompletion=completion.devices, help="The device to share, such as `cpu0`."
    ),
]
Variants = Annotated[
    str | None,
    Option(
        metavar="VARIANT,…",
        show_default="the fastest, the slowest, one between",
        help="The variants that share it, 2 to 24, such as `digits-s,signals-l`.",
        rich_help_panel=sections.MEASURING,
    ),
]
Load = Annotated[
    frozenset[float],
    Option(
        parser=parse_loads,
        metavar="SHARE,…",
        help="Parts of what the variants can do alone. Plans count with the costs at `100%`.",
        rich_help_panel=sections.MEASURING,
    ),
]
Where = Annotated[
    SharingPlace,
    Option(
        "--where",
        help="Where others run: on the same `device`, which is what plans count with; on a `neighbour`; or `both`.",
        rich_help_panel=sections.MEASURING,
    ),
]
Sets = Annotated[
    str | None,
    Option(
        metavar="VARIANT+…,…",
        show_default="all variants together, up to four",
        help="Sets of three or more to measure as well, such as `a+b+c,a+b+d`.",
        rich_help_panel=sections.MEASURING,
    ),
]
Emulate = Annotated[
    bool,
    Option(
        "--emulate",
        help="Study the emulated device of the profile: batches take what the profile and the sharing file say.",
        rich_help_panel=sections.DEVICES,
    ),
]
