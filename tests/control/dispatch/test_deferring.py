"""Cascades in dispatch: which requests go by one, who answers what is deferred, and what gets its first answer."""

from collections import Counter
from dataclasses import replace

import pytest
from builders import (
    controller_hosting,
    hosted,
    ids,
    launched,
    make_cascade,
    make_deferred,
    make_request,
    near,
    plan_hosting,
    requests_waiting,
    routes_of,
)

from proteus_cli.control.batching import Batcher, GreedyBatcher, ProactiveBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import (
    IDLE,
    NO_EFFECTS,
    Admitted,
    Drop,
    HostedVariant,
    Launch,
    Refused,
    Unfit,
    WaitUntil,
)
from proteus_cli.control.policies import Policy
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.request import Bounds, Request
from proteus_cli.domain.stages.cascade import PlannedCascade

DEVICES = ("cpu0", "cpu1", "cpu2")
GREEDY = GreedyBatcher(answer_frac=0.0)
PATIENT = ProactiveBatcher(answer_frac=0.0, margin_frac=0.0)
FIRST = hosted(
    "cpu0", "a", "a-s", latency_s={1: 0.010, 4: 0.016}, weight=10.0, capacity_qps=250.0, accuracy=0.8, max_batch=4
)  # fmt: skip
SECOND = replace(
    hosted("cpu1", "a", "a-l", latency_s={1: 0.020, 4: 0.040}, weight=0.0, capacity_qps=100.0, accuracy=0.95),
    deferred_qps=5.0,
)  # fmt: skip
BEST = replace(SECOND, device="cpu2", variant="a-x", accuracy=0.99, deferred_qps=0.0, weight=0.0)
TWIN = replace(SECOND, device="cpu2")
CASCADE = make_cascade("a", "a-s", "a-l", rate_qps=10.0)


def planned(*hosts: HostedVariant, cascades: tuple[PlannedCascade, ...] = (CASCADE,)) -> Plan:
    return plan_hosting(*hosts, demand_qps={"a": 10.0}, devices=DEVICES, cascades=cascades)


def controller_of(
    *hosts: HostedVariant,
    cascades: tuple[PlannedCascade, ...] = (CASCADE,),
    batching: Batcher = GREEDY,
    assignment: str = "late",
) -> Controller:
    policy = Policy("test", "all", batching, None, assignment=assignment)  # type: ignore[arg-type]
    slots = dict.fromkeys(DEVICES, 1)
    return controller_hosting(*hosts, policy=policy, families=("a",), slots=slots, cascades=cascades)


def offered(controller: Controller, *requests: Request) -> None:
    for request in requests:
        assert isinstance(controller.offer(request, request.arrival_s), Admitted)


def first_answers(controller: Controller, *requests: Request, at_s: float = 0.0) -> Launch:
    """The first stage answers these, in a batch that begins then."""
    offered(controller, *requests)
    launch = launched(controller, "cpu0", at_s)
    assert ids(launch) == [request.id for request in requests]
    controller.finished(launch, launch.hosted.latency(launch.rows))
    return launch


def deferred(
    controller: Controller, request: Request, now_s: float, *, rows: int = 1
) -> tuple[Request, Admitted | None]:
    """A request of which the first stage was not sure, and what became of it."""
    route = routes_of(controller, first_answers(controller, request, at_s=request.arrival_s))[0]
    assert route is not None
    waits = make_deferred(request, route, rows=rows)
    return waits, controller.dispatch.defer(waits, now_s)


def waiting(controller: Controller, *numbers: int, now_s: float = 0.016) -> list[Request]:
    """Queries that arrived at 0, have a first answer and wait for the second."""
    found = [deferred(controller, make_request(number), now_s) for number in numbers]
    assert all(answer is not None for _, answer in found)
    return [request for request, _ in found]


# --- which way


