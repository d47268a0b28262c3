"""What stages take now: followed in a few batches, careful at first, and late as often as is allowed."""

import math

import numpy as np
import pytest

from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.pace import (
    FIRST,
    INTERRUPTED,
    MAX_ERROR,
    MAX_MULTIPLE,
    MIN_LEVEL,
    MIN_MARGIN,
    MIN_MULTIPLE,
    PREDICTABLE,
    STEP,
    StagePace,
)
from proteus_cli.domain.stages.stage_forecast import ExitBounds, StageForecast
from proteus_cli.domain.stages.walk import ProfiledChain

near = pytest.approx


def after(*ratios: float) -> StagePace:
    pace = StagePace()
    for ratio in ratios:
        pace.ran(ratio * 0.002, 0.002)
    return pace


def scattered(rng: np.random.Generator, count: int, level: float = 1.0) -> list[float]:
    return [level * float(ratio) for ratio in rng.lognormal(0.0, 0.1, count)]


def test_it_is_known_after_some_stages() -> None:
    assert not after(*[1.0] * (FIRST - 1)).is_known
    assert after(*[1.0] * FIRST).is_known


@pytest.mark.parametrize("level", [0.5, 1.0, 3.0])
def test_where_nothing_scatters_it_is_the_level_and_the_least_margin(level: float) -> None:
    pace = after(*[level] * FIRST)
    assert pace.level == near(level)
    assert pace.factor == near(level * (1 + MIN_MARGIN))


@pytest.mark.parametrize("seed", range(20))
def test_it_is_never_below_the_level_and_within_bounds(seed: int) -> None:
    rng, pace = np.random.default_rng(seed), StagePace()
    for ratio in rng.lognormal(0.0, 2.0, 500):
        pace.ran(ratio, 1.0)
        pace.went_on(int(rng.integers(1, 9)), int(rng.integers(0, 2)), 0.995)
        assert pace.level >= MIN_LEVEL
        assert pace.factor >= 0.999 * (1 + MIN_MARGIN) * pace.level
        assert pace.factor < 1e3, "of times that scatter so, the largest is far above"
        assert MIN_MULTIPLE <= pace.multiple <= MAX_MULTIPLE


def test_a_clock_that_stands_still_does_not_stop_it_for_good() -> None:
    pace = StagePace()
    for _ in range(1000):
        pace.ran(0.0, 1.0, 1)
    assert pace.level == MIN_LEVEL
    for _ in range(30):
        pace.ran(1.0, 1.0)
    assert pace.factor_of(1, 0.0) >= pace.level / MAX_ERROR
    assert pace.level == near(1.0, abs=0.01)


@pytest.mark.parametrize("seed", range(20))
def test_a_speed_that_changes_is_believed_within_two_batches_of_four_stages(seed: int) -> None:
    """A jump to 1.5: by the first batch more than half of it, by the second the prediction holds again."""
    rng = np.random.default_rng(seed)
    pace = after(*[1.0] * 200)
    levels = []
    for _ in range(8):
        pace.ran(1.5, 1.0)
        levels.append(pace.level)
    assert 1.33 <= levels[3] < levels[7] <= 1.5
    assert levels[7] >= 1.44
    assert pace.factor >= 1.5
    back = after(*scattered(rng, 500, 1.5), *scattered(rng, 40))
    assert back.level < 1.15


@pytest.mark.parametrize("outlier", [3.0, 1000.0])
def test_one_outlier_costs_little_and_not_for_long(outlier: float) -> None:
    usual = after(*[1.0] * 200)
    hit = after(*[1.0] * 200, outlier)
    assert hit.level <= 1 + (INTERRUPTED - 1) / 4
    assert hit.factor == near(hit.level * (1 + MIN_MARGIN)), "it is no scatter"
    for _ in range(100):
        hit.ran(1.0, 1.0)
    assert hit.factor == near(usual.factor, rel=0.02)


def test_a_stage_that_was_interrupted_is_told_apart() -> None:
    pace = after(*[1.0] * 200)
    assert pace.ran(0.99 * INTERRUPTED, 1.0)
    assert not pace.ran(10.0, 1.0)


