import pytest
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.control.replanning.demand import DemandEstimator, rate_lower_bound_qps


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


def test_the_peak_is_the_busiest_window_of_the_stretch() -> None:
    """5 within 1.0…2.0 are 5 qps over a second; as the last 5 s move on, 2 of them stay, then 1, then none."""
    demand = seen(0.55, 1.25, 1.35, 1.45, 1.55, 1.85, 4.05)
    assert demand.peak_qps("a", 1.0, 5.0, now_s=5.05) == pytest.approx(5.0)
    assert demand.peak_qps("a", 1.0, 5.0, now_s=6.55) == pytest.approx(2.0)
    assert demand.peak_qps("a", 1.0, 5.0, now_s=6.65) == pytest.approx(1.0)
    assert demand.peak_qps("a", 1.0, 5.0, now_s=99.0) == 0.0


def test_the_peak_window_may_lie_across_seconds() -> None:
    demand = seen(1.85, 1.95, 2.05, 2.15)
    assert demand.peak_qps("a", 0.5, 2.0, now_s=3.05) == pytest.approx(8.0)


def test_the_whole_horizon_counts_while_the_next_bucket_fills() -> None:
    """100 arrivals 0.1 s apart are 10 qps over 10 s, also once one arrived in the running bucket."""
    demand = seen(*(0.05 + i / 10 for i in range(100)))
    assert demand.rate_qps("a", 10.0, now_s=10.04) == pytest.approx(10.0)
    demand.counts_of("a").arrived(1, 10.03)
    assert demand.rate_qps("a", 10.0, now_s=10.04) == pytest.approx(10.0)


def test_what_is_older_than_the_horizon_is_forgotten() -> None:
    """However much came before, memory stays the same, and only the last 10 s count: here one arrival in each."""
    demand = seen(*[0.05] * 500, *(0.05 + i for i in range(1, 100)))
    assert len(demand._counts["a"]._before) == 102
    assert demand.rate_qps("a", 10.0, now_s=100.0) == pytest.approx(1.0)
    assert demand.peak_qps("a", 1.0, 10.0, now_s=100.0) == pytest.approx(1.0)


@given(st.lists(st.floats(0, 20.0), max_size=60).map(sorted), st.sampled_from([0.2, 0.5, 1.0, 2.0]))
def test_the_peak_is_at_least_the_rate_now_and_counts_are_whole(seconds: list[float], window_s: float) -> None:
    demand = seen(*seconds)
    rate_qps = demand.rate_qps("a", window_s, now_s=20.05)
    peak_qps = demand.peak_qps("a", window_s, 5.0, now_s=20.05)
    assert 0 <= rate_qps <= peak_qps
    assert peak_qps * window_s == pytest.approx(round(peak_qps * window_s))
    assert peak_qps * window_s <= len(seconds) + 1e-9


def test_proven_is_the_rate_less_its_own_noise() -> None:
    """100 qps over 1 s: deviation √100 = 10; over 4 s: √25 = 5. Two deviations off: 80 and 90."""
    assert rate_lower_bound_qps(100.0, 1.0, 2.0) == pytest.approx(80.0)
    assert rate_lower_bound_qps(100.0, 4.0, 2.0) == pytest.approx(90.0)
    assert rate_lower_bound_qps(1.0, 0.2, 2.0) == 0.0
    assert rate_lower_bound_qps(0.0, 1.0, 2.0) == 0.0
