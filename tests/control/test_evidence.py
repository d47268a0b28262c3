"""Sequential evidence: it is expected to stay as it is where the mean is the bound, and grows where it is above."""

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import pytest

from proteus_cli.control.evidence import MAX_WAITING, MAX_WEALTH, Arms, Evidence, Spread

GAPS = {0.1: 0.75, 0.4: 0.25}


def wealth_after(values: Sequence[float], bound: float, minimum: float = 0.0) -> float:
    evidence, spread = Evidence(bound, GAPS, minimum=minimum), Spread(0.25)
    for value in values:
        evidence.observe(value, spread.variance)
        spread.observe(value)
    return evidence.wealth


@pytest.mark.parametrize("mean", [0.05, 0.3, 0.9])
def test_where_the_mean_is_the_bound_evidence_is_expected_to_stay_at_1(mean: float) -> None:
    """Over all outcomes of nine values: the premise of Ville's inequality, exactly."""
    expected = math.fsum(
        math.prod(mean if value else 1 - mean for value in values) * wealth_after(values, mean)
        for values in product((0.0, 1.0), repeat=9)
    )
    assert expected == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("restarts", [False, True])
def test_evidence_begins_at_1_and_one_value_leaves_it_there_in_the_mean(*, restarts: bool) -> None:
    by_value = [Evidence(0.3, GAPS, restarts=restarts) for _ in range(2)]
    assert {each.wealth for each in by_value} == {1.0}
    for value, evidence in enumerate(by_value):
        evidence.observe(float(value))
    assert 0.7 * by_value[0].wealth + 0.3 * by_value[1].wealth == pytest.approx(1.0, abs=1e-12)


def alarm_at(evidence: Evidence, values: Sequence[float], threshold: float) -> int | None:
    """The number of values up to the threshold, read after each value; None: it is never reached."""
    for place, value in enumerate(values, 1):
        evidence.observe(value)
        if evidence.wealth >= threshold:
            return place
    return None


@pytest.mark.parametrize("bound", [0.01, 0.1, 0.5])
def test_at_the_bound_false_alarms_are_as_rare_as_promised_although_each_value_is_looked_at(bound: float) -> None:
    """In 300 streams of 2,000 values, 5 % may reach 20: more than 27 have a probability of 0.2 %."""
    draws = np.random.default_rng(0).random((300, 2_000)) < bound
    alarms = [alarm_at(Evidence(bound, GAPS), row, 20.0) for row in draws.astype(float).tolist()]
    assert sum(each is not None for each in alarms) <= 27


@pytest.mark.parametrize("bound", [0.01, 0.1, 0.5])
def test_with_restarts_the_mean_time_to_a_false_alarm_is_as_long_as_promised(bound: float) -> None:
    """200 streams run up to an alarm at 200, or 1,000 values: the mean is 200 at least."""
    draws = np.random.default_rng(1).random((200, 1_000)) < bound
    alarms = [alarm_at(Evidence(bound, GAPS, restarts=True), row, 200.0) for row in draws.astype(float).tolist()]
    assert sum(each or 1_000 for each in alarms) / len(alarms) >= 200


@pytest.mark.parametrize("order", ["nononono", "ooonoonno", "nnnooonoo", "oooooonon"])
@pytest.mark.parametrize("share", [0.5, 0.25])
def test_differences_between_arms_are_as_good_as_independent_values(order: str, share: float) -> None:
    """Over all outcomes of both arms, in whatever order they come: no value counts twice."""
    means = {"n": 0.35, "o": 0.25}
    expected = 0.0
    for values in product((0.0, 1.0), repeat=len(order)):
        arms, evidence, spread = Arms(), Evidence(0.1, GAPS, minimum=-1.0), Spread(0.25)
        arms.split(share)
        for arm, value in zip(order, values, strict=True):
            for difference in arms.observe(value, is_new=arm == "n"):
                evidence.observe(difference, spread.variance)
                spread.observe(difference)
        chances = (means[arm] if value else 1 - means[arm] for arm, value in zip(order, values, strict=True))
        expected += math.prod(chances) * evidence.wealth
    assert expected == pytest.approx(1.0, abs=1e-12)


def test_evidence_grows_where_the_mean_is_above_and_shrinks_where_it_is_below() -> None:
    assert wealth_after([1.0, 0.0] * 100, 0.3) > 100
    assert wealth_after([1.0, 0.0] * 100, 0.7) < 0.01


def test_nothing_may_be_above_a_bound_that_is_the_least_value() -> None:
    evidence = Evidence(0.0, GAPS)
    assert alarm_at(evidence, [0.0] * 100, 1.01) is None
    assert alarm_at(evidence, [1.0, 0.0], MAX_WEALTH) == 1


def test_what_was_well_for_long_does_not_hide_what_is_not_any_more() -> None:
    bad = [1.0, 0.0, 0.0] * 100
    fresh, late = Evidence(0.1, GAPS), Evidence(0.1, GAPS)
    for _ in range(20_000):
        late.observe(0.0)
    assert late.wealth < 1
    soon, later = (alarm_at(evidence, bad, 100.0) for evidence in (fresh, late))
    assert soon is not None
    assert later is not None
    assert soon < later < 200


def test_what_was_won_before_something_changes_is_lost_soon() -> None:
    evidence = Evidence(0.1, GAPS)
    for _ in range(20_000):
        evidence.observe(1.0)
    values = 0
    while evidence.wealth > 1:
        evidence.observe(0.0)
        values += 1
    assert values < 1_000


def test_a_spread_is_that_of_its_values_in_the_long_run() -> None:
    spread = Spread(0.25)
    for value in [0.0, 1.0, 1.0, 1.0] * 5_000:
        spread.observe(value)
    assert spread.mean == pytest.approx(0.75)
    assert spread.variance == pytest.approx(0.1875, rel=1e-3)
    assert Spread(0.25).variance == 0.25


def differences(arms: Arms, order: str) -> Iterator[float]:
    """Of distinct values: the n-th of either arm is n; old ones are in thousandths."""
    counts = {"n": 0, "o": 0}
    for arm in order:
        counts[arm] += 1
        yield from arms.observe(counts[arm] / (1 if arm == "n" else 1000), is_new=arm == "n")


def test_at_equal_shares_each_value_has_one_of_the_other_arm() -> None:
    assert list(differences(Arms(), "nnoon" + "ooo")) == [1 - 0.001, 2 - 0.002, 3 - 0.003]


def test_a_rare_new_version_has_the_mean_of_what_came_meanwhile() -> None:
    arms = Arms()
    arms.split(0.2)  # four of the old version for each
    assert list(differences(arms, "oooo" + "n")) == [1 - 0.0025]
    assert list(differences(arms, "no" + "o")) == [1 - 0.0015]  # half as many are enough


def test_where_labels_come_more_often_for_one_arm_its_values_do_not_wait_for_what_never_comes() -> None:
    """At a share of a hundredth, with as many labels of either arm."""
    arms = Arms()
    arms.split(0.01)
    assert len(list(differences(arms, "no" * 500))) > 300


def test_the_oldest_values_are_forgotten_where_one_arm_has_none() -> None:
    arms = Arms()
    for value in range(MAX_WAITING + 5):
        assert list(arms.observe(float(value), is_new=False)) == []
    assert list(arms.observe(0.0, is_new=True)) == [-15.0]  # the mean of the 21 oldest that are left, from 5 on
