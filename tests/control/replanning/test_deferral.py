"""What first stages defer, measured: what is noise, and what a plan should count on."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from proteus_cli.control.decision import FirstStage
from proteus_cli.control.replanning.deferral import WINDOW_ROWS, WINDOW_S, WINDOWS, DeferralWatch
from proteus_cli.domain.catalog.catalog import VariantKey

RANKS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7)
STAGE = FirstStage(VariantKey("a", "s"), tuple(map(float, range(8))), RANKS)


class Watched:
    """A first stage whose queries come as the test says, a window after another."""

    def __init__(self, *used: float, seed: int = 1) -> None:
        self.watch = DeferralWatch(STAGE, {RANKS.index(rank) for rank in used})
        self._rng, self._now_s = np.random.default_rng(seed), 0.0

    def window(self, below: Sequence[float] = RANKS, *, rows: int = WINDOW_ROWS, lasts_s: float = WINDOW_S) -> None:
        """Rows of chance, of which these parts are below the thresholds."""
        parts = [after - before for before, after in pairwise((0.0, *below, 1.0))]
        self.exactly(self._rng.multinomial(rows, parts).tolist(), lasts_s=lasts_s)

    def exactly(self, counts: Sequence[int], *, lasts_s: float = WINDOW_S) -> None:
        """So many of each level, the surest ones at the beginning and at the end of the window."""
        self.watch.saw(8, 1, self._now_s)
        for level, rows in enumerate(counts[:-1]):
            self.watch.saw(level, rows, self._now_s)
        self._now_s += lasts_s
        self.watch.saw(8, counts[-1] - 1, self._now_s)

    @property
    def counted_on(self) -> tuple[float, ...]:
        return tuple(map(self.watch.counted_on, range(8)))


def scaled(factor: float) -> list[float]:
    return [factor * rank for rank in RANKS]


def test_where_confidences_are_as_profiled_corrections_are_rarer_than_once_in_10000_windows() -> None:
    """Two thresholds of a plan, 40 first stages of 500 windows each: 20,000 windows, 55 hours at the least."""
    made = 0
    for seed in range(40):
        watched = Watched(0.02, 0.15, seed=seed)
        for _ in range(500):
            watched.window()
            made += watched.watch.news is not None
            watched.watch.news = None
    assert made <= 4  # Poisson with a mean of 2 exceeds it in 5 % of all choices of seeds


def test_what_lasts_for_two_windows_is_no_correction_however_large() -> None:
    watched = Watched(0.2)
    for _ in range(50):
        watched.window(scaled(1.4))
        watched.window(scaled(1.4))
        watched.window(scaled(0.6))
        watched.window(scaled(0.6))
    assert watched.watch.measured is None


def test_a_change_that_lasts_is_counted_on_after_three_windows_at_all_thresholds() -> None:
    watched = Watched(0.2)
    for _ in range(WINDOWS - 1):
        watched.window(scaled(1.4))
    assert watched.watch.measured is None
    watched.window(scaled(1.4))
    measured = watched.watch.measured
    assert measured is not None
    assert (measured.key, measured.rows, measured.thresholds) == (STAGE.key, WINDOWS * WINDOW_ROWS, STAGE.thresholds)
    assert watched.counted_on == pytest.approx(scaled(1.4), rel=0.15)
    assert watched.watch.news is not None
    assert watched.watch.news.startswith("s defers 2")
    assert watched.watch.news.endswith("where 20.0 % was counted on")


def test_what_is_known_is_no_news_and_when_it_is_over_the_profile_counts_again() -> None:
    watched = Watched(0.2)
    for _ in range(WINDOWS):
        watched.window(scaled(1.4))
    watched.watch.news = None
    for _ in range(20):
        watched.window(scaled(1.4))
    assert watched.watch.news is None
    for _ in range(WINDOWS):
        watched.window()
    assert watched.watch.measured is None
    assert watched.watch.news is not None
    assert watched.counted_on == RANKS


def test_only_thresholds_of_the_plan_are_a_reason() -> None:
    """Below 0.2 all is as profiled, but more queries are between 0.3 and 0.5."""
    below = [*RANKS[:6], 0.65, 0.75]
    for used, is_news in ((0.2, False), (0.5, True)):
        watched = Watched(used)
        for _ in range(WINDOWS):
            watched.window(below)
        assert (watched.watch.measured is not None) == is_news


def test_a_difference_that_no_plan_needs_to_know_is_none_though_it_is_certain() -> None:
    """Of 200,000 rows in a window, 5 % more of the usual are below the threshold."""
    watched = Watched(0.2)
    for _ in range(WINDOWS + 1):
        watched.window(scaled(1.05), rows=200_000)
    assert watched.watch.measured is None


def test_a_window_lasts_until_it_has_both_rows_and_seconds() -> None:
    watched = Watched(0.2)
    for _ in range(WINDOWS):
        watched.window(scaled(1.4), lasts_s=WINDOW_S / 2)
        watched.window(scaled(1.4), rows=WINDOW_ROWS // 4, lasts_s=WINDOW_S / 4)
    assert watched.watch.measured is None
    for _ in range(WINDOWS):
        watched.window(scaled(1.4))
    assert watched.watch.measured is not None


def test_a_first_stage_that_is_sure_of_everything_defers_almost_nothing() -> None:
    watched = Watched(0.2)
    for _ in range(WINDOWS):
        watched.exactly([0] * 8 + [WINDOW_ROWS])
    assert watched.counted_on == pytest.approx([0.5 / 3001] * 8)


def test_what_was_observed_is_of_the_last_windows_and_the_running_one() -> None:
    watched = Watched(0.2)
    assert (watched.watch.observed(4), watched.watch.rows) == (None, 0)
    watched.watch.saw(4, 1, 0.0)
    watched.watch.saw(5, 3, 0.0)
    assert (watched.watch.observed(3), watched.watch.observed(4), watched.watch.rows) == (0.0, 0.25, 4)
    for _ in range(10):
        watched.window()
    assert watched.watch.rows <= (WINDOWS + 1) * WINDOW_ROWS
