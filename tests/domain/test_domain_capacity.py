import math

import numpy as np
import pytest
from builders import make_points, make_table, near
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.domain.attainment import SloTarget
from proteus_cli.domain.capacity import NO_CAPACITY, Capacity, hosts_needed, slo_fraction
from proteus_cli.domain.profile import Point
from proteus_cli.domain.rules import PAPER_RULES, Rules

LATENCIES = st.dictionaries(st.integers(1, 64), st.floats(1e-5, 10.0), min_size=1, max_size=8).map(
    lambda latency_s: dict(sorted(latency_s.items()))
)


def test_by_the_papers_rules_capacity_is_the_best_rate_of_the_batches_within_half_the_slo() -> None:
    """SLO 100 ms: batches of 1 (10 ms, 100 qps), 4 (20 ms, 200 qps) and 8 (50 ms, 160 qps) are within 50 ms."""
    points = make_points({1: 0.010, 4: 0.020, 8: 0.050, 16: 0.051})
    assert PAPER_RULES.capacity_within(0.1, points) == Capacity(qps=near(200.0), max_batch=4)


def test_a_batch_of_exactly_half_the_slo_counts() -> None:
    """8 rows in 50 ms are 160 qps; a hair more than 50 ms and only the batch of 1 with 100 qps is left."""
    assert PAPER_RULES.capacity_within(0.1, make_points({1: 0.010, 8: 0.050})).max_batch == 8
    longer = make_points({1: 0.010, 8: 0.0500001})
    assert PAPER_RULES.capacity_within(0.1, longer) == Capacity(qps=near(100.0), max_batch=1)


def test_where_no_batch_is_fast_enough_there_is_no_capacity() -> None:
    assert PAPER_RULES.capacity_within(0.1, make_points({1: 0.051})) == NO_CAPACITY
    assert PAPER_RULES.capacity_within(0.1, ()) == NO_CAPACITY


def test_by_the_papers_rules_capacity_goes_by_the_95th_percentile() -> None:
    """4 rows: p95 40 ms makes 100 qps, though the mean of 10 ms would make 400."""
    point = Point(4, 10, 0.010, 0.010, 0.020, 0.040, 0.080, 400.0)
    assert PAPER_RULES.capacity_within(0.1, (point,)).qps == pytest.approx(100.0)


def test_rates_are_those_of_the_mean_and_deadlines_those_of_the_95th_percentile() -> None:
    """4 rows: a mean of 10 ms makes 400 qps; a p95 of 40 ms is within half of 100 ms, and not of 79 ms."""
    point = Point(4, 10, 0.010, 0.010, 0.020, 0.040, 0.080, 400.0)
    assert Rules().capacity_within(0.1, (point,)).qps == pytest.approx(400.0)
    assert Rules().capacity_within(0.079, (point,)) == NO_CAPACITY


def test_of_like_rates_the_largest_batch_is_taken() -> None:
    """4 rows in 20 ms make 200 qps, 8 in 40.5 ms make 198: the same. In 42 ms they make 190: less."""
    points = make_points({1: 0.010, 4: 0.020, 8: 0.0405})
    assert Rules().capacity_within(0.1, points) == Capacity(qps=near(200.0), max_batch=8)
    assert Rules().capacity_within(0.1, make_points({1: 0.010, 4: 0.020, 8: 0.042})).max_batch == 4


def test_a_batch_may_take_the_more_of_the_slo_the_more_hosts_there_are() -> None:
    """One host: a query that just misses a batch waits for all of it. Of many, one is always about to be free."""
    assert [round(slo_fraction(hosts), 2) for hosts in (1, 2, 4, 8, 60)] == [0.50, 0.52, 0.58, 0.67, 0.92]


def test_a_batch_may_take_the_more_of_the_slo_the_fewer_queries_must_be_in_time() -> None:
    """A wait that is longer than planned for may be as frequent as the attainment leaves."""
    assert [round(slo_fraction(8, share), 2) for share in (0.9, 0.99, 0.995, 0.999)] == [0.80, 0.70, 0.67, 0.63]
    assert slo_fraction(8) == slo_fraction(8, 0.995)


