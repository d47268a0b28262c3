"""Conflicts name demands and rules that no plan meets together."""

from dataclasses import replace

import pytest
from tiny_fleets import SLOW_ON_CPUS, Tiny

from proteus_cli.domain.rules import Reserved, Rules
from proteus_cli.planning.analysis.conflict import irreducible_conflict
from proteus_cli.planning.analysis.explain import explain


@pytest.mark.parametrize(("attainment", "named"), [(0.9999, ("a: serve 60 qps",)), (0.99, ())])
def test_conflicts_are_sought_with_the_attainment_of_the_plan(attainment: float, named: tuple[str, ...]) -> None:
    """Seven hosts have batches of 60 ms in time for 99 % of the queries, and not for 99.99 %."""
    tiny = replace(SLOW_ON_CPUS, demand_qps={"a": 60.0}, rules=Rules(attainment=attainment, minimize="cost"))
    assert irreducible_conflict(tiny.planner, tiny.demand_qps) == named


def test_each_requirement_of_a_conflict_is_needed() -> None:
    """50 qps of `a` fit the only device, with or without the rule; 60 do not with it, whatever `b` asks for."""
    accurate = {"a": 0.9, "b": 0.5}
    tiny = Tiny(
        accuracy={"a": {"a0": 0.9, "a1": 0.7}, "b": {"b0": 0.9}},
        latency_s={("cpu", "a", "a0"): {1: 0.02}, ("cpu", "a", "a1"): {1: 0.01}, ("cpu", "b", "b0"): {1: 0.02}},
        devices=("cpu", "cpu"),
        demand_qps={"a": 60.0, "b": 10.0},
        rules=Rules(min_accuracy=accurate, reserved=(Reserved("cpu0", "b"),), slo_fraction=0.5),
    )
    assert irreducible_conflict(tiny.planner, tiny.demand_qps) == (
        "a: serve 60 qps",
        "a: only variants of accuracy 0.9 or more",
        "cpu0: reserved for b",
    )


def test_one_more_device_costs_as_much_as_those_of_its_type_where_prices_are_by_id() -> None:
    """Both devices are needed, for 1.1 an hour; with another GPU, the CPU is not."""
    tiny = Tiny(
        accuracy={"a": {"a0": 0.9}},
        latency_s={("cpu", "a", "a0"): {1: 0.020}, ("gpu", "a", "a0"): {1: 0.020}},
        devices=("cpu", "gpu"),
        demand_qps={"a": 90.0},
        price={"cpu0": 1.0, "gpu1": 0.1},
        rules=Rules(minimize="cost", slo_fraction=0.5),
    )
    spent = {price.what: price.spent for price in explain(tiny.planner, tiny.planned()).prices}
    assert spent["one more gpu"] == pytest.approx(-0.9)
