"""The benchmark of waits measures what it says."""

import numpy as np
import pytest

from benchmarks.waits import SLO_S, TAIL, made_up, simulated
from proteus_cli.domain.capacity import slo_fraction
from proteus_cli.simulation.timing import LatencySampler


@pytest.mark.parametrize("hosts", [1, 4])
def test_full_batches_take_the_part_of_the_slo_that_planning_allows(hosts: int) -> None:
    plan, profiles, _ = made_up(hosts)
    assert len(plan.placements) == hosts
    assert {placement.max_batch for placement in plan.placements} == {16}
    assert profiles["w0"].variants[0].points[-1].p95_s == pytest.approx(slo_fraction(hosts) * SLO_S)


def test_a_wait_ends_where_the_batch_starts() -> None:
    """At little load, a query at one host waits for at most the batch before it; more hosts make waits shorter."""
    waits = [simulated(hosts, 0.3, 2000) for hosts in (1, 4)]
    assert all(each.lost_frac == 0 for each in waits)
    assert 0 < waits[1].longest < waits[0].longest <= 1


def test_batch_times_that_scatter_have_the_mean_that_rates_are_counted_by() -> None:
    """Up to their p99, so that only the last hundredth is left out."""
    _, profiles, _ = made_up(4, TAIL)
    points = profiles["w0"].variants[0].points
    sampler = LatencySampler(points, 0.99, np.random.default_rng(1))
    mean_s = np.mean([sampler(16) for _ in range(4000)])
    assert mean_s == pytest.approx(points[-1].mean_s, rel=0.01)
    assert simulated(4, 0.9, 2000, 0.95) != simulated(4, 0.9, 2000)


@pytest.mark.parametrize(("hosts", "load"), [(1, 0.85), (1, 0.95), (2, 0.95), (4, 0.95)])
def test_what_plans_expect_to_be_lost_is_near_what_is(hosts: int, load: float) -> None:
    """Within a factor of two, where one or more in a thousand are lost."""
    found = simulated(hosts, load, 20_000)
    assert found.lost_frac / 2 < found.expected_lost_frac < 2 * found.lost_frac


def test_plans_expect_nothing_to_be_lost_where_nothing_is() -> None:
    found = simulated(4, 0.7, 4000)
    assert found.lost_frac == 0
    assert found.expected_lost_frac < 1e-4
