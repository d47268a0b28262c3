"""What a query takes: time, energy, money."""

import pytest
from builders import make_measured, make_profile

from proteus_cli.domain.capacity import Capacity, cost_of, energy_of, max_energy_of
from proteus_cli.domain.cluster import Network
from proteus_cli.serving.devices.remote.measuring import reached_over

OF_ALL_SIZES = make_measured("a", "s", 0.9, {1: 0.010, 4: 0.020, 8: 0.200}, power_w=100.0)
HERE = make_profile("cpu0", OF_ALL_SIZES)


def test_energy_is_power_over_rate() -> None:
    assert energy_of(HERE, OF_ALL_SIZES, Capacity(200.0, 4)) == pytest.approx(0.5)


def test_the_most_energy_is_that_of_the_worst_batch_also_between_measured_ones() -> None:
    """Batches smaller than the smallest measured one take as long as it."""
    assert max_energy_of(HERE, OF_ALL_SIZES, 4) == pytest.approx(1.0)
    assert max_energy_of(HERE, OF_ALL_SIZES, 6) == pytest.approx(100 * 0.110 / 6)
    of_four = make_measured("a", "s", 0.9, {4: 0.020}, power_w=100.0)
    assert max_energy_of(make_profile("cpu0", of_four), of_four, 4) == pytest.approx(2.0)


def test_batches_that_are_on_a_device_at_once_share_its_power() -> None:
    of_two = make_measured("a", "s", 0.9, {1: 0.01}, at_once_s={2: {1: 0.02}}, power_w=100.0)
    assert max_energy_of(make_profile("cpu0", of_two, slots=2), of_two, 1) == pytest.approx(1.0)


@pytest.mark.parametrize("slots", [1, 2])
def test_on_its_way_over_the_network_a_query_takes_no_energy_of_the_device(slots: int) -> None:
    """Latencies have the way; the rate, too: 4 rows take 20 ms of the device, and 30 ms over the network."""
    measured = make_measured("a", "s", 0.9, {1: 0.01, 4: 0.02}, at_once_s={2: {1: 0.01, 4: 0.02}}, power_w=100.0)
    here = make_profile("x/cpu0", measured, slots=slots)
    there = reached_over(Network(0.006, 1e6, {"a": 1000}), here)
    (over,) = there.variants
    assert over.points[1].mean_s == pytest.approx(0.03)
    assert energy_of(there, over, Capacity(slots * 4 / 0.03, 4)) == pytest.approx(0.5 / slots)
    for max_batch in (1, 3, 4):
        assert max_energy_of(there, over, max_batch) == pytest.approx(max_energy_of(here, measured, max_batch))


def test_a_million_queries_cost_their_part_of_an_hour() -> None:
    """At 1,000 per second they take 1,000 s."""
    assert cost_of(3.6, 1000.0) == pytest.approx(1.0)
