"""Bounds of rows: as many go on as there is time for until the first row of the batch is due, and no more."""

from itertools import combinations
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
from exit_nets import exit_stages, inputs_of, loaded

from proteus_cli.backends.exits.runner import CUT_NOTE, EXIT_NOTE, HELD_NOTE
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.forecast import ExitBounds, StageForecast, StageTimes
from proteus_cli.domain.stages.pace import FIRST, StagePace

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
    times = StageTimes([StagePoint(2, 1.0, 4.0), StagePoint(4, 1.0, 8.0)], lambda point: point.p95_s)
    assert times(6).tolist() == [4.0, 4.0, 6.0, 8.0, 10.0, 12.0] == [times.of(rows) for rows in range(1, 7)]
    falling = StageTimes([StagePoint(1, 1.0, 4.0), StagePoint(2, 1.0, 3.0)], lambda point: point.p95_s)
    assert falling(2).tolist() == [4.0, 4.0]


@pytest.mark.parametrize("seed", range(40))
def test_no_larger_batch_would_be_in_time(seed: int) -> None:
    """Brute force over all sets of rows: the chosen one makes no row late that is not, and no larger one would."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 8))
    due_s = rng.uniform(-2, 12, rows)
    bounds = ExitBounds(due_s.tolist(), [1] * rows, taking(1.0, 1.0, row_s=1.0), slowdown=float(rng.choice([1.0, 1.5])))
    candidates = np.flatnonzero(rng.random(rows) < 0.7)  # the others have stopped, and wait for the end of the batch
    allowed = candidates[forecast_of(bounds).in_time(2, candidates, now_s=0.0)]
    in_time_s = due_s[due_s >= 0]

    def may_go_on(chosen: tuple[int, ...]) -> bool:
        return all(due_s[row] >= 0 for row in chosen) and all(in_time_s >= bounds.slowdown * len(chosen))

    assert not len(allowed) or may_go_on(tuple(allowed))
    most = max(
        (size for size in range(1, rows + 1) if any(map(may_go_on, combinations(candidates.tolist(), size)))), default=0
    )
    assert len(allowed) == most


def test_rows_of_one_request_are_due_together_and_hold_back_the_others_while_in_time() -> None:
    bounds = ExitBounds([1.0, 9.0], [2, 1], taking(1.0, 2.0))
    assert bounds.by_row().tolist() == [1.0, 1.0, 9.0]
    assert forecast_of(bounds).in_time(2, np.array([0, 2]), now_s=0.0).tolist() == [False, False]
    assert forecast_of(bounds).in_time(2, np.array([2]), now_s=0.0).tolist() == [False], "the first has an answer"
    assert forecast_of(bounds).in_time(2, np.array([0, 2]), now_s=1.1).tolist() == [False, True]


def test_at_first_a_stage_is_predicted_to_take_what_the_attainment_asks_for() -> None:
    points = (StagePoint(1, 1.0, 2.0, 6.0, 7.0),)
    times = {0.5: 2.0, 0.95: 2.0, 0.97: 4.0, 0.99: 6.0, 0.9925: 6.5, 0.995: 7.0, 1.0: 7.0}
    assert {share: points[0].within_s(share) for share in times} == pytest.approx(times)
    assert StagePoint(1, 1.0, 2.0).within_s(0.999) == 2.0
    for share, takes_s in times.items():
        for due_s in (takes_s - 0.01, takes_s + 0.01):
            bounds = ExitBounds([due_s], [1], [ExitProfile(points=points)] * 2, attainment=share)
            assert forecast_of(bounds).in_time(2, np.array([0]), now_s=0.0).tolist() == [due_s > takes_s]


def test_percentiles_of_a_stage_rise() -> None:
    with pytest.raises(ValueError, match="percentiles of batch 1 of a stage must rise"):
        StagePoint(1, 1.0, 2.0, 1.9)


def test_the_clock_is_asked_at_the_start_behind_each_stage_and_at_the_end(tmp_path: Path) -> None:
    """So a profile knows when each began and ended."""
    asked = list[float]()

    def clock() -> float:
        asked.append(monotonic())
        return asked[-1]

    with loaded(exit_stages(tmp_path), "exit >= 1") as runner:
        for last in (1, 2, 3):
            asked.clear()
            bounds = ExitBounds([np.inf], [4], taking(1.0, 1.0, 1.0), stop_when=f"exit >= {last}")
            runner.infer(inputs_of(4), bounds, clock)
            assert len(asked) == last + 2


def test_with_time_enough_nothing_changes(tmp_path: Path) -> None:
    with loaded(exit_stages(tmp_path), "confidence >= 2") as runner:
        plain = runner.infer(inputs_of(20))
        bounded = runner.infer(inputs_of(20), ExitBounds([monotonic() + NEVER], [20], taking(1.0, 1.0, 1.0)))
    assert not bounded[CUT_NOTE].any()
    for name, values in plain.items():
        np.testing.assert_array_equal(bounded[name], values)


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


def test_rows_that_are_late_already_go_no_further_and_hold_nobody_back(tmp_path: Path) -> None:
    with loaded(exit_stages(tmp_path), "exit >= 3") as runner:
        due_s = [monotonic() + (NEVER if row % 2 else 0.0) for row in range(10)]
        exits = runner.infer(inputs_of(10), ExitBounds(due_s, [1] * 10, taking(1.0, 1.0, 1.0)))[EXIT_NOTE]
    assert exits.tolist() == [1, 3] * 5


def test_an_answer_that_is_enough_is_not_cut_however_late(tmp_path: Path) -> None:
    with loaded(exit_stages(tmp_path), "exit >= 1") as runner:
        outputs = runner.infer(inputs_of(3), ExitBounds([0.0], [3], taking(1.0, 1.0, 1.0)))
    assert not outputs[CUT_NOTE].any()


def test_a_condition_of_the_batch_counts_in_place_of_the_variants_own(tmp_path: Path) -> None:
    files, due_s = exit_stages(tmp_path), [monotonic() + NEVER]
    with loaded(files, "confidence >= 2") as runner, loaded(files, "confidence >= 1 and exit >= 2") as other:
        bounds = ExitBounds(due_s, [20], taking(1.0, 1.0, 1.0), stop_when="confidence >= 1 and exit >= 2")
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
