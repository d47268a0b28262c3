"""A shift is noticed soon, nothing else is, and the distances are those of scipy."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from proteus_cli.arrays import Floats
from proteus_cli.control.shift import STEP, WINDOWS, ShiftWatch, critical_distance, distances

NAMES = ("mean", "spread")
REFERENCE = np.random.default_rng(0).normal(size=(1000, 2))


def drawn(seed: int, rows: int, *, by: float = 0.0) -> Floats:
    return np.random.default_rng(seed).normal(loc=(by, 0.0), size=(rows, 2))


def alarms(watch: ShiftWatch, rows: Floats) -> list[int]:
    """After how many of these rows the alarm began or ended."""
    return [place for place, row in enumerate(rows, 1) if watch.saw(row)]


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
