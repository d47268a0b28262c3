"""What workers do for each other, and what becomes of workers that load, are lost and come back."""

import pytest
from builders import controller_hosting, hosted, ids, launched, make_request, near, plan_hosting, requests_waiting

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import (
    IDLE,
    NO_EFFECTS,
    Admitted,
    Drop,
    HostedVariant,
    Launch,
    Load,
    Refused,
    WaitUntil,
    keys,
)
from proteus_cli.control.policies import Policy
from proteus_cli.control.replanning.replan_rules import PeriodicRule
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import NONE_OUT, Outages
from proteus_cli.domain.request import Request

GREEDY = Policy("test", "all", GreedyBatcher(answer_frac=0.0), PeriodicRule())
FAST_S = {1: 0.010, 2: 0.012, 4: 0.016}


def fast(device: str, *, weight: float = 0.0, accuracy: float = 0.9) -> HostedVariant:
    """One row in 10 ms, four in 16: 250 qps."""
    return hosted(
        device, "a", f"a-{accuracy}", latency_s=FAST_S, weight=weight, capacity_qps=250.0, accuracy=accuracy
    )  # fmt: skip


def slow(device: str, *, weight: float = 0.0, accuracy: float = 0.9) -> HostedVariant:
    """One row at a time, in 40 ms: 25 qps."""
    return hosted(
        device, "a", f"a-{accuracy}", latency_s={1: 0.040}, max_batch=1,
        weight=weight, capacity_qps=25.0, accuracy=accuracy,
    )  # fmt: skip


def controller_of(*hosts: HostedVariant, policy: Policy = GREEDY) -> Controller:
    return controller_hosting(*hosts, policy=policy)


def loading(*hosts: HostedVariant) -> tuple[Controller, Load]:
    """A controller whose cpu0 loads in place."""
    controller = Controller({"a": 0.1, "b": 0.1}, {"cpu0": 1, "cpu1": 1}, GREEDY)
    effects = controller.adopt(plan_hosting(*hosts), hosts, 0.0, ("cpu0",))
    assert effects.ask == ("cpu0", "cpu1")
    (load,) = effects.load
    return controller, load


def loaded(controller: Controller, load: Load, now_s: float = 0.0) -> None:
    assert controller.loaded(load, keys(load.hosts), now_s).load == ()


def offered(controller: Controller, *requests: Request) -> list[tuple[str, ...]]:
    """Who is to be asked for each."""
    answers = [controller.offer(request, request.arrival_s) for request in requests]
    return [answer.devices if isinstance(answer, Admitted) else () for answer in answers]


# --- help on one device: it hosts two variants, of which the less accurate has no quota


def test_a_worker_answers_with_its_faster_variant_what_is_too_much_for_its_accurate_one() -> None:
    """a-0.95 counts for 1.2 of five rows in time, later for 0.9 of two: a-0.9 takes the others at once."""
    controller = controller_of(slow("cpu0", weight=1.0, accuracy=0.95), fast("cpu0"))
    offered(controller, *(make_request(n) for n in range(5)))
    found = []
    for now_s, took_s in ((0.0, 0.014), (0.014, 0.010), (0.024, 0.040)):
        launch = launched(controller, "cpu0", now_s)
        found.append((launch.hosted.variant, ids(launch)))
        controller.finished(launch, took_s)
    assert found == [("a-0.9", [0, 1, 2]), ("a-0.9", [3]), ("a-0.95", [4])]


def of_plan(variant: str, accuracy: float, row_s: float, capacity_qps: float) -> HostedVariant:
    """A variant that has that part of the time of cpu0; what is planned goes to the most accurate one."""
    weight = 1.0 if accuracy == 0.95 else 0.0
    return hosted(
        "cpu0", "a", variant, latency_s={1: row_s}, max_batch=1,
        weight=weight, capacity_qps=capacity_qps, accuracy=accuracy,
    )  # fmt: skip


@pytest.mark.parametrize("waiting", [1, 2])
def test_a_worker_answers_with_its_accurate_variant_what_that_can_make(waiting: int) -> None:
    controller = controller_of(slow("cpu0", weight=1.0, accuracy=0.95), fast("cpu0"))
    offered(controller, *(make_request(n) for n in range(waiting)))
    assert launched(controller, "cpu0", 0.0).hosted.variant == "a-0.95"


