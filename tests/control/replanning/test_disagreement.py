"""Whether sure answers disagree too often: no false alarm for long, and a drift is found, and found to be over."""

from itertools import product
from math import log

import numpy as np
import pytest
from drawing import examples
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.control.replanning.disagreement import ALARM_AT, DisagreementWatch, factor, raised

EXPECTED = [0.02, 0.03, 0.1, 0.4, 0.8]


def checks_until(watch: DisagreementWatch, part: float, expected: float, rng: np.random.Generator) -> int:
    """How many checks of which that part disagrees change whether it drifts."""
    count = 1
    while not watch.saw(bool(rng.random() < part), (0.0, expected)):
        count += 1
    return count


@pytest.mark.parametrize("expected", EXPECTED)
def test_the_evidence_is_an_e_detector(expected: float) -> None:
    """Over all ways that n checks can go, its mean is n at most if the expected part disagrees, or less."""
    for part in (expected, expected / 2, 0.0):
        for checks in (1, 2, 5, 9):
            mean = 0.0
            for way in product((True, False), repeat=checks):
                watch = DisagreementWatch()
                for disagrees in way:
                    watch.saw(disagrees, (0.0, expected))
                mean += part ** sum(way) * (1 - part) ** (checks - sum(way)) * watch.evidence
            assert mean <= checks * (1 + 1e-9)


@given(st.floats(1e-6, 1 - 1e-6))
@examples(100, fuzzed=1000)
def test_a_check_is_worth_nothing_in_the_mean(expected: float) -> None:
    tested = raised(expected)
    assert expected < tested < 1
    mean = expected * factor(expected, disagrees=True) + (1 - expected) * factor(expected, disagrees=False)
    assert mean == pytest.approx(1.0)


@pytest.mark.parametrize("expected", EXPECTED)
def test_a_false_alarm_takes_as_many_checks_as_it_should(expected: float) -> None:
    """With a bar so low that it happens; the mean of 200 runs is known to a tenth or so, and is far above the least."""
    rng = np.random.default_rng(1)
    runs = [checks_until(DisagreementWatch(alarm_at=20.0), expected, expected, rng) for _ in range(200)]
    assert np.mean(runs) >= 20.0


@pytest.mark.parametrize("expected", EXPECTED)
def test_a_drift_is_found_within_the_checks_that_it_takes(expected: float) -> None:
    """By Wald's identity, in the mean over 40 runs: 1,200 checks where 3 % were expected and 6 % disagree."""
    rng, part = np.random.default_rng(2), raised(expected)
    up, down = log(factor(expected, disagrees=True)), log(factor(expected, disagrees=False))
    bound = (log(ALARM_AT) + up) / (part * up + (1 - part) * down)
    runs = [checks_until(DisagreementWatch(), part, expected, rng) for _ in range(40)]
    assert np.mean(runs) <= 1.1 * bound
    assert expected != 0.03 or bound == pytest.approx(1200, rel=0.01)


def test_no_alarm_where_answers_disagree_as_often_as_expected() -> None:
    rng, watch = np.random.default_rng(3), DisagreementWatch()
    assert not any(watch.saw(bool(rng.random() < 0.02), (0.01, 0.03)) for _ in range(20_000))
    assert (watch.checked, watch.drifts) == (20_000, False)
    assert 300 < watch.disagreed < 500


def test_an_alarm_is_over_after_as_much_evidence_however_long_it_was() -> None:
    lengths = []
    for drifting in (0, 5000):
        rng, watch = np.random.default_rng(4), DisagreementWatch()
        checks_until(watch, 0.3, 0.03, rng)
        assert watch.drifts
        assert not any(watch.saw(bool(rng.random() < 0.3), (0.0, 0.03)) for _ in range(drifting))
        lengths.append(checks_until(watch, 0.0, 0.03, rng))
        assert not watch.drifts
        assert checks_until(watch, 0.3, 0.03, rng) < 200, "and the next is found as soon"
    assert lengths[1] <= lengths[0] * 1.1
    assert lengths[0] == pytest.approx(log(ALARM_AT) / -log(factor(0.03, disagrees=False)), abs=30)


def test_without_an_expectation_checks_are_only_counted() -> None:
    watch = DisagreementWatch()
    assert not any(watch.saw(True, expected) for expected in (None, (0.2, 1.0)) for _ in range(1000))
    assert (watch.checked, watch.disagreed, watch.evidence, watch.drifts) == (2000, 2000, 1.0, False)
