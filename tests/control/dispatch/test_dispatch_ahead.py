"""Batches stand behind the one that runs, shortly before it ends."""

import pytest
from builders import controller_hosting, hosted, launched, make_request, near, requests_waiting

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import IDLE, HostedVariant, Launch, WaitUntil
from proteus_cli.control.dispatch.workers import InFlightBatches
from proteus_cli.control.policies import Policy

DISPATCH_AHEAD_S = 0.005
POLICY = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None, admits="all")
A = hosted("cpu0", "a", latency_s={1: 0.010, 4: 0.016}, max_batch=4, capacity_qps=250.0)
SHORT = hosted("cpu0", "a", latency_s={1: 0.001, 4: 0.002}, max_batch=4, capacity_qps=2000.0)
B = hosted("cpu0", "b", latency_s={1: 0.010, 4: 0.016}, max_batch=4, capacity_qps=250.0)


def controller_of(*hosts: HostedVariant, slots: int = 1, dispatch_ahead_s: float = DISPATCH_AHEAD_S) -> Controller:
    return controller_hosting(
        *hosts, policy=POLICY, slots={"cpu0": slots}, demand_qps=100.0, dispatch_ahead_s=dispatch_ahead_s
    )  # fmt: skip


def offer(controller: Controller, numbers: range, *, family: str = "a", slo_s: float = 0.1) -> None:
    for number in numbers:
        controller.offer(make_request(number, family=family, slo_s=slo_s), 0.0)


def test_a_full_batch_is_launched_when_the_one_before_is_nearly_done() -> None:
    """The first takes 16 ms; from 11 ms on, the next may stand behind it, and starts at 16 ms."""
    controller = controller_of(A)
    offer(controller, range(8))
    assert not launched(controller, "cpu0", 0.0).is_ahead
    assert controller.decide("cpu0", 0.0) == WaitUntil(near(0.011))
    ahead = launched(controller, "cpu0", 0.012)
    assert (ahead.is_ahead, ahead.rows, ahead.at_s) == (True, 4, near(0.016))
    assert controller.decide("cpu0", 0.012) == WaitUntil(near(0.027))


@pytest.mark.parametrize(("waiting", "is_ahead"), [(1, True), (3, False)])
def test_what_may_be_too_much_for_an_accurate_variant_is_left_to_the_free_worker(
    waiting: int, *, is_ahead: bool
) -> None:
    """One row takes the accurate variant 40 ms: from then on it makes one of those due at 100 ms, for sure."""
    accurate = hosted(
        "cpu0", "a", "a-l", latency_s={1: 0.040}, max_batch=1, weight=1.0, capacity_qps=25.0, accuracy=0.95
    )
    fast = hosted("cpu0", "a", "a-s", latency_s={1: 0.010}, max_batch=1, weight=0.0, capacity_qps=25.0, accuracy=0.9)
    controller = controller_of(accurate, fast)
    offer(controller, range(1))
    assert launched(controller, "cpu0", 0.0).hosted.variant == "a-l"
    offer(controller, range(1, 1 + waiting))
    decision = controller.decide("cpu0", 0.036)
    assert isinstance(decision, Launch) == is_ahead
    assert is_ahead or decision == IDLE


def test_what_the_accurate_variant_will_be_too_late_for_a_faster_one_makes_next() -> None:
    """From 40 ms on, the accurate variant is too late for the first of five, due at 70 ms; the other makes it."""
    accurate = hosted(
        "cpu0", "a", "a-l", latency_s={1: 0.040, 4: 0.040}, max_batch=4, weight=1.0, capacity_qps=200.0, accuracy=0.95
    )
    fast = hosted("cpu0", "a", "a-s", latency_s={1: 0.010}, max_batch=1, weight=0.0, capacity_qps=25.0)
    controller = controller_of(accurate, fast)
    offer(controller, range(1))
    launched(controller, "cpu0", 0.0)
    offer(controller, range(1, 2), slo_s=0.07)
    offer(controller, range(2, 6), slo_s=0.2)
    ahead = launched(controller, "cpu0", 0.036)
    assert (ahead.is_ahead, ahead.hosted, [each.id for each in ahead.requests]) == (True, fast, [1])


def test_what_fills_no_batch_follows_too_where_it_takes_long() -> None:
    """10 ms for a row and 2 more for each other: company that comes meanwhile matters less than the time to submit."""
    controller = controller_of(A)
    offer(controller, range(7))
    launched(controller, "cpu0", 0.0)
    assert controller.decide("cpu0", 0.0) == WaitUntil(near(0.011))
    ahead = launched(controller, "cpu0", 0.011)
    assert (ahead.is_ahead, ahead.rows, ahead.at_s) == (True, 3, near(0.016))


