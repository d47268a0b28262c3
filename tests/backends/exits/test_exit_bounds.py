"""Bounds of rows: as many go on as there is time for until they are due, and what is due before leaves the batch."""

import math
from itertools import combinations
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
from exit_nets import exit_stages, inputs_of, loaded
from short_forms import parse_condition

from proteus_cli.backends.base import NamedArrays
from proteus_cli.backends.exits.runner import CUT_NOTE, ENERGY_NOTE, EXIT_NOTE, HELD_NOTE
from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.pace import FIRST, StagePace
from proteus_cli.domain.stages.stage_forecast import ExitBounds, StageForecast

NEVER = 1e9


def taking(*first_s: float, row_s: float = 0.0) -> list[ExitProfile]:
    """Exits whose stages take so long for a row, and ``row_s`` for each more."""
    sizes = (1, 4, 16)
    return [
        ExitProfile(points=tuple(StagePoint(size, s / 2, s + (size - 1) * row_s) for size in sizes)) for s in first_s
    ]


def forecast_of(bounds: ExitBounds) -> StageForecast:
    """Of a batch that begins at 0 s, the first of its chain."""
    return StageForecast(bounds, StagePace(), 0.0)


def test_times_are_linear_between_sizes_and_by_the_row_beyond() -> None:
    times = LatencyTable([StagePoint(2, 1.0, 4.0), StagePoint(4, 1.0, 8.0)], lambda point: point.p95_s)
    assert times.up_to(6).tolist() == [4.0, 4.0, 6.0, 8.0, 10.0, 12.0] == [times(rows) for rows in range(1, 7)]
    falling = LatencyTable([StagePoint(1, 1.0, 4.0), StagePoint(2, 1.0, 3.0)], lambda point: point.p95_s)
    assert falling.up_to(2).tolist() == [4.0, 4.0]


@pytest.mark.parametrize("may_leave", [True, False])
@pytest.mark.parametrize("seed", range(40))
def test_no_larger_batch_would_be_in_time(seed: int, *, may_leave: bool) -> None:
    """Brute force over all sets of rows: the chosen one makes no row late, and a larger one would.

    What is due before these have passed the stage, and not late yet, leaves; each once. Where nothing may leave, no row
    of the batch may be late by that, also of those that have stopped.
    """
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 8))
    due_s = rng.uniform(-2, 12, rows)
    slowdown, stages = float(rng.choice([1.0, 1.5])), taking(1.0, 1.0, 1.0, row_s=1.0)
    bounds = ExitBounds(due_s.tolist(), [1] * rows, stages, slowdown, may_leave=may_leave)
    candidates = np.flatnonzero(rng.random(rows) < 0.7)  # the others have stopped
    forecast = forecast_of(bounds)
    allowed = np.flatnonzero(~forecast.stopping(1, np.arange(rows), ~np.isin(np.arange(rows), candidates), 0.0))

    def may_go_on(chosen: tuple[int, ...]) -> bool:
        waiting = [row for row in range(rows) if due_s[row] >= 0 and not may_leave and chosen]
        return all(due_s[row] >= slowdown * len(chosen) for row in [*chosen, *waiting])

    assert may_go_on(tuple(allowed))
    leaving = [row for row in range(rows) if len(allowed) and 0 <= due_s[row] < slowdown * len(allowed)]
    assert [*(forecast.leaving.parts if forecast.leaving else ())] == leaving
    if len(allowed):
        forecast.stopping(2, allowed, np.zeros(len(allowed), np.bool_), 0.0)
    assert not len(allowed) or not set(leaving) & {*(forecast.leaving.parts if forecast.leaving else ())}
    most = max(
        (size for size in range(1, rows + 1) if any(map(may_go_on, combinations(candidates.tolist(), size)))), default=0
    )
    assert len(allowed) == most


@pytest.mark.parametrize(
    ("now_s", "due_s", "parts"),
    [(0.0, 1.0, (0,)), (0.0, 2.0, None), (1.1, 1.0, None)],
    ids=["due before the stage ends", "due then", "late already"],
)
def test_rows_of_one_request_are_due_together_and_leave_together(
    now_s: float, due_s: float, parts: tuple[int, ...] | None
) -> None:
    """Of the first request, one row has stopped; the stage takes 2 s."""
    bounds = ExitBounds([due_s, 9.0], [2, 1], taking(1.0, 2.0))
    assert bounds.by_row().tolist() == [due_s, due_s, 9.0]
    forecast = forecast_of(bounds)
    stops = forecast.stopping(1, np.arange(3), np.array([True, False, False]), now_s)
    assert stops.tolist() == [True, due_s < now_s + 2.0, False]
    assert (forecast.leaving and forecast.leaving.parts) == parts
    if forecast.leaving is not None:
        assert forecast.leaving.rows.tolist() == [0, 1]