@pytest.mark.parametrize(
    ("large_s", "dues_s", "expected"),
    [
        ({1: 0.040, 4: 0.048}, (0.03, 0.1), [("a-0.9", [0]), ("a-0.95", [1])]),
        ({1: 0.020, 4: 0.030}, (0.021, 0.1, 0.1), [("a-0.9", [0]), ("a-0.95", [1, 2])]),
        ({1: 0.020, 4: 0.030}, (0.031, 0.1, 0.1), [("a-0.95", [0, 1, 2])]),
    ],
)
def test_what_its_accurate_variant_passes_over_its_faster_one_takes_first(
    large_s: dict[int, float], dues_s: tuple[float, ...], expected: list[tuple[str, list[int]]]
) -> None:
    """By its capacity, the accurate variant makes all by the time that the first is due."""
    large = hosted("cpu0", "a", "a-0.95", latency_s=large_s, capacity_qps=200.0, accuracy=0.95)
    controller = controller_of(large, fast("cpu0"))
    offered(controller, *(make_request(n, slo_s=due_s) for n, due_s in enumerate(dues_s)))
    found, now_s = list[tuple[str, list[int]]](), 0.0
    while isinstance(launch := controller.decide("cpu0", now_s), Launch):
        found.append((launch.hosted.variant, ids(launch)))
        now_s += launch.hosted.latency(launch.rows)
        controller.finished(launch, launch.hosted.latency(launch.rows))
    assert (found, launch) == (expected, IDLE)


# --- help: cpu0 gets all quota, cpu1 none


@pytest.mark.parametrize(("accuracy", "first"), [(0.9, "cpu0"), (0.99, "cpu1")])
def test_a_free_worker_takes_at_once_what_loses_no_accuracy(accuracy: float, first: str) -> None:
    """The most accurate free worker is asked first, whatever its share; then the next, which is as accurate."""
    controller = controller_of(fast("cpu0", weight=1.0, accuracy=accuracy), fast("cpu1", accuracy=0.9))
    if first == "cpu1":
        controller = controller_of(fast("cpu0", weight=1.0), fast("cpu1", accuracy=accuracy))
    assert offered(controller, make_request(0)) == [(first,)]
    assert ids(launched(controller, first, 0.0)) == [0]
    if first == "cpu1":
        return
    assert offered(controller, *(make_request(n) for n in (1, 2, 3))) == [("cpu1",)] * 3
    assert ids(launched(controller, "cpu1", 0.0)) == [1, 2, 3]
    assert requests_waiting(controller) == 0


def test_of_a_more_accurate_worker_it_takes_only_what_that_one_cannot_make_any_more() -> None:
    """Due at 100 ms, and cpu0 needs 40: until 60 ms it may become free. Its batch takes longer than profiled."""
    controller = controller_of(slow("cpu0", weight=1.0, accuracy=0.95), fast("cpu1"))
    offered(controller, make_request(0))
    launched(controller, "cpu0", 0.0)
    assert offered(controller, make_request(1)) == [("cpu1",)]
    waiting = controller.decide("cpu1", 0.0)
    assert isinstance(waiting, WaitUntil)
    assert waiting == controller.decide("cpu1", 0.0599) == WaitUntil(near(0.060))
    assert ids(launched(controller, "cpu1", waiting.at_s)) == [1]


def test_the_last_moment_leaves_time_for_a_slow_batch() -> None:
    """cpu1 needs 20 ms in the mean, and at its p95 40: it begins at 60 ms, when one batch in twenty is just in time."""
    own = hosted("cpu1", "a", "a-s", latency_s={1: 0.040}, mean_latency_s={1: 0.020}, max_batch=1, weight=0.0)
    controller = controller_of(slow("cpu0", weight=1.0, accuracy=0.95), own)
    offered(controller, make_request(0))
    launched(controller, "cpu0", 0.0)
    assert offered(controller, make_request(1)) == [("cpu1",)]
    waiting = controller.decide("cpu1", 0.0)
    assert waiting == WaitUntil(near(0.060))
    assert isinstance(waiting, WaitUntil)
    assert ids(launched(controller, "cpu1", waiting.at_s)) == [1]


