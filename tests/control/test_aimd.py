"""Batch sizes that are found by trying: one row more after a full batch in time, a tenth less after a late one."""

from builders import hosted, make_request, near

from proteus_cli.control.batching import CANNOT_MEET_DEADLINE, AimdBatcher, Batching, Delay, Start
from proteus_cli.control.decision import HostedVariant, Launch

HOST = hosted(latency_s={1: 0.010, 8: 0.080}, max_batch=8)


def decide(batcher: AimdBatcher, waiting: int, now_s: float = 0.0, *, host: HostedVariant = HOST) -> Batching:
    """So many wait, all arrived at 0 and due at 100 ms."""
    return batcher.decide(make_request(), waiting, host, now_s)


def ran(batcher: AimdBatcher, rows: int, *, is_late: bool = False) -> None:
    """A batch of so many rows started at 0; its last request is due at 100 ms."""
    requests = (make_request(0, slo_s=0.3), make_request(1, rows=rows - 1)) if rows > 1 else (make_request(),)
    batcher.record_run(Launch(HOST, requests, rows, 0.0), 0.101 if is_late else 0.1)


def grown(rows: int) -> AimdBatcher:
    """One whose batches have grown to so many rows."""
    batcher = AimdBatcher()
    for each in range(1, rows):
        ran(batcher, each)
    return batcher


def test_it_starts_with_single_rows() -> None:
    assert decide(AimdBatcher(), 5) == Start(1)


def test_each_full_batch_in_time_adds_a_row() -> None:
    """1, 2, 3 and so on, up to the eight that the variant takes."""
    batcher, sizes = AimdBatcher(), []
    for _ in range(10):
        start = decide(batcher, 20)
        assert isinstance(start, Start)
        sizes.append(start.rows)
        ran(batcher, start.rows)
    assert sizes == [1, 2, 3, 4, 5, 6, 7, 8, 8, 8]


def test_a_batch_that_was_not_full_teaches_nothing() -> None:
    """Three of four rows were in time: that says nothing of four."""
    batcher = grown(4)
    ran(batcher, 3)
    assert decide(batcher, 20) == Start(4)
    ran(batcher, 4)
    assert decide(batcher, 20) == Start(5)


def test_each_late_batch_takes_a_tenth_off() -> None:
    """8 → 7.2 → 6.48 → 5.832; whole rows of that are 7, 6, 5. Then a full batch of 5 makes 6.832, so 6."""
    batcher, sizes = grown(8), []
    for _ in range(3):
        ran(batcher, 8, is_late=True)
        sizes.append(decide(batcher, 20))
    assert sizes == [Start(7), Start(6), Start(5)]
    ran(batcher, 5)
    assert decide(batcher, 20) == Start(6)


def test_a_late_batch_counts_whether_it_was_full_or_not() -> None:
    """4 → 3.6."""
    batcher = grown(4)
    ran(batcher, 1, is_late=True)
    assert decide(batcher, 20) == Start(3)


def test_batches_never_fall_below_a_row() -> None:
    batcher = AimdBatcher()
    for _ in range(5):
        ran(batcher, 1, is_late=True)
    assert decide(batcher, 20) == Start(1)


def test_without_a_timeout_what_waits_starts_at_once() -> None:
    assert decide(grown(4), 3) == Start(3)


def test_with_a_timeout_it_waits_so_long_for_company_after_the_arrival() -> None:
    """Four would fit, three wait: until 20 ms after their arrival."""
    batcher = AimdBatcher(timeout_s=0.020)
    for rows in (1, 2, 3):
        ran(batcher, rows)
    assert decide(batcher, 3, 0.015) == Delay(until_s=near(0.020))
    assert decide(batcher, 3, 0.020) == Start(3)
    assert decide(batcher, 4, 0.015) == Start(4)


def test_only_what_is_late_already_is_given_up() -> None:
    """At 99 ms a row of 10 ms will be late, which it doesn't know; at 101 it is."""
    assert AimdBatcher().due_s(make_request()) == 0.1
    assert decide(AimdBatcher(), 1, 0.099) == Start(1)
    assert decide(AimdBatcher(), 1, 0.101) is CANNOT_MEET_DEADLINE


def test_a_batch_takes_no_more_than_the_quota_and_cuts_no_request() -> None:
    assert decide(grown(4), 2) == Start(2)
    assert AimdBatcher().decide(make_request(rows=3), 1, HOST, 0.0) == Start(3)


def test_each_variant_on_each_device_learns_for_itself() -> None:
    batcher = grown(4)
    elsewhere = hosted("cpu1", latency_s={1: 0.010, 8: 0.080}, max_batch=8)
    another = hosted(variant="a-l", latency_s={1: 0.010, 8: 0.080}, max_batch=8)
    assert [decide(batcher, 20, host=host) for host in (HOST, elsewhere, another)] == [Start(4), Start(1), Start(1)]


def test_a_fresh_one_has_learned_nothing_and_waits_as_long() -> None:
    batcher = AimdBatcher(timeout_s=0.020)
    ran(batcher, 1)
    assert decide(batcher, 20) == Start(2)
    fresh = batcher.fresh()
    assert decide(fresh, 20) == Start(1)
    assert fresh.timeout_s == 0.020


def test_a_smaller_batch_of_the_next_plan_holds_at_once() -> None:
    """It had grown to 8; the plan now wants 2 at most."""
    assert decide(grown(8), 20, host=hosted(latency_s={1: 0.010}, max_batch=2)) == Start(2)
