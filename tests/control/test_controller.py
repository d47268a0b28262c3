import pytest
from builders import controller_hosting, hosted, launched, make_request, near, plan_hosting, requests_waiting

from proteus_cli.control.batching import ProactiveBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import IDLE, Admitted, Drop, HostedVariant, Launch, Refused, WaitUntil
from proteus_cli.control.policies import Policy
from proteus_cli.control.replanning.replan_rules import ForecastRule, ReplanRequest

EXACT = Policy("test", "all", ProactiveBatcher(answer_frac=0.0, margin_frac=0.0), None)
FAST = hosted("cpu0", "a", "a-s", latency_s={1: 0.010, 4: 0.016}, max_batch=4, capacity_qps=250.0)
SLOW = hosted("cpu1", "a", "a-l", latency_s={1: 0.040, 2: 0.050}, max_batch=2, capacity_qps=40.0)


def controller_of(*hosts: HostedVariant, slots: int = 1, policy: Policy = EXACT) -> Controller:
    return controller_hosting(*hosts, policy=policy, slots={"cpu0": slots, "cpu1": slots}, demand_qps=100.0)


def test_a_request_waits_is_launched_and_ends_with_the_worker_free_again() -> None:
    """Due at 100 ms, two rows take 12 ms: it waits until 88 ms, then runs alone."""
    controller, request = controller_of(FAST), make_request()
    assert controller.decide("cpu0", 0.0) == IDLE
    assert controller.offer(request, 0.0) == Admitted(("cpu0",))
    assert requests_waiting(controller) == controller.families["a"].waiting == 1
    assert controller.decide("cpu0", 0.0) == WaitUntil(near(0.088))
    launch = launched(controller, "cpu0", 0.0881)
    assert launch == Launch(FAST, (request,), rows=1, at_s=0.0881)
    assert (launch.rows, requests_waiting(controller)) == (1, 0)
    controller.finished(launch, None)
    assert controller.decide("cpu0", 0.1) == IDLE


def test_asking_once_too_often_changes_nothing() -> None:
    controller = controller_of(FAST)
    controller.offer(make_request(), 0.0)
    assert controller.decide("cpu0", 0.0) == controller.decide("cpu0", 0.0)
    assert controller.decide("cpu1", 0.0) == IDLE


@pytest.mark.parametrize("slots", [1, 2])
def test_a_worker_runs_as_many_batches_as_it_has_slots(slots: int) -> None:
    controller = controller_of(FAST, slots=slots)
    for number in range(12):
        controller.offer(make_request(number), 0.0)
    launches = [launched(controller, "cpu0", 0.0) for _ in range(slots)]
    assert controller.decide("cpu0", 0.0) == IDLE
    controller.finished(launches[0], None)
    assert launched(controller, "cpu0", 0.016).rows == 4


def test_the_door_closes_when_those_ahead_take_all_the_time() -> None:
    """250 qps answer 25 rows in the 100 ms of the SLO: the 26th is refused, and may ask again after a second."""
    controller = controller_of(FAST)
    answers = [controller.offer(make_request(number), 0.0) for number in range(26)]
    assert all(isinstance(answer, Admitted) for answer in answers[:25])
    assert answers[25] == Refused(retry_after_s=1.0)
    assert requests_waiting(controller) == 25


def test_a_request_alone_that_cannot_be_in_time_is_dropped_by_a_worker_not_refused_as_load() -> None:
    """3 ms are too short for one row, however empty the server is, so asking again would not help (250 qps · 3 ms is
    less than a row). With another ahead of it, it is the load that is too much.
    """
    controller, request = controller_of(FAST), make_request(slo_s=0.003)
    assert controller.offer(request, 0.0) == Admitted(("cpu0",))
    assert controller.decide("cpu0", 0.0) == Drop((request,))
    controller.offer(make_request(1), 0.0)
    assert isinstance(controller.offer(make_request(2, slo_s=0.003), 0.0), Refused)


def test_what_runs_counts_as_ahead() -> None:
    """4 rows run and 21 wait: 25 in all, so the next is refused; once the 4 are done 4 more are admitted."""
    controller = controller_of(FAST)
    for number in range(25):
        controller.offer(make_request(number), 0.0)
    launch = launched(controller, "cpu0", 0.0)
    assert isinstance(controller.offer(make_request(25), 0.0), Refused)
    controller.finished(launch, None)
    answers = [controller.offer(make_request(number), 0.0) for number in range(26, 31)]
    assert [isinstance(answer, Admitted) for answer in answers] == [True] * 4 + [False]


