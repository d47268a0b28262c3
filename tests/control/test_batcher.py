import pytest
from builders import hosted, make_request, near
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.control.batching import (
    CANNOT_MEET_DEADLINE,
    Batcher,
    Batching,
    Delay,
    GreedyBatcher,
    ProactiveBatcher,
    Start,
    StaticBatcher,
)
from proteus_cli.control.decision import HostedVariant, Launch
from proteus_cli.control.dispatch.deadline_queue import DeadlineQueue
from proteus_cli.domain.request import Request

LATENCY_S = {1: 0.010, 2: 0.020, 4: 0.040}  # 10 ms a row
HOST = hosted(latency_s=LATENCY_S, max_batch=4)
EXACT = ProactiveBatcher(answer_frac=0.0, margin_frac=0.0)


def queue_of(*requests: Request) -> DeadlineQueue:
    queue = DeadlineQueue()
    for request in requests:
        queue.push(request)
    return queue


def singles(number: int) -> DeadlineQueue:
    """All arrived at 0 and due at 100 ms."""
    return queue_of(*(make_request(i) for i in range(number)))


def asked(
    batcher: Batcher, queue: DeadlineQueue, host: HostedVariant, quota: int, now_s: float, slowdown: float = 1.0
) -> Batching:
    """As a worker asks that has so much quota."""
    return batcher.decide(queue.head(), min(queue.rows, quota), host, now_s, slowdown)


def decide(queue: DeadlineQueue, now_s: float, *, quota: int = 99, host: HostedVariant = HOST) -> Batching:
    return asked(EXACT, queue, host, quota, now_s)


def test_a_full_batch_starts_at_once() -> None:
    assert decide(singles(4), 0.0) == Start(4)
    assert decide(singles(9), 0.0) == Start(4)


def test_a_lone_request_waits_until_the_last_moment_a_batch_of_two_fits() -> None:
    """Due at 100 ms, two rows take 20 ms: until 80 ms."""
    assert decide(singles(1), 0.0) == Delay(until_s=near(0.080))
    assert decide(singles(1), 0.079) == Delay(until_s=near(0.080))


def test_three_wait_until_the_last_moment_a_batch_of_four_fits() -> None:
    """Four rows take 40 ms: until 60 ms."""
    assert decide(singles(3), 0.0) == Delay(until_s=near(0.060))


def test_the_margin_is_a_part_of_the_time_that_the_request_was_given() -> None:
    """100 ms, a tenth kept back from waiting: a lone request waits until 70 ms, as two rows take 20. Given 200 ms:
    until 160 ms.
    """
    batcher = ProactiveBatcher(answer_frac=0.0, margin_frac=0.1)
    assert asked(batcher, singles(1), HOST, 1, 0.0) == Delay(until_s=near(0.070))
    assert asked(batcher, queue_of(make_request(slo_s=0.2)), HOST, 1, 0.0) == Delay(until_s=near(0.160))
    assert asked(batcher, singles(1), HOST, 1, 0.089) == Start(1)


def test_the_way_home_is_a_part_of_the_time_that_the_request_was_given() -> None:
    """100 ms, a fiftieth kept back: due at 98 ms, so one that takes 10 ms must start by 88 ms. Given 200 ms: 196 ms."""
    batcher = ProactiveBatcher(answer_frac=0.02, margin_frac=0.1)
    assert batcher.due_s(make_request()) == pytest.approx(0.098)
    assert batcher.due_s(make_request(at_s=1.0, slo_s=0.2)) == pytest.approx(1.196)
    assert asked(batcher, singles(1), HOST, 1, 0.0879) == Start(1)
    assert asked(batcher, singles(1), HOST, 1, 0.0881) is CANNOT_MEET_DEADLINE


def test_once_that_moment_has_passed_it_starts_as_it_is() -> None:
    assert decide(singles(1), 0.0801) == Start(1)
    assert decide(singles(3), 0.0601) == Start(3)


def test_the_wake_up_that_it_asked_for_starts_it() -> None:
    """Asked again at exactly the moment that it named, it doesn't wait for ever smaller times."""
    waiting = decide(singles(1), 0.0)
    assert isinstance(waiting, Delay)
    assert decide(singles(1), waiting.until_s) == Start(1)


def test_a_batch_that_would_be_late_shrinks_to_what_is_in_time() -> None:
    """With 25 ms left only 2 rows fit, with 35 ms 3, though 4 wait."""
    assert decide(singles(4), 0.075) == Start(2)
    assert decide(singles(4), 0.065) == Start(3)
    assert decide(singles(4), 0.059) == Start(4)


