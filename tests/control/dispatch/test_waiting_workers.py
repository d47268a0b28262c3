"""Arrivals that change nothing for a worker that waits ask nobody; all others ask."""

from dataclasses import replace

from builders import controller_hosting, hosted, ids, launched, make_request, near
from msgspec.structs import replace as replaced

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Admitted, Host, WaitUntil
from proteus_cli.control.policies import Policy
from proteus_cli.domain.request import Request

GREEDY = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None)
WAITS, FULL = Admitted(("spare",)), Admitted(())


def accurate(device: str = "best", *, accuracy: float = 0.9, row_s: float = 0.1, weight: float = 1.0) -> Host:
    """One row at a time."""
    return hosted(
        device, "a", f"a-{accuracy}", latency_s={1: row_s}, max_batch=1, weight=weight,
        capacity_qps=1 / row_s, accuracy=accuracy,
    )  # fmt: skip


def spare(family: str = "a", *, capacity_qps: float = 200.0) -> Host:
    """A row in 10 ms, and no share of the plan."""
    return hosted(
        "spare", family, f"{family}-0.7", latency_s={1: 0.01, 4: 0.02}, weight=0.0,
        capacity_qps=capacity_qps, accuracy=0.7,
    )  # fmt: skip


def controller_of(*hosts: Host) -> Controller:
    return controller_hosting(*hosts, policy=GREEDY, slots={host.device: 1 for host in hosts})


def waiting(*hosts: Host) -> tuple[Controller, Request]:
    """The accurate device is busy, and the spare waits until that could not make the first that waits."""
    controller = controller_of(*(hosts or (accurate(), spare())))
    assert controller.offer(make_request(100), 0.0) == Admitted(("best",))
    launched(controller, "best", 0.0)
    first = make_request(0, slo_s=1.0)
    assert controller.offer(first, 0.0) == WAITS
    assert controller.decide("spare", 0.0) == WaitUntil(near(0.9))
    return controller, first


def later(number: int, at_s: float, *, rows: int = 1, slo_s: float = 1.0) -> Request:
    return make_request(number, at_s=at_s, slo_s=slo_s, rows=rows)


def test_an_arrival_that_changes_nothing_asks_nobody() -> None:
    controller, _ = waiting()
    assert [controller.offer(later(n, n / 100), n / 100) for n in range(1, 4)] == [FULL] * 3
    assert controller.decide("spare", 0.03) == WaitUntil(near(0.9))


def test_one_that_is_due_before_the_first_asks() -> None:
    controller, _ = waiting()
    assert controller.offer(later(1, 0.01, slo_s=0.5), 0.01) == WAITS
    assert controller.decide("spare", 0.01) == WaitUntil(near(0.41))


def test_what_is_more_than_the_busy_device_makes_asks() -> None:
    """In 1 s, which is 0.95 from half a batch on, that makes 9.5 rows: of eleven, the spare takes one."""
    controller, _ = waiting()
    assert [controller.offer(later(n, 0.0), 0.0) for n in range(1, 10)] == [FULL] * 9
    assert controller.offer(later(10, 0.0), 0.0) == WAITS
    assert ids(launched(controller, "spare", 0.0)) == [0]


def test_so_does_what_it_makes_no_more_as_time_has_passed() -> None:
    """At 0.75 s, it makes two rows until the first is due: the spare takes one of three."""
    controller, _ = waiting()
    assert controller.offer(later(1, 0.01), 0.01) == FULL
    assert controller.offer(later(2, 0.75), 0.75) == WAITS
    assert ids(launched(controller, "spare", 0.75)) == [0]


def test_one_after_the_moment_that_is_waited_for_asks() -> None:
    """A timer may be late. So many slots as carry 100 qps could make more than waits."""
    many = replace(accurate(), capacity_qps=100.0)
    controller, _ = waiting(many, spare(capacity_qps=1.0))
    assert controller.offer(later(1, 0.899), 0.899) == FULL
    assert controller.offer(later(2, 0.901), 0.901) == WAITS


def test_the_first_quota_of_another_busy_class_asks() -> None:
    """By its share, the slower device gets the second request that waits, and needs 0.2 s for it."""
    controller = controller_of(accurate(), spare(), accurate("slow", accuracy=0.95, row_s=0.2, weight=0.7))
    for number, device in ((100, "best"), (101, "slow")):
        assert controller.offer(make_request(number, slo_s=1.0), 0.0) == Admitted((device,))
        launched(controller, device, 0.0)
    assert controller.offer(later(0, 0.0), 0.0) == WAITS
    assert controller.decide("spare", 0.0) == WaitUntil(near(0.9))
    assert controller.offer(later(1, 0.01), 0.01) == WAITS
    assert controller.decide("spare", 0.01) == WaitUntil(near(0.8))
    assert controller.offer(later(2, 0.02), 0.02) == FULL


def test_one_that_only_a_slow_spare_would_answer_better_asks_that_one() -> None:
    """It needs 2 s, and takes over without a loss of accuracy what has the time for that."""
    controller, _ = waiting(accurate(), spare(), accurate("slow", accuracy=0.95, row_s=2.0, weight=0.0))
    assert controller.offer(later(1, 0.01), 0.01) == WAITS
    assert controller.decide("spare", 0.01) == WaitUntil(near(0.9))
    assert controller.offer(later(2, 0.02, slo_s=3.0), 0.02) == Admitted(("slow",))
    assert ids(launched(controller, "slow", 0.02)) == [2]