def test_the_rows_of_a_request_count_at_the_door() -> None:
    """20 rows wait; 6 more would be 26, 5 more are 25."""
    controller = controller_of(FAST)
    controller.offer(make_request(0, rows=20), 0.0)
    assert isinstance(controller.offer(make_request(1, rows=6), 0.0), Refused)
    assert isinstance(controller.offer(make_request(2, rows=5), 0.0), Admitted)


def test_a_family_that_nothing_hosts_is_refused() -> None:
    controller = controller_of(FAST)
    assert controller.offer(make_request(family="b"), 0.0) == Refused(retry_after_s=1.0)
    assert controller.families["b"].hosts == ()
    assert controller.families["a"].hosts == (FAST,)


def test_refused_requests_count_as_demand() -> None:
    controller = controller_of(FAST)
    controller.offer(make_request(family="b"), 0.05)
    assert controller.demand.rate_qps("b", 0.2, now_s=0.25) == pytest.approx(5.0)


def test_a_worker_is_asked_that_is_fast_enough() -> None:
    """cpu1 needs 40 ms of the 30 that are left; cpu0 waits until 12 ms before the end."""
    controller = controller_of(hosted("cpu0", "a", "a-s", latency_s={1: 0.010, 4: 0.016}, weight=0.0), SLOW)
    assert controller.offer(make_request(slo_s=0.03), 0.0) == Admitted(("cpu0",))
    assert controller.decide("cpu1", 0.0) == IDLE
    assert controller.decide("cpu0", 0.0) == WaitUntil(near(0.018))


def test_what_even_the_fastest_cannot_answer_in_time_is_dropped() -> None:
    """5 ms left of 100, and the fastest takes 10; what is less urgent stays."""
    controller = controller_of(FAST)
    lost, kept = make_request(0), make_request(1, slo_s=0.5)
    controller.offer(lost, 0.0)
    controller.offer(kept, 0.0)
    assert controller.decide("cpu0", 0.095) == Drop((lost,))
    assert requests_waiting(controller) == 1
    assert controller.decide("cpu0", 0.095) == WaitUntil(near(0.488))


def test_a_request_is_bound_late_to_the_worker_that_is_free_first() -> None:
    """cpu0 got quota first and cpu1 second; cpu1 launches first and takes the most urgent request."""
    other = hosted("cpu1", "a", "a-m", latency_s={1: 0.010}, max_batch=1, capacity_qps=100.0)
    controller = controller_of(FAST, other)
    first, second = make_request(0), make_request(1)
    controller.offer(first, 0.0)
    controller.offer(second, 0.0)
    assert launched(controller, "cpu1", 0.0).requests == (first,)
    assert launched(controller, "cpu0", 0.089).requests == (second,)


def test_of_two_families_on_a_device_the_more_urgent_starts() -> None:
    both = [hosted("cpu0", family, latency_s={1: 0.010}, max_batch=1) for family in ("a", "b")]
    controller = controller_of(*both)
    controller.offer(make_request(0, family="a"), 0.0)
    controller.offer(make_request(1, family="b", slo_s=0.05), 0.0)
    launch = launched(controller, "cpu0", 0.0)
    assert launch.hosted is both[1]
    controller.finished(launch, None)
    assert launched(controller, "cpu0", 0.01).hosted is both[0]


def test_a_worker_wakes_for_the_first_of_its_families() -> None:
    """Pairs take 12 ms: `a` holds until 88 ms, `b` until 38 ms."""
    controller = controller_of(*(hosted("cpu0", family, latency_s={1: 0.01, 2: 0.012}) for family in ("a", "b")))
    controller.offer(make_request(0, family="a"), 0.0)
    controller.offer(make_request(1, family="b", slo_s=0.05), 0.0)
    assert controller.decide("cpu0", 0.0) == WaitUntil(near(0.038))


