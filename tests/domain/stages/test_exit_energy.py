"""Rows of a batch have so much energy, and enter a stage only where it leaves them within that."""

import math
from itertools import combinations

import numpy as np
import pytest

from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.pace import StagePace
from proteus_cli.domain.stages.stage_forecast import EnergyLimits, ExitBounds, RowEnergy, StageForecast, stage_means
from proteus_cli.domain.stages.walk import ProfiledChain, Walk

POWER_W = 10.0
SIZES = (1, 8)


def exits_of(*stages_s: tuple[float, float]) -> list[ExitProfile]:
    """Stages that take so long in any batch, and so much longer for each of its rows."""
    return [
        ExitProfile(points=tuple(StagePoint(size, fixed_s + size * row_s, fixed_s + size * row_s) for size in SIZES))
        for fixed_s, row_s in stages_s
    ]


EVEN = exits_of((0.0, 0.01), (0.0, 0.02), (0.0, 0.03))
"""A row takes 0.1, 0.2 and 0.3 J, whatever it shares its batch with."""
SHARED = exits_of((0.02, 0.0), (0.02, 0.0), (0.02, 0.0))
"""Each stage takes 0.2 J, which its rows share."""


def walked(
    exits: list[ExitProfile],
    stops_at: list[int],
    max_energy_j: list[float],
    *,
    rows: list[int] | None = None,
    due_s: list[float] | None = None,
) -> Walk:
    parts = rows or [1] * len(stops_at)
    bounds = ExitBounds(due_s or [1e9] * len(parts), parts, exits, power_w=POWER_W, max_energy_j=max_energy_j)
    chain = ProfiledChain(exits, stage_means(exits))
    return chain.walk(np.array(stops_at), bounds, StagePace(), 0.0)


@pytest.mark.parametrize(
    ("limit_j", "exit_", "is_cut", "takes_j"),
    [
        (0.11, 1, True, 0.1),
        (0.29, 1, True, 0.1),
        (0.31, 2, True, 0.3),
        (0.59, 2, True, 0.3),
        (0.61, 3, False, 0.6),
        (math.inf, 3, False, math.nan),
    ],
)
def test_a_row_stops_at_the_last_exit_that_its_energy_allows(
    limit_j: float, exit_: int, takes_j: float, *, is_cut: bool
) -> None:
    walk = walked(EVEN, [3, 3], [limit_j, 9.0])
    assert walk.energy_j is not None
    assert (walk.exits.tolist(), walk.cut.tolist()) == ([exit_, 3], [is_cut, False])
    assert walk.energy_j.tolist() == pytest.approx([takes_j, 0.6], nan_ok=True)


def test_a_row_that_has_enough_before_its_energy_ends_is_not_cut_short() -> None:
    walk = walked(EVEN, [1, 2], [0.11, 0.31])
    assert (walk.exits.tolist(), walk.cut.tolist()) == ([1, 2], [False, False])


def test_without_a_limit_nothing_is_counted() -> None:
    assert walked(EVEN, [3], []).energy_j is None


def test_a_row_takes_more_the_fewer_go_on_with_it() -> None:
    """Of the first stage, each of two rows takes half; alone, a row takes all of the second, so that none may."""
    assert walked(SHARED, [2, 2], [0.21, 0.21]).exits.tolist() == [2, 2]
    walk = walked(SHARED, [1, 2], [0.21, 0.21])
    assert (walk.exits.tolist(), walk.cut.tolist()) == ([1, 1], [False, True])
    walk = walked(SHARED, [2, 2], [0.11, 0.21])
    assert (walk.exits.tolist(), walk.cut.tolist()) == ([1, 1], [True, True])


def test_where_time_lets_fewer_go_on_their_energy_is_asked_for_again() -> None:
    """The second stage takes 20 ms, and only the second row has that; alone it takes 0.2 J there, and has 0.15 J."""
    for second_j, exit_ in ((0.25, 1), (0.31, 2)):
        assert walked(SHARED, [2, 2], [9.0, second_j], due_s=[0.03, 1e9]).exits.tolist() == [1, exit_]