def test_of_a_faster_and_more_accurate_worker_it_takes_only_at_its_own_last_moment() -> None:
    """Due at 100 ms, and cpu1 needs 40: at 60 ms it takes the first, though cpu0 could make that until 90."""
    controller = controller_of(fast("cpu0", weight=1.0, accuracy=0.95), slow("cpu1"))
    offered(controller, make_request(0))
    launched(controller, "cpu0", 0.0)
    assert offered(controller, make_request(1)) == [("cpu1",)]
    waiting = controller.decide("cpu1", 0.0)
    assert waiting == WaitUntil(near(0.060))
    assert isinstance(waiting, WaitUntil)
    assert ids(launched(controller, "cpu1", waiting.at_s)) == [1]


def test_what_a_more_accurate_worker_can_still_make_stays_with_it() -> None:
    """At 65 ms cpu0 cannot make the first two, due at 100; the third is due at 150. Three would be in time, too."""
    controller = controller_of(slow("cpu0", weight=1.0, accuracy=0.95), fast("cpu1"))
    offered(controller, make_request(9))
    launched(controller, "cpu0", 0.0)
    offered(controller, make_request(0), make_request(1), make_request(2, slo_s=0.15))
    assert ids(launched(controller, "cpu1", 0.065)) == [0, 1]


def test_it_takes_at_once_what_is_too_much_for_more_accurate_workers() -> None:
    """Rows due at 100 ms: cpu0 carries 25 qps and is free after 40 ms at most. So it makes one, and cpu1 the others."""
    controller = controller_of(slow("cpu0", weight=1.0, accuracy=0.95), fast("cpu1"))
    offered(controller, make_request(99))
    launched(controller, "cpu0", 0.0)
    offered(controller, *(make_request(n) for n in range(10)))
    taken = []
    for place in range(2):
        batch = launched(controller, "cpu1", 0.016 * place)
        taken += ids(batch)
        controller.finished(batch, 0.016)
    assert taken == [0, 1, 2, 3, 4, 5, 6, 7]
    assert ids(launched(controller, "cpu1", 0.032)) == [8]
    assert isinstance(controller.decide("cpu1", 0.032), type(IDLE))


def test_a_more_accurate_worker_that_is_free_in_time_takes_its_own() -> None:
    """cpu0 is done at 40 ms and answers the second by 80."""
    controller = controller_of(slow("cpu0", weight=1.0, accuracy=0.95), fast("cpu1"))
    offered(controller, make_request(0))
    first = launched(controller, "cpu0", 0.0)
    offered(controller, make_request(1))
    controller.finished(first, 0.040)
    assert ids(launched(controller, "cpu0", 0.040)) == [1]
    assert controller.decide("cpu1", 0.090) == IDLE


def test_a_request_of_many_rows_goes_to_whom_is_faster_for_so_many() -> None:
    """With one row cpu0 is the faster, with four cpu1: 60 ms against 40, and 50 are left."""
    steep = hosted("cpu0", "a", "a-0.9", latency_s={1: 0.015, 2: 0.030}, weight=1.0, capacity_qps=66.0)
    flat = hosted("cpu1", "a", "a-0.8", latency_s={1: 0.020, 2: 0.020}, weight=0.0, capacity_qps=100.0)
    controller = controller_of(steep, flat)
    assert offered(controller, make_request(0, rows=4, slo_s=0.05)) == [("cpu1",)]
    assert ids(launched(controller, "cpu1", 0.0)) == [0]


def test_of_a_class_one_is_asked_that_is_not_too_slowed() -> None:
    """cpu0 and cpu1 are alike, but batches take twice as long on cpu0: 20 ms, and 15 are left."""
    controller = controller_of(fast("cpu0", weight=1.0), fast("cpu1", weight=1.0))
    for number in range(100):
        offered(controller, make_request(number))
        controller.finished(launched(controller, "cpu0", 0.0), 0.020)
    assert offered(controller, make_request(100, slo_s=0.015)) == [("cpu1",)]
    assert ids(launched(controller, "cpu1", 0.0)) == [100]


def test_help_takes_as_many_as_the_most_urgent_has_time_for() -> None:
    """Three wait. At 87 ms 13 are left: two rows take 12, three would take 14."""
    controller = controller_of(fast("cpu0", weight=1.0), fast("cpu1"))
    offered(controller, make_request(9))
    launched(controller, "cpu0", 0.0)
    offered(controller, *(make_request(n) for n in range(3)))
    assert ids(launched(controller, "cpu1", 0.087)) == [0, 1]


