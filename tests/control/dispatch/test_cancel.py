"""Requests that nobody wants any more leave before they are batched."""

import pytest
from builders import controller_hosting, hosted, launched, make_request, requests_waiting
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import IDLE, NO_EFFECTS, Admitted, Effects, Refused
from proteus_cli.control.dispatch.deadline_queue import DeadlineQueue
from proteus_cli.control.policies import Policy
from proteus_cli.domain.request import Request

ASSIGNMENTS = ("late", "early")


def controller_of(assignment: str = "late") -> Controller:
    """One row in 10 ms, four in 16: 250 qps."""
    host = hosted(latency_s={1: 0.010, 4: 0.016}, capacity_qps=250.0)
    policy = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None, assignment=assignment)  # type: ignore[arg-type]
    return controller_hosting(host, policy=policy, families=("a",), slots={"cpu0": 1})


def waited(controller: Controller, request: Request) -> bool:
    """Cancel a request: whether it waited, so that the worker is to be asked if it is free."""
    effects = controller.dispatch.cancel(request)
    assert effects in (NO_EFFECTS, Effects(dropped=(request,)), Effects(ask=("cpu0",), dropped=(request,)))
    return effects is not NO_EFFECTS


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("priority", [0, 1])
def test_what_waits_leaves_once_and_what_runs_or_has_ended_does_not(assignment: str, priority: int) -> None:
    controller = controller_of(assignment)
    requests = [Request(n, "a", 0.0, 0.1, priority=priority) for n in range(6)]
    for request in requests:
        controller.offer(request, 0.0)
    launch = launched(controller, "cpu0", 0.0)
    assert [waited(controller, request) for request in requests] == [False] * 4 + [True] * 2
    assert [waited(controller, request) for request in requests] == [False] * 6
    assert requests_waiting(controller) == 0
    controller.finished(launch, None)
    assert [waited(controller, request) for request in requests] == [False] * 6
    assert controller.decide("cpu0", 0.0) == IDLE


def test_what_was_never_offered_does_not_wait() -> None:
    controller = controller_of()
    assert not waited(controller, make_request())
    assert not waited(controller, Request(1, "a", 0.0, 0.1, priority=5))
    assert not waited(controller, Request(2, "a", 0.0, 0.1, min_accuracy=0.99))


def test_others_go_on_waiting_in_their_order() -> None:
    controller = controller_of()
    requests = [make_request(n) for n in range(5)]
    for request in requests:
        controller.offer(request, 0.0)
    assert waited(controller, requests[0])
    assert waited(controller, requests[2])
    launch = launched(controller, "cpu0", 0.0)
    assert [request.id for request in launch.requests] == [1, 3, 4]


def test_a_cancelled_request_no_longer_counts_for_admission() -> None:
    """25 rows are all that 250 qps answer in 100 ms."""
    controller = controller_of()
    requests = [make_request(n) for n in range(25)]
    assert all(isinstance(controller.offer(request, 0.0), Admitted) for request in requests)
    assert isinstance(controller.offer(make_request(25), 0.0), Refused)
    assert waited(controller, requests[7])
    assert isinstance(controller.offer(make_request(26), 0.0), Admitted)
    assert isinstance(controller.offer(make_request(27), 0.0), Refused)


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_a_request_that_is_taken_back_was_never_offered(assignment: str) -> None:
    controller = controller_of(assignment)
    controller.offer(make_request(0), 0.0)
    taken_back = make_request(1)
    controller.offer(taken_back, 0.05)
    assert controller.dispatch.withdraw(taken_back, 0.05) == Effects(ask=("cpu0",), dropped=(taken_back,))
    assert controller.demand.rate_qps("a", 1.0, 1.0) == 1.0
    assert [request.id for request in launched(controller, "cpu0", 0.05).requests] == [0]


# --- queues and lines, whatever is done with them

MOVES = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "push", "take", "pop", "remove", "look"]),
        st.sampled_from([0.1, 0.2, 0.3]),
        st.integers(1, 5),
    ),
    max_size=60,
)


@given(MOVES)
def test_a_queue_is_a_sorted_list(moves: list[tuple[str, float, int]]) -> None:
    """Against a list that is sorted after each step."""
    queue, model, known = DeadlineQueue(), list[Request](), list[Request]()
    for move, slo_s, number in moves:
        match move:
            case "push":
                request = make_request(len(known), slo_s=slo_s, rows=number)
                known.append(request)
                queue.push(request)
                model = sorted([*model, request], key=lambda r: (r.deadline_s, r.id))
            case "take" if model:
                place = number * 3 % len(model)
                taken, rows = queue.take(number, place)
                end = place + len(taken)
                assert list(taken) == model[place:end]
                assert rows == sum(request.rows for request in taken)
                assert len(taken) == 1 or rows <= number
                assert end == len(model) or rows + model[end].rows > number
                del model[place:end]
            case "look":
                places = [place for place, request in enumerate(model) if request.deadline_s >= slo_s]
                assert queue.place_due(slo_s) == (places[0] if places else len(model))
                assert queue.place_after(slo_s) == sum(request.deadline_s <= slo_s for request in model)
                place = number * 3 % (len(model) + 1)
                assert queue.has_rows(number, place) == (sum(request.rows for request in model[place:]) >= number)
            case "pop" if model:
                assert queue.pop(1) == (model.pop(0),)
            case "remove" if known:
                request = known[number * 7 % len(known)]
                assert queue.remove(request) is (request in model)
                model = [each for each in model if each is not request]
        assert list(queue) == model
        assert (len(queue), queue.rows) == (len(model), sum(request.rows for request in model))
        assert not model or queue.head() is model[0]


HOSTS = [hosted(f"cpu{n}", latency_s={1: 0.01}, weight=weight) for n, weight in enumerate((1.0, 2.0, 0.0))]


def test_equal_deadlines_are_found_among_many() -> None:
    queue = DeadlineQueue()
    requests = [make_request(n) for n in range(1000)]
    for request in reversed(requests):
        queue.push(request)
    assert list(queue) == requests
    assert all(queue.remove(request) for request in requests[::2])
    assert list(queue) == requests[1::2]
