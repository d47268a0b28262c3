"""With cascades, the first plan that serves all is enough where the plan in force cannot; the next one is the best."""

import pytest
from msgspec.structs import replace
from test_forecasts import CAPACITIES
from test_plan_cascades import CATALOG, RULES, profile

from proteus_cli.control.policies import policy_named
from proteus_cli.domain.demand import Demand, Forecast, LossCurve
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.rules import Residency, Rules
from proteus_cli.planning.planner import Planner

STEADY = LossCurve(CAPACITIES, (1.0, 0.2, *(0.0,) * 6))


def planner(*, rules: Rules = RULES, hurries: bool = True) -> Planner:
    """Each of two devices answers 100 qps with `s`, or 8 with `l`."""
    profiles = {device: profile(device) for device in ("x", "y")}
    return Planner(CATALOG, profiles, policy_named("proteus"), headroom=1.0, inputs={}, rules=rules, hurries=hurries)


def forecast(qps: float) -> Forecast:
    return Forecast({"a": qps}, {"a": STEADY})


def hosting(plan: Plan) -> list[tuple[str, str]]:
    return sorted((placement.device, placement.variant) for placement in plan.placements)


@pytest.mark.parametrize("residency", [1, 2])
def test_what_cannot_be_carried_gets_a_plan_without_cascades_first(residency: Residency) -> None:
    """`l` on both devices carries 16 qps; then 40 come."""
    quick = planner(rules=replace(RULES, residency=residency))
    before = quick({"a": 16.0})
    assert not before.cascades
    first = quick(forecast(40.0), before)
    assert first.solver.status == "time limit"
    assert not first.cascades
    assert len(hosting(first)) == len({placement.device for placement in first.placements})
    assert first.shortfall_qps == pytest.approx(0.0, abs=1e-6)
    best = quick(forecast(40.0), first)
    assert best.solver.status == "optimal"
    assert best.cascades
    assert (best.effective_accuracy or 0.0) > (first.effective_accuracy or 0.0)


@pytest.mark.parametrize(
    ("demand", "rules"),
    [
        (forecast(15.0), RULES),  # what is hosted carries it
        ({"a": 40.0}, RULES),  # a person's
        (forecast(40.0), replace(RULES, cascades=False)),  # the best one is found as soon
        (forecast(250.0), RULES),  # more than any plan serves
    ],
)
def test_else_the_best_plan_is_made_at_once(demand: Demand, rules: Rules) -> None:
    quick, thorough = planner(rules=rules), planner(rules=rules, hurries=False)
    before = quick({"a": 16.0})
    plan = quick(demand, before)
    assert plan.solver.status == "optimal"
    assert hosting(plan) == hosting(thorough(demand, before))
