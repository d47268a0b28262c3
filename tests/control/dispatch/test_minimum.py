"""Requests that only variants of some accuracy may answer."""

import pytest
from builders import controller_hosting, hosted, ids, launched, plan_hosting, requests_waiting

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import IDLE, NO_EFFECTS, Admitted, HostedVariant, Refused, Unfit
from proteus_cli.control.policies import Policy
from proteus_cli.domain.request import Request


def host(device: str, accuracy: float, *, weight: float = 1.0) -> HostedVariant:
    """One row in 10 ms, four in 16: 250 qps."""
    return hosted(
        device, "a", f"a-{accuracy}", latency_s={1: 0.010, 4: 0.016}, weight=weight, capacity_qps=250.0,
        accuracy=accuracy,
    )  # fmt: skip


ROUGH, GOOD, BEST = host("cpu0", 0.8), host("cpu1", 0.9), host("cpu2", 0.99)
DEVICES = ("cpu0", "cpu1", "cpu2")


def adopted(controller: Controller, *hosts: HostedVariant, at_s: float = 0.0) -> tuple[Request, ...]:
    """What a change of plan drops."""
    return controller.adopt(plan_hosting(*hosts, devices=DEVICES), hosts, at_s).dropped


def controller_of(*hosts: HostedVariant, assignment: str = "late") -> Controller:
    policy = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None, assignment=assignment)  # type: ignore[arg-type]
    return controller_hosting(*hosts, policy=policy, families=("a",), slots=dict.fromkeys(DEVICES, 1), demand_qps=1.0)


def asking(number: int, minimum: float, *, slo_s: float = 0.1) -> Request:
    return Request(number, "a", 0.0, slo_s, min_accuracy=minimum)


@pytest.mark.parametrize("assignment", ["late", "early"])
@pytest.mark.parametrize(("minimum", "device"), [(0.99, "cpu2"), (0.95, "cpu2"), (0.900001, "cpu2")])
def test_only_hosts_that_are_accurate_enough_may_answer(assignment: str, minimum: float, device: str) -> None:
    controller = controller_of(ROUGH, GOOD, BEST, assignment=assignment)
    assert controller.offer(asking(0, minimum), 0.0) == Admitted((device,))
    for other in {*DEVICES} - {device}:
        assert controller.decide(other, 0.0) == IDLE
    assert ids(launched(controller, device, 0.0)) == [0]


def test_a_request_for_more_than_is_hosted_gets_the_available_accuracies_and_is_no_demand() -> None:
    controller = controller_of(ROUGH, BEST)
    assert controller.offer(asking(0, 0.991), 0.05) == Unfit({"a-0.99": 0.99, "a-0.8": 0.8})
    assert requests_waiting(controller) == 0
    assert controller.demand.rate_qps("a", 0.2, now_s=0.25) == 0.0


def test_the_available_accuracies_are_looked_up_once_for_each_plan() -> None:
    controller = controller_of(ROUGH, BEST)
    first, second = (controller.offer(asking(number, 0.991), 0.0) for number in range(2))
    assert isinstance(first, Unfit)
    assert isinstance(second, Unfit)
    assert first.available is second.available
    adopted(controller, ROUGH, GOOD)
    assert controller.offer(asking(2, 0.991), 0.0) == Unfit({"a-0.9": 0.9, "a-0.8": 0.8})


def test_where_nothing_is_hosted_it_is_load_whatever_is_asked_for() -> None:
    assert isinstance(controller_of().offer(asking(0, 0.9), 0.0), Refused)


def test_a_request_for_no_more_than_the_least_accurate_waits_with_all_others() -> None:
    controller = controller_of(ROUGH, BEST)
    controller.offer(asking(0, 0.8), 0.0)
    controller.offer(asking(1, 0.0), 0.0)
    controller.offer(asking(2, 0.3), 0.0)
    assert [len(queue) for queue in controller.families["a"].queues] == [3]


def test_a_worker_takes_first_what_is_most_urgent_of_all_that_it_may() -> None:
    controller = controller_of(ROUGH, BEST)
    controller.offer(asking(0, 0.0, slo_s=0.2), 0.0)
    controller.offer(asking(1, 0.9), 0.0)
    launch = launched(controller, "cpu2", 0.0)
    assert (ids(launch), launch.wake) == ([1], ("cpu0",)), "which may take what is left"
    controller.finished(launch, None)
    assert ids(launched(controller, "cpu2", 0.0)) == [0]