def test_a_request_that_would_be_late_even_alone_is_hopeless() -> None:
    """One row takes 10 ms: at 89 ms it still fits, at 91 ms not."""
    assert decide(singles(1), 0.089) == Start(1)
    assert decide(singles(1), 0.091) is CANNOT_MEET_DEADLINE
    assert decide(singles(4), 0.091) is CANNOT_MEET_DEADLINE
    assert decide(singles(1), 5.0) is CANNOT_MEET_DEADLINE


def test_the_most_urgent_request_sets_the_time() -> None:
    """Due at 100 and 50 ms: the pair waits for a third until 50 − 30 = 20 ms."""
    queue = queue_of(make_request(0), make_request(1, slo_s=0.050))
    assert decide(queue, 0.0) == Delay(until_s=near(0.020))


def test_a_host_takes_no_more_than_its_quota() -> None:
    """Four wait, a quota of two: it waits as if there were two, until 100 − 30 ms, and then starts two."""
    assert decide(singles(4), 0.0, quota=2) == Delay(until_s=near(0.070))
    assert decide(singles(4), 0.0701, quota=2) == Start(2)
    assert decide(singles(9), 0.0, quota=4) == Start(4)


def test_rows_count_not_requests() -> None:
    """A request of 3 rows waits until 100 − 40 ms for one more; with another row the batch is full."""
    assert decide(queue_of(make_request(rows=3)), 0.0) == Delay(until_s=near(0.060))
    assert decide(queue_of(make_request(0, rows=3), make_request(1)), 0.0) == Start(4)


def test_a_request_larger_than_a_batch_runs_alone() -> None:
    """6 rows at 10 ms each: fits until 40 ms; then it cannot be in time, as it can't be cut."""
    queue = queue_of(make_request(rows=6))
    assert decide(queue, 0.0) == Start(6)
    assert decide(queue, 0.039) == Start(6)
    assert decide(queue, 0.041) is CANNOT_MEET_DEADLINE


def test_a_request_of_more_rows_than_the_quota_is_not_cut() -> None:
    assert decide(queue_of(make_request(rows=3)), 0.065, quota=1) == Start(3)


def test_a_batch_that_must_shrink_keeps_all_rows_of_the_most_urgent() -> None:
    """35 ms left: the 3 rows of the first fit, the fourth doesn't."""
    queue = queue_of(make_request(0, rows=3), make_request(1))
    assert decide(queue, 0.065) == Start(3)


def test_a_variant_that_runs_one_at_a_time_never_waits() -> None:
    assert decide(singles(1), 0.0, host=hosted(latency_s={1: 0.01}, max_batch=1)) == Start(1)


