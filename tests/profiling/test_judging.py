"""What a threshold is worth: counted by hand, and its chance by trying all ways to choose the rows to defer."""

from itertools import combinations
from math import comb, nan

import numpy as np
import pytest
from drawing import examples
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.intervals import wilson
from proteus_cli.profiling.cascades import judged, p_value_of

PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=9)


@given(PAIRS, st.data())
@examples(80, fuzzed=1000)
def test_on_tiny_sets_chance_is_the_part_of_all_choices_that_gain_as_much(
    rows: list[tuple[bool, bool]], data: st.DataObject
) -> None:
    deferred = data.draw(st.integers(1, len(rows) - 1))
    gains = [sum(second - first for first, second in chosen) for chosen in combinations(rows, deferred)]
    gain = data.draw(st.sampled_from(gains))
    expected = sum(each >= gain for each in gains) / len(gains)
    only_second, only_first = rows.count((False, True)), rows.count((True, False))
    assert p_value_of(gain, deferred, len(rows), only_second, only_first) == pytest.approx(expected)


@pytest.mark.parametrize("gain", [-5, 0, 6, 12, 20, 30])
def test_chance_is_the_sum_over_all_counts_of_rows(gain: int) -> None:
    """Of 300 rows 90 are drawn; 40 may be gained, and 20 lost."""
    rows, deferred, only_second, only_first = 300, 90, 40, 20
    ways = sum(
        comb(only_second, won) * comb(only_first, lost) * comb(rows - only_second - only_first, deferred - won - lost)
        for won in range(only_second + 1)
        for lost in range(only_first + 1)
        if won - lost >= gain
    )
    expected = ways / comb(rows, deferred)
    assert p_value_of(gain, deferred, rows, only_second, only_first) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_chance_is_found_as_well_where_there_are_many_rows() -> None:
    """Of 20,000 rows, 2,000 deferred: by chance some 150 - 50 = 100 are gained, with a deviation of about 13."""
    at = [p_value_of(gain, 2_000, 20_000, 1_500, 500) for gain in (0, 100, 113, 139, 400)]
    assert at == pytest.approx([1.0, 0.51, 0.18, 0.002, 0.0], abs=0.02)
    assert at == sorted(at, reverse=True)


def test_intervals_are_those_of_tables() -> None:
    """0 of 10 and 81 of 263, from Newcombe's comparison of seven methods, Statistics in Medicine 17 (1998)."""
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


@pytest.mark.parametrize("accuracy", [0.5, 0.9, 0.97])
def test_nineteen_of_twenty_intervals_contain_the_truth(accuracy: float) -> None:
    """By the probability of every count of 200 rows; of discrete counts none hits 95 % exactly."""
    rows = 200
    covered = 0.0
    for right in range(rows + 1):
        low, high = wilson(right, rows)
        if low <= accuracy <= high:
            covered += comb(rows, right) * accuracy**right * (1 - accuracy) ** (rows - right)
    assert 0.93 <= covered <= 0.98


def test_a_threshold_is_worth_what_is_counted() -> None:
    """Below .5: three rows, of which the first gets one right and the second two; of the other two, both are right."""
    confidences = np.array([0.1, 0.2, 0.4, 0.5, 0.9], np.float32)
    first, second = np.array([0, 0, 1, 1, 1], bool), np.array([1, 0, 1, 0, 1], bool)
    found = judged(0.5, confidences, first, second)
    assert found is not None
    point = found.point
    assert (point.deferred_frac, point.accuracy) == (0.6, 0.8)
    assert (point.sure_accuracy, point.unsure_accuracy, point.second_accuracy) == pytest.approx((1.0, 1 / 3, 2 / 3))
    assert (point.low, point.high) == wilson(4, 5)
    # one row to gain, one to lose, three of five are drawn: of 10 choices, 3 have just the one that gains
    assert found.p_value == pytest.approx(0.3)


def test_what_is_not_a_number_is_deferred() -> None:
    found = judged(0.5, np.array([nan, 0.9], np.float32), np.array([False, True]), np.array([True, True]))
    assert found is not None
    assert found.point.deferred_frac == 0.5


def test_a_threshold_that_defers_none_or_all_is_none() -> None:
    confidences, both = np.array([0.2, 0.8], np.float32), np.array([True, False])
    assert judged(0.2, confidences, both, both) is None
    assert judged(0.9, confidences, both, both) is None
