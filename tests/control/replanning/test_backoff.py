"""After a failure nobody hammers, and yet a new burst is answered."""

import pytest

from proteus_cli.control.replanning.replan_rules import ReplanRequest
from proteus_cli.control.replanning.replanning import FIRST_PAUSE_S, LONGEST_PAUSE_S, Backoff
from proteus_cli.domain.device import Outages

CALM, BURST = ReplanRequest({"a": 100.0}, "calm"), ReplanRequest({"a": 300.0}, "a burst")


def test_each_failure_doubles_the_pause_up_to_the_longest() -> None:
    backoff, pauses_s, now_s = Backoff(), [], 0.0
    for _ in range(8):
        assert backoff.allows(CALM, now_s)
        backoff.failed(CALM, now_s)
        pauses_s.append(backoff.until_s - now_s)
        assert not backoff.allows(CALM, backoff.until_s - 0.01)
        now_s = backoff.until_s
    assert pauses_s == pytest.approx(
        [FIRST_PAUSE_S, 2.0, 4.0, 8.0, 16.0, LONGEST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    )


def test_a_new_burst_does_not_wait_but_once_tried_it_does() -> None:
    backoff = Backoff()
    backoff.failed(CALM, 0.0)
    assert not backoff.allows(ReplanRequest({"a": 120.0}, "noise"), 0.1)
    assert backoff.allows(BURST, 0.1)
    backoff.failed(BURST, 0.1)
    assert not backoff.allows(BURST, 0.2)
    assert not backoff.allows(CALM, 0.2)


def test_a_demand_that_climbs_is_tried_a_few_times_only() -> None:
    """From 100 to 1000 qps in steps of a percent: a try each 25 % are eleven at most."""
    backoff, tries, qps = Backoff(), 0, 100.0
    while qps < 1000.0:
        wanted = ReplanRequest({"a": qps}, "more")
        if backoff.allows(wanted, 0.0):
            tries += 1
            backoff.failed(wanted, 0.0)
        qps *= 1.01
    assert 2 < tries <= 11


def test_other_devices_are_another_question() -> None:
    backoff = Backoff()
    backoff.failed(CALM, 0.0)
    assert backoff.allows(ReplanRequest({"a": 100.0}, "lost", Outages(devices=frozenset({"cpu1"}))), 0.1)


def test_success_forgets_the_failures() -> None:
    backoff = Backoff()
    backoff.failed(CALM, 0.0)
    backoff.failed(CALM, 1.0)
    backoff.succeeded()
    assert backoff.allows(CALM, 1.0)
    backoff.failed(CALM, 1.0)
    assert backoff.until_s == pytest.approx(1.0 + FIRST_PAUSE_S)


def test_thousands_of_failures_in_a_row_are_as_good_as_a_few() -> None:
    """A floating-point power of two of the failures would be infinite after 1,024: a day of failures."""
    backoff, now_s = Backoff(), 0.0
    for _ in range(3000):
        backoff.failed(CALM, now_s)
        assert now_s < backoff.until_s <= now_s + LONGEST_PAUSE_S
        now_s = backoff.until_s
    assert not backoff.allows(CALM, now_s - 0.01)
    assert backoff.allows(CALM, now_s)