def test_after_the_first_is_cancelled_an_arrival_asks() -> None:
    controller, first = waiting()
    assert controller.offer(later(1, 0.01), 0.01) == FULL
    assert controller.dispatch.cancel(first).dropped == (first,)
    assert controller.offer(later(2, 0.02), 0.02) == WAITS
    assert controller.decide("spare", 0.02) == WaitUntil(near(0.91))


def test_after_another_is_cancelled_an_arrival_asks() -> None:
    """The cancelled one's quota may have been what was waited for."""
    controller, _ = waiting()
    second = later(1, 0.01)
    assert controller.offer(second, 0.01) == FULL
    assert controller.dispatch.cancel(second).dropped == (second,)
    assert controller.offer(later(2, 0.02), 0.02) == WAITS


def test_after_another_worker_has_become_free_an_arrival_asks_that_one() -> None:
    """It is more accurate than the busy one, and has nothing to do."""
    controller = controller_of(accurate(), spare(), accurate("better", accuracy=0.95, weight=0.0))
    controller.offer(make_request(100), 0.0)
    launched(controller, "best", 0.0)
    assert controller.offer(make_request(0, slo_s=1.0), 0.0) == Admitted(("better",))
    launch = launched(controller, "better", 0.0)
    assert controller.offer(later(1, 0.01), 0.01) == WAITS
    assert controller.decide("spare", 0.01) == WaitUntil(near(0.91))
    assert controller.offer(later(2, 0.02), 0.02) == FULL
    controller.finished(launch, 0.1)
    assert controller.offer(later(3, 0.02), 0.02) == Admitted(("better",))


def test_a_worker_that_takes_from_other_queues_too_is_always_asked() -> None:
    """Time alone may change what it does there."""
    controller = controller_of(accurate(), spare(), spare("b"))
    controller.offer(make_request(100), 0.0)
    launched(controller, "best", 0.0)
    for number in range(3):
        assert controller.offer(later(number, 0.0), 0.0) == WAITS
        assert controller.decide("spare", 0.0) == WaitUntil(near(0.9))


def test_after_another_tier_was_opened_arrivals_ask() -> None:
    """What has a minimum waits in a queue of its own, from which the spare takes, too."""
    slow = replace(accurate("slow", accuracy=0.6, weight=0.0), capacity_qps=1.0)
    controller, _ = waiting(accurate(), spare(), slow)
    assert controller.offer(later(1, 0.0), 0.0) == FULL
    controller.offer(replaced(later(2, 0.0), min_accuracy=0.7), 0.0)
    assert controller.offer(later(3, 0.0), 0.0) == WAITS
    assert controller.decide("spare", 0.0) == WaitUntil(near(0.9))
    assert controller.offer(later(4, 0.0), 0.0) == WAITS, "time alone may change what it takes of the other"


def test_a_worker_that_would_no_more_be_asked_does_not_stand_for_the_one_that_would_be() -> None:
    """The first request leaves a slow spare, which is more accurate, too little time; that waits for the next one."""
    slow = accurate("slow", accuracy=0.8, row_s=0.5, weight=0.0)
    controller = controller_of(accurate(), slow, spare())
    controller.offer(make_request(100), 0.0)
    launched(controller, "best", 0.0)
    first = make_request(0, slo_s=0.4)
    assert controller.offer(first, 0.0) == WAITS
    assert controller.decide("spare", 0.0) == WaitUntil(near(0.3))
    assert controller.offer(later(1, 0.0, slo_s=2.0), 0.0) == FULL
    assert controller.dispatch.cancel(first).dropped == (first,)
    assert controller.decide("spare", 0.0) == WaitUntil(near(1.9))
    assert controller.offer(later(2, 0.0, slo_s=2.0), 0.0) == Admitted(("slow",))


def test_nor_does_one_that_has_just_taken_the_first_request() -> None:
    """It has another slot, and waits for the next one, as does a more accurate spare."""
    slow = accurate("slow", accuracy=0.8, row_s=0.5, weight=0.0)
    hosts, slots = (accurate(), slow, spare()), {"best": 1, "slow": 1, "spare": 2}
    controller = controller_hosting(*hosts, policy=GREEDY, slots=slots)
    controller.offer(make_request(100), 0.0)
    launched(controller, "best", 0.0)
    assert controller.offer(make_request(0, slo_s=0.4), 0.0) == WAITS
    assert controller.decide("spare", 0.0) == WaitUntil(near(0.3))
    assert controller.offer(later(1, 0.0, slo_s=2.0), 0.0) == FULL
    assert ids(launched(controller, "spare", 0.3)) == [0]
    assert controller.decide("spare", 0.3) == WaitUntil(near(1.9))
    assert controller.offer(later(2, 0.3, slo_s=2.0), 0.3) == Admitted(("slow",))


def test_after_a_device_has_got_another_slot_an_arrival_asks_it() -> None:
    """It is more accurate than the spare, and busy with one batch."""
    middle = accurate("middle", accuracy=0.8, weight=0.4)
    controller = controller_of(accurate(), middle, spare())
    for number, device in ((100, "best"), (101, "middle")):
        assert controller.offer(make_request(number), 0.0) == Admitted((device,))
        launched(controller, device, 0.0)
    assert controller.offer(make_request(0, slo_s=1.0), 0.0) == WAITS
    assert controller.decide("spare", 0.0) == WaitUntil(near(0.9))
    assert controller.use_slots("middle", 2, 0.0).ask == ("middle",)
    assert controller.offer(later(1, 0.0), 0.0) == Admitted(("middle",))