def test_a_worker_too_slow_for_the_most_urgent_leaves_it_to_the_busy_one() -> None:
    """At 70 ms cpu1 would need 40 of the 30 that are left; cpu0 needs 10, and has 20 until its last moment."""
    controller = controller_of(fast("cpu0", weight=1.0), slow("cpu1"))
    offered(controller, make_request(9))
    first = launched(controller, "cpu0", 0.0)
    offered(controller, make_request(0))
    assert controller.decide("cpu1", 0.070) == IDLE
    controller.finished(first, 0.075)
    assert ids(launched(controller, "cpu0", 0.075)) == [0]


def test_what_no_worker_can_make_any_more_does_not_keep_others_from_being_helped() -> None:
    """The first is due at 100 ms; at 95 not even cpu0 could make it, which is busy. The second has time until 1 s."""
    controller = controller_of(fast("cpu0", weight=1.0), fast("cpu1"))
    offered(controller, make_request(9, slo_s=2.0))
    launched(controller, "cpu0", 0.0)
    late_anyway, other = make_request(0), make_request(1, slo_s=1.0)
    offered(controller, late_anyway, other)
    assert controller.decide("cpu1", 0.095) == Drop((late_anyway,))
    assert ids(launched(controller, "cpu1", 0.095)) == [1]


def test_while_the_fastest_worker_loads_what_only_it_could_make_does_not_keep_others_waiting() -> None:
    """cpu1 needs 40 of the 20 ms that the first has left; cpu0 would need 10, and isn't there. The second is timely."""
    controller, _ = loading(fast("cpu0"), slow("cpu1", weight=1.0))
    late_anyway, other = make_request(0, slo_s=0.020), make_request(1, slo_s=1.0)
    offered(controller, late_anyway, other)
    assert controller.decide("cpu1", 0.0) == Drop((late_anyway,))
    assert ids(launched(controller, "cpu1", 0.0)) == [1]


def test_a_worker_that_launches_wakes_a_free_one_for_what_it_leaves() -> None:
    """Five wait. The accurate worker takes four, and says that the other is to be asked."""
    controller = controller_of(fast("cpu0", weight=1.0), fast("cpu1", accuracy=0.95))
    offered(controller, *(make_request(n) for n in range(5)))
    launch = launched(controller, "cpu1", 0.0)
    assert (ids(launch), launch.wake) == ([0, 1, 2, 3], ("cpu0",))
    assert controller.decide("cpu1", 0.0) == IDLE


def test_a_worker_that_leaves_nothing_wakes_no_other() -> None:
    controller = controller_of(fast("cpu0", weight=1.0), fast("cpu1", accuracy=0.95))
    offered(controller, *(make_request(n) for n in range(4)))
    assert launched(controller, "cpu1", 0.0).wake == ()
    assert controller.decide("cpu0", 0.0) == IDLE


def test_free_workers_that_are_alike_share_their_quota() -> None:
    """Five wait for cpu0 and cpu1, which need not be told apart, though the plan sends cpu1 nothing: three and two."""
    controller = controller_of(fast("cpu0", weight=1.0), fast("cpu1"))
    offered(controller, *(make_request(n) for n in range(5)))
    launch = launched(controller, "cpu0", 0.0)
    assert (ids(launch), launch.wake) == ([0, 1, 2], ("cpu1",))
    assert ids(launched(controller, "cpu1", 0.0)) == [3, 4]


def test_early_assignment_knows_no_help() -> None:
    early = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None, assignment="early", admits="all")
    controller = controller_of(fast("cpu0", weight=1.0), fast("cpu1"), policy=early)
    offered(controller, *(make_request(n) for n in range(5)))
    assert ids(launched(controller, "cpu0", 0.0)) == [0, 1, 2, 3]
    assert controller.decide("cpu0", 0.0) == IDLE
    assert controller.decide("cpu1", 0.0) == IDLE


def test_a_per_device_queue_drops_what_its_worker_cannot_meet_and_delegates_nothing() -> None:
    early = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None, assignment="early", admits="all")
    controller = controller_of(slow("cpu0", weight=1.0), fast("cpu1"), policy=early)
    request = make_request(0)
    assert offered(controller, request) == [("cpu0",)]
    assert controller.decide("cpu0", 0.061) == Drop((request,))


# --- loading


