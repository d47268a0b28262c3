"""What can't be met together is named with the rules of the plan, in so many solves at most."""

from dataclasses import replace

import pytest
from tiny_fleets import SLOW_ON_CPUS, Tiny

from proteus_cli.domain.rules import Rules
from proteus_cli.planning.analysis import conflict
from proteus_cli.planning.analysis.conflict import MAX_QUESTIONS, smallest_conflict, smallest_infeasible_subset
from proteus_cli.planning.analysis.explain import explain


@pytest.mark.parametrize(("attainment", "named"), [(0.9999, ("a: serve 60 qps",)), (0.99, ())])
def test_conflicts_are_sought_with_the_attainment_of_the_plan(attainment: float, named: tuple[str, ...]) -> None:
    """Seven hosts have batches of 60 ms in time for 99 % of the queries, and not for 99.99 %."""
    tiny = replace(SLOW_ON_CPUS, demand_qps={"a": 60.0}, rules=Rules(attainment=attainment, minimize="cost"))
    assert smallest_conflict(tiny.planner, tiny.demand_qps) == named


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[frozenset[int]]:
    """The sets that were asked about."""
    monkeypatch.setattr(conflict, "MAX_CANDIDATES", 2000)
    return []


@pytest.mark.parametrize(("size", "most"), [(12, 8), (12, 3), (40, 20), (300, 2), (5, 2)])
def test_the_search_for_a_conflict_ends_after_so_many_questions(
    asked: list[frozenset[int]], size: int, most: int
) -> None:
    """Any ``most`` of all can be met together; the smallest conflict has one more, and so has any that is shrunk."""

    def is_feasible(chosen: frozenset[int]) -> bool:
        asked.append(chosen)
        return len(chosen) <= most

    assert len(smallest_infeasible_subset(size, is_feasible)) == most + 1
    assert len(asked) <= MAX_QUESTIONS + size + 1


def test_a_conflict_that_is_found_late_is_one_of_which_nothing_can_be_left_out() -> None:
    """Either the first three or the last one can't be met; each with any number of others."""

    def is_feasible(chosen: frozenset[int]) -> bool:
        return not ({0, 1, 2} <= chosen or (len(chosen) > 150))

    found = smallest_infeasible_subset(300, is_feasible)
    assert not is_feasible(found)
    assert all(is_feasible(found - {each}) for each in found)


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
