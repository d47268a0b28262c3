"""Breakers keep away from devices that fail, and try them again ever more seldom. A late batch shows a hang."""

import pytest
from builders import hosted, make_request

from proteus_cli.control.decision import Launch
from proteus_cli.control.devices.breaker import (
    CHECK_EVERY_S,
    FIRST_RETRY_S,
    LONGEST_RETRY_S,
    MIN_HANG_TIMEOUT_S,
    NEEDED_RETRY_S,
    STABLE_S,
    TRANSITIONS,
    Breaker,
    BreakerEvent,
    BreakerState,
    HangWatch,
    hang_timeout_s,
    overdue,
)

TROUBLE = (BreakerEvent.DIED, BreakerEvent.BROKE, BreakerEvent.HUNG)


def fail(breaker: Breaker, at_s: float, *, is_needed: bool = False) -> float:
    """Fail, once more on probation if it is open; the seconds until it is tried again."""
    if breaker.state is BreakerState.OPEN:
        breaker.on(BreakerEvent.RETRIED, at_s)
    breaker.on(BreakerEvent.DIED, at_s, "killed")
    return breaker.retry_s(is_needed=is_needed) - at_s


def mend(breaker: Breaker, at_s: float) -> None:
    breaker.on(BreakerEvent.RETRIED, at_s)
    breaker.on(BreakerEvent.PASSED, at_s)


@pytest.mark.parametrize("trouble", TROUBLE)
def test_any_trouble_opens_it_and_a_passed_probation_closes_it(trouble: BreakerEvent) -> None:
    breaker = Breaker()
    states = [breaker.state]
    for event in (trouble, BreakerEvent.RETRIED, trouble, BreakerEvent.RETRIED, BreakerEvent.PASSED):
        breaker.on(event, 1.0)
        states.append(breaker.state)
    half = BreakerState.HALF_OPEN
    assert states == [BreakerState.CLOSED, BreakerState.OPEN, half, BreakerState.OPEN, half, BreakerState.CLOSED]
    assert breaker.is_closed


def test_moves_that_are_not_in_the_table_are_bugs() -> None:
    missing = [(state, event) for state in BreakerState for event in BreakerEvent if event not in TRANSITIONS[state]]
    assert (BreakerState.CLOSED, BreakerEvent.PASSED) in missing
    assert (BreakerState.OPEN, BreakerEvent.PASSED) in missing
    for state, event in missing:
        breaker = Breaker()
        breaker.state = state
        with pytest.raises(KeyError):
            breaker.on(event, 1.0)
        assert breaker.state is state


def test_it_knows_why_it_is_open_and_forgets_it_once_closed() -> None:
    breaker = Breaker()
    breaker.on(BreakerEvent.HUNG, 3.0, "no batch ended")
    assert (breaker.reason, breaker.since_s, breaker.opened) == ("no batch ended", 3.0, 1)
    mend(breaker, 4.0)
    assert (breaker.reason, breaker.since_s, breaker.opened) == (None, 4.0, 1)


def test_what_became_of_its_probation_does_not_hide_why_it_was_lost() -> None:
    breaker = Breaker()
    breaker.on(BreakerEvent.DIED, 1.0, "killed")
    breaker.on(BreakerEvent.RETRIED, 2.0)
    breaker.on(BreakerEvent.BROKE, 2.0, "nothing loads")
    assert breaker.reason == "killed; then: nothing loads"
    breaker.on(BreakerEvent.RETRIED, 3.0)
    breaker.on(BreakerEvent.HUNG, 3.0, "no batch ended")
    assert breaker.reason == "killed; then: no batch ended"


def test_each_failure_in_a_row_doubles_the_wait_up_to_a_bound() -> None:
    breaker = Breaker()
    waits_s = [fail(breaker, 10.0 * n) for n in range(12)]
    assert waits_s[:3] == [FIRST_RETRY_S, 2 * FIRST_RETRY_S, 4 * FIRST_RETRY_S]
    assert waits_s[-1] == LONGEST_RETRY_S
    assert waits_s == sorted(waits_s)
    assert breaker.opened == 1


