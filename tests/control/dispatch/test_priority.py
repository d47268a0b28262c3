"""Who asks for a higher priority goes first; nobody waits for ever behind it, and no worker idles."""

import pytest
from builders import controller_hosting, hosted, ids, launched, near, plan_hosting

from proteus_cli.control.batching import Batcher, GreedyBatcher, ProactiveBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import IDLE, Admitted, Drop, HostedVariant, Refused, WaitUntil
from proteus_cli.control.policies import Policy
from proteus_cli.domain.request import LOWEST_LEVEL, USUAL_LEVEL, Request

FAST = hosted("cpu0", "a", "a-s", latency_s={1: 0.010, 4: 0.016}, capacity_qps=250.0)
SLOW = hosted("cpu1", "a", "a-l", latency_s={1: 0.040}, max_batch=1, capacity_qps=25.0)
GREEDY = GreedyBatcher(answer_frac=0.0)
PATIENT = ProactiveBatcher(answer_frac=0.0, margin_frac=0.0)


def controller_of(*hosts: HostedVariant, batching: Batcher = GREEDY) -> Controller:
    return controller_hosting(*hosts, policy=Policy("test", "all", batching, None), families=("a",))


def asking(number: int, priority: int, *, slo_s: float = 0.1, rows: int = 1) -> Request:
    return Request(number, "a", 0.0, slo_s, rows, priority=priority)


def offered(controller: Controller, *requests: Request) -> None:
    for request in requests:
        assert isinstance(controller.offer(request, 0.0), Admitted)


@pytest.mark.parametrize(
    ("priority", "level"), [(0, USUAL_LEVEL), (1, 1), (2, 2), (3, 3), (8, 8), (9, LOWEST_LEVEL), (2**63, LOWEST_LEVEL)]
)
def test_one_is_highest_none_is_the_same_as_two_and_from_eight_on_all_are_lowest(priority: int, level: int) -> None:
    assert asking(0, priority).level == level


def test_higher_priorities_go_first_and_within_one_the_most_urgent() -> None:
    controller = controller_of(FAST)
    offered(controller, asking(0, 3, slo_s=0.2), asking(1, 0, slo_s=0.6), asking(2, 1, slo_s=0.9))
    offered(controller, asking(3, 2, slo_s=0.5), asking(4, 1, slo_s=0.8))
    assert ids(launched(controller, "cpu0", 0.0)) == [4, 2, 3, 1]


def test_a_batch_takes_along_lower_priorities_only_as_far_as_it_is_in_time_for_them() -> None:
    """At 0.089 11 ms are left for the last one: alone it would take 10, with the other two 14."""
    controller = controller_of(FAST)
    offered(controller, asking(0, 1, slo_s=0.9), asking(1, 1, slo_s=0.9), asking(2, 0))
    assert ids(launched(controller, "cpu0", 0.089)) == [0, 1]


def test_a_batch_shrinks_for_the_sake_of_a_lower_priority_that_it_takes_along() -> None:
    """12 ms are left for the usual one, which is enough for two rows: its batch ends with it, though two more wait."""
    controller = controller_of(FAST)
    offered(controller, asking(0, 1, slo_s=0.9), asking(1, 0), asking(2, 3, slo_s=0.9), asking(3, 3, slo_s=0.9))
    assert ids(launched(controller, "cpu0", 0.0879)) == [0, 1]


def test_what_is_more_urgent_behind_a_higher_priority_ends_the_wait_for_company() -> None:
    """Two rows take 12 ms, three 14. The one with the priority could wait until 886 ms, the other until 86."""
    controller = controller_of(FAST, batching=PATIENT)
    offered(controller, asking(0, 1, slo_s=0.9), asking(1, 0))
    waiting = controller.decide("cpu0", 0.0)
    assert waiting == WaitUntil(near(0.086))
    assert isinstance(waiting, WaitUntil)
    assert ids(launched(controller, "cpu0", waiting.at_s)) == [0, 1]


def test_what_can_not_be_made_any_more_is_dropped_also_behind_a_higher_priority() -> None:
    controller, late_anyway = controller_of(FAST), asking(1, 0)
    offered(controller, asking(0, 1, slo_s=0.9), late_anyway)
    assert controller.decide("cpu0", 0.095) == Drop((late_anyway,))
    assert ids(launched(controller, "cpu0", 0.095)) == [0]


def test_a_worker_too_slow_for_the_highest_priority_runs_a_lower_one_meanwhile() -> None:
    """20 ms are left of the first, and cpu1 takes 40; cpu0, which has quota for it, is busy."""
    controller = controller_of(FAST, SLOW)
    offered(controller, asking(9, 1, slo_s=0.9))
    assert ids(launched(controller, "cpu0", 0.0)) == [9]
    offered(controller, asking(0, 1, slo_s=0.020), asking(1, 0, slo_s=0.9), asking(2, 0, slo_s=0.9))
    assert ids(launched(controller, "cpu1", 0.0)) == [1]


def test_only_what_goes_before_it_counts_at_the_door() -> None:
    """25 rows are all that 250 qps answer in 100 ms: the first ones are admitted, the last ones not."""
    controller = controller_of(FAST)
    offered(controller, *(asking(number, 0) for number in range(25)))
    assert isinstance(controller.offer(asking(25, 0), 0.0), Refused)
    assert isinstance(controller.offer(asking(26, 3), 0.0), Refused)
    answers = [controller.offer(asking(number, 1), 0.0) for number in range(27, 54)]
    assert [isinstance(answer, Admitted) for answer in answers] == [True] * 25 + [False] * 2


def test_what_runs_goes_before_every_priority() -> None:
    controller = controller_of(FAST)
    offered(controller, *(asking(number, 3) for number in range(25)))
    assert ids(launched(controller, "cpu0", 0.0)) == [0, 1, 2, 3]
    answers = [controller.offer(asking(number, 1), 0.0) for number in range(25, 47)]
    assert [isinstance(answer, Admitted) for answer in answers] == [True] * 21 + [False]


def test_a_change_of_plan_keeps_what_waits_at_each_level() -> None:
    controller = controller_of(FAST)
    offered(controller, asking(0, 0), asking(1, 1), asking(2, 5, slo_s=0.05))
    assert controller.adopt(plan_hosting(FAST), [FAST], 0.0).dropped == ()
    assert ids(launched(controller, "cpu0", 0.0)) == [1, 0, 2]
    assert controller.decide("cpu0", 0.0) == IDLE


def test_bound_early_each_worker_keeps_to_the_priorities_of_its_own_queue() -> None:
    policy = Policy("test", "all", GREEDY, None, assignment="early", admits="all")
    controller = controller_hosting(FAST, policy=policy, families=("a",), slots={"cpu0": 1})
    offered(controller, *(asking(number, priority) for number, priority in enumerate((0, 3, 1, 1, 0, 3))))
    assert ids(launched(controller, "cpu0", 0.0)) == [2, 3, 0, 4]
