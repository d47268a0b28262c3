"""A device hangs where its oldest batch is overdue at two looks in a row."""

from builders import hosted, make_request

from proteus_cli.control.decision import Launch
from proteus_cli.control.devices.breaker import CHECK_EVERY_S, MIN_HANG_TIMEOUT_S, hang_timeout_s
from proteus_cli.control.devices.hangs import HangWatch, overdue

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
