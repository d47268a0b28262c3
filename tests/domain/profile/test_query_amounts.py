"""What a query takes: time, energy, money."""

import pytest
from builders import make_point, make_points

from proteus_cli.domain.profile.query_amounts import cost_of, energy_of, latency_of, max_energy_of


def test_a_query_takes_what_the_smallest_batch_takes() -> None:
    assert latency_of(make_points({2: 0.01, 8: 0.03})) == 0.01


def test_energy_is_power_over_rate() -> None:
    assert energy_of(50.0, 200.0) == pytest.approx(0.25)


def test_the_most_energy_is_that_of_the_worst_batch_also_between_measured_ones() -> None:
    """Batches smaller than the smallest measured one take as long as it."""
    points = make_points({1: 0.010, 4: 0.020, 8: 0.200})
    assert max_energy_of(100.0, points, 4) == pytest.approx(1.0)
    assert max_energy_of(100.0, points, 6) == pytest.approx(100 * 0.110 / 6)
    assert max_energy_of(100.0, make_points({4: 0.020}), 4) == pytest.approx(2.0)


def test_batches_that_are_on_a_device_at_once_share_its_power() -> None:
    assert max_energy_of(100.0, (make_point(1, 0.02, slots=2),), 1) == pytest.approx(1.0)


def test_a_million_queries_cost_their_part_of_an_hour() -> None:
    """At 1,000 per second they take 1,000 s."""
    assert cost_of(3.6, 1000.0) == pytest.approx(1.0)