def test_where_nobody_goes_on_for_want_of_energy_nobody_leaves_the_batch_before_its_end() -> None:
    """The first row, which has no time for the second stage, leaves only where the other one goes on."""
    for second_j, leave in ((0.25, []), (0.31, [(0,)])):
        walk = walked(SHARED, [2, 2], [9.0, second_j], due_s=[0.03, 1e9])
        assert [each.parts for _, each in walk.left] == leave


def test_rows_without_the_energy_leave_their_time_to_others() -> None:
    """There is time for one row more, and the one with the most time has not the energy."""
    assert walked(EVEN, [2, 2], [0.15, 9.0], due_s=[1e9, 0.05]).exits.tolist() == [1, 2]


def test_what_a_row_leaves_that_stops_the_others_of_its_request_may_take() -> None:
    """Of 1.2 J, three rows take 0.3 J in the first stage; 0.9 J are enough for all in the second, and then for one."""
    walk = walked(EVEN, [3, 3, 3], [1.21], rows=[3])
    assert (walk.exits.tolist(), walk.cut.tolist()) == ([3, 2, 2], [False, True, True])
    assert walked(EVEN, [1, 3, 1], [0.81], rows=[3]).exits.tolist() == [1, 3, 1]


@pytest.mark.parametrize("seed", range(60))
def test_no_more_rows_could_go_on(seed: int) -> None:
    """Brute force over all sets of rows: the chosen ones leave no part beyond its limit, and no larger set would."""
    rng = np.random.default_rng(seed)
    parts = rng.integers(1, 4, int(rng.integers(1, 4))).tolist()
    rows = sum(parts)
    of = np.repeat(np.arange(len(parts)), parts)
    limit_j = np.where(rng.random(len(parts)) < 0.2, math.inf, rng.uniform(0.05, 1.5, len(parts)))
    fixed_s, row_s = rng.uniform(0, 0.03, 2)
    points = [StagePoint(count, fixed_s + count * row_s, 1.0) for count in range(1, rows + 1)]
    times_s = LatencyTable(points, lambda point: point.mean_s)
    limits = EnergyLimits(parts, limit_j.tolist(), POWER_W, [times_s] * 2)
    stops = rng.random(rows) < 0.3
    allowed = np.flatnonzero(~limits.behind(1, np.arange(rows), stops))
    taken_j = POWER_W * (fixed_s + rows * row_s) / rows

    def is_within(chosen: tuple[int, ...]) -> bool:
        each_j = POWER_W * (fixed_s + len(chosen) * row_s) / len(chosen)
        counts = np.bincount(of[[*chosen]], minlength=len(parts))
        left_j = limit_j - np.array(parts) * taken_j
        return bool(np.all((counts == 0) | (counts * each_j <= left_j)))

    candidates = np.flatnonzero(~stops).tolist()
    sizes = [n for n in range(1, rows + 1) if any(map(is_within, combinations(candidates, n)))]
    assert len(allowed) == max(sizes, default=0)
    assert not len(allowed) or is_within(tuple(allowed.tolist()))
    assert set(allowed.tolist()) <= set(candidates)


def test_without_a_power_nobody_knows_what_rows_take() -> None:
    energy = RowEnergy(2, None)
    energy.ran(np.array([0]), 1.0)
    np.testing.assert_array_equal(energy.joules, [np.nan, 0.0])


def test_a_batch_of_which_no_row_may_be_cut_short_has_no_limits() -> None:
    bounds = ExitBounds([math.inf], [1], EVEN, power_w=POWER_W, max_energy_j=[0.01])
    forecast = StageForecast(bounds, StagePace(), 0.0)
    assert not forecast.stopping(1, np.array([0]), np.array([False]), 0.01).any()
