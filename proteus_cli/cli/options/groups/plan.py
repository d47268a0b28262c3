"""Options of `proteus plan`."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from proteus_cli.cli.command_line import completion, sections
from proteus_cli.cli.command_line.names import environment
from proteus_cli.cli.options.common import DURATION
from proteus_cli.errors import UsageError

_device = partial(Option, rich_help_panel=sections.DEVICES)
_objective = partial(Option, rich_help_panel=sections.OBJECTIVES)
_limit = partial(Option, rich_help_panel=sections.LIMITS)


def _one_of(option: str, *names: str) -> dict[str, Any]:
    """What an option is that takes one of these names. Any other is a `UsageError`."""

    def parse(text: str) -> str:
        if text not in names:
            raise UsageError(f"`{option}` can't be `{text}`.", hint=f"there are: {', '.join(names)}")
        return text

    return {"metavar": "|".join(names), "autocompletion": completion.one_of(*names), "parser": parse}


Demand = Annotated[
    str | None,
    Option(
        envvar=environment("demand"),
        metavar="RATE",
        help="The demand: a total such as `1200qps`, shared by the families' weights; or a rate for each family, "
        "such as `a=80qps,b=20qps`.",
    ),
]
FromTrace = Annotated[
    Path | None, Option(metavar="TRACE", help="Plan for the demand in the busiest 10 s of this trace instead.")
]
Policy = Annotated[
    str,
    Option(
        metavar="POLICY",
        autocompletion=completion.policies,
        envvar=environment("policy"),
        help="How to plan and adapt: proteus, most-accurate or least-accurate.",
    ),
]
Strict = Annotated[bool, Option("--strict", help="Exit with code 3 if the plan cannot serve all of the demand.")]
TimeLimit = Annotated[float, _limit(**DURATION, help="The longest time that the solver may take.")]

# --- fleet

Residency = Annotated[
    str, _device(metavar="N|memory", help="How many variants a device may host at a time; `memory`: as many as fit.")
]
Reserve = Annotated[
    list[str] | None,
    _device(
        metavar="DEVICE[=FAMILY]", help="Keep a device, or all of a type, idle, or for one family only. Repeatable."
    ),
]
Ban = Annotated[
    list[str] | None,
    _device(metavar="DEVICE:VARIANT", help="Never host this variant on this device or type of devices. Repeatable."),
]
Pin = Annotated[
    list[str] | None,
    _device(metavar="DEVICE:VARIANT", help="Always host this variant on this device or type of devices. Repeatable."),
]
Capacity = Annotated[
    str,
    _device(
        **_one_of("--capacity", "p50", "p95", "p99", "mean"),
        help="Which of a batch's measured latencies capacities are computed from.",
    ),
]
SloFraction = Annotated[
    float | None,
    _device(
        metavar="FRACTION",
        help="The largest part of the SLO that a batch may take, whatever its wait. By default it depends on the "
        "number of hosts of the family: a half with one, 0.92 with 60.",
        show_default=False,
    ),
]

# --- objectives

Fairness = Annotated[
    str,
    _objective(
        **_one_of("--fairness", "total", "maxmin"),
        help="If not all demand can be served: serve the most queries (total), or first serve the worst-served family "
        "as well as possible (maxmin).",
    ),
]
Minimize = Annotated[
    str | None,
    _objective(
        **_one_of("--minimize", "cost", "power"),
        help="Serve all demand at the lowest cost or power, instead of at the highest accuracy.",
    ),
]
Prefer = Annotated[
    str | None,
    _objective(
        metavar="[FAMILY=]WHAT",
        autocompletion=completion.one_of("accuracy", "latency", "energy", "cost"),
        help="What families get besides being served: accuracy, or the least latency, energy or cost of a query, "
        "instead of what the catalog says: `latency`, or by family `bert=latency,yolo=energy`.",
    ),
]
Current = Annotated[
    Path | None,
    _objective(
        metavar="PLAN", autocompletion=completion.plans, help="Then load as few variants as possible after this plan."
    ),
]
Pack = Annotated[bool, _objective("--pack", help="Then use as few devices as possible.")]
Cascades = Annotated[
    bool,
    _objective(
        "--cascades/--no-cascades",
        help="Let queries go through cascades that the profiles know: a fast variant answers first, and defers those "
        "that it is not confident of to a more accurate one.",
    ),
]
Spares = Annotated[
    bool | None,
    _objective(
        "--spares/--no-spares",
        show_default="as the policy says",
        help="Host variants on devices that would be idle, ready to help the others.",
    ),
]

# --- limits

MinAccuracy = Annotated[
    str | None,
    _limit(metavar="ACCURACY", help="Use no variant below this accuracy: `0.9`, or by family `bert=0.9,yolo=0.8`."),
]
MinExpectedAccuracy = Annotated[
    str | None,
    _limit(
        metavar="ACCURACY",
        help="Give no answer of which less is to be expected, from a variant alone or from a whole cascade.",
    ),
]
MaxShare = Annotated[
    str | None,
    _limit(metavar="FRACTION", help="The largest part of a family's demand on one device: `0.5`, or by family."),
]
Survive = Annotated[
    int, _limit(min=0, max=1, metavar="N", help="1: the plan serves no less when any one device is lost.")
]
SurviveHost = Annotated[
    int,
    _limit(
        min=0,
        max=1,
        metavar="N",
        help="1: the plan serves no less when any one host of the cluster is lost, with all its devices. This machine "
        "counts as one.",
    ),
]
BudgetWatts = Annotated[float | None, _limit(metavar="WATTS", help="The most power that the devices may draw.")]
BudgetCost = Annotated[float | None, _limit(metavar="COST", help="The most that the devices may cost per hour.")]

# --- answer

Sweep = Annotated[
    str | None,
    Option(
        metavar="FROM:TO:STEP",
        help="Plan for each of these total demands, and show the accuracy that each leaves: `100qps:900qps:100qps`.",
    ),
]
Plot = Annotated[Path | None, Option(metavar="FILE", help="Plot the sweep to a .png or .svg file.")]
Explain = Annotated[
    bool, Option("--explain", help="Show what limits the plan, and how much more accurate it would be without.")
]
Output = Annotated[
    Path | None,
    Option(
        "--output",
        "-o",
        metavar="FILE",
        show_default="plans/plan.json",
        help="The file to write the plan to; `-` is stdout.",
    ),
]

# --- plan diff

Before = Annotated[
    Path,
    Argument(
        metavar="A", autocompletion=completion.plans, help="A plan: a path, or a name in plans/ or plans/history/."
    ),
]
After = Annotated[Path, Argument(metavar="B", autocompletion=completion.plans, help="The plan to compare it with.")]
