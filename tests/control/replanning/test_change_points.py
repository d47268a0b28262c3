"""The present rate: what has changed, since when, and what is chance."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from builders import near
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.control.replanning.change_points import (
    CHANGE_SIGMAS,
    LEAST_BUCKETS,
    Rate,
    dispersion,
    present_rates,
)
from proteus_cli.domain.arrays import Ints

BUCKET_S = 0.1
COUNTS = st.lists(st.integers(0, 1000), min_size=LEAST_BUCKETS, max_size=200)


def rows(*parts: Sequence[int]) -> Ints:
    """One family."""
    return np.array([[count for part in parts for count in part]])


def rate_of(*parts: Sequence[int]) -> Rate:
    [rate] = present_rates(rows(*parts), BUCKET_S)
    return rate


def poisson(qps: float, seconds: float, seed: int) -> list[int]:
    counts: list[int] = np.random.default_rng(seed).poisson(qps * BUCKET_S, round(seconds / BUCKET_S)).tolist()
    return counts


def test_a_steady_rate_is_the_mean_of_all() -> None:
    """10 qps for 20 s: the deviation is √(10/20)."""
    assert rate_of([1] * 200) == Rate(near(10.0), near(math.sqrt(0.5)))


def test_after_a_step_the_rate_is_that_since_it() -> None:
    """100 qps, then 200 for half a second: nothing of the time before is left in the rate."""
    assert rate_of([10] * 195, [20] * 5) == Rate(near(200.0), near(math.sqrt(200 / 0.5)))


def test_of_several_steps_only_the_last_counts() -> None:
    assert rate_of([10] * 70, [40] * 80, [20] * 50).qps == pytest.approx(200.0)


def test_one_bucket_alone_has_no_rate() -> None:
    """A clump of 30 in the last 100 ms is of the last 200 ms."""
    assert rate_of([1] * 199, [30]).qps == pytest.approx((30 + 1) / 0.2)


def test_a_family_that_falls_silent_has_no_rate_soon() -> None:
    assert rate_of([10] * 195, [0] * 5) == Rate(0.0, 0.0)
    assert rate_of([0] * 200) == Rate(0.0, 0.0)


def test_what_scatters_more_must_change_more() -> None:
    """Clumps of 100 each second: the last of them is no step."""
    clump = [100, *[0] * 9]
    assert rate_of(clump * 19, [*[0] * 9, 100]).qps == pytest.approx(100.0)


@pytest.mark.parametrize(("before_qps", "qps", "within_s"), [(100, 200, 0.5), (1900, 2300, 0.5), (3100, 3500, 1.0)])
def test_a_step_of_poisson_arrivals_is_seen(before_qps: float, qps: float, within_s: float) -> None:
    """On 50 traces."""
    rates = [rate_of(poisson(before_qps, 18.0, seed), poisson(qps, within_s, 100 + seed)) for seed in range(50)]
    assert all(rate.qps > (before_qps + qps) / 2 for rate in rates)


def test_steady_poisson_arrivals_seldom_seem_to_change() -> None:
    """300 traces of 20 s. With 4 deviations for each of 200 places, chance shows a step in few of them."""
    rates = [rate_of(poisson(300, 20.0, seed)) for seed in range(300)]
    steady = math.sqrt(300 / 20)
    assert sum(rate.deviation_qps > 1.5 * steady for rate in rates) <= 6
    assert np.mean([rate.qps for rate in rates]) == pytest.approx(300, rel=0.01)


@given(st.lists(COUNTS, min_size=1, max_size=4))
def test_families_are_estimated_each_by_itself(counts: list[list[int]]) -> None:
    size = min(map(len, counts))
    families = [each[:size] for each in counts]
    assert present_rates(np.array(families), BUCKET_S) == [rate_of(each) for each in families]


@given(COUNTS)
def test_the_rate_is_the_mean_of_a_last_part_that_has_no_change(counts: list[int]) -> None:
    rate = rate_of(counts)
    lengths = [n for n in range(1, len(counts) + 1) if math.isclose(sum(counts[-n:]) / (n * BUCKET_S), rate.qps)]
    assert any(not _has_change(counts[-n:]) for n in lengths if n >= LEAST_BUCKETS)


def _has_change(counts: Sequence[int]) -> bool:
    """Two Poisson rates are likelier than one by more than the bound, at some place, whatever the dispersion."""
    total, size = sum(counts), len(counts)

    def excess(part: int, length: int) -> float:
        return part * math.log(part * size / (total * length)) if part else 0.0

    worst = max(dispersion(np.array([counts]), 1)[0], 1.0) * 1e6
    return total > 0 and any(
        2 * (excess(sum(counts[-n:]), n) + excess(total - sum(counts[-n:]), size - n)) > CHANGE_SIGMAS**2 * worst
        for n in range(LEAST_BUCKETS, size)
    )


@given(COUNTS, st.integers(1, 20))
def test_dispersion_is_that_of_poisson_arrivals_or_more(counts: list[int], width: int) -> None:
    [found] = dispersion(rows(counts), width)
    assert 1.0 <= found < float("inf")


def test_one_step_is_no_dispersion_and_clumps_are() -> None:
    assert dispersion(rows([1] * 50, [10] * 50), 1) == 1.0
    assert dispersion(rows([100, *[0] * 9] * 10), 1) > 50
    assert dispersion(rows([100, *[0] * 9] * 10), 10) == 1.0
