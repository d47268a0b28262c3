"""A server whose catalog has changed asks with what was known before: it is planned for the families of the catalog."""

import pytest
from builders import make_catalog, make_family, make_measured, make_profile

from proteus_cli.control.policies import PROTEUS
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.demand import Forecast, LossCurve
from proteus_cli.planning.from_workspace import for_catalog
from proteus_cli.planning.planner import Planner

CURVE = LossCurve((0.0, 1.0, 2.0), (1.0, 0.2, 0.0))


def catalog_of(*families: str) -> Catalog:
    return make_catalog(*(make_family(name, {"m": 0.9}) for name in families))


def planner_of(*families: str) -> Planner:
    measured = [make_measured(name, "m", 0.9, {1: 0.01, 2: 0.02}) for name in families]
    profiles = {device: make_profile(device, *measured) for device in ("cpu0", "cpu1")}
    return Planner(catalog_of(*families), profiles, PROTEUS, headroom=1.0, inputs={}, hurries=True)


@pytest.mark.parametrize("families", [("a",), ("a", "c"), ("c",)])
def test_a_plan_comes_from_one_of_other_families(families: tuple[str, ...]) -> None:
    before = planner_of("a", "b")(Forecast({"a": 10.0, "b": 10.0}, {"a": CURVE, "b": CURVE}))
    assert {placement.family for placement in before.placements} == {"a", "b"}
    asked = for_catalog(Forecast({"a": 10.0, "b": 10.0}, {"a": CURVE, "b": CURVE}), catalog_of(*families))
    plan = planner_of(*families)(asked, before)
    assert set(plan.demand_qps) == set(families)
    assert {placement.family for placement in plan.placements} == {"a"} & set(families)


def test_a_demand_of_the_same_families_is_as_it_was() -> None:
    demand = {"a": 1.0}
    assert for_catalog(demand, catalog_of("a", "b")) is demand
    assert for_catalog({"a": 1.0, "b": 2.0}, catalog_of("b")) == {"b": 2.0}
