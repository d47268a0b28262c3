"""Alarms on accuracy and shifts come soon where there is cause, and seldom where there is none."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from proteus_cli.arrays import Floats
from proteus_cli.control.alarms import (
    RECENT_ROWS,
    STEP,
    WINDOWS,
    LiveAccuracy,
    ShiftWatch,
    critical_distance,
    distances,
)
from proteus_cli.intervals import wilson


def noticed_after(accuracy: float, promised: float, rows: int, seed: int) -> int | None:
    """How many labelled rows it takes until the loss is noticed; None: so many were not enough."""
    live, rights = LiveAccuracy(), np.random.default_rng(seed).random(rows) < accuracy
    for place, is_right in enumerate(rights.tolist()):
        if live.observe(float(is_right), promised):
            return place + 1
    return None


@pytest.mark.parametrize("promised", [0.7, 0.95, 0.99])
def test_answers_as_accurate_as_promised_raise_no_alarm(promised: float) -> None:
    found = [noticed_after(promised, promised, 2_000, seed) for seed in range(40)]
    assert sum(each is not None for each in found) <= 8  # of 40 · 2,000 rows, 8 alarms are the most in the mean
    assert [noticed_after(promised + 0.01, promised, 2_000, seed) for seed in range(20)] == [None] * 20


@pytest.mark.parametrize(("promised", "accuracy"), [(0.95, 0.85), (0.9, 0.75), (0.8, 0.6), (0.99, 0.95)])
def test_a_loss_is_noticed_within_a_thousand_rows(promised: float, accuracy: float) -> None:
    assert all(noticed_after(accuracy, promised, 1_000, seed) for seed in range(40))


def test_it_is_over_once_answers_are_as_they_were() -> None:
    live = LiveAccuracy()
    changes = [live.observe(0.0, 0.9) for _ in range(50)]
    assert (changes.count(True), live.is_lower) == (1, True)
    changes = [live.observe(1.0, 0.9) for _ in range(5_000)]
    assert (changes.count(True), live.is_lower) == (1, False)


def test_what_is_recent_forgets_what_was_before() -> None:
    live = LiveAccuracy()
    for score in [0.0] * 100 + [1.0] * RECENT_ROWS:
        live.observe(score, 0.5)
    assert (live.rows, live.right, live.promised) == (RECENT_ROWS + 100, RECENT_ROWS, 0.5 * (RECENT_ROWS + 100))
    assert (live.recent, live.recent_rows) == (1.0, RECENT_ROWS)
    assert live.interval() == wilson(RECENT_ROWS, RECENT_ROWS)


def test_what_was_recorded_counts_until_labels_say_otherwise() -> None:
    live = LiveAccuracy.of_record(0.7, 60)
    assert (live.is_lower, live.recent_rows, live.rows) == (True, 60, 0)
    assert live.recent == pytest.approx(0.7)
    assert not any(live.observe(float(place % 10 < 7), 0.9) for place in range(500)), "it is as it was"
    assert live.recent == pytest.approx(0.7, abs=0.01)
    changes = [live.observe(1.0, 0.9) for _ in range(5_000)]
    assert (changes.count(True), live.is_lower) == (1, False)
    assert LiveAccuracy.of_record(0.7, 10**9).recent_rows == RECENT_ROWS


def test_a_score_counts_in_part() -> None:
    halves = LiveAccuracy()
    changes = [halves.observe(0.5, 0.9) for _ in range(100)]
    assert True in changes
    assert (halves.right, halves.recent) == (50.0, 0.5)
    as_promised = LiveAccuracy()
    assert not any(as_promised.observe(0.9, 0.9) for _ in range(1_000))


@pytest.mark.parametrize("promised", [0.0, 1.0])
def test_the_ends_of_what_can_be_promised(promised: float) -> None:
    """Nothing is less accurate than 0; and a promise of 1 is not taken at its word."""
    live = LiveAccuracy()
    for place in range(1_000):
        live.observe(0.0 if promised == 0.0 or place == 500 else 1.0, promised)
    assert not live.is_lower


# --- shifts

NAMES = ("mean", "spread")
REFERENCE = np.random.default_rng(0).normal(size=(1000, 2))


def drawn(seed: int, rows: int, *, by: float = 0.0) -> Floats:
    return np.random.default_rng(seed).normal(loc=(by, 0.0), size=(rows, 2))


def alarms(watch: ShiftWatch, rows: Floats) -> list[int]:
    """After how many of these rows the alarm began or ended."""
    return [place for place, row in enumerate(rows, 1) if watch.observe(row)]


def ks_2samp(mine: ArrayLike, theirs: ArrayLike, method: str) -> Any:
    """Scipy's, which is imported where it is used: that takes long."""
    from scipy import stats  # noqa: PLC0415

    return stats.ks_2samp(mine, theirs, method=method)


