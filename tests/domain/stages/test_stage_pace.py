"""The pace of stages follows a change within a few batches, and outliers hardly move it."""

import numpy as np
import pytest

from proteus_cli.domain.stages.pace import FIRST, INTERRUPTED, MIN_LEVEL, MIN_MARGIN, StagePace

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
        assert pace.level >= MIN_LEVEL
        assert pace.factor >= 0.999 * (1 + MIN_MARGIN) * pace.level
        assert pace.factor < 1e3, "of times that scatter so, the largest is far above"


def test_a_clock_that_stands_still_does_not_stop_it_for_good() -> None:
    pace = StagePace()
    for _ in range(1000):
        pace.ran(0.0, 1.0)
    assert pace.level == MIN_LEVEL
    for _ in range(30):
        pace.ran(1.0, 1.0)
    assert pace.level == near(1.0, abs=0.01)


@pytest.mark.parametrize("seed", range(20))
def test_a_speed_that_changes_is_believed_within_two_batches_of_four_stages(seed: int) -> None:
    """A jump to 1.5: the first batch shows more than half of it, and after the third the prediction holds again."""
    rng = np.random.default_rng(seed)
    pace = after(*[1.0] * 200)
    levels = []
    for _ in range(8):
        pace.ran(1.5, 1.0)
        levels.append(pace.level)
    assert 1.33 <= levels[3] < levels[7] <= 1.5
    assert levels[7] >= 1.44
    for _ in range(4):
        pace.ran(1.5, 1.0)
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


def test_however_slow_a_device_gets_it_is_believed() -> None:
    pace = after(*[1.0] * 200)
    for _ in range(30):
        pace.ran(10.0, 1.0)
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
    assert pace.max_out_s - pace.out_s == near(0.11, rel=0.1)
    margin_s = pace.max_out_s - pace.out_s
    pace.came_out(100.0)
    assert pace.max_out_s - pace.out_s == margin_s


def test_what_is_doubted_comes_down_to_the_fastest_that_was_seen() -> None:
    pace = after(*[0.5] * 40, *[2.0] * 40)
    assert pace.level == near(2.0, rel=0.01)
    assert pace.fastest == 0.5
    for _ in range(100):
        pace.doubt()
    assert pace.factor == near(0.5 * (1 + MIN_MARGIN), rel=0.01)
    for _ in range(8):
        pace.ran(2.0, 1.0)
    assert pace.level > 1.1, "two batches of four are believed"