def test_what_works_only_for_a_short_time_is_tried_ever_more_seldom_too() -> None:
    breaker = Breaker()
    assert fail(breaker, 1.0) == FIRST_RETRY_S
    mend(breaker, 2.0)
    assert fail(breaker, 2.0 + STABLE_S / 2) == 2 * FIRST_RETRY_S
    mend(breaker, 100.0)
    assert fail(breaker, 100.0 + STABLE_S) == FIRST_RETRY_S
    assert breaker.opened == 3


def test_what_is_needed_and_works_each_time_is_never_long_away() -> None:
    breaker, waits_s = Breaker(), []
    for n in range(12):
        waits_s.append(fail(breaker, 20.0 * n, is_needed=True))
        mend(breaker, 20.0 * n + 10.0)
    assert waits_s == [FIRST_RETRY_S, 2 * FIRST_RETRY_S] + [NEEDED_RETRY_S] * 10


def test_what_is_needed_and_fails_each_probation_is_tried_ever_more_seldom_up_to_the_same_bound() -> None:
    breaker = Breaker()
    for n in range(12):
        fail(breaker, 20.0 * n)
        mend(breaker, 20.0 * n + 10.0)
    waits_s = [fail(breaker, 240.0 + n, is_needed=True) for n in range(12)]
    assert waits_s[:3] == [NEEDED_RETRY_S, 2 * NEEDED_RETRY_S, 4 * NEEDED_RETRY_S]
    assert waits_s[-1] == LONGEST_RETRY_S


def test_short_batches_are_given_as_long_as_a_pause_of_the_machine_may_take() -> None:
    assert hang_timeout_s(0.001) == MIN_HANG_TIMEOUT_S
    assert hang_timeout_s(1.0) == 10.0


HOST = hosted(latency_s={1: 1.0})
FIRST, SECOND = (Launch(HOST, (make_request(number),), 1, 0.0) for number in range(2))


def test_only_the_oldest_batch_counts_from_its_start_or_the_end_of_the_one_before() -> None:
    running, limit_s = {1: (FIRST, 2.0), 2: (SECOND, 0.0)}, hang_timeout_s(1.0)
    assert overdue({}, 0.0, 1e9, 1.0) is None
    assert overdue(running, 0.0, 2.0 + limit_s, 1.0) is None
    assert overdue(running, 0.0, 2.1 + limit_s, 1.0) is FIRST
    assert overdue(running, 3.0, 2.1 + limit_s, 1.0) is None
    assert overdue(running, 3.0, 3.1 + limit_s, 1.0) is FIRST


def test_a_slow_device_and_one_that_servers_share_have_more_time() -> None:
    running = {1: (FIRST, 0.0)}
    assert overdue(running, 0.0, hang_timeout_s(1.0) + 0.1, 2.0) is None
    assert overdue(running, 0.0, hang_timeout_s(2.0) + 0.1, 2.0) is FIRST
    assert overdue(running, 0.0, hang_timeout_s(1.0) + 0.1, 1.0, servers=2) is None


def test_the_same_batch_must_be_overdue_twice_in_a_row() -> None:
    watch, step_s = HangWatch(), CHECK_EVERY_S
    assert watch.look({"cpu0": FIRST}, step_s) == []
    assert watch.look({"cpu0": SECOND, "cpu1": FIRST}, 2 * step_s) == []
    assert watch.look({"cpu1": FIRST}, 3 * step_s) == ["cpu1"]
    assert watch.look({}, 4 * step_s) == []
    assert watch.look({"cpu1": FIRST}, 5 * step_s) == []


def test_a_look_that_comes_late_says_nothing_nor_does_the_one_before() -> None:
    watch = HangWatch()
    watch.look({"cpu0": FIRST}, CHECK_EVERY_S)
    late_s = CHECK_EVERY_S + MIN_HANG_TIMEOUT_S
    assert watch.look({"cpu0": FIRST}, late_s) == []
    assert watch.look({"cpu0": FIRST}, late_s + CHECK_EVERY_S) == []
    assert watch.look({"cpu0": FIRST}, late_s + 2 * CHECK_EVERY_S) == ["cpu0"]
