"""The benchmark's simulations: with cascades, plans are as accurate in virtual time as they say."""

import numpy as np
from builders import make_measured, make_profile

from benchmarks.cascades import simulated, under_pressure
from benchmarks.cascades.zoo import Measured
from proteus_cli.control.dispatch import cascades
from proteus_cli.domain.catalog import Family, Variant
from proteus_cli.store.answers import Answers

ROWS = 3000


def hard_and_easy() -> Measured:
    """`m` is right where it is sure, and `xxl` everywhere; 1,000 and 100 qps on each of the devices."""
    rng = np.random.default_rng(0)
    hard = rng.random(ROWS)
    family = Family("digits", "1s", (Variant("digits-m", 0.8), Variant("digits-xxl", 0.99)))
    right = {"digits-m": hard < 0.8, "digits-xxl": rng.random(ROWS) < 0.99}
    answers = {
        name: Answers("1", "2", "margin", (1 - hard).astype(np.float32), of, of.astype(np.int64))
        for name, of in right.items()
    }
    times = {"digits-m": 0.001, "digits-xxl": 0.010}
    profile = make_profile("cpu0", *(make_measured("digits", name, 0.5, {1: s}) for name, s in times.items()))
    return Measured(family, profile, answers)


def test_where_the_accurate_variant_cannot_carry_the_demand_cascades_gain_and_lose_no_query() -> None:
    of = hard_and_easy()
    light, heavy = simulated.simulated(of, multiples=(0.5, 2.0), queries=600)
    assert light.gain_points >= 0
    assert heavy.gain_points > 2
    assert heavy.cascades.deferred > 0.1 * heavy.cascades.requests
    assert heavy.cascades.served == heavy.cascades.requests
    assert [len(row) for row in simulated.table(of, [light, heavy]).rows] == [9, 9]
    assert [aim.is_reached for aim in simulated.aims(of, [light, heavy])] == [True, True]


def test_beyond_the_plan_the_reserve_is_compared_with_none_on_the_same_arrivals() -> None:
    of = hard_and_easy()
    usual = cascades.RESERVED_FRAC
    rows = under_pressure.pressed(of, seeds=(1,), queries=2000, multiples=(2.0,))
    assert usual == cascades.RESERVED_FRAC
    assert [row.load for row in rows] == ["0.8 ×", "1 ×", "1.3 ×", "2 ×", "burst"]
    assert rows[0].accuracy[0] == rows[0].accuracy[1], "nothing is pressed"
    assert any(row.fallbacks[0] > 0 and row.accuracy[0] != row.accuracy[1] for row in rows)
    assert {len(row) for row in under_pressure.table(of, rows).rows} == {9}
    assert len(under_pressure.aims(of, rows)) == 3
