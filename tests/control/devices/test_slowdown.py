import pytest
from builders import hosted, make_request, near

from proteus_cli.control.batching import Delay, ProactiveBatcher, Start
from proteus_cli.control.devices.slowdown import (
    LEARNED_S,
    MAX_WEIGHT,
    MEANINGFUL_S,
    MIN_WEIGHT,
    SLOW_S,
    SlidingMaximum,
    SlowdownEstimator,
)

WEIGHT = 0.010 / LEARNED_S  # of a batch of 10 ms


def paced(ratio: float, batches: int) -> float:
    return paced_by([ratio] * batches).factor


def paced_by(ratios: list[float], p95_ratio: float = 1.0) -> SlowdownEstimator:
    """After batches of 10 ms in the mean, each of which took so many times as long."""
    slowdown = SlowdownEstimator()
    for ratio in ratios:
        slowdown.ran(took_s=0.010 * ratio, mean_s=0.010, p95_s=0.010 * p95_ratio)
    return slowdown


def test_a_device_as_fast_as_profiled_or_faster_has_a_slowdown_of_one() -> None:
    assert paced(1.0, 100) == pytest.approx(1.0)
    assert paced(0.5, 100) == 1.0


def test_the_slowdown_approaches_what_batches_take() -> None:
    """After n batches at twice the profile it is 2 − (1 − f)ⁿ."""
    assert paced(2.0, 1) == pytest.approx(1 + WEIGHT)
    assert paced(2.0, 50) == pytest.approx(2 - (1 - WEIGHT) ** 50)
    assert paced(2.0, 500) == pytest.approx(2.0, abs=0.001)


@pytest.mark.parametrize(
    ("profiled_s", "weight"), [(0.0001, MIN_WEIGHT), (0.003, 0.01), (0.030, MAX_WEIGHT), (1.0, MAX_WEIGHT)]
)
def test_batches_count_by_the_time_that_they_should_take_within_bounds(profiled_s: float, weight: float) -> None:
    slowdown = SlowdownEstimator()
    slowdown.ran(took_s=2 * profiled_s, mean_s=profiled_s, p95_s=profiled_s, is_busy=True)
    assert slowdown.factor == pytest.approx(1 + weight)


def test_it_is_the_time_of_all_batches_over_what_they_should_have_taken() -> None:
    """As many of 2 ms that take twice as long as of 20 ms that don't: 24 ms for 22, and not 1.5 times."""
    slowdown = SlowdownEstimator()
    for _ in range(500):
        slowdown.ran(took_s=0.004, mean_s=0.002, p95_s=0.002)
        slowdown.ran(took_s=0.020, mean_s=0.020, p95_s=0.020)
    assert slowdown.factor == pytest.approx(24 / 22, rel=0.05)


def test_one_hiccup_hardly_moves_it() -> None:
    slowdown = SlowdownEstimator()
    slowdown.ran(took_s=0.050, mean_s=0.010, p95_s=0.010)
    assert slowdown.factor == pytest.approx(1 + 4 * WEIGHT)


def test_batches_too_short_to_tell_are_not_learned_from() -> None:
    slowdown = SlowdownEstimator()
    slowdown.ran(took_s=1.0, mean_s=MEANINGFUL_S / 2, p95_s=MEANINGFUL_S / 2)
    assert slowdown.factor == 1.0


def test_a_slowdown_starts_batches_earlier_and_smaller() -> None:
    """Two rows take 20 ms, at a slowdown of 2 40 ms: the lone request waits until 60 ms instead of 80 ms.

    At 30 ms before its end a batch of two (40 ms) is too long, one row (20 ms) fits.
    """
    batcher, head = ProactiveBatcher(margin_frac=0.0), make_request()
    host = hosted(latency_s={1: 0.010, 2: 0.020}, max_batch=2)
    assert batcher.decide(head, 1, host, 0.0) == Delay(until_s=near(0.080))
    assert batcher.decide(head, 1, host, 0.0, slowdown=2.0) == Delay(until_s=near(0.060))
    assert batcher.decide(head, 2, host, 0.070) == Start(rows=2)
    assert batcher.decide(head, 2, host, 0.070, slowdown=2.0) == Start(rows=1)