def test_a_request_of_many_rows_does_not_wait_for_a_worker_in_debt() -> None:
    """cpu0 has a quota of 1 and cpu1 of 3, and cpu0 takes the 3 most urgent rows: the quota it lacks comes from cpu1.
    Had they become a debt, the last request here would wait for cpu0, which had no quota for it.
    """
    hosts = [hosted(f"cpu{i}", "a", f"a-{i}", latency_s={1: 0.010, 3: 0.012}, max_batch=3) for i in range(2)]
    controller = controller_of(*hosts)
    controller.offer(make_request(0, slo_s=0.2), 0.0)
    controller.offer(make_request(1, rows=3), 0.0)
    launches = [launched(controller, "cpu0", 0.0)]
    assert [request.id for request in launches[0].requests] == [1]
    assert launches[0].wake == ("cpu1",)
    launches.append(launched(controller, "cpu1", 0.19))
    for launch in launches:
        controller.finished(launch, None)
    answer = controller.offer(make_request(2, at_s=0.3), 0.3)
    assert isinstance(answer, Admitted)
    assert [launched(controller, device, 0.389).requests[0].id for device in answer.devices] == [2]


def test_a_new_plan_shares_anew_what_waits() -> None:
    """Four wait for cpu0; the new plan hosts the family on cpu1 alone, which now has quota for all four."""
    controller = controller_of(FAST)
    for number in range(4):
        controller.offer(make_request(number, slo_s=0.5), 0.0)
    assert controller.adopt(plan_hosting(SLOW), [SLOW], 0.0).dropped == ()
    assert controller.decide("cpu0", 0.0) == IDLE
    assert launched(controller, "cpu1", 0.0).rows == 2
    assert requests_waiting(controller) == 2
    assert controller.plan.placements[0].variant == "a-l"


def test_a_new_plan_drops_what_it_does_not_host() -> None:
    controller = controller_of(FAST, hosted("cpu1", "b", "b-s", latency_s={1: 0.01}))
    waiting = [make_request(number) for number in range(3)]
    for request in [*waiting, make_request(9, family="b")]:
        controller.offer(request, 0.0)
    other = hosted("cpu0", "b", "b-s", latency_s={1: 0.01})
    assert set(controller.adopt(plan_hosting(other), [other], 0.0).dropped) == set(waiting)
    assert (controller.families["a"].waiting, controller.families["b"].waiting) == (0, 1)
    assert isinstance(controller.offer(make_request(5), 0.0), Refused)


def test_a_batch_that_runs_through_a_change_of_plan_frees_its_slot_when_it_ends() -> None:
    controller = controller_of(FAST)
    for number in range(8):
        controller.offer(make_request(number, slo_s=0.5), 0.0)
    launch = launched(controller, "cpu0", 0.0)
    again = hosted("cpu0", "a", "a-m", latency_s={1: 0.02}, max_batch=1, capacity_qps=50.0)
    controller.adopt(plan_hosting(again), [again], 0.0)
    assert controller.decide("cpu0", 0.0) == IDLE
    controller.finished(launch, None)
    assert launched(controller, "cpu0", 0.016).hosted is again


def test_forgetting_all_empties_every_queue_once() -> None:
    controller = controller_of(FAST, hosted("cpu1", "b", "b-s", latency_s={1: 0.01}))
    waiting = [make_request(0), make_request(1, family="b"), make_request(2)]
    for request in waiting:
        controller.offer(request, 0.0)
    assert set(controller.dispatch.forget_all()) == set(waiting)
    assert controller.dispatch.forget_all() == ()
    assert requests_waiting(controller) == 0
    assert controller.decide("cpu0", 0.0) == IDLE


def test_before_the_first_plan_there_is_nothing_to_look_at() -> None:
    controller = Controller({"a": 0.1}, {"cpu0": 1}, EXACT)
    assert controller.placements == ()
    assert controller.decide("cpu0", 0.0) == IDLE
    assert isinstance(controller.offer(make_request(), 0.0), Refused)
    with pytest.raises(RuntimeError, match="adopt"):
        _ = controller.plan


def test_a_policy_without_a_rule_never_asks_for_another_plan() -> None:
    controller = controller_of(FAST)
    for number in range(1000):
        controller.offer(make_request(number, at_s=number / 1000), number / 1000)
    assert controller.replanning.decide(1.01) is None


def test_a_policy_with_a_rule_asks_for_a_plan_of_what_it_saw() -> None:
    """1000 qps for a second, where the plan was made for less."""
    controller = controller_of(FAST, policy=Policy("test", "all", ProactiveBatcher(), ForecastRule()))
    for number in range(1000):
        controller.offer(make_request(number, at_s=number / 1000), number / 1000)
    wanted = controller.replanning.decide(1.01)
    assert isinstance(wanted, ReplanRequest)
    assert wanted.demand_qps["a"] == pytest.approx(1000.0, rel=0.01)
    assert wanted.demand_qps["b"] == ForecastRule().idle_demand_qps