def test_a_first_stage_shares_its_queries_among_cascades_and_itself_as_planned() -> None:
    """Of 10 queries per second 5 go by one cascade, 3 by the other, and 2 are answered however sure it is."""
    more = replace_rate(CASCADE, 5.0), make_cascade("a", "a-s", "a-x", rate_qps=3.0)
    controller = controller_of(FIRST, SECOND, replace(BEST, deferred_qps=3.0), cascades=more)
    seen = Counter[str]()
    for number in range(0, 40, 4):
        now_s = number / 10
        launch = first_answers(controller, *(make_request(number + n, at_s=now_s) for n in range(4)), at_s=now_s)
        seen.update(route.cascade.second if route is not None else "alone" for route in routes_of(controller, launch))
        assert all(
            abs(seen[way] - part * sum(seen.values())) < 1 for way, part in (("a-l", 0.5), ("a-x", 0.3), ("alone", 0.2))
        )
    assert seen == {"a-l": 20, "a-x": 12, "alone": 8}


def test_the_rows_of_a_request_go_one_way_and_count_for_the_shares() -> None:
    """Half go by the cascade: after a request of three rows, the next three of one row are answered alone."""
    controller = controller_of(FIRST, SECOND, cascades=(replace_rate(CASCADE, 5.0),))
    launch = first_answers(controller, make_request(0, rows=3))
    assert [route is not None for route in routes_of(controller, launch)] == [True]
    launch = first_answers(controller, *(make_request(n) for n in (1, 2, 3, 4)))
    assert [route is not None for route in routes_of(controller, launch)] == [False, False, False, True]


def test_a_request_with_a_minimum_of_confidence_goes_by_the_cascade_that_gets_the_most() -> None:
    more, less = replace_rate(CASCADE, 6.0), replace_rate(make_cascade("a", "a-s", "a-x", deferred_frac=0.25), 2.0)
    controller = controller_of(FIRST, SECOND, replace(BEST, deferred_qps=2.0), cascades=(less, more))
    bounded = [Request(n, "a", 0.0, 0.1, bounds=Bounds(min_confidence=0.9)) for n in range(3)]
    launch = first_answers(controller, *bounded)
    assert [route and route.cascade.second for route in routes_of(controller, launch)] == ["a-l"] * 3


def test_a_request_with_bounds_has_its_answers_looked_at_also_without_cascades() -> None:
    controller = controller_of(FIRST, SECOND, cascades=())
    offered(controller, Request(0, "a", 0.0, 0.1, bounds=Bounds(min_confidence=0.9)))
    assert controller.cascades.ever_in_use
    assert routes_of(controller, launched(controller, "cpu0", 0.0)) == (None,)


def test_other_variants_and_second_stages_go_no_way() -> None:
    controller = controller_of(FIRST, replace(SECOND, weight=1.0))
    offered(controller, Request(0, "a", 0.0, 0.1, min_accuracy=0.9))
    launch = launched(controller, "cpu1", 0.0)
    assert routes_of(controller, launch) == (None,)
    controller.finished(launch, 0.020)
    waiting(controller, 1)
    assert routes_of(controller, launched(controller, "cpu1", 0.020)) == (None,)


def test_without_cascades_in_the_plan_there_is_nothing_to_ask() -> None:
    assert controller_of(FIRST, SECOND).cascades.ever_in_use
    assert not controller_of(FIRST, SECOND, cascades=()).cascades.ever_in_use


# --- the second stage


def test_what_is_deferred_waits_for_the_second_stage_and_is_batched_with_others() -> None:
    controller = controller_of(FIRST, SECOND)
    assert deferred(controller, make_request(0), 0.010)[1] == Admitted(("cpu1",))
    assert controller.decide("cpu0", 0.010) == IDLE
    waiting(controller, 1, 2)
    launch = launched(controller, "cpu1", 0.016)
    assert (ids(launch), launch.rows, launch.hosted.variant) == ([0, 1, 2], 3, "a-l")
    assert all(request.is_deferred and request.deadline_s == 0.1 for request in launch.requests)


def test_what_is_deferred_is_no_arrival() -> None:
    controller = controller_of(FIRST, SECOND)
    waiting(controller, 0, 1)
    assert controller.demand.rate_qps("a", 0.2, now_s=0.25) == 2 / 0.2