@pytest.mark.parametrize("attainment", [0.9, 0.99, 0.995, 0.9999])
@pytest.mark.parametrize("hosts", [1, 2, 3, 7, 60, 1000])
def test_so_many_hosts_are_needed_for_the_largest_batch_that_they_allow(hosts: int, attainment: float) -> None:
    fraction = slo_fraction(hosts, attainment)
    assert hosts_needed(np.array([fraction, fraction + 1e-6]), attainment).tolist() == [hosts, hosts + 1]


@pytest.mark.parametrize("attainment", [math.nextafter(1, 0), math.ulp(0)])
def test_every_attainment_that_families_may_have_leaves_finite_numbers(attainment: float) -> None:
    """One of 1 is refused: then no query could miss a batch."""
    assert 0.5 <= slo_fraction(1, attainment) <= 1
    needed = hosts_needed(np.array([0.1, 0.75, 0.999]), attainment)
    assert np.all((needed >= 0) & np.isfinite(needed))


def test_no_number_of_hosts_allows_a_batch_as_long_as_the_slo() -> None:
    assert hosts_needed(np.array([1.0, 1.5])).tolist() == [math.inf, math.inf]


def test_capacity_rises_with_the_hosts_in_steps() -> None:
    """SLO 100 ms: 1 row takes 40 ms, 2 take 60 ms (5 hosts, so 6), 3 take 80 ms (19: 24), 4 take 100 ms (never)."""
    steps = Rules().capacity_steps(SloTarget(0.1), make_points({1: 0.040, 2: 0.060, 3: 0.080, 4: 0.100}))
    assert [(step.hosts, step.capacity.max_batch, round(step.capacity.qps, 1)) for step in steps] == [
        (1, 1, 25.0),
        (6, 2, 33.3),
        (24, 3, 37.5),
    ]


def test_batches_between_the_measured_ones_count() -> None:
    """As above, with latencies that are linear between those of 1 and 4 rows; only those were measured."""
    measured = make_points({1: 0.040, 2: 0.060, 3: 0.080, 4: 0.100})
    assert Rules().capacity_steps(SloTarget(0.1), (measured[0], measured[-1])) == Rules().capacity_steps(
        SloTarget(0.1), measured
    )


def test_by_the_papers_rules_only_measured_batches_count() -> None:
    assert PAPER_RULES.capacity_within(0.1, make_points({1: 0.010, 8: 0.080})).max_batch == 1


@given(LATENCIES)
def test_steps_of_capacity_rise_and_are_the_best_of_all_batches_in_time(latency_s: dict[int, float]) -> None:
    rising = dict(zip(latency_s, sorted(latency_s.values()), strict=True))
    steps, table = Rules().capacity_steps(SloTarget(1.0), make_points(rising)), make_table(rising)
    assert [step.capacity.qps for step in steps] == sorted({step.capacity.qps for step in steps})
    for step in steps:
        in_time = [
            rows for rows in range(min(rising), max(rising) + 1) if table(rows) <= slo_fraction(step.hosts) + 1e-9
        ]
        assert step.capacity.qps == pytest.approx(max(rows / table(rows) for rows in in_time))


@given(LATENCIES, st.floats(1e-4, 20.0), st.integers(1, 100))
def test_one_more_host_never_lowers_the_capacity(latency_s: dict[int, float], slo_s: float, hosts: int) -> None:
    within = [Rules().capacity_within(slo_s, make_points(latency_s), count).qps for count in (hosts, hosts + 1)]
    assert within[0] <= within[1]


@given(LATENCIES, st.floats(1e-4, 20.0), st.floats(1.0, 4.0))
def test_a_looser_slo_never_lowers_the_capacity(latency_s: dict[int, float], slo_s: float, factor: float) -> None:
    points = make_points(latency_s)
    assert PAPER_RULES.capacity_within(slo_s * factor, points).qps >= PAPER_RULES.capacity_within(slo_s, points).qps
