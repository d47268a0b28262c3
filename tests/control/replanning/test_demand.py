import pytest

from proteus_cli.control.replanning.change_points import Rate
from proteus_cli.control.replanning.demand import DemandEstimator


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


def test_the_present_rates_are_those_of_all_families_since_they_changed() -> None:
    """10 qps, then 100 for 1 s; the other family has none."""
    steps = [0.05 + i / 10 for i in range(200)] + [20.0 + (i + 0.5) / 100 for i in range(100)]
    stepped, silent = seen(*steps).estimates(over_s=21.0, now_s=21.01)
    assert stepped.qps == pytest.approx(100.0)
    assert stepped.deviation_qps >= 10.0
    assert silent == Rate(0.0, 0.0)


def test_the_time_before_the_server_served_is_left_out() -> None:
    demand = seen(*(0.05 + i / 10 for i in range(30)))
    assert demand.estimates(over_s=3.0, now_s=3.01)[0].qps == pytest.approx(10.0)
    assert demand.estimates(over_s=0.0, now_s=3.01)[0].qps == pytest.approx(10.0)  # of the least that has a rate