def test_short_batches_wait_for_company_until_the_device_is_free() -> None:
    """Half a millisecond for a row: by and by there would be a batch for each."""
    controller = controller_of(hosted("cpu0", "a", latency_s={1: 0.0005, 4: 0.0008}, max_batch=4, capacity_qps=5000.0))
    offer(controller, range(7))
    first = launched(controller, "cpu0", 0.0)
    assert controller.decide("cpu0", 0.0005) == IDLE
    controller.finished(first, 0.0008)
    last = launched(controller, "cpu0", 0.0008)
    assert (last.is_ahead, last.rows) == (False, 3)


def test_only_one_batch_that_is_not_full_is_submitted_ahead() -> None:
    controller = controller_of(SHORT)
    offer(controller, range(5))
    assert [launched(controller, "cpu0", 0.0).rows for _ in range(2)] == [4, 1]
    offer(controller, range(10, 11))
    assert controller.decide("cpu0", 0.0) == IDLE


def test_behind_a_batch_that_takes_longer_than_it_should_only_full_ones_stand() -> None:
    """Who knows when it ends: until then there may be company, and other devices may have time."""
    controller = controller_of(A)
    offer(controller, range(5))
    launched(controller, "cpu0", 0.0)
    assert controller.decide("cpu0", 0.017) == IDLE
    offer(controller, range(10, 13))
    assert launched(controller, "cpu0", 0.017).rows == 4


def test_short_full_batches_are_submitted_as_far_ahead_as_allowed() -> None:
    """2 ms each: 5 ms ahead there are three at a time, and one more as soon as one ends."""
    controller = controller_of(SHORT)
    offer(controller, range(40))
    launches = [launched(controller, "cpu0", 0.0) for _ in range(3)]
    assert [launch.at_s for launch in launches] == [0.0, near(0.002), near(0.004)]
    assert controller.decide("cpu0", 0.0) == WaitUntil(near(0.001))
    controller.finished(launches[0], 0.002)
    assert launched(controller, "cpu0", 0.002).at_s == near(0.006)


def test_a_batch_that_would_be_late_behind_another_is_not_made_smaller_ahead_of_time() -> None:
    """Due at 30 ms: behind the first, which ends at 16 ms, there is time for one row or two, not for four."""
    controller = controller_of(A)
    offer(controller, range(8), slo_s=0.030)
    launched(controller, "cpu0", 0.0)
    assert controller.decide("cpu0", 0.012) == IDLE


def test_a_full_batch_does_not_overtake_a_more_urgent_request() -> None:
    controller = controller_of(A, B)
    offer(controller, range(4))
    first = launched(controller, "cpu0", 0.0)
    offer(controller, range(10, 14))
    offer(controller, range(20, 21), family="b", slo_s=0.05)
    assert launched(controller, "cpu0", 0.012).hosted is B
    controller.finished(first, 0.016)
    assert controller.decide("cpu0", 0.016) == WaitUntil(near(0.021))
    assert launched(controller, "cpu0", 0.021).hosted is A


@pytest.mark.parametrize(("slots", "dispatch_ahead_s"), [(1, 0.0), (2, DISPATCH_AHEAD_S)])
def test_without_dispatch_ahead_or_with_several_slots_nothing_is_launched_ahead(
    slots: int, dispatch_ahead_s: float
) -> None:
    controller = controller_of(SHORT, slots=slots, dispatch_ahead_s=dispatch_ahead_s)
    offer(controller, range(40))
    assert not any(launched(controller, "cpu0", 0.0).is_ahead for _ in range(slots))
    assert controller.decide("cpu0", 0.0) == IDLE


def test_batches_that_a_lost_device_was_given_ahead_wait_again() -> None:
    controller = controller_of(SHORT)
    offer(controller, range(12))
    launches = [launched(controller, "cpu0", 0.0) for _ in range(3)]
    assert controller.device_lost("cpu0", launches).dropped == ()
    assert requests_waiting(controller) == 12
    assert controller.decide("cpu0", 0.0) == IDLE
    controller.device_recovered("cpu0", 1.0, (SHORT,))
    assert controller.decide("cpu0", 0.0) != IDLE


def test_what_takes_longer_than_it_should_is_taken_to_end_any_moment() -> None:
    in_flight = InFlightBatches()
    assert in_flight.ends_s(3.0) == 3.0
    in_flight.add(0.5, 1.0)
    in_flight.add(0.25, 1.5)
    assert in_flight.ends_s(1.1) == near(1.75)
    assert in_flight.ends_s(9.0) == near(9.25)
    in_flight.ended()
    assert in_flight.ends_s(9.0) == near(9.25)
    in_flight.note_start(9.0)
    assert in_flight.ends_s(9.2) == near(9.25)


@pytest.mark.parametrize("takes_s", [0.03625, 0.0725, 0.1, 1 / 3, 0.7])
def test_a_batch_that_takes_longer_than_it_should_may_end_now_but_not_before(takes_s: float) -> None:
    """Whatever is rounded: no end is before now."""
    in_flight = InFlightBatches()
    in_flight.add(takes_s, at_s=0.0)
    assert all(in_flight.ends_s(now_s) == now_s for now_s in (takes_s, takes_s + 0.05, takes_s + 0.1, takes_s + 7.0))
