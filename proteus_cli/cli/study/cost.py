"""``proteus study cost``: the cost of a million queries, dedicated and shared, and on the best fleet."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from proteus_cli.cli import options
from proteus_cli.cli import plan as plan_options
from proteus_cli.cli.command_line import completion, sections
from proteus_cli.cli.study import shared
from proteus_cli.errors import UsageError

if TYPE_CHECKING:
    from proteus_cli.store import Workspace
    from proteus_cli.studies.cost.drafts import CostQuestion
    from proteus_cli.studies.frame import StudyDraft

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
Residency = Annotated[
    str,
    Option(
        metavar="N|memory",
        help="How many variants a device of a shared fleet may host; `memory`: as many as fit.",
        rich_help_panel=sections.DEVICES,
    ),
]


def cost(
    *,
    traffic: Traffic,
    price: Prices = None,
    percentile: shared.Percentile = options.unparsed("p99"),
    fleet: Fleet = None,
    residency: Residency = "3",
    min_accuracy: plan_options.MinAccuracy = None,
    headroom: Headroom = options.HEADROOM,
    jitter: shared.Jitter = "p95",
    seed: shared.Seed = 0,
    budget: shared.Budget = None,
    force: shared.Force = False,
    name: shared.Name = None,
    state: options.State = None,
    workspace_dir: options.Workspace = options.WORKSPACE,
    json: options.Json = False,
) -> None:
    """Find what a million queries cost within the SLO: with a variant on each device, and on devices that are shared.

    For each type of devices, and for all types together, the planner looks for the cheapest fleet, and the simulator
    replays the traffic on it. With --headroom, devices take a multiple of the profiled times. Prices come from the
    catalog's [price_per_hour], and --price replaces them.
    """

    def drafted(workspace: "Workspace") -> "StudyDraft":
        from proteus_cli.studies.cost.drafts import cost_draft

        question = asked(workspace, price, fleet, residency, min_accuracy, 1 - percentile, headroom, jitter, seed)
        return cost_draft(workspace, traffic, question, name or "")

    shared.run(drafted, budget, workspace_dir, state, force=force, json=json)


def asked(
    workspace: "Workspace",
    price: str | None,
    fleet: str | None = None,
    residency: str = "3",
    min_accuracy: str | None = None,
    allowed_frac: float = 1 - 0.99,  # as of the option, to the last bit: cells are kept by it
    headroom: float = options.HEADROOM,
    jitter: str = "p95",
    seed: int = 0,
) -> "CostQuestion":
    """The question of `proteus study cost`. Its options have the same defaults.

    Raises `UsageError`, `ArtefactError`.
    """
    from proteus_cli.cli.command_line.plan_rules import plan_rules
    from proteus_cli.domain.fleet import parse_fleet
    from proteus_cli.studies.cost.drafts import CostQuestion, parse_prices

    rules = plan_rules(
        workspace.catalog(), workspace.profiles(), residency=residency, placement=(),
        min_accuracy=min_accuracy, min_expected_accuracy=None, max_share=None, prefer=None, survive=0, survive_host=0,
        cascades=False, minimize="cost",
    )  # fmt: skip
    most = parse_fleet(fleet) if fleet is not None else {"": {}}
    if set(most) != {""}:
        raise UsageError("Hosts make no difference to what a fleet costs.", hint="write it like `--fleet cpu-1c:8`")
    prices = parse_prices(price) if price is not None else {}
    return CostQuestion(prices, rules, dict(most[""]), allowed_frac, jitter_named(jitter), seed, headroom)


def jitter_named(jitter: str) -> str:
    """A name of `JITTERS`, or empty for ``none``. Raises `UsageError`."""
    from proteus_cli.simulation.conditions import JITTERS

    if jitter != "none" and jitter not in JITTERS:
        raise UsageError(f"No jitter `{jitter}`.", hint=f"there are: {', '.join(JITTERS)}, none")
    return "" if jitter == "none" else jitter
