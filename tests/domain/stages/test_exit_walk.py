"""Batches that go through the stages of a profile: they hold bounds by the rule of the live server."""

import math

import numpy as np
import pytest

from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.pace import FIRST, StagePace
from proteus_cli.domain.stages.stage_forecast import ExitBounds, first_stage_s, profiled_s, stage_means
from proteus_cli.domain.stages.walk import ProfiledChain, Walk

SIZES = (1, 2, 8)


def exits_of(*row_s: float, shares: tuple[float | None, ...] = (0.5, 0.3, 0.2), p95: float = 1.5) -> list[ExitProfile]:
    """Stages that take so long for each row in the mean, and ``p95`` times that at their p95."""
    return [
        ExitProfile(share, 0.9, 0.6, tuple(StagePoint(size, size * s, p95 * size * s) for size in SIZES))
        for s, share in zip(row_s, shares, strict=True)
    ]


EXITS = exits_of(1.0, 2.0, 4.0)
CHAIN = ProfiledChain(EXITS, stage_means(EXITS))


def walked(stops_at: list[int], due_s: list[float], *, start_s: float = 0.0, slowdown: float = 1.0) -> Walk:
    bounds = ExitBounds(due_s, [1] * len(due_s), EXITS, slowdown)
    return CHAIN.walk(np.array(stops_at), bounds, StagePace(), start_s, slowdown)


def test_exits_answer_their_shares_the_surest_rows_first() -> None:
    ranks = (np.arange(100) + 0.5) / 100
    stops_at = CHAIN.stops_at(ranks)
    assert [int(np.count_nonzero(stops_at == place)) for place in (1, 2, 3)] == [50, 30, 20]
    assert np.all(np.diff(stops_at) <= 0)


def test_without_shares_all_rows_go_to_the_last_exit() -> None:
    exits = exits_of(1.0, 2.0, 4.0, shares=(None, None, None))
    assert ProfiledChain(exits, stage_means(exits)).stops_at(np.array([0.0, 0.5, 0.999])).tolist() == [3, 3, 3]


def test_a_batch_takes_what_its_stages_take_of_the_rows_that_get_there() -> None:
    walk = walked([1, 3, 2, 1], [math.inf] * 4, slowdown=2.0)
    assert walk.exits.tolist() == [1, 3, 2, 1]
    assert not walk.cut.any()
    assert walk.took_s == pytest.approx(2.0 * (4 * 1.0 + 2 * 2.0 + 1 * 4.0))


def test_a_row_stops_before_a_stage_that_it_has_no_time_for() -> None:
    """Stage 2 takes 3 s at its p95, from 11 s on: by 13.9 s it is not over, by 14 it is."""
    assert walked([3], [13.9], start_s=10.0).exits.tolist() == [1]
    walk = walked([3], [14.0], start_s=10.0)
    assert (walk.exits.tolist(), walk.cut.tolist(), walk.took_s) == ([2], [True], 3.0)


def test_a_chain_that_has_run_goes_by_what_its_stages_took() -> None:
    """Stages take 1.2 times their mean, and the p95 is 1.5 times: what had no time by the profile has it now."""
    pace, bounds = StagePace(), ExitBounds([3.7], [1], EXITS)
    stops_at = np.array([3])
    assert CHAIN.walk(stops_at, bounds, pace, 0.0, slowdown=1.2).exits.tolist() == [1]
    for _ in range(FIRST):
        CHAIN.walk(stops_at, ExitBounds([1e6], [1], EXITS), pace, 0.0, slowdown=1.2)
    assert CHAIN.walk(stops_at, bounds, pace, 0.0, slowdown=1.2).exits.tolist() == [2]
    assert CHAIN.walk(stops_at, ExitBounds([3.5], [1], EXITS), pace, 0.0, slowdown=1.2).exits.tolist() == [1]


def test_a_batch_that_may_not_be_cut_short_teaches_nothing() -> None:
    pace = StagePace()
    CHAIN.walk(np.array([3]), ExitBounds([math.inf], [1], EXITS), pace, 0.0, slowdown=9.0)
    assert vars(pace) == vars(StagePace())


def test_cut_answers_are_worth_less_than_those_of_their_exit() -> None:
    walk = walked([1, 3], [100.0, 2.5])
    assert walk.cut.tolist() == [False, True]
    assert walk.accuracies(EXITS, otherwise=0.8) == [0.9, 0.6]
    assert walk.accuracies([ExitProfile()] * 3, otherwise=0.8) == [0.8, 0.8]


@pytest.mark.parametrize("seed", range(60))
def test_no_row_is_late_that_the_first_exit_has_time_for(seed: int) -> None:
    """Stages take no more than their p95, and the first is in time: then each row leaves or ends before it is due."""
    rng = np.random.default_rng(seed)
    rows, start_s, slowdown = int(rng.integers(1, 12)), float(rng.uniform(0, 5)), float(rng.choice([1.0, 1.7]))
    exits = exits_of(*rng.uniform(0.5, 2.0, 3), p95=1.0)
    chain, stops_at = ProfiledChain(exits, stage_means(exits)), rng.integers(1, 4, rows)
    first_s = slowdown * exits[0].points[-1].mean_s / SIZES[-1] * rows
    due_s = start_s + first_s + rng.exponential(8.0) + rng.exponential(8.0, rows)
    bounds = ExitBounds(due_s.tolist(), [1] * rows, exits, slowdown)
    walk = chain.walk(stops_at, bounds, StagePace(), start_s, slowdown)
    told_s = np.full(rows, walk.took_s)
    for after_s, leaving in walk.left:
        assert np.array_equal(leaving.parts, leaving.rows)
        told_s[leaving.rows] = after_s
    assert np.all(start_s + told_s <= due_s + 1e-9)
    assert np.array_equal(walk.cut, walk.exits < stops_at)
    assert walk.took_s == pytest.approx(slowdown * profiled_s(exits, walk.exits))


@pytest.mark.parametrize(("due_s", "after_s"), [(4.9, 2.0), (5.0, 4.0), (9.9, 4.0), (10.0, None), (1.9, None)], ids=str)
def test_a_row_leaves_before_a_stage_that_it_has_no_time_to_wait_for(due_s: float, after_s: float | None) -> None:
    """It has its answer after 2 s. Of the other row, stage 2 takes from 2 to 5 s at its p95 (to 4 s it is), 3 to 10."""
    walk = walked([1, 3], [due_s, 100.0])
    assert walk.exits.tolist() == [1, 3]
    assert [(s, leaving.parts) for s, leaving in walk.left] == ([] if after_s is None else [(after_s, (0,))])


def test_a_row_that_is_cut_short_leaves_and_the_others_go_on() -> None:
    """With the first bound alone, the batch would end after 2 s."""
    walk = walked([3, 3], [4.9, 100.0])
    assert (walk.exits.tolist(), walk.cut.tolist()) == ([1, 3], [True, False])
    assert [(s, leaving.parts) for s, leaving in walk.left] == [(2.0, (0,))]
    assert walk.took_s == 2.0 + 2.0 + 4.0


def test_what_is_profiled_is_of_the_rows_that_got_there() -> None:
    assert profiled_s(EXITS, np.array([1, 3, 2, 1], np.uint8)) == 12.0
    assert profiled_s(EXITS, np.array([1, 1])) == first_stage_s(EXITS, 2) == 2.0