def test_a_worker_that_loads_takes_nothing_until_it_is_loaded() -> None:
    """cpu0 has all quota, and loads: cpu1, as accurate, takes them at once; what comes after, cpu0 takes."""
    controller, load = loading(fast("cpu0", weight=1.0), fast("cpu1"))
    assert offered(controller, make_request(0)) == [("cpu1",)]
    assert controller.decide("cpu0", 0.0) == IDLE
    assert ids(launched(controller, "cpu1", 0.0)) == [0]
    loaded(controller, load)
    assert offered(controller, make_request(1)) == [("cpu0",)]
    assert ids(launched(controller, "cpu0", 0.0)) == [1]


def test_admission_counts_only_workers_that_serve() -> None:
    """250 qps each: 50 rows in 100 ms; 25 while one of them loads."""
    controller, load = loading(fast("cpu0"), fast("cpu1"))
    answers = [isinstance(controller.offer(make_request(n), 0.0), Admitted) for n in range(26)]
    assert answers == [True] * 25 + [False]
    loaded(controller, load)
    answers = [isinstance(controller.offer(make_request(n), 0.0), Admitted) for n in range(26, 52)]
    assert answers == [True] * 25 + [False]


def test_a_batch_that_ends_while_its_worker_loads_frees_the_slot_for_afterwards() -> None:
    controller = controller_of(fast("cpu0"))
    offered(controller, *(make_request(n, slo_s=9.0) for n in range(5)))
    launch = launched(controller, "cpu0", 0.0)
    again = fast("cpu0", accuracy=0.8)
    (load,) = controller.adopt(plan_hosting(again), [again], 0.01, ("cpu0",)).load
    controller.finished(launch, 0.016)
    assert controller.decide("cpu0", 0.016) == IDLE
    loaded(controller, load, 0.02)
    assert launched(controller, "cpu0", 0.02).hosted is again


# --- lost and back


def test_what_a_lost_device_ran_waits_again_and_others_take_it() -> None:
    controller = controller_of(fast("cpu0", weight=1.0), fast("cpu1", accuracy=0.8))
    offered(controller, make_request(0), make_request(1))
    launch = launched(controller, "cpu0", 0.0)
    assert requests_waiting(controller) == 0
    assert controller.device_lost("cpu0", [launch]).dropped == ()
    assert requests_waiting(controller) == 2
    assert controller.decide("cpu0", 0.005) == IDLE
    assert ids(launched(controller, "cpu1", 0.005)) == [0, 1]


def test_what_a_lost_device_ran_of_a_family_that_nothing_hosts_is_dropped() -> None:
    """Its batch of `a` still ran when the plan changed to `b` alone."""
    controller = controller_of(fast("cpu0"))
    offered(controller, make_request(0), make_request(1))
    launch = launched(controller, "cpu0", 0.0)
    other = hosted("cpu1", "b", "b-s", latency_s={1: 0.01})
    assert controller.adopt(plan_hosting(other), [other], 0.005).dropped == ()
    assert controller.device_lost("cpu0", [launch]).dropped == launch.requests
    assert requests_waiting(controller) == 0


def test_a_lost_device_carries_nothing_and_is_a_reason_to_plan_without_it() -> None:
    """25 rows of 100 ms are left of 50. The reason counts once."""
    controller = controller_of(fast("cpu0"), fast("cpu1"))
    controller.device_lost("cpu0", [])
    answers = [isinstance(controller.offer(make_request(n), 0.0), Refused) for n in range(26)]
    assert answers == [False] * 25 + [True]
    wanted = controller.replanning.decide(1.0)
    assert wanted is not None
    assert (wanted.reason, wanted.without) == ("cpu0 was lost", Outages(devices=frozenset({"cpu0"})))
    assert wanted.demand_qps == {"a": near(26.0), "b": 0.0}
    assert controller.replanning.decide(1.0) is None


@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_device_that_is_back_serves_once_its_engines_are_loaded(is_loaded: bool) -> None:  # noqa: FBT001
    host = fast("cpu0")
    controller = controller_of(host)
    offered(controller, make_request(0))
    controller.device_lost("cpu0", [])
    effects = controller.device_recovered("cpu0", 0.01, (host,) if is_loaded else None)
    assert effects.ask == ("cpu0", "cpu1")
    if not is_loaded:
        (load,) = effects.load
        assert controller.decide("cpu0", 0.01) == IDLE
        loaded(controller, load, 0.01)
    assert ids(launched(controller, "cpu0", 0.01)) == [0]
    wanted = controller.replanning.decide(0.02)
    assert wanted is not None
    assert (wanted.reason, wanted.without) == ("cpu0 was lost; cpu0 is back", NONE_OUT)


