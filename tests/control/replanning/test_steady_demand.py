"""Under a steady demand the plan stays, whatever the noise of arrivals and of times."""

import pytest
from builders import controller_hosting, hosted, make_request, plan_hosting
from msgspec.structs import replace

from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import HostedVariant
from proteus_cli.control.policies import PROTEUS
from proteus_cli.control.replanning.replan_rules import ReplanRequest
from proteus_cli.control.replanning.replanning import RETURN_S
from proteus_cli.domain.plan import Plan

LARGE = hosted("cpu0", "a", "a-l", latency_s={1: 0.01, 4: 0.04}, capacity_qps=100.0)
SMALL = hosted("cpu0", "a", "a-s", latency_s={1: 0.005, 4: 0.02}, capacity_qps=200.0)


def serving() -> Controller:
    return controller_hosting(LARGE, policy=PROTEUS, demand_qps=100.0)


def plan_of(controller: Controller, *hosts: HostedVariant, demand_qps: float = 100.0) -> Plan:
    """A plan of other hosts on the same devices."""
    return replace(
        plan_hosting(*hosts, demand_qps={"a": demand_qps, "b": 1.0}, devices=("cpu0", "cpu1")),
        inputs=controller.plan.inputs,
    )


def request(demand_qps: float, *, is_routine: bool = True, is_urgent: bool = False) -> ReplanRequest:
    return ReplanRequest({"a": demand_qps, "b": 1.0}, "", is_routine=is_routine, is_urgent=is_urgent)


def moved_to_small(at_s: float, demand_qps: float = 100.0) -> tuple[Controller, Plan]:
    """A controller that went over to another plan, and the plan that it left."""
    controller = serving()
    large, small = controller.plan, plan_of(controller, SMALL)
    assert controller.replanning.is_worth(request(demand_qps), small, at_s)
    controller.adopt(small, [SMALL], at_s)
    return controller, large


def test_a_plan_that_was_left_is_not_returned_to_at_a_like_demand() -> None:
    controller, large = moved_to_small(10.0)
    assert not controller.replanning.is_worth(request(95.0), large, 12.0)
    assert controller.replanning.is_worth(request(95.0), controller.plan, 12.0), "which only moves shares"
    assert controller.replanning.is_worth(request(95.0), large, 10.1 + RETURN_S)


def test_it_is_returned_to_at_another_demand_and_where_queries_are_lost() -> None:
    for wanted in (request(70.0), request(140.0), request(95.0, is_urgent=True), request(95.0, is_routine=False)):
        controller, large = moved_to_small(10.0)
        assert controller.replanning.is_worth(wanted, large, 12.0)


@pytest.mark.parametrize(
    ("accuracy", "in_time", "is_worth"), [(0.803, 1.0, True), (0.801, 1.0, False), (0.81, 0.98, False)]
)
def test_a_review_must_gain_more_than_chance(accuracy: float, in_time: float, *, is_worth: bool) -> None:
    """Accuracy counts for queries that are in time."""
    controller = serving()
    before = replace(controller.plan, effective_accuracy=0.8, expected_attainment={"a": 1.0})
    controller.adopt(before, [LARGE], 0.0)
    after = replace(before, effective_accuracy=accuracy, expected_attainment={"a": in_time, "b": in_time})
    review = ReplanRequest({"a": 100.0}, "", is_routine=True, is_review=True)
    assert controller.replanning.is_worth(review, after, 1.0) == is_worth
    assert controller.replanning.is_worth(request(100.0), after, 1.0)


def test_a_plan_that_is_kept_for_a_demand_is_not_asked_for_again() -> None:
    """1,000 qps, of which the plan was made for 100: asked for at 3 s, and no more once the plan is kept for them."""
    controller, large = moved_to_small(0.0, demand_qps=1000.0)
    offer(controller, 1000.0, 0.0, 3.0)
    wanted = controller.replanning.decide(3.0)
    assert wanted is not None
    assert wanted.demand_qps["a"] > 900
    kept = request(1000.0)
    assert not controller.replanning.is_worth(kept, large, 3.0)
    controller.replanning.succeeded()
    offer(controller, 1000.0, 3.0, 3.5)
    assert controller.replanning.decide(3.5) is None


def test_a_slow_second_is_no_reason_for_another_plan_and_ten_are() -> None:
    """80 of 100 planned qps, at 1.83 times the profiled times: as 146 qps."""
    controller = serving()
    offer(controller, 80.0, 0.0, 8.0)
    decided_at(controller, 1, 8.0)
    worker = controller.workers["cpu0"]
    worker.slowdown.rebase(1 / 1.83)
    controller.dispatch.count_capacity(worker)
    reasons = []
    for second in range(8, 18):
        offer(controller, 80.0, second, second + 1.0)
        reasons.append(decided_at(controller, second, second + 1.0))
    assert not any("more than was planned" in each for each in reasons[0])
    assert any("more than was planned" in each for each in reasons[-1])


def offer(controller: Controller, qps: float, from_s: float, until_s: float) -> None:
    for number in range(round(qps * (until_s - from_s))):
        at_s = from_s + number / qps
        controller.demand.counts_of("a").arrived(make_request(number, family="a", at_s=at_s).rows, at_s)


def decided_at(controller: Controller, from_s: float, until_s: float) -> list[str]:
    """The reasons of what is asked for, each 0.1 s."""
    ticks = (from_s + tick / 10 for tick in range(1, round(10 * (until_s - from_s)) + 1))
    return [wanted.reason for now_s in ticks if (wanted := controller.replanning.decide(now_s)) is not None]
