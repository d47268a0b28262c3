"""Answers that are less accurate than promised are noticed soon, and others are left alone."""

import numpy as np
import pytest

from proteus_cli.control.replanning.live_accuracy import RECENT_ROWS, LiveAccuracy
from proteus_cli.intervals import wilson


def noticed_after(accuracy: float, promised: float, rows: int, seed: int) -> int | None:
    """How many labelled rows it takes until the loss is noticed; None: so many were not enough."""
    live, rights = LiveAccuracy(), np.random.default_rng(seed).random(rows) < accuracy
    for place, is_right in enumerate(rights.tolist()):
        if live.saw(float(is_right), promised):
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
    changes = [live.saw(0.0, 0.9) for _ in range(50)]
    assert (changes.count(True), live.is_lower) == (1, True)
    changes = [live.saw(1.0, 0.9) for _ in range(5_000)]
    assert (changes.count(True), live.is_lower) == (1, False)


def test_what_is_recent_forgets_what_was_before() -> None:
    live = LiveAccuracy()
    for score in [0.0] * 100 + [1.0] * RECENT_ROWS:
        live.saw(score, 0.5)
    assert (live.rows, live.right, live.promised) == (RECENT_ROWS + 100, RECENT_ROWS, 0.5 * (RECENT_ROWS + 100))
    assert (live.recent, live.recent_rows) == (1.0, RECENT_ROWS)
    assert live.interval() == wilson(RECENT_ROWS, RECENT_ROWS)


def test_what_was_recorded_counts_until_labels_say_otherwise() -> None:
    live = LiveAccuracy.of_record(0.7, 60)
    assert (live.is_lower, live.recent_rows, live.rows) == (True, 60, 0)
    assert live.recent == pytest.approx(0.7)
    assert not any(live.saw(float(place % 10 < 7), 0.9) for place in range(500)), "it is as it was"
    assert live.recent == pytest.approx(0.7, abs=0.01)
    changes = [live.saw(1.0, 0.9) for _ in range(5_000)]
    assert (changes.count(True), live.is_lower) == (1, False)
    assert LiveAccuracy.of_record(0.7, 10**9).recent_rows == RECENT_ROWS


def test_a_score_counts_in_part() -> None:
    halves = LiveAccuracy()
    changes = [halves.saw(0.5, 0.9) for _ in range(100)]
    assert True in changes
    assert (halves.right, halves.recent) == (50.0, 0.5)
    as_promised = LiveAccuracy()
    assert not any(as_promised.saw(0.9, 0.9) for _ in range(1_000))


@pytest.mark.parametrize("promised", [0.0, 1.0])
def test_the_ends_of_what_can_be_promised(promised: float) -> None:
    """Nothing is less accurate than 0; and a promise of 1 is not taken at its word."""
    live = LiveAccuracy()
    for place in range(1_000):
        live.saw(0.0 if promised == 0.0 or place == 500 else 1.0, promised)
    assert not live.is_lower