def test_short_batches_tell_when_a_device_is_fast_again() -> None:
    """After a slow neighbour has gone, a variant of short batches must not keep the slowdown that it left behind."""
    slowdown = SlowdownEstimator()
    for _ in range(200):
        slowdown.ran(took_s=0.030, mean_s=0.010, p95_s=0.010)
    assert slowdown.factor > 2.9
    for _ in range(2000):
        slowdown.ran(took_s=MEANINGFUL_S / 4, mean_s=MEANINGFUL_S / 4, p95_s=MEANINGFUL_S / 4)
    assert slowdown.factor == pytest.approx(1.0, abs=0.001)


def test_batches_that_follow_another_at_once_tell_however_short_they_are() -> None:
    slowdown = SlowdownEstimator()
    assert slowdown.ran(took_s=MEANINGFUL_S, mean_s=MEANINGFUL_S / 2, p95_s=MEANINGFUL_S / 2, is_busy=True)
    assert slowdown.factor == pytest.approx(1 + MIN_WEIGHT)


def test_caution_grows_with_how_unlike_batches_are() -> None:
    """Batches that take 1 and 3 times the profile in turn: twice on the average, and once more or less."""
    slowdown, steady = paced_by([1.0, 3.0] * 500), paced_by([2.0] * 1000)
    assert slowdown.factor == pytest.approx(2.0, abs=0.05)
    assert slowdown.upper == pytest.approx(3.0, abs=0.1)
    assert steady.upper == pytest.approx(steady.factor, abs=0.001)


def test_scatter_that_was_profiled_calls_for_no_caution() -> None:
    """Of batches between 0.9 and 1.1 times the mean, one in 20 is expected at 1.1 times; twice as slow, at 2.2."""
    usual, slow = paced_by([0.9, 1.1] * 500, p95_ratio=1.1), paced_by([1.8, 2.2] * 500, p95_ratio=1.1)
    assert [usual.factor, usual.upper] == pytest.approx([1.0, 1.0], abs=0.01)
    assert [slow.factor, slow.upper] == pytest.approx([2.0, 2.0], abs=0.02)


def test_scatter_beyond_what_was_profiled_calls_for_caution() -> None:
    wild = paced_by([0.5, 1.5] * 500, p95_ratio=1.2)
    assert wild.factor == pytest.approx(1.0, abs=0.02)
    assert wild.upper == pytest.approx(1.5 / 1.2, abs=0.02)


def test_what_batches_take_longer_beside_a_load_is_forgotten_as_it_ends() -> None:
    slowdown = paced_by([1.2, 1.1, 1.3] * 20)
    factor, upper = slowdown.factor, slowdown.upper
    slowdown.load_began()
    for _ in range(50):
        slowdown.ran(took_s=0.025, mean_s=0.010, p95_s=0.010)
    assert slowdown.factor > 2.0, "while it goes on, it counts"
    slowdown.load_began()  # another one, beside it
    slowdown.load_ended()
    assert (slowdown.factor, slowdown.upper) == (near(factor), near(upper))


def test_a_device_that_is_fast_again_by_the_end_of_a_load_stays_fast() -> None:
    slowdown = paced_by([2.0] * 200)
    slowdown.load_began()
    for _ in range(200):
        slowdown.ran(took_s=0.010, mean_s=0.010, p95_s=0.010)
    factor = slowdown.factor
    slowdown.load_ended()
    assert slowdown.factor == factor < 1.01


def test_a_profile_that_changes_during_a_load_counts_afterwards() -> None:
    slowdown = paced_by([2.0] * 500)
    slowdown.load_began()
    slowdown.rebase(2.0)
    slowdown.load_ended()
    assert slowdown.factor == near(1.0)


def test_a_sliding_maximum_forgets_a_value_after_a_while() -> None:
    recent = SlidingMaximum()
    values = [
        (0.0, 1.0),
        (1.0, 3.0),
        (2.0, 1.5),
        (3.0, 2.0),
        (1.0 + SLOW_S, 1.0),
        (1.5 + SLOW_S, 1.0),
        (4.0 + SLOW_S, 1.2),
    ]
    found = []
    for now_s, value in values:
        recent.add(value, now_s)
        found.append(recent.value(now_s))
    assert found == [1.0, 3.0, 3.0, 3.0, 3.0, 2.0, 1.2]


def test_reading_a_sliding_maximum_changes_nothing() -> None:
    recent = SlidingMaximum()
    recent.add(3.0, 0.0)
    recent.add(2.0, 1.0)
    assert [recent.value(now_s) for now_s in (0.5 + SLOW_S, 2.0 + SLOW_S, 1.0)] == [2.0, 0.0, 3.0]