VALUES = st.lists(st.integers(0, 5), min_size=2, max_size=30)


@given(VALUES, VALUES)
def test_distances_are_those_of_scipy_also_where_values_repeat(mine: list[int], theirs: list[int]) -> None:
    columns = [np.sort(np.array(each, np.float64))[:, np.newaxis] for each in (mine, theirs)]
    assert distances(*columns)[0] == pytest.approx(ks_2samp(mine, theirs, method="asymp").statistic)


@pytest.mark.parametrize("rows", WINDOWS)
@pytest.mark.parametrize("reference_rows", [30, 100, 360, 1000, 2000])
@pytest.mark.parametrize("probability", [1e-3, 1e-7])
def test_chance_reaches_the_critical_distance_no_more_often_than_allowed(
    rows: int, reference_rows: int, probability: float
) -> None:
    """By the exact distribution: rows are moved up until they are as far away."""
    critical = critical_distance(rows, reference_rows, probability)
    if critical > 1:
        return
    reference = np.arange(reference_rows) / reference_rows
    moved = critical + np.arange(rows) / rows
    found = ks_2samp(moved, reference, method="exact")
    assert found.statistic == pytest.approx(critical, abs=2 / min(rows, reference_rows))
    further = ks_2samp(moved + 2 / min(rows, reference_rows), reference, method="exact")
    assert further.pvalue <= probability
    assert found.pvalue > probability / 1e4, "nor much more rarely"


@pytest.mark.parametrize("seed", range(10))
def test_rows_like_the_reference_raise_no_alarm(seed: int) -> None:
    assert alarms(ShiftWatch(NAMES, REFERENCE), drawn(seed + 1, 5_000)) == []


@pytest.mark.parametrize(("by", "within"), [(0.8, WINDOWS[1] + STEP), (2.0, WINDOWS[0] + STEP)])
@pytest.mark.parametrize("before", [0, 475, 700])
def test_a_shift_is_noticed_within_a_window_whenever_it_comes_and_its_end_too(
    by: float, within: int, before: int
) -> None:
    watch = ShiftWatch(NAMES, REFERENCE)
    assert alarms(watch, drawn(1, before)) == []
    assert len(begun := alarms(watch, drawn(2, 600, by=by))) == 1
    assert begun[0] <= within
    assert (watch.is_shifted, watch.largest) == (True, "mean")
    assert watch.ratio >= 1
    assert len(ended := alarms(watch, drawn(3, 1_200))) == 1
    assert ended[0] <= WINDOWS[-1] + STEP
    assert not watch.is_shifted
    assert watch.rows == before + 1_800


def test_rows_that_are_no_numbers_are_a_shift() -> None:
    watch = ShiftWatch(NAMES, REFERENCE)
    assert len(alarms(watch, np.full((200, 2), np.nan))) == 1


def test_of_too_few_rows_nothing_is_told() -> None:
    watch = ShiftWatch(NAMES, REFERENCE[:1])
    assert alarms(watch, drawn(1, 2_000, by=50.0)) == []
    watch = ShiftWatch(NAMES, REFERENCE)
    assert alarms(watch, drawn(1, WINDOWS[0] - 1, by=50.0)) == []
    assert watch.ratio == 0
