"""The benchmark's simulations: with cascades, plans are as accurate in virtual time as they say."""

import numpy as np
from builders import make_measured, make_profile

from benchmarks.cascades import simulated
from benchmarks.cascades.zoo import Measured
from proteus_cli.domain.catalog import Family, Variant
from proteus_cli.store.answers import Answers

ROWS = 3000


def test_where_the_accurate_variant_cannot_carry_the_demand_cascades_gain_and_lose_no_query() -> None:
    """`m` is right where it is sure, and `xxl` everywhere; 1,000 and 100 qps on each of the devices."""
    rng = np.random.default_rng(0)
    hard = rng.random(ROWS)
    family = Family("digits", "1s", (Variant("digits-m", 0.8), Variant("digits-xxl", 0.99)))
    right = {"digits-m": hard < 0.8, "digits-xxl": rng.random(ROWS) < 0.99}
    answers = {name: Answers("1", "2", "margin", (1 - hard).astype(np.float32), of) for name, of in right.items()}
    times = {"digits-m": 0.001, "digits-xxl": 0.010}
    profile = make_profile("cpu0", *(make_measured("digits", name, 0.5, {1: s}) for name, s in times.items()))
    of = Measured(family, profile, answers)
    light, heavy = simulated.simulated(of, multiples=(0.5, 2.0), queries=600)
    assert light.gain_points >= 0
    assert heavy.gain_points > 4
    assert heavy.cascades.deferred > 0.1 * heavy.cascades.requests
    assert heavy.cascades.served == heavy.cascades.requests
    assert [len(row) for row in simulated.table(of, [light, heavy]).rows] == [9, 9]
    assert [aim.is_reached for aim in simulated.aims(of, [light, heavy])] == [True, True]
