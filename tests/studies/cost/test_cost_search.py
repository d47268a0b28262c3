"""The cheapest plan that keeps the SLO: found among steps of cost, with few trials."""

import math
from dataclasses import dataclass

import pytest

from proteus_cli.studies.cost.search import ALIKE, MAX_TRIED, MIN_MULTIPLE, CheapestPlan, OutOfTime, cheapest


@dataclass(frozen=True)
class Plan:
    multiple: float
    cost: float


@dataclass(frozen=True)
class Verdict:
    keeps: bool


class World:
    """A device carries so much of the demand, up to a number of devices; ``enough`` of the demand keeps the SLO."""

    def __init__(self, of_one: float, devices: int, enough: float) -> None:
        self.of_one, self.devices, self.enough = of_one, devices, enough
        self.tried = list[float]()

    def plan(self, multiple: float) -> Plan | None:
        count = math.ceil(multiple / self.of_one)
        return Plan(multiple, float(count)) if count <= self.devices else None

    def judge(self, plan: Plan) -> Verdict:
        self.tried.append(plan.multiple)
        return Verdict(plan.cost * self.of_one >= self.enough)

    def found(self) -> CheapestPlan[Plan, Verdict] | None:
        return cheapest(self.plan, self.judge)


@pytest.mark.parametrize("of_one", [0.05, 0.11, 0.4, 1.0, 3.0])
@pytest.mark.parametrize("enough", [0.3, 0.8, 1.0, 1.31, 2.2, 4.0])
def test_it_is_the_cheapest_of_all_within_how_fine_multiples_are(of_one: float, enough: float) -> None:
    world = World(of_one, devices=200, enough=enough)
    found = world.found()
    assert found is not None
    fewest = math.ceil(enough / of_one)
    assert fewest <= found.plan.cost <= max(fewest * ALIKE, fewest)
    assert found.tried == len(world.tried) <= MAX_TRIED


def test_a_fleet_that_is_too_small_is_used_to_its_end_before_it_is_given_up() -> None:
    assert World(0.25, devices=4, enough=1.2).found() is None
    last = World(0.25, devices=5, enough=1.2).found()
    assert last is not None
    assert last.plan.cost == 5
    little = World(0.25, devices=2, enough=0.3).found()
    assert little is not None
    assert little.plan.cost == 2
    assert World(0.01, devices=1, enough=0.001).found() is None, (
        f"less than {MIN_MULTIPLE:.2f} of the demand is not asked for"
    )


def test_it_ends_where_the_planner_finds_no_plan_for_less() -> None:
    """As of a solver that is out of time, for less than it had a plan for."""
    planned = list[float]()

    def plan_for(multiple: float) -> Plan | None:
        assert len(planned) < 100, "the search goes on without an end"
        planned.append(multiple)
        return Plan(multiple, multiple) if multiple >= 1 else None

    found = cheapest(plan_for, lambda _plan: Verdict(keeps=True))
    assert found is not None
    assert found.plan == Plan(1.0, 1.0)
    assert found.tried == 1


def test_it_ends_when_there_is_no_more_time_with_what_it_has() -> None:
    world = World(0.05, devices=200, enough=1.31)

    def plan_in_time(multiple: float) -> Plan | None:
        if len(world.tried) == 3:
            raise OutOfTime
        return world.plan(multiple)

    found = cheapest(plan_in_time, world.judge)
    assert found is not None
    assert found.tried == len(world.tried) == 3


def test_where_the_time_ends_during_a_trial_the_best_so_far_is_found() -> None:
    world = World(1.0, devices=8, enough=4.0)
    whole = world.found()
    assert whole is not None
    again = World(1.0, devices=8, enough=4.0)

    def judge(plan: Plan) -> Verdict:
        if len(again.tried) == whole.tried - 1:
            raise OutOfTime
        return again.judge(plan)

    found = cheapest(again.plan, judge)
    assert found is not None
    assert found.tried == len(again.tried) == whole.tried - 1
    again.tried = again.tried[:1] * (whole.tried - 1)
    assert cheapest(again.plan, judge) is None
