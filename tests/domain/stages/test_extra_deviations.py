"""The less accuracy rows gain by a stage, the greater is the margin before it."""

import math

import numpy as np
import pytest

from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.pace import FIRST, StagePace
from proteus_cli.domain.stages.stage_forecast import MIN_GAIN_FRAC, ExitBounds, StageForecast, extra_deviations

near = pytest.approx
POINTS = (StagePoint(1, 1.0, 1.0),)


def exits_of(*known: tuple[float | None, float | None, float | None]) -> tuple[ExitProfile, ...]:
    return tuple(ExitProfile(share, accuracy, cut_accuracy, POINTS) for share, accuracy, cut_accuracy in known)


GAINS = exits_of((0.2, 0.99, 0.6), (0.5, 0.96, 0.8), (0.3, 0.9, None))
"""Rows that go on behind the first exit have 0.9375 in the mean, so they gain 0.3375; behind the second, 0.1."""


def test_a_gain_that_is_e_times_smaller_needs_one_mean_deviation_more() -> None:
    assert extra_deviations(GAINS) == near((0.0, math.log(0.3375 / 0.1)))


@pytest.mark.parametrize("last", [0.8, 0.7], ids=["nothing", "less than nothing"])
def test_what_gains_nothing_is_as_careful_as_what_gains_a_twentieth(last: float) -> None:
    exits = exits_of((0.5, 0.9, 0.5), (0.25, 0.9, 0.8), (0.25, last, None))
    assert extra_deviations(exits) == near((0.0, -math.log(MIN_GAIN_FRAC)))


@pytest.mark.parametrize(
    "exits",
    [
        exits_of((None, None, None), (None, None, None), (None, None, None)),
        exits_of((0.5, 0.9, None), (0.25, 0.9, 0.8), (0.25, 0.9, None)),
        exits_of((0.5, 0.9, 0.9), (0.25, 0.9, 0.9), (0.25, 0.9, None)),
        exits_of((0.5, 0.9, 0.5), (0.5, 0.9, None), (0.0, None, None)),
    ],
    ids=["without an eval split", "one is unknown", "none gains", "no row gets to the last"],
)
def test_where_gains_are_unknown_no_exit_has_more_than_another(exits: tuple[ExitProfile, ...]) -> None:
    assert extra_deviations(exits) == (0.0, 0.0)


def test_a_row_goes_on_with_less_time_where_it_gains_more() -> None:
    """Times scatter by a tenth: a row that has 1.15 s left goes on behind the first exit, and stops at the second."""
    went_on = []
    for stage in (1, 2):
        pace = StagePace()
        for number in range(20 * FIRST):
            pace.ran(0.9 if number % 2 else 1.1, 1.0)
        for _ in range(100):
            pace.went_on(100, 0, 0.99)
        forecast = StageForecast(ExitBounds([stage + 1.15], [1], GAINS), pace, stage - 1.0)
        went_on.append(not forecast.stopping(stage, np.arange(1), np.array([False]), float(stage)).all())
    assert went_on == [True, False]