def test_a_more_accurate_variant_that_the_plan_counts_on_takes_only_what_is_too_much() -> None:
    """With 84 ms left, cpu1 counts for 80 qps from 40 ms on, and makes 3.5; cpu2 is for other queries."""
    controller = controller_of(FIRST, SECOND, replace(BEST, deferred_qps=9.0))
    waiting(controller, 0)
    launched(controller, "cpu1", 0.016)
    waiting(controller, *range(1, 5))
    assert isinstance(controller.decide("cpu2", 0.016), WaitUntil)
    waiting(controller, 5)
    assert ids(launched(controller, "cpu2", 0.016)) == [1]


def test_a_more_accurate_variant_that_is_free_and_a_spare_answers_newcomers_at_once() -> None:
    controller = controller_of(FIRST, SECOND, BEST)
    assert controller.offer(make_request(0), 0.0) == Admitted(("cpu2",))
    assert ids(launched(controller, "cpu2", 0.0)) == [0]


def test_a_request_keeps_its_own_minimum() -> None:
    """It asks for more than the second variant has, and less than the first: it may begin there, but not end."""
    controller = controller_of(replace(FIRST, accuracy=0.97), SECOND, replace(BEST, deferred_qps=1.0))
    asking = replace_minimum(make_request(0), 0.97)
    assert deferred(controller, asking, 0.010)[1] == Admitted(("cpu0",))
    assert controller.decide("cpu1", 0.010) == IDLE


def test_a_request_for_more_accuracy_than_the_first_stage_has_never_begins_there() -> None:
    """`min_accuracy` is that of the variant that answers: what the cascade is expected to reach counts for nothing."""
    controller = controller_of(FIRST, SECOND)
    assert controller.offer(replace_minimum(make_request(0), 0.85), 0.0) == Admitted(("cpu1",))
    assert controller.decide("cpu0", 0.0) == IDLE
    assert controller.offer(replace_minimum(make_request(1), 0.96), 0.0) == Unfit({"a-l": 0.95, "a-s": 0.8})


def test_higher_priorities_go_first_at_the_second_stage_too() -> None:
    controller = controller_of(FIRST, replace(SECOND, max_batch=1))
    waiting(controller, 0)
    urgent = Request(1, "a", 0.0, 0.2, priority=1)
    assert deferred(controller, urgent, 0.016)[1] is not None
    assert ids(launched(controller, "cpu1", 0.016)) == [1]


def test_the_unsure_rows_of_a_request_wait_as_a_smaller_one() -> None:
    controller = controller_of(FIRST, SECOND)
    waits, answer = deferred(controller, make_request(0, rows=4), 0.016, rows=3)
    assert answer == Admitted(("cpu1",))
    assert launched(controller, "cpu1", 0.016).requests == (waits,)
    assert waits.rows == 3


@pytest.mark.parametrize("assignment", ["early", "uniform"])
def test_deferred_queries_are_bound_to_a_device_where_newcomers_are(assignment: str) -> None:
    """By the plan's shares, or to all alike: `cpu2` gets none, or every other one."""
    controller = controller_of(FIRST, SECOND, replace(TWIN, deferred_qps=0.0), assignment=assignment)
    asked = []
    for number in range(6):
        offered(controller, make_request(number))
    for device in DEVICES:
        while isinstance(launch := controller.decide(device, 0.0), Launch):
            controller.finished(launch, None)
            for request, route in zip(launch.requests, routes_of(controller, launch), strict=True):
                if route is not None:
                    asked.append(controller.dispatch.defer(make_deferred(request, route), 0.016))
    spread = {Admitted(("cpu1",)), Admitted(("cpu2",))} if assignment == "uniform" else {Admitted(("cpu1",))}
    assert set(asked) == spread


# --- the first answer instead


def test_the_second_stage_refuses_what_it_cannot_make_in_time() -> None:
    """One row takes 20 ms, so that at 81 ms the first answer of a query that arrived at 0 is the last."""
    controller = controller_of(FIRST, SECOND)
    assert deferred(controller, make_request(0), 0.0801)[1] is None
    assert deferred(controller, make_request(1), 0.0799)[1] == Admitted(("cpu1",))


