"""``proteus study cost``: what a million queries cost, dedicated and shared, and on the best fleet."""

from proteus_cli.cli import plan as plan_options
from proteus_cli.cli.options import common
from proteus_cli.cli.options.groups.study import cost as options
from proteus_cli.cli.options.groups.study import shared


def cost(
    *,
    traffic: options.Traffic,
    price: options.Prices = None,
    percentile: shared.Percentile = common.unparsed("p99"),
    fleet: options.Fleet = None,
    residency: plan_options.Residency = "3",
    min_accuracy: plan_options.MinAccuracy = None,
    headroom: options.Headroom = common.HEADROOM,
    jitter: shared.Jitter = "p95",
    seed: shared.Seed = 0,
    budget: shared.Budget = None,
    force: shared.Force = False,
    name: shared.Name = None,
    state: common.State = None,
    workspace_dir: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
) -> None:
    """Find what a million queries cost within the SLO: with a variant on each device, and on devices that are shared.

    For each type of devices, and for all types together, the planner looks for the cheapest fleet, and the simulator
    replays the traffic on it; with --headroom, on devices that take so many times as long as profiled. Prices are those
    of the catalog's [price_per_hour], which --price replaces.
    """
    from proteus_cli.studies.budget import Budget

    limit = Budget.of(budget)  # what follows takes time, too

    from proteus_cli.cli.workflows.study.costs import asked
    from proteus_cli.cli.workflows.study.running import show, studied
    from proteus_cli.store import Workspace
    from proteus_cli.studies.cost.drafts import cost_draft

    workspace = Workspace(workspace_dir, state)
    question = asked(
        workspace, price, fleet, residency=residency, min_accuracy=min_accuracy, allowed_frac=1 - percentile,
        headroom=headroom, jitter=jitter, seed=seed,
    )  # fmt: skip
    draft = cost_draft(workspace, traffic, question, name or "")
    show(studied(workspace, draft, limit, force=force), json=json)
