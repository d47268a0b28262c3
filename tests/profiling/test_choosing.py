"""Thresholds defer what was wanted, as nearly as ties allow."""

from itertools import pairwise

import numpy as np
import pytest
from drawing import examples
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.profiling.cascades import FRACTIONS, thresholds

CONFIDENCES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, float("inf")]) | st.floats(-2, 2, width=32), min_size=1)


def deferred_fractions(confidences: list[float], chosen: list[float]) -> list[float]:
    rows = np.array(confidences, np.float32)
    return [float((rows < threshold).mean()) for threshold in chosen]


def test_where_all_differ_they_defer_what_was_wanted() -> None:
    confidences = np.random.default_rng(0).permutation(1000) / 1000
    chosen = thresholds(confidences.astype(np.float32))
    assert deferred_fractions(confidences.tolist(), chosen) == list(FRACTIONS)


@given(CONFIDENCES)
@examples(80, fuzzed=1000)
def test_each_defers_some_rows_and_not_all_and_none_is_nearer_to_a_fraction_than_one_of_them(
    confidences: list[float],
) -> None:
    chosen = thresholds(np.array(confidences, np.float32))
    every = [float(each) for each in np.unique(np.array(confidences, np.float32)[np.isfinite(confidences)])]
    fractions = dict(zip(every, deferred_fractions(confidences, every), strict=True))
    possible = [each for each in every if 0 < fractions[each] < 1]
    assert set(chosen) <= set(possible)
    assert len(chosen) <= len(FRACTIONS)
    assert all(before < after for before, after in pairwise(chosen))
    for wanted in FRACTIONS if possible else ():
        nearest = min(abs(fractions[each] - wanted) for each in possible)
        assert min(abs(fractions[each] - wanted) for each in chosen) == pytest.approx(nearest)


def test_rows_of_one_confidence_are_deferred_together() -> None:
    """The 90 that are least confident, for all that is wanted; 95 are nearer to none of it."""
    confidences = np.repeat(np.array([0.0, 0.5, 1.0], np.float32), (90, 5, 5))
    assert thresholds(confidences) == [0.5]
    assert thresholds(confidences[:90]) == []
