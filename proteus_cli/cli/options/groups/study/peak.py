"""Options of `proteus study peak`."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from proteus_cli.cli.command_line import completion, sections
from proteus_cli.cli.options.common import DURATION
from proteus_cli.cli.options.groups.study.shared import NAMES
from proteus_cli.units import parse_share

_measuring = partial(Option, rich_help_panel=sections.MEASURING)

OF_NO_SERVER = {"--device", "--variant", "--mode", "--batching", "--jitter"}
"""What is known of no server at a URL."""


class StudyMode(StrEnum):
    """Where figures come from."""

    MEASURED = "measured"
    EMULATED = "emulated"
    SIMULATED = "simulated"


Plan = Annotated[
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
        **NAMES,
        metavar="VARIANT",
        show_default="all that fit the SLO",
        help="A variant to measure on the device. Repeatable.",
    ),
]
Device = Annotated[
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
MaxViolations = Annotated[
    float | None,
    _measuring(
        parser=parse_share,
        metavar="SHARE",
        show_default="by the percentile",
        help="The most of all requests that may miss the SLO, such as `0.1%`; with --percentile, the stricter counts.",
    ),
]
MinAccuracy = Annotated[
    float | None,
    _measuring(
        parser=parse_share,
        metavar="ACCURACY",
        show_default="any",
        help="Each request asks for a variant of at least this accuracy, `0.9` or `90%`: a peak below does not count.",
    ),
]
Slo = Annotated[
    float | None,
    _measuring(
        **DURATION,
        show_default="as the server says",
        help="With --url: the latency target, instead of what the server says; needed where it says none.",
    ),
]
Precision = Annotated[
    float,
    _measuring(
        parser=parse_share, metavar="SHARE", help="How far the interval may reach from the peak, on either side."
    ),
]
