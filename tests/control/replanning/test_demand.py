from itertools import accumulate

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from proteus_cli.arrays import Ints
from proteus_cli.control.replanning.demand import Counts, DemandEstimator, dispersion


def seen(*seconds: float, rows: int = 1) -> DemandEstimator:
    demand = DemandEstimator({"a": 0.3, "b": 0.3})
    for at_s in seconds:
        demand.counts_of("a").arrived(rows, at_s)
    return demand


def test_the_rate_is_rows_over_the_window() -> None:
    """4 requests of 3 rows within 2 s: 6 qps; the other family has none."""
    demand = seen(0.05, 0.55, 1.05, 1.95, rows=3)
    assert demand.rate_qps("a", 2.0, now_s=2.05) == pytest.approx(6.0)
    assert demand.rate_qps("b", 2.0, now_s=2.05) == 0.0


def test_the_running_bucket_is_left_out() -> None:
    """Buckets of 0.1 s: at 1.05 the arrival at 1.01 is still in the running one, at 1.15 it counts."""
    demand = seen(1.01)
    assert demand.rate_qps("a", 0.5, now_s=1.05) == 0.0
    assert demand.rate_qps("a", 0.5, now_s=1.15) == pytest.approx(2.0)


def test_an_arrival_leaves_the_window_with_its_whole_bucket() -> None:
    """The bucket 1.0…1.1 is in windows of 0.5 s that end from 1.1 to 1.5."""
    demand = seen(1.01, 1.09)
    rates = [demand.rate_qps("a", 0.5, now_s) for now_s in (1.15, 1.35, 1.55, 1.65)]
    assert rates == pytest.approx([4.0, 4.0, 4.0, 0.0])


def test_the_whole_horizon_counts_while_the_next_bucket_fills() -> None:
    """100 arrivals 0.1 s apart are 10 qps over 10 s, also once one arrived in the running bucket."""
    demand = seen(*(0.05 + i / 10 for i in range(100)))
    assert demand.rate_qps("a", 10.0, now_s=10.04) == pytest.approx(10.0)
    demand.counts_of("a").arrived(1, 10.03)
    assert demand.rate_qps("a", 10.0, now_s=10.04) == pytest.approx(10.0)


def test_what_is_older_than_the_horizon_is_forgotten() -> None:
    """However much came before, memory stays the same, and only the last 20 s count: here one arrival in each."""
    demand = seen(*[0.05] * 500, *(0.05 + i for i in range(1, 100)))
    assert len(demand._counts["a"]._before) == 202
    assert demand.rate_qps("a", 10.0, now_s=100.0) == pytest.approx(1.0)


def test_the_estimate_of_a_steady_rate_is_the_mean_of_the_longest_window() -> None:
    """10 qps for 30 s: the deviation over 20 s is √(10/20)."""
    rate = seen(*(0.05 + i / 10 for i in range(300))).estimate("a", served_s=30.0, now_s=30.01)
    assert rate.qps == pytest.approx(10.0)
    assert rate.deviation_qps == pytest.approx(0.5**0.5)


def test_after_a_step_the_estimate_is_of_a_window_since_then() -> None:
    """10 qps, then 100 for 1 s: the mean of 2 s, 55, is far from both."""
    steps = [0.05 + i / 10 for i in range(200)] + [20.0 + (i + 0.5) / 100 for i in range(100)]
    rate = seen(*steps).estimate("a", served_s=21.0, now_s=21.01)
    assert rate.qps == pytest.approx(100.0)
    assert rate.deviation_qps >= 10.0


