"""Where no plan with several variants per device is found in time, one with one variant on each device is."""

from typing import Any

import pytest
from builders import make_catalog, make_family, make_measured, make_profile

from proteus_cli.control.policies import policy_named
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.rules import Rules
from proteus_cli.planning import host_rounds
from proteus_cli.planning.planner import Planner
from proteus_cli.planning.solver.lexicographic import optimise
from proteus_cli.planning.solver.solve import OutOfTime

CATALOG = make_catalog(make_family("a", {"s": 0.7, "l": 0.9}), make_family("b", {"s": 0.7, "l": 0.9}))
MEASURED = tuple(
    make_measured(family, variant, accuracy, {1: seconds})
    for family in "ab"
    for variant, accuracy, seconds in (("s", 0.7, 0.01), ("l", 0.9, 0.02))
)
"""On each device 100 and 50 qps."""


@pytest.fixture
def _shared_devices_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    def optimised(instance: Any, rules: Rules, *others: Any) -> Any:
        if rules.is_resident_set:
            raise OutOfTime
        return optimise(instance, rules, *others)

    monkeypatch.setattr(host_rounds, "optimise", optimised)


def plan_on(devices: int, qps: float) -> Plan:
    profiles = {f"cpu{n}": make_profile(f"cpu{n}", *MEASURED) for n in range(devices)}
    planner = Planner(
        CATALOG, profiles, policy_named("proteus"), headroom=1.0, inputs={}, rules=Rules(residency=2), time_limit_s=5.0
    )
    return planner({"a": qps, "b": qps})


def hosting(plan: Plan) -> list[tuple[str, str, str]]:
    return sorted((placement.device, placement.family, placement.variant) for placement in plan.placements)


@pytest.mark.usefixtures("_shared_devices_take_too_long")
def test_one_variant_on_each_device_is_the_plan_and_not_called_proven() -> None:
    plan = plan_on(2, 70.0)
    assert [variant for _, _, variant in hosting(plan)] == ["s", "s"]
    assert {family for _, family, _ in hosting(plan)} == {"a", "b"}
    assert plan.solver.status == "time limit"
    assert plan.rules.residency == 2


@pytest.mark.usefixtures("_shared_devices_take_too_long")
def test_what_one_variant_on_each_device_cannot_serve_is_unserved() -> None:
    """One device answers 50 qps of one family with `l`, or 100 qps with `s`."""
    plan = plan_on(1, 20.0)
    assert len(hosting(plan)) == 1
    assert plan.shortfall_qps == pytest.approx(20.0)
    assert plan.solver.status == "time limit"


def test_in_time_the_best_plan_shares_devices() -> None:
    """Of two devices with `l` of both families, each family gets half."""
    plan = plan_on(1, 20.0)
    assert hosting(plan) == [("cpu0", "a", "l"), ("cpu0", "b", "l")]
    assert plan.solver.status == "optimal"