@pytest.mark.parametrize("again", ["loaded", "adopted"])
def test_a_device_that_is_lost_serves_nothing_whatever_is_loaded_or_planned(again: str) -> None:
    host = fast("cpu0")
    controller, load = loading(host)
    offered(controller, make_request(0))
    controller.device_lost("cpu0", [])
    if again == "loaded":
        assert controller.loaded(load, keys(load.hosts), 0.01) == NO_EFFECTS
    else:
        controller.adopt(plan_hosting(host), [host], 0.01)
    assert controller.decide("cpu0", 0.01) == IDLE
    assert requests_waiting(controller) == 1


def test_while_all_devices_of_a_family_are_lost_its_requests_are_refused() -> None:
    """Of `a`, for which only cpu0 is there; `b` is not hosted at all, which is no loss."""
    host = fast("cpu0")
    controller = controller_of(host)
    controller.device_lost("cpu0", [])
    assert controller.offer(make_request(0), 0.0) == Refused(1.0, is_lost=True)
    assert controller.offer(make_request(1, family="b"), 0.0) == Refused(1.0, is_lost=False)
    controller.device_recovered("cpu0", 0.01, (host,))
    assert offered(controller, make_request(2)) == [("cpu0",)]


def test_a_family_that_is_planned_around_as_its_devices_are_lost_is_lost_until_it_is_hosted_again() -> None:
    host, other = fast("cpu0"), fast("cpu1")
    controller = controller_of(host)
    controller.device_lost("cpu0", [])
    controller.adopt(plan_hosting(), [], 0.1)
    assert controller.offer(make_request(0), 0.2) == Refused(1.0, is_lost=True)
    controller.device_recovered("cpu0", 0.3)
    assert controller.families["a"].is_lost
    controller.adopt(plan_hosting(other), [other], 0.4)
    assert not controller.families["a"].is_lost
    assert offered(controller, make_request(1)) == [("cpu1",)]
    controller.adopt(plan_hosting(), [], 0.5)
    assert controller.offer(make_request(2), 0.5) == Refused(1.0, is_lost=False)


def test_two_losses_between_two_decisions_are_one_request_with_both_reasons() -> None:
    controller = controller_of(fast("cpu0"), fast("cpu1"))
    controller.device_lost("cpu0", [])
    controller.device_lost("cpu1", [])
    wanted = controller.replanning.decide(1.0)
    assert wanted is not None
    assert wanted.reason == "cpu0 was lost; cpu1 was lost"
    assert controller.replanning.decide(1.0) is None


def test_a_failed_engine_is_planned_around_until_it_recovers() -> None:
    controller = controller_of(fast("cpu0"))
    controller.engine_failed("cpu0", VariantKey("a", "a-0.9"))
    wanted = controller.replanning.decide(0.1)
    assert wanted is not None
    out = Outages(engines=frozenset({("cpu0", "a", "a-0.9")}))
    assert (wanted.reason, wanted.without) == ("a-0.9 is broken on cpu0", out)
    controller.engine_recovered("cpu0", VariantKey("a", "a-0.9"))
    wanted = controller.replanning.decide(0.2)
    assert wanted is not None
    assert (wanted.reason, wanted.without) == ("a-0.9 is to be tried again on cpu0", NONE_OUT)


def test_a_plan_whose_roll_out_failed_is_asked_for_again() -> None:
    """The plan in force is not made around the loss, so it is still owed."""
    controller = controller_of(fast("cpu0"), fast("cpu1"))
    controller.device_lost("cpu0", [])
    wanted = controller.replanning.decide(1.0)
    assert wanted is not None
    controller.replanning.planned(wanted)
    controller.replanning.failed(wanted, 1.1)
    assert controller.replanning.decide(1.5) is None, "the back-off"
    assert controller.replanning.decide(3.0) == wanted