@pytest.mark.parametrize(("first_qps", "growth_qps"), [(400, 10), (600, -10)], ids=["rising", "falling"])
def test_a_window_with_a_trend_does_not_agree_with_itself(first_qps: int, growth_qps: int) -> None:
    """The mean of 10 s agrees with all shorter ones, and lags by 50 qps; of 5 s, the halves agree, too."""
    counts = [round(first_qps + growth_qps * (second + 0.5)) for second in range(20)]
    arrivals = [second + (i + 0.5) / count for second, count in enumerate(counts) for i in range(count)]
    rate = seen(*arrivals).estimate("a", served_s=20.0, now_s=20.01)
    assert rate.qps == pytest.approx(first_qps + growth_qps * 20, abs=30)


def test_of_a_steady_rate_that_scatters_the_estimate_has_no_bias() -> None:
    """100 qps, Poisson: short windows are taken by chance in few of 200 runs, and as often with more as with less."""
    rng = np.random.default_rng(0)
    rates = [
        seen(*np.sort(rng.uniform(0.0, 20.0, rng.poisson(2000)))).estimate("a", served_s=20.0, now_s=20.01)
        for _ in range(200)
    ]
    errors = np.array([rate.qps - 100.0 for rate in rates])
    assert abs(errors.mean()) < 3 * errors.std() / np.sqrt(len(errors))
    assert np.mean(np.abs(errors) < 3 * np.array([rate.deviation_qps for rate in rates])) > 0.97


def test_windows_that_began_before_the_server_are_left_out() -> None:
    assert seen(*(0.05 + i / 10 for i in range(30))).estimate("a", served_s=3.0, now_s=3.01).qps == pytest.approx(10.0)


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(1, 5)), max_size=40), st.integers(0, 30), st.integers(0, 30))
def test_rows_before_consecutive_buckets_are_those_before_each(
    arrivals: list[tuple[int, int]], start: int, number: int
) -> None:
    """Also of buckets that are forgotten, or still to come."""
    counts = Counts(size=6, bucket_s=1.0)
    for bucket, rows in sorted(arrivals):
        counts.arrived(rows, bucket + 0.5)
    buckets = range(start, start + number)
    assert counts.before_each(buckets).tolist() == [counts.before(bucket) for bucket in buckets]


def _marks(arrivals: list[int]) -> Ints:
    """The arrivals before each bucket, and before the end of the last."""
    return np.array([0, *accumulate(arrivals)])


@given(st.lists(st.integers(0, 1000), max_size=200), st.integers(1, 20))
def test_dispersion_is_that_of_poisson_arrivals_or_more(arrivals: list[int], width: int) -> None:
    assert 1.0 <= dispersion(_marks(arrivals), width) < float("inf")


def test_one_step_is_no_dispersion_and_clumps_are() -> None:
    assert dispersion(_marks([1] * 50 + [10] * 50), 1) == 1.0
    assert dispersion(_marks([100, *[0] * 9] * 10), 1) > 50
    assert dispersion(_marks([100, *[0] * 9] * 10), 10) == 1.0


@given(st.lists(st.integers(0, 60), min_size=5, max_size=220), st.floats(0.0, 0.99), st.floats(0.5, 40.0))
@example([30] * 100, 0.5, 20.0)
def test_what_the_estimate_surely_exceeds_it_may_exceed(arrivals: list[int], share: float, served_s: float) -> None:
    demand = DemandEstimator({"a": 0.3})
    for bucket, rows in enumerate(arrivals):
        demand.counts_of("a").arrived(rows, (bucket + 0.5) / 10)
    now_s = (len(arrivals) + 0.5) / 10
    rate = demand.estimate("a", served_s, now_s)
    surely_qps = rate.qps - 2 * rate.deviation_qps
    assume(surely_qps > 0)
    assert demand.may_exceed("a", share * surely_qps, 2.0, now_s)


def test_a_steady_rate_may_not_exceed_itself() -> None:
    """10 arrivals in each bucket: 100 qps."""
    demand = seen(*(i / 100 + 0.005 for i in range(2000)))
    assert not demand.may_exceed("a", 100.0, 2.0, now_s=20.0)
    assert demand.may_exceed("a", 80.0, 2.0, now_s=20.0)
