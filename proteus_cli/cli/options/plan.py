"""Options of `proteus plan`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from proteus_cli.cli.options.common import DURATION
from proteus_cli.cli.options.names import environment

_FLEET, _OBJECTIVES, _LIMITS, _ANSWER = "Fleet", "Objectives", "Limits", "Answer"

Demand = Annotated[
    str | None,
    Option(
        envvar=environment("demand"), metavar="RATE",
        help="The demand: a total such as `1200qps`, shared by the families' weights; or a rate for each family, "
        "such as `a=80qps,b=20qps`.",
    ),
]  # fmt: skip
FromTrace = Annotated[
    Path | None, Option(metavar="TRACE", help="Plan for the demand in the busiest 10 s of this trace instead.")
]
Policy = Annotated[
    str,
    Option(envvar=environment("policy"), help="How to plan and adapt: proteus, most-accurate or least-accurate."),
]
Strict = Annotated[bool, Option("--strict", help="Exit with code 3 if the plan cannot serve all of the demand.")]
TimeLimit = Annotated[float, Option(**DURATION, help="The longest time that the solver may take.")]

# --- fleet

Residency = Annotated[
    str,
    Option(
        metavar="N|memory", rich_help_panel=_FLEET,
        help="How many variants a device may host at a time; `memory`: as many as fit.",
    ),
]  # fmt: skip
Reserve = Annotated[
    list[str] | None,
    Option(
        metavar="DEVICE[=FAMILY]", rich_help_panel=_FLEET,
        help="Keep a device, or all of a type, idle, or for one family only. Repeatable.",
    ),
]  # fmt: skip
Ban = Annotated[
    list[str] | None,
    Option(
        metavar="DEVICE:VARIANT", rich_help_panel=_FLEET,
        help="Never host this variant on this device or type of devices. Repeatable.",
    ),
]  # fmt: skip
Pin = Annotated[
    list[str] | None,
    Option(
        metavar="DEVICE:VARIANT", rich_help_panel=_FLEET,
        help="Always host this variant on this device or type of devices. Repeatable.",
    ),
]  # fmt: skip
Capacity = Annotated[
    str,
    Option(
        metavar="p50|p95|p99|mean", rich_help_panel=_FLEET,
        help="Which of a batch's measured latencies capacities are computed from.",
    ),
]  # fmt: skip
SloFraction = Annotated[
    float, Option(rich_help_panel=_FLEET, help="The largest part of the SLO that a batch may take.")
]

# --- objectives

Fairness = Annotated[
    str,
    Option(
        metavar="total|maxmin", rich_help_panel=_OBJECTIVES,
        help="If not all demand can be served: serve the most queries (total), or first serve the worst-served family "
        "as well as possible (maxmin).",
    ),
]  # fmt: skip
Objective = Annotated[
    str,
    Option(
        metavar="mean|min-family", rich_help_panel=_OBJECTIVES,
        help="Then maximize the mean accuracy of all queries, or first that of the family with the lowest.",
    ),
]  # fmt: skip
Minimize = Annotated[
    str | None,
    Option(
        metavar="cost|power", rich_help_panel=_OBJECTIVES,
        help="Serve all demand at the lowest cost or power, instead of at the highest accuracy.",
    ),
]  # fmt: skip
Current = Annotated[
    Path | None,
    Option(metavar="PLAN", rich_help_panel=_OBJECTIVES, help="Then load as few variants as possible after this plan."),
]
Pack = Annotated[bool, Option("--pack", rich_help_panel=_OBJECTIVES, help="Then use as few devices as possible.")]
Spares = Annotated[
    bool,
    Option(
        "--spares", rich_help_panel=_OBJECTIVES,
        help="Host variants on devices that would be idle, ready to help the others.",
    ),
]  # fmt: skip

# --- limits

MinAccuracy = Annotated[
    str | None,
    Option(
        metavar="ACCURACY", rich_help_panel=_LIMITS,
        help="Use no variant below this accuracy: `0.9`, or by family `bert=0.9,yolo=0.8`.",
    ),
]  # fmt: skip
MaxShare = Annotated[
    str | None,
    Option(
        metavar="FRACTION", rich_help_panel=_LIMITS,
        help="The largest part of a family's demand on one device: `0.5`, or by family.",
    ),
]  # fmt: skip
Survive = Annotated[
    int,
    Option(min=0, max=1, rich_help_panel=_LIMITS, help="1: the plan serves no less when any one device is lost."),
]
BudgetWatts = Annotated[
    float | None, Option(metavar="WATTS", rich_help_panel=_LIMITS, help="The most power that the devices may draw.")
]
BudgetCost = Annotated[
    float | None,
    Option(metavar="COST", rich_help_panel=_LIMITS, help="The most that the devices may cost per hour."),
]

# --- answer

Sweep = Annotated[
    str | None,
    Option(
        metavar="FROM:TO:STEP", rich_help_panel=_ANSWER,
        help="Plan for each of these total demands, and show the accuracy that each leaves: `100qps:900qps:100qps`.",
    ),
]  # fmt: skip
Plot = Annotated[
    Path | None, Option(metavar="FILE", rich_help_panel=_ANSWER, help="Plot the sweep to a .png or .svg file.")
]
Explain = Annotated[
    bool,
    Option(
        "--explain", rich_help_panel=_ANSWER,
        help="Show what limits the plan, and how much more accurate it would be without.",
    ),
]  # fmt: skip
Output = Annotated[
    Path | None,
    Option(
        "--output", "-o", show_default="plans/plan.json", rich_help_panel=_ANSWER,
        help="The file to write the plan to; `-` is stdout.",
    ),
]  # fmt: skip

# --- plan diff

Before = Annotated[Path, Argument(metavar="A", help="A plan: a path, or a name in plans/ or plans/history/.")]
After = Annotated[Path, Argument(metavar="B", help="The plan to compare it with.")]