def test_at_first_a_stage_is_predicted_to_take_what_the_attainment_asks_for() -> None:
    points = (StagePoint(1, 1.0, 2.0, 6.0, 7.0),)
    times = {0.5: 2.0, 0.95: 2.0, 0.97: 4.0, 0.99: 6.0, 0.9925: 6.5, 0.995: 7.0, 1.0: 7.0}
    assert {share: points[0].within_s(share) for share in times} == pytest.approx(times)
    assert StagePoint(1, 1.0, 2.0).within_s(0.999) == 2.0
    for share, takes_s in times.items():
        for due_s in (takes_s - 0.01, takes_s + 0.01):
            bounds = ExitBounds([due_s], [1], [ExitProfile(points=points)] * 2, attainment=share)
            assert forecast_of(bounds).in_time(2, np.array([0]), now_s=0.0)[0].tolist() == [due_s > takes_s]


def test_the_clock_is_asked_at_the_start_behind_each_stage_and_at_the_end(tmp_path: Path) -> None:
    """So a profile knows when each began and ended."""
    asked = list[float]()

    def clock() -> float:
        asked.append(monotonic())
        return asked[-1]

    with loaded(exit_stages(tmp_path), "exit >= 1") as runner:
        for last in (1, 2, 3):
            asked.clear()
            bounds = ExitBounds([np.inf], [4], taking(1.0, 1.0, 1.0), stop_when=parse_condition(f"exit >= {last}"))
            runner.infer(inputs_of(4), bounds, clock)
            assert len(asked) == last + 2


def test_rows_stop_before_a_stage_that_would_take_too_much_energy(tmp_path: Path) -> None:
    """A row takes 0.1 J of each stage, and each second request may take 0.15 J; others go on as before."""
    stage = ExitProfile(points=(StagePoint(1, 0.01, 0.01), StagePoint(20, 0.2, 0.2)))
    due_s, limits = [monotonic() + NEVER] * 20, [math.inf, 0.15] * 10
    bounds = ExitBounds(due_s, [1] * 20, [stage] * 3, power_w=10.0, max_energy_j=limits)
    with loaded(exit_stages(tmp_path), "confidence >= 2") as runner:
        plain, bounded = runner.infer(inputs_of(20)), runner.infer(inputs_of(20), bounds)
    usual, is_limited = plain[EXIT_NOTE], np.isfinite(limits)
    assert bounded[EXIT_NOTE].tolist() == np.where(is_limited, 1, usual).tolist()
    assert bounded[CUT_NOTE].tolist() == (is_limited & (usual > 1)).tolist()
    assert 0 < np.count_nonzero(bounded[CUT_NOTE]) < 10
    assert np.isnan(plain[ENERGY_NOTE]).all()
    assert bounded[ENERGY_NOTE].tolist() == pytest.approx([math.nan, 0.1] * 10, nan_ok=True)


@pytest.mark.parametrize("slow", [2, 3])
def test_rows_stop_before_a_stage_that_would_be_too_late(tmp_path: Path, slow: int) -> None:
    """The exit before the slow stage answers what would go on, and says that it was cut short; others are as before."""
    with loaded(exit_stages(tmp_path), "confidence >= 2") as runner:
        plain = runner.infer(inputs_of(20))
        times = [NEVER if place == slow else 1e-9 for place in (1, 2, 3)]
        bounded = runner.infer(inputs_of(20), ExitBounds([monotonic() + NEVER / 2], [20], taking(*times)))
        scores = [passed.outputs["scores"] for passed in runner.passed(inputs_of(20))]
    exits = np.minimum(plain[EXIT_NOTE], slow - 1)
    assert bounded[EXIT_NOTE].tolist() == exits.tolist()
    assert bounded[CUT_NOTE].tolist() == (plain[EXIT_NOTE] >= slow).tolist() == (bounded[HELD_NOTE] == 0).tolist()
    assert 0 < np.count_nonzero(bounded[CUT_NOTE]) < 20
    expected = [scores[place - 1][row] for row, place in enumerate(exits)]
    np.testing.assert_allclose(bounded["scores"], expected, rtol=1e-4, atol=1e-5)


def test_a_part_leaves_before_the_stage_that_it_has_no_time_for(tmp_path: Path) -> None:
    """With the answers that it has in the result of the whole batch, too; the other goes on to the end."""
    left = list[tuple[tuple[int, ...], NamedArrays]]()
    with loaded(exit_stages(tmp_path), "exit >= 3") as runner:
        bounds = ExitBounds([NEVER / 2, 2 * NEVER, 0.0], [3, 2, 1], taking(1.0, NEVER / 4, NEVER / 2))
        whole = runner.infer(
            inputs_of(6), bounds, lambda: 1.0, lambda leaving, given: left.append((leaving.parts, given))
        )
    assert whole[EXIT_NOTE].tolist() == [2, 2, 2, 3, 3, 1]
    ((parts, given),) = left
    assert parts == (0,)
    assert list(given) == list(whole)
    for name, values in given.items():
        np.testing.assert_array_equal(values, whole[name][:3])