def test_an_interruption_is_expected_to_last_until_a_stage_is_as_usual_again() -> None:
    pace = after(*[1.0] * 200)
    usual = pace.factor
    pace.ran(3.0, 1.0)
    assert pace.factor_of(1, 0.0) == 3.0
    assert pace.factor < 1.5, "the level is not that of an interruption"
    pace.ran(1.0, 1.0)
    assert pace.factor_of(1, 0.0) == near(pace.factor)
    assert pace.factor < 1.3 * usual


def test_how_far_a_profile_is_off_is_learned_of_each_stage() -> None:
    """By turns, one stage takes a tenth less than its profile, and one a tenth more: nothing scatters."""
    pace = StagePace()
    for _ in range(1000):
        pace.ran(0.9, 1.0, 1)
        pace.ran(1.1, 1.0, 2)
    factors = [pace.factor_of(stage, 0.0) for stage in (1, 2, 3)]
    assert factors[:2] == near([0.9 * (1 + MIN_MARGIN), 1.1 * (1 + MIN_MARGIN)], rel=0.01)
    assert factors[2] == pace.factor, "of a stage that never ran, nothing is known"
    for _ in range(8):
        pace.ran(1.8, 1.0, 1)
    assert pace.factor_of(2, 0.0) == near(2.2, rel=0.2), "the device is slower, not the profile of one stage"


@pytest.mark.parametrize("off", [0.6, 1.6, 1.9])
def test_also_a_stage_that_takes_nearly_twice_its_profile_is_no_interruption_for_good(off: float) -> None:
    pace = StagePace()
    for _ in range(2000):
        for stage in (1, 2, 3):
            pace.ran(1.0, 1.0, stage)
        pace.ran(off, 1.0, 4)
    assert pace.ran(off, 1.0, 4)
    assert pace.factor_of(4, 0.0) / pace.factor_of(1, 0.0) == near(off, rel=0.02)


def test_a_margin_has_as_many_mean_deviations_more_as_are_asked_for() -> None:
    pace = after(*[0.9, 1.1] * 200)
    assert pace.factor_of(1, 1.0) - pace.factor_of(1, 0.0) == near(0.11, rel=0.1)
    assert pace.factor_of(1, 0.0) == pace.factor


def test_however_slow_a_device_gets_it_is_believed() -> None:
    pace = after(*[1.0] * 200)
    told = [pace.ran(10.0, 1.0) for _ in range(30)]
    assert told[0] is False
    assert told[-1] is True
    assert pace.level == near(10.0, rel=0.01)


def test_the_way_out_of_the_chain_is_followed_and_interruptions_count_as_half_as_much_again() -> None:
    pace = StagePace()
    pace.came_out(1.0)
    assert pace.out_s == 1.0
    pace.came_out(1000.0)
    assert pace.out_s == 1.125
    for _ in range(20):
        pace.came_out(0.5)
    assert pace.out_s == near(0.5, rel=0.01)


def test_the_way_out_has_the_margin_of_a_stage_and_outliers_are_no_scatter() -> None:
    pace = StagePace()
    for _ in range(400):
        pace.came_out(0.9)
        pace.came_out(1.1)
    assert pace.out_s == near(1.0, abs=0.05)
    assert pace.max_out_s - pace.out_s == near(pace.multiple * 0.11, rel=0.1)
    margin_s = pace.max_out_s - pace.out_s
    pace.came_out(100.0)
    assert pace.max_out_s - pace.out_s == margin_s


def test_a_row_whose_answer_was_too_long_on_its_way_out_of_the_chain_was_late() -> None:
    """Two stages of 1 s, and a bound of 2.5 s, which only the way out can miss."""
    exits = [ExitProfile(points=(StagePoint(1, 1.0, 1.0),))] * 2
    chain, multiples = ProfiledChain(exits, [lambda _rows: 1.0] * 2), list[float]()
    for out_s in (0.4, 0.6):
        pace = after(*[1.0] * FIRST)
        chain.walk(np.array([2]), ExitBounds([2.5], [1], exits, attainment=0.9), pace, 0.0, out_s=out_s)
        multiples.append(pace.multiple - StagePace().multiple)
    assert multiples == [near(-STEP * PREDICTABLE * 0.1), near(STEP * (1 - PREDICTABLE * 0.1))]