def test_an_overloaded_second_stage_refuses_and_newcomers_go_on() -> None:
    """100 queries per second: of what is deferred at 16 ms, with 84 ms left, it makes eight; the others fall back."""
    controller = controller_of(FIRST, SECOND)
    answers = [deferred(controller, make_request(number), 0.016)[1] for number in range(20)]
    assert [answer is not None for answer in answers] == [True] * 8 + [False] * 12
    first_answers(controller, make_request(99))


def test_where_all_is_admitted_the_second_stage_refuses_only_what_is_too_late_already() -> None:
    controller = Controller(
        {"a": 0.1}, dict.fromkeys(DEVICES, 1), Policy("test", "all", GREEDY, None, admits="all")
    )  # fmt: skip
    controller.adopt(planned(FIRST, SECOND), (FIRST, SECOND), 0.0)
    assert deferred(controller, make_request(0), 0.0999)[1] == Admitted(("cpu1",))
    assert deferred(controller, make_request(1), 0.1)[1] is None
    assert isinstance(controller.decide("cpu1", 0.0999), Drop)


def test_what_the_second_stage_cannot_make_any_more_is_dropped_from_its_queue() -> None:
    controller = controller_of(FIRST, SECOND)
    (waits,) = waiting(controller, 0)
    assert controller.decide("cpu1", 0.081) == Drop((waits,))
    assert requests_waiting(controller) == 0


def test_the_first_answer_is_due_when_an_answer_is() -> None:
    controller = controller_of(FIRST, SECOND, batching=GreedyBatcher(answer_frac=0.02))
    (waits,) = waiting(controller, 0)
    assert controller.dispatch.last_moment_s(waits) == near(0.098)


def test_a_client_that_goes_cancels_what_is_deferred() -> None:
    controller = controller_of(FIRST, SECOND)
    (waits,) = waiting(controller, 0)
    assert controller.dispatch.cancel(waits).dropped == (waits,)
    assert controller.dispatch.cancel(waits) == NO_EFFECTS
    assert controller.decide("cpu1", 0.016) == IDLE


def test_a_driver_that_stops_gets_back_what_is_deferred() -> None:
    controller = controller_of(FIRST, SECOND)
    found = waiting(controller, 0, 1)
    assert controller.dispatch.forget_all() == tuple(found)


def test_once_its_devices_are_lost_the_second_stage_gives_up_what_it_has_and_refuses_more() -> None:
    """One runs and one waits; the loss of a device of two leaves both to the other."""
    controller = controller_of(FIRST, replace(SECOND, max_batch=1), replace(TWIN, max_batch=1))
    first, second = waiting(controller, 0, 1)
    running = launched(controller, "cpu1", 0.016)
    assert running.requests == (first,)
    assert controller.device_lost("cpu1", [running]).dropped == ()
    assert ids(launched(controller, "cpu2", 0.016)) == [0]
    assert controller.device_lost("cpu2", []).dropped == (second,)
    assert deferred(controller, make_request(2), 0.016)[1] is None


def test_a_plan_without_the_second_variant_leaves_what_is_deferred_to_a_more_accurate_one_or_gives_it_up() -> None:
    controller = controller_of(FIRST, SECOND)
    (waits,) = waiting(controller, 0)
    assert controller.adopt(planned(FIRST, BEST, cascades=()), (FIRST, BEST), 0.016).dropped == ()
    assert controller.adopt(planned(FIRST, cascades=()), (FIRST,), 0.016).dropped == (waits,)


def test_the_plan_in_force_when_a_batch_ends_says_which_way_its_queries_go() -> None:
    controller = controller_of(FIRST, SECOND)
    offered(controller, make_request(0))
    launch = launched(controller, "cpu0", 0.0)
    other = replace_rate(make_cascade("a", "a-s", "a-x", deferred_frac=0.25), 10.0)
    controller.adopt(planned(FIRST, BEST, cascades=(other,)), (FIRST, BEST), 0.005)
    (route,) = routes_of(controller, launch)
    assert route is not None
    assert (route.cascade, route.min_accuracy) == (other, 0.99)