def test_admission_counts_what_shares_the_workers_that_may_answer() -> None:
    """25 rows each in 100 ms. Of 20 usual rows 10 are in cpu2's quota, so 15 more fit there, and cpu0's don't count.

    Then 35 rows wait in all, and 15 more fit on both.
    """
    controller = controller_of(ROUGH, BEST)
    for number in range(20):
        controller.offer(asking(number, 0.0), 0.0)
    answers = [controller.offer(asking(number, 0.9), 0.0) for number in range(20, 36)]
    assert [isinstance(answer, Admitted) for answer in answers] == [True] * 15 + [False]
    answers = [controller.offer(asking(number, 0.0), 0.0) for number in range(40, 56)]
    assert [isinstance(answer, Admitted) for answer in answers] == [True] * 15 + [False]


def test_admission_counts_what_runs_on_the_workers_that_may_answer() -> None:
    """25 rows in 100 ms, less those of a batch that runs."""
    admitted = list[int]()
    for running in (0, 4):
        controller = controller_of(ROUGH, BEST)
        controller.offer(asking(0, 0.95), -1.0)  # opens the tier
        controller.finished(launched(controller, "cpu2", -1.0), -0.9)
        if running:
            controller.offer(Request(1, "a", 0.0, 0.1, rows=running, min_accuracy=0.95), 0.0)
            launched(controller, "cpu2", 0.0)
        offers = [controller.offer(asking(number, 0.95), 0.0) for number in range(2, 40)]
        admitted.append(sum(isinstance(each, Admitted) for each in offers))
    assert admitted == [25, 21]


def test_help_comes_only_from_workers_that_are_accurate_enough() -> None:
    """cpu2 has all quota and is busy: cpu1 may help, cpu0 not."""
    best = host("cpu2", 0.9)
    controller = controller_of(ROUGH, host("cpu1", 0.9, weight=0.0), best)
    controller.offer(asking(0, 0.9), 0.0)
    assert ids(launched(controller, "cpu2", 0.0)) == [0]
    assert controller.offer(asking(1, 0.9), 0.0) == Admitted(("cpu1",))
    assert controller.decide("cpu0", 0.0) == IDLE
    assert ids(launched(controller, "cpu1", 0.0)) == [1]


def test_a_new_plan_shares_what_waits_and_drops_what_asks_for_more() -> None:
    controller = controller_of(ROUGH, BEST)
    requests = [asking(0, 0.0), asking(1, 0.85), asking(2, 0.95)]
    for request in requests:
        controller.offer(request, 0.0)
    assert adopted(controller, host("cpu0", 0.8, weight=9.0), GOOD) == (requests[2],)
    assert requests_waiting(controller) == 2
    assert ids(launched(controller, "cpu1", 0.0)) == [0]
    assert controller.decide("cpu0", 0.0) == IDLE  # the other asks for more than it gives


def test_a_request_moves_to_a_tier_of_its_own_once_less_accurate_variants_come() -> None:
    controller, request = controller_of(BEST), asking(0, 0.95)
    controller.offer(request, 0.0)
    controller.offer(asking(1, 0.0), 0.0)
    assert adopted(controller, ROUGH, BEST) == ()
    assert ids(launched(controller, "cpu2", 0.0)) == [1]
    controller = controller_of(BEST)
    controller.offer(request, 0.0)
    assert adopted(controller, host("cpu0", 0.8, weight=9.0), BEST) == ()
    assert controller.decide("cpu0", 0.0) == IDLE
    assert ids(launched(controller, "cpu2", 0.0)) == [0]


def test_a_lost_device_s_requests_wait_for_an_accurate_host_or_are_dropped() -> None:
    controller = controller_of(ROUGH, host("cpu1", 0.99), BEST)
    controller.offer(asking(0, 0.95), 0.0)
    launch = launched(controller, "cpu1", 0.0)
    assert controller.device_lost("cpu1", [launch]).dropped == ()
    assert controller.decide("cpu0", 0.0) == IDLE
    launch = launched(controller, "cpu2", 0.0)
    assert ids(launch) == [0]
    controller.finished(launch, None)
    controller.offer(asking(1, 0.95), 0.0)
    launch = launched(controller, "cpu2", 0.0)
    assert ids(launch) == [1]
    assert adopted(controller, ROUGH) == ()
    assert controller.device_lost("cpu2", [launch]).dropped == launch.requests


@pytest.mark.parametrize("minimum", [0.0, 0.95])
def test_a_waiting_request_can_be_cancelled_also_after_a_change_of_plan(minimum: float) -> None:
    controller, request = controller_of(BEST), asking(0, minimum)
    controller.offer(request, 0.0)
    adopted(controller, ROUGH, BEST)
    assert controller.dispatch.cancel(request).dropped == (request,)
    assert controller.dispatch.cancel(request) == NO_EFFECTS
    assert requests_waiting(controller) == 0
    assert [controller.decide(device, 0.0) for device in DEVICES] == [IDLE] * 3
