"""Options of `proteus study`."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from proteus_cli.cli.command_line import completion, sections
from proteus_cli.cli.command_line.names import environment
from proteus_cli.cli.options.common import DURATION
from proteus_cli.errors import UsageError
from proteus_cli.units import parse_share

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


class StudyMode(StrEnum):
    """Where figures come from."""

    MEASURED = "measured"
    EMULATED = "emulated"
    SIMULATED = "simulated"


PEAK_OF_SERVER = {"--device", "--variant", "--mode", "--batching", "--jitter"}
"""What is known of no server at a URL."""


def parse_percentile(text: str) -> float:
    """``"p99.9"`` → 0.999. Raises `UsageError`."""
    try:
        percent = float(text.removeprefix("p"))
    except ValueError:
        percent = 0.0
    part = round(percent / 100, 12)
    if not text.startswith("p") or not 0 < part < 1:
        raise UsageError(f"`{text}` is no percentile.", hint="write it like `p99` or `p99.9`")
    return part


PeakPlan = Annotated[
    Path | None,
    Argument(metavar="PLAN", autocompletion=completion.plans, help="A plan to offer requests to, instead of a device."),
]
Family = Annotated[
    str | None,
    Option(
        metavar="FAMILY",
        show_default="all of a plan",
        help="The family that is asked for; of another server, the model.",
    ),
]
Variants = Annotated[
    list[str] | None,
    Option(
        metavar="VARIANT", show_default="all that fit the SLO", help="A variant to measure on the device. Repeatable."
    ),
]
OneDevice = Annotated[
    str | None,
    Option(
        metavar="DEVICE",
        autocompletion=completion.devices,
        show_default="the first one with a profile",
        help="The device that variants are measured on, alone.",
    ),
]
Url = Annotated[str | None, Option(metavar="URL", help="Offer requests to the server at this URL, of any make.")]
Mode = Annotated[
    StudyMode,
    _measuring(
        help="`measured`: a server runs the models here. `emulated`: it waits as long as the profile says. "
        "`simulated`: in virtual time, by the profile."
    ),
]
Batchings = Annotated[
    str,
    _measuring(metavar="RULE,…", help="Batching rules to measure each with: greedy, proactive, aimd, nexus, static-N."),
]
Percentile = Annotated[
    float,
    _measuring(
        parser=parse_percentile, metavar="pN", help="The percentile of the latency that must be within the SLO."
    ),
]
MaxViolations = Annotated[
    float | None,
    _measuring(
        parser=parse_share,
        metavar="SHARE",
        show_default="by the percentile",
        help="The most of all requests that may miss the SLO, such as `0.1%`; with --percentile, the stricter counts.",
    ),
]
Slo = Annotated[
    float | None,
    _measuring(
        **DURATION, show_default="as the server says", help="With --url: the latency target, if the server says none."
    ),
]
Precision = Annotated[
    float,
    _measuring(
        parser=parse_share, metavar="SHARE", help="How far the interval may reach from the peak, on either side."
    ),
]
Jitter = Annotated[
    str,
    Option(
        metavar="p90|p95|p99|none",
        help="Draw the batch times of simulated devices from the profile, up to this percentile; `none`: their mean.",
        rich_help_panel=sections.SIMULATION,
    ),
]
Seed = Annotated[int, _measuring(min=0, metavar="N", help="The seed of the arrivals, and of jitter.")]

OnlyFamilies = Annotated[
    list[str] | None,
    Option(metavar="FAMILY", show_default="all", help="A family whose variants are started. Repeatable."),
]
StartedVariants = Annotated[
    list[str] | None,
    Option(
        metavar="VARIANT", show_default="all with a model", help="A variant to start, or FAMILY/VARIANT. Repeatable."
    ),
]
StartedDevice = Annotated[
    str | None,
    Option(
        metavar="DEVICE,…",
        autocompletion=completion.devices,
        show_default="the first one of each type",
        help="Ids of devices that variants are loaded on.",
    ),
]
Runs = Annotated[int, _measuring(min=3, max=1000, metavar="N", help="Starts of each variant, cold and warm each.")]
Traffic = Annotated[Path, Option(metavar="TRACE", help="The trace of the queries that are to be served (CSV).")]
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
CostFleet = Annotated[
    str | None,
    Option(
        "--fleet",
        envvar=environment("fleet"),
        metavar="TYPE:COUNT,…",
        autocompletion=completion.fleets,
        show_default="16 of each profiled type",
        help="The most devices of each type that a fleet may have, such as `cpu-1c:8,v100:2`.",
        rich_help_panel=sections.DEVICES,
    ),
]
