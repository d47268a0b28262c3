"""Early drop: who has no time for the batch that could be made stands in its way."""

from builders import hosted, make_placement, make_plan, make_request

from proteus_cli.control.batching import CANNOT_MEET_DEADLINE, Batching, NexusBatcher, Start
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Drop, Launch
from proteus_cli.control.policies import Policy
from proteus_cli.domain.request import Request

HOST = hosted(latency_s={1: 0.010, 4: 0.040}, max_batch=4)  # 10 ms a row


def decide(*requests: Request, now_s: float = 0.0, quota: int = 99, slowdown: float = 1.0) -> Batching:
    """The first is the most urgent."""
    waiting = min(sum(request.rows for request in requests), quota)
    return NexusBatcher().decide(requests[0], waiting, HOST, now_s, slowdown)


def due(*deadlines_s: float) -> list[Request]:
    return [make_request(number, slo_s=deadline_s) for number, deadline_s in enumerate(deadlines_s)]


def test_what_waits_starts_at_once_up_to_the_planned_size() -> None:
    assert decide(*due(0.1)) == Start(1)
    assert decide(*due(*[0.1] * 3)) == Start(3)
    assert decide(*due(*[0.1] * 9)) == Start(4)
    assert decide(*due(*[0.1] * 9), quota=2) == Start(2)


def test_a_request_without_time_for_the_whole_window_is_dropped_though_it_could_be_in_time_alone() -> None:
    """Five wait. The first is due in 35 ms; alone it takes 10, in a window of four 40."""
    assert decide(*due(0.035, 0.1, 0.1, 0.1, 0.1)) is CANNOT_MEET_DEADLINE
    assert decide(*due(0.040, 0.1, 0.1, 0.1, 0.1)) == Start(4)


def test_where_fewer_wait_the_window_is_what_waits() -> None:
    """Due in 35 ms: three take 30."""
    assert decide(*due(0.035, 0.1, 0.1)) == Start(3)
    assert decide(*due(0.029, 0.1, 0.1)) is CANNOT_MEET_DEADLINE


def test_a_slower_device_needs_a_larger_window_of_time() -> None:
    """Four at twice the profiled times take 80 ms."""
    assert decide(*due(*[0.09] * 4), slowdown=2.0) == Start(4)
    assert decide(*due(*[0.07] * 4), slowdown=2.0) is CANNOT_MEET_DEADLINE


def test_a_large_request_is_its_own_window() -> None:
    """6 rows take 60 ms."""
    assert decide(make_request(rows=6, slo_s=0.061)) == Start(6)
    assert decide(make_request(rows=6, slo_s=0.059)) is CANNOT_MEET_DEADLINE


def test_the_window_slides_to_the_first_that_has_time_for_it() -> None:
    """Due in 20, 30, 50, 60, 70, 80 ms: the first two have no 40 ms for four and are dropped, the other four start."""
    policy = Policy("test", "all", NexusBatcher(), None, assignment="early", admits="all")
    controller = Controller({"a": 0.1}, {"cpu0": 1}, policy)
    plan = make_plan(make_placement("cpu0", "a", "a-s"))
    controller.adopt(plan, [HOST], 0.0)
    requests = due(0.02, 0.03, 0.05, 0.06, 0.07, 0.08)
    for request in requests:
        controller.offer(request, 0.0)
    assert [controller.decide("cpu0", 0.0) for _ in range(2)] == [Drop((requests[0],)), Drop((requests[1],))]
    assert controller.decide("cpu0", 0.0) == Launch(HOST, tuple(requests[2:]), rows=4, at_s=0.0)
