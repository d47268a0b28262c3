"""Evidence by betting: it is expected to stay as it is where the mean is the bound, and grows where it is above."""

import math
from collections.abc import Sequence
from itertools import product

import pytest

from proteus_cli.control.rollouts.betting import MAX_WEALTH, BettingEvidence, Spread
from proteus_cli.control.rollouts.comparison import Arms

PARTS = ((0.1, 0.75), (0.4, 0.25))


def wealth_after(values: Sequence[float], bound: float, least: float, *, starts: int = 1) -> float:
    """Each later start comes two values after the one before."""
    evidence, spread = BettingEvidence(bound, least, PARTS, starts), Spread(0.25)
    for place, value in enumerate(values):
        if place and place % 2 == 0:
            evidence.start()
        evidence.saw(value, spread.variance)
        spread.saw(value)
    return evidence.wealth


@pytest.mark.parametrize("starts", [1, 3])
@pytest.mark.parametrize("mean", [0.05, 0.3, 0.9])
def test_where_the_mean_is_the_bound_evidence_is_expected_to_stay_at_1(mean: float, starts: int) -> None:
    """Over all outcomes of nine values: exactly what Ville's inequality stands on."""
    expected = math.fsum(
        math.prod(mean if value else 1 - mean for value in values) * wealth_after(values, mean, 0.0, starts=starts)
        for values in product((0.0, 1.0), repeat=9)
    )
    assert expected == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("order", ["nononono", "ooonoonno", "nnnooonoo", "oooooonon"])
@pytest.mark.parametrize("share", [0.5, 0.25])
def test_differences_between_arms_are_as_good_as_independent_values(order: str, share: float) -> None:
    """Over all outcomes of both arms, in whatever order they come: no value counts twice."""
    means = {"n": 0.35, "o": 0.25}
    expected = 0.0
    for values in product((0.0, 1.0), repeat=len(order)):
        arms, evidence, spread = Arms(), BettingEvidence(0.1, -1.0, PARTS), Spread(0.25)
        arms.split(share)
        for arm, value in zip(order, values, strict=True):
            for difference in list(arms.saw_new(value) if arm == "n" else arms.saw_old(value)):
                evidence.saw(difference, spread.variance)
                spread.saw(difference)
        chances = (means[arm] if value else 1 - means[arm] for arm, value in zip(order, values, strict=True))
        expected += math.prod(chances) * evidence.wealth
    assert expected == pytest.approx(1.0, abs=1e-12)


def test_evidence_grows_where_the_mean_is_above_and_shrinks_where_it_is_below() -> None:
    above, below = wealth_after([1.0, 0.0] * 100, 0.3, 0.0), wealth_after([1.0, 0.0] * 100, 0.7, 0.0)
    assert above > 100
    assert below < 0.01


def test_nothing_may_be_above_a_bound_that_is_the_least_value() -> None:
    assert wealth_after([0.0] * 100, 0.0, 0.0) == pytest.approx(1.0)
    assert wealth_after([0.0] * 100 + [1.0, 0.0], 0.0, 0.0) >= MAX_WEALTH


def values_until(found: float, evidence: BettingEvidence, bad: Sequence[float]) -> int:
    """How many values it takes until there is so much evidence."""
    place = 0
    while evidence.wealth < found:
        evidence.saw(bad[place % len(bad)], 0.09)
        place += 1
    return place


def test_what_was_well_for_long_does_not_hide_what_is_not_any_more() -> None:
    bad = [1.0, 0.0, 0.0]
    by_itself, started, fresh = (BettingEvidence(0.1, 0.0, PARTS, starts) for starts in (2, 2, 1))
    for evidence in (by_itself, started):
        for _ in range(20_000):
            evidence.saw(0.0, 0.09)
        assert evidence.wealth < 1
    started.start()
    takes = [values_until(100.0, evidence, bad) for evidence in (fresh, started, by_itself)]
    assert takes[0] < takes[1] < takes[2] < 200


def test_what_was_won_before_something_changes_is_lost_soon() -> None:
    evidence = BettingEvidence(0.1, 0.0, PARTS)
    for _ in range(20_000):
        evidence.saw(1.0, 0.09)
    values = 0
    while evidence.wealth > 1:
        evidence.saw(0.0, 0.09)
        values += 1
    assert values < 1_000


def test_a_spread_is_that_of_its_values_in_the_long_run() -> None:
    spread = Spread(0.25)
    for value in [0.0, 1.0, 1.0, 1.0] * 5_000:
        spread.saw(value)
    assert spread.mean == pytest.approx(0.75)
    assert spread.variance == pytest.approx(0.1875, rel=1e-3)
    assert Spread(0.25).variance == 0.25