@given(
    waiting=st.integers(1, 12),
    quota=st.integers(1, 12),
    now_s=st.floats(0, 0.12),
    row_s=st.floats(0.0001, 0.03),
    max_batch=st.integers(1, 8),
    margin_frac=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_what_starts_is_in_time_and_what_waits_can_still_start(
    waiting: int, quota: int, now_s: float, row_s: float, max_batch: int, margin_frac: float
) -> None:
    host = hosted(latency_s={1: row_s, 8: 8 * row_s}, max_batch=max_batch)
    batcher, queue = ProactiveBatcher(answer_frac=margin_frac / 2, margin_frac=margin_frac), singles(waiting)
    due_s, wanted_s = batcher.due_s(make_request()), batcher.wanted_s(make_request())
    match asked(batcher, queue, host, quota, now_s):
        case Start(rows=rows):
            assert 1 <= rows <= min(waiting, quota, max_batch)
            assert now_s + host.latency(rows) <= due_s + 1e-12
        case Delay(until_s=until_s):
            assert min(waiting, quota) < max_batch
            assert until_s > now_s
            assert until_s + host.latency(min(waiting, quota) + 1) == pytest.approx(wanted_s)
            assert asked(batcher, queue, host, quota, until_s) == Start(min(waiting, quota))
        case verdict:
            assert verdict is CANNOT_MEET_DEADLINE
            assert now_s + host.latency(1) > due_s - 1e-12


def test_no_request_waits_for_company_past_the_slo_however_late_its_deadline() -> None:
    """A timeout of 10 s with an SLO of 100 ms, two rows take 12 ms: it waits until 88 ms, not until 9.988 s.

    Past that moment, behind a busy worker, it still starts: its own deadline decides whether it can be in time.
    """
    host = hosted(latency_s={1: 0.010, 4: 0.016}, max_batch=4)
    batcher, queue = ProactiveBatcher(answer_frac=0.0, margin_frac=0.0), DeadlineQueue()
    queue.push(Request(0, "a", 0.0, 10.0, slo_s=0.1))
    assert asked(batcher, queue, host, 1, 0.0) == Delay(until_s=near(0.088))
    assert asked(batcher, queue, host, 1, 0.5) == Start(rows=1)
    assert asked(batcher, queue, host, 1, 9.995) == CANNOT_MEET_DEADLINE


# --- greedy and static


def greedy(queue: DeadlineQueue, now_s: float, *, quota: int = 99, slowdown: float = 1.0) -> Batching:
    return asked(GreedyBatcher(answer_frac=0.0), queue, HOST, quota, now_s, slowdown)


def test_greedy_takes_at_once_what_waits() -> None:
    assert [greedy(singles(n), 0.0) for n in (1, 3, 4, 9)] == [Start(1), Start(3), Start(4), Start(4)]
    assert greedy(singles(9), 0.0, quota=2) == Start(2)


def test_greedy_takes_no_more_than_the_most_urgent_has_time_for() -> None:
    """With 35 ms left 3 rows of 10 ms fit, with 9 ms none. At twice the profiled times 35 ms are enough for one."""
    assert greedy(singles(4), 0.065) == Start(3)
    assert greedy(singles(4), 0.091) is CANNOT_MEET_DEADLINE
    assert greedy(singles(4), 0.065, slowdown=2.0) == Start(1)
    assert greedy(singles(4), 0.081, slowdown=2.0) is CANNOT_MEET_DEADLINE


def test_greedy_cuts_no_request() -> None:
    """6 rows take 60 ms; behind 3 rows of which the time is enough for 3, nothing is added."""
    assert greedy(queue_of(make_request(rows=6)), 0.039) == Start(6)
    assert greedy(queue_of(make_request(rows=6)), 0.041) is CANNOT_MEET_DEADLINE
    assert greedy(queue_of(make_request(0, rows=3), make_request(1)), 0.065) == Start(3)


def test_greedy_keeps_a_fiftieth_for_the_way_home() -> None:
    """Due at 98 of 100 ms: one row must start by 88."""
    batcher = GreedyBatcher()
    assert asked(batcher, singles(1), HOST, 1, 0.0879) == Start(1)
    assert asked(batcher, singles(1), HOST, 1, 0.0881) is CANNOT_MEET_DEADLINE


def static(
    rows: int, queue: DeadlineQueue, now_s: float, *, quota: int = 99, slowdown: float = 1.0, host: HostedVariant = HOST
) -> Batching:
    return asked(StaticBatcher(answer_frac=0.0, rows=rows), queue, host, quota, now_s, slowdown)


def test_static_starts_just_so_many_once_they_wait() -> None:
    assert static(3, singles(3), 0.0) == Start(3)
    assert static(3, singles(9), 0.0) == Start(3)
    assert static(1, singles(9), 0.0) == Start(1)


def test_static_waits_until_the_most_urgent_must_start_with_a_full_batch() -> None:
    """Three rows take 30 ms: two wait until 70 ms and then start as they are. At twice the times until 40 ms."""
    assert static(3, singles(2), 0.0) == Delay(until_s=near(0.070))
    assert static(3, singles(2), 0.0701) == Start(2)
    assert static(3, singles(2), 0.0, slowdown=2.0) == Delay(until_s=near(0.040))


def test_static_asks_for_no_more_than_the_variant_takes() -> None:
    """Batches of 8 of a variant that takes 4."""
    assert static(8, singles(3), 0.0) == Delay(until_s=near(0.060))
    assert static(8, singles(9), 0.0) == Start(4)


def test_static_shrinks_and_gives_up_like_the_others() -> None:
    """25 ms left: two of three rows; 9 ms: none."""
    assert static(3, singles(3), 0.075) == Start(2)
    assert static(3, singles(3), 0.091) is CANNOT_MEET_DEADLINE
    assert static(3, singles(9), 0.0, quota=2) == Delay(until_s=near(0.070))
    assert static(1, queue_of(make_request(rows=3)), 0.0) == Start(3)


def test_these_rules_learn_nothing() -> None:
    for batcher in (GreedyBatcher(), StaticBatcher(rows=3), ProactiveBatcher()):
        before = asked(batcher, singles(2), HOST, 2, 0.0)
        batcher.record_run(Launch(HOST, (make_request(),), 1, 0.0), 9.0)
        assert asked(batcher.fresh(), singles(2), HOST, 2, 0.0) == before
