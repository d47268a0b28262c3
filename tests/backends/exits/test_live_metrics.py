"""Live conditions of times and energy: rows stop by what they have taken, on a clock that the test sets."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exit_nets import exit_stages, inputs_of, loaded
from short_forms import parse_condition

from proteus_cli.backends.exits.runner import CUT_NOTE, EXIT_NOTE, HELD_NOTE
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.stage_forecast import ExitBounds

STAGE_S = 0.010
EXITS = [
    ExitProfile(None, accuracy, cut, (StagePoint(1, s, s),))
    for accuracy, cut, s in ((0.9, 0.4, 0.01), (0.8, 0.3, 0.01), (0.7, None, 0.02))
]


def ticking() -> Callable[[], float]:
    """Each stage takes 10 ms: the clock is asked at the start, and behind each."""
    asked = iter(range(1000))
    return lambda: 1.0 + STAGE_S * next(asked)


def exits(tmp_path: Path, stop_when: str, arrival_s: list[float], own: str = "exit >= 3") -> list[int]:
    """By row, the exit of its answer; the device draws 10 W, and the batch begins at 1 s."""
    rows = len(arrival_s)
    bounds = ExitBounds(
        [np.inf] * rows, [1] * rows, EXITS, stop_when=parse_condition(stop_when), arrival_s=arrival_s, power_w=10.0
    )
    with loaded(exit_stages(tmp_path), own) as runner:
        outputs = runner.infer(inputs_of(rows), bounds, ticking())
    assert not outputs[CUT_NOTE].any()
    stopped = outputs[EXIT_NOTE]
    np.testing.assert_array_equal(outputs[HELD_NOTE], stopped)
    found: list[int] = stopped.tolist()
    return found


def test_rows_stop_when_they_have_had_their_time(tmp_path: Path) -> None:
    """Stages end 10, 20 and 30 ms after the batch has begun, for which the rows have waited 0, 11 and 25 ms."""
    arrival_s = [1.0, 1.0 - 0.011, 1.0 - 0.025]
    assert exits(tmp_path, "latency >= 0.031", arrival_s) == [3, 2, 1]


def test_the_example_of_the_docs_counts(tmp_path: Path) -> None:
    arrival_s = [1.0, 1.0 - 0.011, 1.0 - 0.025]
    assert exits(tmp_path, "confidence >= 1e9 or latency >= 0.03 and exit >= 2", arrival_s) == [3, 2, 2]


@pytest.mark.parametrize(
    ("stop_when", "expected"),
    [
        ("energy >= 0.049", 1),  # 10 W for 10 ms, by two rows
        ("energy >= 0.051", 2),
        ("computation >= 0.25", 1),
        ("computation > 0.25", 2),
        ("computation > 0.5", 3),
        ("accuracy <= 0.4", 1),
        ("accuracy < 0.4", 2),
    ],
)
def test_rows_stop_by_what_they_have_taken_or_are_worth(tmp_path: Path, stop_when: str, expected: int) -> None:
    assert exits(tmp_path, stop_when, [1.0, 1.0]) == [expected] * 2


def test_rows_are_worth_what_their_like_were_under_the_condition_of_the_catalog(tmp_path: Path) -> None:
    """Of the condition's own exit, answers are right in 90 % of all cases, and 40 % of the others."""
    own = exits(tmp_path / "own", "confidence >= 2", [1.0] * 20)
    assert {1} < set(own)
    found = exits(tmp_path / "live", "accuracy >= 0.9", [1.0] * 20, own="confidence >= 2")
    assert [place == 1 for place in found] == [place == 1 for place in own]


def test_rows_that_rely_on_the_condition_of_the_catalog_stop_by_it(tmp_path: Path) -> None:
    """The first request has nine rows and goes by its own; the other one by the live condition, in the same batch."""
    with loaded(exit_stages(tmp_path), "confidence >= 2") as runner:
        own = runner.infer(inputs_of(12))[EXIT_NOTE].tolist()
        for stop_when in ("exit >= 2", "latency >= 0 and exit >= 2"):
            bounds = ExitBounds(
                [np.inf] * 2,
                [9, 3],
                EXITS,
                stop_when=parse_condition(stop_when),
                arrival_s=[1.0] * 2,
                by_own=[True, False],
            )
            assert runner.infer(inputs_of(12), bounds, ticking())[EXIT_NOTE].tolist() == [*own[:9], 2, 2, 2]
    assert {1, 3} <= set(own[:9]), "they differ from the others"