def test_where_nobody_takes_what_leaves_all_wait_for_the_first_that_is_due(tmp_path: Path) -> None:
    with loaded(exit_stages(tmp_path), "exit >= 3") as runner:
        bounds = ExitBounds([NEVER / 2, 2 * NEVER, 0.0], [3, 2, 1], taking(1.0, NEVER / 4, NEVER / 2))
        exits = runner.infer(inputs_of(6), bounds, lambda: 1.0)[EXIT_NOTE]
    assert exits.tolist() == [2, 2, 2, 2, 2, 1]


def test_sending_what_leaves_is_no_time_of_the_next_stage_and_counts_before_it(tmp_path: Path) -> None:
    """By a clock on which all takes 2 s, once that is known: a stage, the way of the answers, and to part with some."""
    clock = Steps(2.0)

    def exits_with(*left_s: float) -> list[int]:
        """What answers rows that have so much time when their first stage has ended."""
        due_s = [clock.at_s + 2 * clock.step_s + each for each in left_s]
        bounds = ExitBounds(due_s, [1] * len(due_s), taking(1.0, 1.0, 1.0))
        return runner.infer(inputs_of(len(due_s)), bounds, clock, lambda *_: None)[EXIT_NOTE].tolist()  # type: ignore[no-any-return]

    with loaded(exit_stages(tmp_path), "exit >= 3") as runner:
        for _ in range(FIRST):
            exits_with(100.0, 100.0)
        assert exits_with(2.5, 100.0) == [1, 3]
        assert exits_with(2.5, 5.9) == [1, 1]
        assert exits_with(2.5, 6.2) == [1, 2]


def test_rows_that_are_late_already_go_no_further_and_hold_nobody_back(tmp_path: Path) -> None:
    with loaded(exit_stages(tmp_path), "exit >= 3") as runner:
        due_s = [monotonic() + (NEVER if row % 2 else 0.0) for row in range(10)]
        exits = runner.infer(inputs_of(10), ExitBounds(due_s, [1] * 10, taking(1.0, 1.0, 1.0)))[EXIT_NOTE]
    assert exits.tolist() == [1, 3] * 5


def test_a_condition_of_the_batch_counts_in_place_of_the_variants_own(tmp_path: Path) -> None:
    files, due_s = exit_stages(tmp_path), [monotonic() + NEVER]
    with loaded(files, "confidence >= 2") as runner, loaded(files, "confidence >= 1 and exit >= 2") as other:
        bounds = ExitBounds(
            due_s, [20], taking(1.0, 1.0, 1.0), stop_when=parse_condition("confidence >= 1 and exit >= 2")
        )
        live, own = runner.infer(inputs_of(20), bounds), runner.infer(inputs_of(20))
        assert live[EXIT_NOTE].tolist() == other.infer(inputs_of(20))[EXIT_NOTE].tolist() != own[EXIT_NOTE].tolist()
        assert not live[CUT_NOTE].any()


def test_a_row_goes_on_where_it_is_less_confident_than_its_request_asks_for(tmp_path: Path) -> None:
    """One request of 12 rows asks for 3.0, the other 8 for nothing: they stop as always."""
    with (
        loaded(exit_stages(tmp_path), "confidence >= 2") as runner,
        loaded(exit_stages(tmp_path), "confidence >= 3") as surer,
    ):
        bounds = ExitBounds([NEVER + monotonic()] * 2, [12, 8], taking(1.0, 1.0, 1.0), min_confidence=[3.0, -np.inf])
        found = runner.infer(inputs_of(20), bounds)
        usual, demanding = (each.infer(inputs_of(20))[EXIT_NOTE].tolist() for each in (runner, surer))
    assert found[EXIT_NOTE].tolist() == demanding[:12] + usual[12:]
    assert found[HELD_NOTE].tolist() == usual, "the condition held there all the same"
    assert demanding[:12] != usual[:12]


def test_a_runner_goes_by_what_its_stages_took(tmp_path: Path) -> None:
    """By a clock on which each stage takes 2 s, and so do the answers; the profile says 0.5 s, and 1 s at the p95."""
    clock = Steps(2.0)

    def exits_with(left_s: float) -> list[int]:
        """What answers a row that has so much time when its first stage has ended."""
        bounds = ExitBounds([clock.at_s + 2 * clock.step_s + left_s], [1], taking(1.0, 1.0, 1.0))
        return runner.infer(inputs_of(1), bounds, clock)[EXIT_NOTE].tolist()  # type: ignore[no-any-return]

    with loaded(exit_stages(tmp_path), "exit >= 3") as runner:
        assert exits_with(1.01) == [2]
        for _ in range(FIRST):
            exits_with(100.0)
        assert exits_with(1.01) == exits_with(2 * clock.step_s) == [1]
        assert exits_with(2.1 * clock.step_s) == [2]
        assert exits_with(3.2 * clock.step_s) == [3]


class Steps:
    """A clock that goes on by a step each time that it is asked."""

    def __init__(self, step_s: float) -> None:
        self.at_s, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.at_s += self.step_s
        return self.at_s