def test_a_hold_passes_outages_that_the_plan_in_force_does_not_know() -> None:
    """Also where a plan around them was being rolled out when the roll-out failed."""
    controller = controller_of(fast("cpu0"), fast("cpu1"))
    controller.device_lost("cpu0", [])
    wanted = controller.replanning.decide(1.0)
    assert wanted is not None
    controller.replanning.planned(wanted)
    controller.replanning.failed(wanted, 1.1)
    controller.replanning.hold(60.0)
    controller.engine_failed("cpu1", VariantKey("a", "a-0.9"))
    controller.engine_recovered("cpu1", VariantKey("a", "a-0.9"))
    again = controller.replanning.decide(10.0)
    assert again is not None
    assert again.without == Outages(devices=frozenset({"cpu0"}))


def test_a_hold_keeps_the_plan_where_a_lost_device_is_back() -> None:
    """Also after the hold: the plan in force was made for the devices that are there."""
    controller = controller_of(fast("cpu0"), fast("cpu1"))
    controller.replanning.hold(10.0)
    controller.device_lost("cpu0", [])
    controller.device_recovered("cpu0", 1.0, (fast("cpu0"),))
    assert controller.replanning.decide(1.0) is None
    assert controller.replanning.decide(11.0) is None


def test_what_was_asked_for_while_a_plan_was_made_is_made_after_it() -> None:
    """Also after a hold: the plan in force knows nothing of the reason."""
    for end in ("succeeded", "failed"):
        controller = controller_of(fast("cpu0"), fast("cpu1"))
        controller.device_lost("cpu0", [])
        wanted = controller.replanning.decide(1.0)
        assert wanted is not None
        controller.replanning.planned(wanted)
        controller.replanning.ask("the catalog has changed", 1.1)
        if end == "succeeded":
            controller.replanning.succeeded()
        else:
            controller.replanning.failed(wanted, 1.2)
        again = controller.replanning.decide(10.0)
        assert again is not None
        assert again.reason == "the catalog has changed"
        controller.replanning.planned(again)
        controller.replanning.succeeded()
        assert controller.replanning.decide(20.0) is None


def test_a_hold_keeps_what_was_asked_for_and_plans_it_for_the_demand_after_it() -> None:
    """One query comes after the wish: 0.1 qps in the mean of ten seconds, 1 in the last one."""
    controller = controller_of(fast("cpu0"))
    controller.replanning.ask("the catalog has changed", 1.0)
    controller.replanning.hold(20.0)
    assert controller.replanning.decide(10.0) is None
    controller.offer(make_request(0, at_s=19.5), 19.5)
    wanted = controller.replanning.decide(20.0)
    assert wanted is not None
    assert (wanted.reason, wanted.demand_qps["a"]) == ("the catalog has changed", 1.0)


def test_all_slots_of_a_recovered_device_are_free() -> None:
    """Two slots, both running when it was lost."""
    host = fast("cpu0")
    controller = Controller({"a": 0.1, "b": 0.1}, {"cpu0": 2, "cpu1": 1}, GREEDY)
    controller.adopt(plan_hosting(host), [host], 0.0)
    offered(controller, *(make_request(n, slo_s=9.0) for n in range(12)))
    running = [launched(controller, "cpu0", 0.0) for _ in range(2)]
    controller.device_lost("cpu0", running)
    controller.device_recovered("cpu0", 1.0, (host,))
    assert [len(ids(launched(controller, "cpu0", 1.0))) for _ in range(2)] == [4, 4]
    assert controller.decide("cpu0", 1.0) == IDLE


@pytest.mark.parametrize("devices", [("cpu0",), ("cpu0", "cpu1")])
def test_devices_that_were_too_slow_for_every_request_are_tried_again(devices: tuple[str, ...]) -> None:
    """Though no batch can show that what slowed them has ended, as none would be in time while it lasts."""
    hosts = [hosted(device, "a", "a-0.9", latency_s={1: 0.06}, capacity_qps=16.0) for device in devices]
    controller = controller_hosting(*hosts, policy=GREEDY, slots=dict.fromkeys(devices, 1))
    now_s, numbers = 0.0, iter(range(10_000))

    def tried() -> list[bool]:
        """Whether each device takes a request; its batches take five times as long as profiled."""
        found = []
        for device in devices:
            offered(controller, make_request(next(numbers), at_s=now_s))
            decision = controller.decide(device, now_s)
            found.append(isinstance(decision, Launch))
            if isinstance(decision, Launch):
                controller.finished(decision, 0.3)
        return found

    while any(tried()):
        now_s += 1.0
    tries = [any(tried()) for now_s in (now_s + n for n in range(1, 61))]
    assert 3 <= sum(tries) <= 30