def test_the_multiple_comes_from_late_rows() -> None:
    pace, allowed = StagePace(), 0.01 * PREDICTABLE
    before = pace.multiple
    pace.went_on(round(1 / allowed), 0, 0.99)
    assert pace.multiple == near(before - STEP)
    pace.went_on(1, 1, 0.99)
    assert pace.multiple == near(before - allowed * STEP)
    pace.went_on(round(1 / allowed), 1, 0.99)
    assert pace.multiple == near(before - allowed * STEP), "as many as are allowed change nothing"
    pace.went_on(10**6, 0, 0.99)
    assert pace.multiple == MIN_MULTIPLE
    pace.went_on(50, 50, 0.99)
    assert pace.multiple == MAX_MULTIPLE


def test_what_is_doubted_comes_down_to_the_fastest_that_was_seen() -> None:
    pace = after(*[0.5] * 40, *[2.0] * 40)
    assert pace.level == near(2.0, rel=0.01)
    assert pace.fastest == 0.5
    for _ in range(100):
        pace.doubt()
    assert pace.factor == near(0.5 * (1 + MIN_MARGIN), rel=0.01)
    pace.ran(2.0, 1.0)
    assert pace.factor_of(1, 0.0) == 2.0, "one stage shows that it is not over"
    for _ in range(7):
        pace.ran(2.0, 1.0)
    assert pace.level > 1.1, "two batches of four are believed"


@pytest.mark.parametrize(("due_s", "changes"), [(0.9, 0.0), (2.2, 1 - PREDICTABLE * 0.1), (9.0, -PREDICTABLE * 0.1)])
def test_all_rows_count_whose_batch_went_on_if_they_were_in_time_before(due_s: float, changes: float) -> None:
    """The first stage ends after 1 s, the second after 2.4. A part that may not be cut short does not count."""
    pace = after(*[1.0] * FIRST)
    before = pace.multiple
    exits = [ExitProfile(points=(StagePoint(1, 1.0, 1.0), StagePoint(2, 1.0, 1.0)))] * 3
    forecast = StageForecast(ExitBounds([due_s, math.inf], [1, 1], exits, attainment=0.9), pace, 0.0)
    rows = np.arange(2)
    forecast.stopping(1, rows, np.array([False, False]), 1.0)
    forecast.stopping(2, rows, np.array([True, True]), 2.4)
    forecast.ended(2.4)
    assert pace.multiple - before == near(STEP * changes)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("is_changing", [False, True])
def test_of_rows_that_go_on_as_many_are_late_as_the_attainment_allows(seed: int, *, is_changing: bool) -> None:
    """Two stages of 1 s; each row is cut short or late by hardly more or less than the prediction: none is easy.

    Times scatter by a tenth, and where the speed changes, every other phase of 1,000 batches is 1.5 times as slow.
    With the greatest multiple one in 500 would be late, with the least every other one.
    """
    rng, pace, attainment = np.random.default_rng(seed), StagePace(), 0.98
    exits = [ExitProfile(points=(StagePoint(1, 1.0, 1.3),))] * 2
    went_on = late = 0
    for batch in range(6000):
        level = 1.5 if is_changing and batch // 1000 % 2 else 1.0
        takes_s = scattered(rng, 2, level)
        due_s = takes_s[0] + pace.factor_of(2, 0.0) + 0.001
        chain = ProfiledChain(exits, [lambda _rows, each=each: each for each in takes_s])  # type: ignore[misc]
        walk = chain.walk(np.array([2]), ExitBounds([due_s], [1], exits, attainment=attainment), pace, 0.0)
        if batch >= 1000 and walk.exits[0] == 2:
            went_on, late = went_on + 1, late + (walk.took_s > due_s)
    assert went_on > 2000
    assert late / went_on == near(PREDICTABLE * (1 - attainment), abs=0.004)