# --- newcomers beside it


def test_a_worker_that_second_stages_count_on_takes_no_newcomers_that_others_can_make() -> None:
    """Four more arrive while cpu0 runs four. It makes them, the first at its last moment for cpu1: 60 ms before."""
    controller = controller_of(FIRST, SECOND)
    offered(controller, *(make_request(number) for number in range(4)))
    launched(controller, "cpu0", 0.0)
    offered(controller, *(make_request(number, at_s=0.001) for number in range(4, 8)))
    assert controller.decide("cpu1", 0.001) == WaitUntil(near(0.081))


def test_it_takes_what_is_too_much_for_them() -> None:
    """With 100 ms left, cpu0 counts for 200 qps from 16 ms on, and makes 17 of 20."""
    controller = controller_of(FIRST, SECOND)
    offered(controller, *(make_request(number) for number in range(4)))
    launched(controller, "cpu0", 0.0)
    offered(controller, *(make_request(number, at_s=0.001) for number in range(4, 24)))
    assert ids(launched(controller, "cpu1", 0.001)) == [4, 5, 6]


def test_it_takes_all_once_the_first_stage_is_lost() -> None:
    controller = controller_of(FIRST, SECOND)
    offered(controller, *(make_request(number) for number in range(3)))
    controller.device_lost("cpu0", [])
    assert ids(launched(controller, "cpu1", 0.0)) == [0, 1, 2]


def test_a_worker_that_is_not_reserved_takes_them_at_once() -> None:
    controller = controller_of(FIRST, SECOND, replace(FIRST, device="cpu2", weight=0.0, capacity_qps=200.0))
    offered(controller, *(make_request(number) for number in range(4)))
    launched(controller, "cpu0", 0.0)
    assert controller.offer(make_request(4), 0.0) == Admitted(("cpu2",))


def test_newcomers_are_refused_where_they_and_what_is_deferred_exceed_what_all_carry() -> None:
    """350 queries per second: with eight deferred, 27 more are in time, and the next is not."""
    controller = controller_of(FIRST, SECOND)
    waiting(controller, *range(8))
    offered(controller, *(make_request(100 + number) for number in range(27)))
    assert isinstance(controller.offer(make_request(127), 0.0), Refused)


def test_a_first_stage_that_waits_for_company_leaves_time_for_the_second() -> None:
    """Two rows take 12 ms: alone, cpu0 waits for another one until 88 ms; before a stage of 40 ms, until 48."""
    for second_s, until_s in ((0.0, 0.088), (0.040, 0.048)):
        controller = controller_of(replace(FIRST, second_s=second_s), SECOND, batching=PATIENT)
        offered(controller, make_request(0))
        assert controller.decide("cpu0", 0.0) == WaitUntil(near(until_s))
        if second_s:
            assert ids(launched(controller, "cpu0", 0.0881)) == [0], "too late for a second stage it is still answered"


def test_on_a_device_with_both_stages_the_more_urgent_goes_first_counting_what_its_second_needs() -> None:
    """The newcomer has 30 ms more than the deferred query, and needs 40 ms after the first stage."""
    for second_s, numbers in ((0.0, [0]), (0.040, [1])):
        both = replace(FIRST, second_s=second_s), replace(SECOND, device="cpu0")
        controller = controller_of(*both)
        assert deferred(controller, make_request(0), 0.010)[1] == Admitted(("cpu0",))
        offered(controller, make_request(1, at_s=0.030))
        assert ids(launched(controller, "cpu0", 0.030)) == numbers


def replace_rate(cascade: PlannedCascade, rate_qps: float) -> PlannedCascade:
    return PlannedCascade(cascade.family, cascade.first, cascade.second, cascade.point, rate_qps, cascade.share)


def replace_minimum(request: Request, minimum: float) -> Request:
    return Request(request.id, request.family, request.arrival_s, request.deadline_s, min_accuracy=minimum)
