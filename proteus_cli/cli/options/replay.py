"""Options of `proteus replay`."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Option

from proteus_cli.cli.command_line import completion, sections
from proteus_cli.cli.options.common import DURATION, RATE

HEADROOM = 1.0  # policies that re-plan have forecasts of how arrivals scatter
LIVE_ONLY = {"--ca", "--inputs"}
SIMULATED_ONLY = {"--batching", "--load-time", "--max-unavailable", "--memory", "--jitter", "--fail"}


class InputSource(StrEnum):
    """What requests to a server carry."""

    EVAL = "eval"
    RANDOM = "random"


_simulation = partial(Option, rich_help_panel=sections.SIMULATION)

Url = Annotated[str | None, Option(metavar="URL", help="Replay against the server at this URL.")]
Serve = Annotated[
    Path | None,
    Option(
        metavar="PLAN",
        autocompletion=completion.plans,
        help="Replay against a server that is started with this plan and stopped afterwards.",
    ),
]
Inputs = Annotated[
    InputSource | None,
    Option(
        help="What requests to a server carry: rows of the eval splits in the workspace, whose answers are judged, or "
        "random ones.",
        show_default="eval, where a split fits",
    ),
]
Emulate = Annotated[
    bool,
    Option(
        "--emulate",
        help="With --serve: emulate the plan's devices, with the times of their profiles.",
        rich_help_panel=sections.DEVICES,
    ),
]
Plan = Annotated[
    Path | None,
    _simulation(
        metavar="PLAN",
        autocompletion=completion.plans,
        help="Simulate from this plan.",
        show_default="a plan for the trace's first 10 s",
    ),
]
Policy = Annotated[
    str,
    Option(
        metavar="POLICY,…",
        autocompletion=completion.simulated_policies,
        help="The policies to compare, separated by commas, or `all`; docs/policies.md lists them.",
    ),
]
Batching = Annotated[
    str | None,
    _simulation(
        metavar="RULE",
        autocompletion=completion.one_of(*completion.BATCHING),
        help="The batching rule: proactive, aimd, nexus, greedy or static-N. Only in simulation.",
    ),
]
LoadTime = Annotated[
    float | None,
    _simulation(
        **DURATION,
        show_default="as profiled, while the device serves",
        help="How long a device serves nothing when it loads a variant. Only in simulation.",
    ),
]
MaxUnavailable = Annotated[
    float,
    _simulation(
        min=0,
        max=1,
        metavar="FRACTION",
        help="The largest part of a family's capacity that may be unavailable during a plan change, while devices load "
        "for `--load-time`. Only in simulation.",
    ),
]
Jitter = Annotated[
    str | None,
    _simulation(
        metavar="p90|p95|p99",
        autocompletion=completion.one_of("p90", "p95", "p99"),
        help="Draw batch times from the profiled distribution, up to this percentile. Only in simulation.",
    ),
]
Fail = Annotated[
    list[str] | None,
    _simulation(
        metavar="NAME@FROM..TO",
        help="Let a device fail for some time, such as `v100-3@60s..120s`, or a host with all of its devices, "
        "`a@60s..90s`. Repeatable. Only in simulation.",
    ),
]
ScaleTo = Annotated[float | None, Option(**RATE, help="Scale the trace, so that its busiest 10 s have this rate.")]
Seed = Annotated[
    int,
    Option(
        min=0, metavar="N", help="The seed for scaling, for jitter, and for traces that only count queries per second."
    ),
]
FailOn = Annotated[
    list[str] | None,
    Option(metavar="GATE", help="Exit with code 5 if this holds, such as `slo_violation_ratio>0.01`. Repeatable."),
]
Output = Annotated[
    Path | None,
    Option("--output", "-o", metavar="FILE", dir_okay=False, help="Write the report as JSON; `-` is stdout."),
]
Report = Annotated[Path | None, Option(metavar="HTML", dir_okay=False, help="Write the report as a page with plots.")]
Png = Annotated[Path | None, Option(metavar="DIR", file_okay=False, help="Write the plots as PNG files.")]
