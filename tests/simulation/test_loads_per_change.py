"""Loads follow changes of demand: so many per change and device at most, and none while demand stays."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from builders import make_catalog, make_family, make_measured, make_profile, make_trace

from proteus_cli.control.policies import policy_named
from proteus_cli.domain.trace import Trace
from proteus_cli.planning.planner import Planner
from proteus_cli.simulation.fleet import SimulationResult
from proteus_cli.simulation.run import simulate

DEVICES, LOAD_S = 4, 1.0
LOADS_PER_DEVICE = 2  # of a change of demand: for the first estimate, and where a longer window corrects it
CATALOG = make_catalog(make_family("a", {"small": 0.6, "middle": 0.8, "large": 1.0}))
MEASURED = (
    make_measured("a", "small", 0.6, {1: 0.008, 4: 0.020}, load_s=LOAD_S),
    make_measured("a", "middle", 0.8, {1: 0.020, 2: 0.032}, load_s=LOAD_S),
    make_measured("a", "large", 1.0, {1: 0.050}, load_s=LOAD_S),
)
PROFILES = {f"cpu{n}": make_profile(f"cpu{n}", *MEASURED) for n in range(DEVICES)}


def played(levels_qps: Sequence[float], each_s: float, seed: int) -> SimulationResult:
    """Poisson arrivals at these rates, one after the other, from a plan for the first one; no standbys."""
    policy = policy_named("proteus")
    assert policy.replanning is not None
    planner = Planner(CATALOG, PROFILES, policy, headroom=1.2, inputs={}, spares=policy.spares)
    first = planner(policy.replanning.initial_demand({"a": levels_qps[0]}, CATALOG.slo_s()))
    return simulate(poisson(levels_qps, each_s, seed), first, CATALOG, PROFILES, policy, planner)


def poisson(levels_qps: Sequence[float], each_s: float, seed: int) -> Trace:
    rng, arrivals = np.random.default_rng(seed), list[tuple[float, str]]()
    for place, qps in enumerate(levels_qps):
        arrival_s = np.sort(rng.uniform(place * each_s, (place + 1) * each_s, rng.poisson(qps * each_s)))
        arrivals += [(at_s, "a") for at_s in arrival_s.tolist()]
    return make_trace(*arrivals)


def loads(run: SimulationResult) -> list[int]:
    """Of each change of plan that loads anything."""
    return [change.swaps for change in run.replans if change.swaps]


@pytest.mark.parametrize("levels_qps", [(20.0, 120.0), (60.0, 200.0), (100.0, 300.0)])
def test_demand_that_alternates_loads_no_more_per_change_than_twice_the_devices(
    levels_qps: tuple[float, float],
) -> None:
    run = played(levels_qps * 3, 12.0, seed=1)
    changes_s = [12.0 * place for place in range(7)]
    by_level = [
        [each.swaps for each in run.replans if from_s <= each.at_s < until_s] for from_s, until_s in pairwise(changes_s)
    ]
    assert sum(by_level[0]) == 0, "the first plan is for that level"
    assert all(max(swaps, default=0) <= DEVICES for swaps in by_level)
    assert all(sum(swaps) <= LOADS_PER_DEVICE * DEVICES for swaps in by_level)
    assert sum(by_level[1]) >= 1, "the first rise loads something"


@pytest.mark.parametrize("qps", [10.0, 80.0, 140.0, 230.0])
def test_demand_that_stays_loads_nothing_after_the_first_plan(qps: float) -> None:
    for seed in (1, 2, 3):
        assert loads(played([qps], 40.0, seed)) == []


@pytest.mark.parametrize("qps", [50.0, 200.0, 300.0])
def test_where_two_plans_are_worth_the_same_chance_loads_one_variant_and_perhaps_another(qps: float) -> None:
    """At these rates another large or middle variant gains just about what its load costs."""
    for seed in (1, 2, 3):
        assert sum(loads(played([qps], 40.0, seed))) <= 2
