"""The cheapest fleet for a trace, and what it costs."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from proteus_cli.control.policies import policy_named
from proteus_cli.domain.plan.plan import Plan
from proteus_cli.domain.plan.rules import Rules
from proteus_cli.domain.studies.cost import FleetCost, Usage
from proteus_cli.errors import NoFeasiblePlan
from proteus_cli.intervals import wilson
from proteus_cli.planning.from_workspace import planner_settings
from proteus_cli.planning.planner import Planner
from proteus_cli.store import Workspace
from proteus_cli.studies.cost.search import Found, cheapest
from proteus_cli.studies.cost.trial import Bench, PricedPlan, Trial

PLAN_LIMIT_S = 10.0


def cheapest_fleet(
    workspace: Workspace,
    bench: Bench,
    rules: Rules,
    demand: Mapping[str, float],
    goes_on: Callable[[int], bool] = lambda _tried: True,
) -> Found[PricedPlan, Trial] | None:
    """The cheapest plan that keeps the SLO, for a multiple of a demand; None where none does. See `search.cheapest`."""
    planner = _planner(workspace, bench, rules)
    return cheapest(
        lambda multiple: _plan(planner, {name: qps * multiple for name, qps in demand.items()}),
        lambda plan: bench.try_out(plan.plan, planner, lambda _done_frac: None),
        goes_on,
    )


def _planner(workspace: Workspace, bench: Bench, rules: Rules) -> Planner:
    settings = planner_settings(
        workspace, policy_named("proteus"), 1.0,
        profiles=bench.profiles, rules=rules, time_limit_s=PLAN_LIMIT_S, spares=False,
    )  # fmt: skip
    return replace(settings, catalog=bench.catalog).make()


def _plan(planner: Planner, demand: Mapping[str, float]) -> PricedPlan | None:
    """The cheapest plan for a demand; None where it is more than the fleet can serve."""
    try:
        plan = planner(demand)
    except NoFeasiblePlan:
        return None
    return PricedPlan(plan, planner.spent(plan))


def cost_of(usage: Usage, found: Found[PricedPlan, Trial], bench: Bench) -> FleetCost:
    plan, trial = found.plan.plan, found.judged
    used = _used(plan)
    queries, missed = trial.queries[trial.worst], trial.missed[trial.worst]
    low_frac, high_frac = wilson(missed, queries)
    runs = sum(trial.queries.values()) / len(bench.trace)
    served = (sum(trial.queries.values()) - sum(trial.missed.values())) / runs
    price = found.plan.cost
    return FleetCost(
        usage=usage,
        fleet=dict(Counter(bench.profiles[device].device.type for device in used)),
        held=dict(Counter(used.values())),
        price_per_hour=price,
        cost_per_million=1e6 * price * bench.trace.duration_s / 3600 / served,
        queries=sum(trial.queries.values()),
        missed=sum(trial.missed.values()),
        missed_frac=missed / queries,
        low_frac=min(low_frac, missed / queries),
        high_frac=max(high_frac, missed / queries),
        effective_accuracy=trial.accuracy,
        multiple=found.multiple,
        tried=found.tried,
        percentile_s=dict(trial.percentile_s),
    )


def _used(plan: Plan) -> dict[str, str]:
    """What each device in use holds, in words."""
    held = {device: sorted(placement.variant for placement in placed) for device, placed in plan.by_device().items()}
    return {device: " + ".join(variants) for device, variants in held.items() if variants}
