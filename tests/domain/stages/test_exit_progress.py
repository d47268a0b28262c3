"""What rows have taken behind each stage, and what their answers are worth there."""

import math

import numpy as np
import pytest
from short_forms import parse_condition

from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.progress import Progress
from proteus_cli.domain.stages.stage_forecast import ExitBounds

SIZES = (1, 4)
EXITS = [
    ExitProfile(share, accuracy, cut, tuple(StagePoint(size, size * s, size * s) for size in SIZES))
    for share, accuracy, cut, s in ((0.5, 0.9, 0.4, 0.01), (0.5, 0.7, None, 0.03))
]


def progress_of(power_w: float | None = 10.0) -> Progress:
    """A request of one row that came at 1 s, and one of two rows that came at 2; the batch begins at 3."""
    bounds = ExitBounds(
        [9.0, 9.0], [1, 2], EXITS, stop_when=parse_condition("exit >= 2"), arrival_s=[1.0, 2.0], power_w=power_w
    )
    return Progress(bounds, parse_condition("confidence >= 2"), 3.0)


def seen(progress: Progress, stage: int, rows: list[int], confidence: list[float], now_s: float) -> dict[str, object]:
    values = progress.behind(stage, np.array(rows), np.array(confidence, np.float32), now_s)
    return {str(metric): np.asarray(value).tolist() for metric, value in values.items()}


def test_rows_have_the_time_of_their_request_and_their_share_of_each_stage() -> None:
    progress = progress_of()
    first = seen(progress, 1, [0, 1, 2], [1.0, 1.0, 1.0], 3.3)
    assert first["latency"] == pytest.approx([2.3, 1.3, 1.3])
    assert first["energy"] == pytest.approx([1.0, 1.0, 1.0])
    assert (first["computation"], first["exit"]) == (pytest.approx(0.25), 1)
    second = seen(progress, 2, [0, 2], [1.0, 1.0], 4.3)
    assert second["latency"] == pytest.approx([3.3, 2.3])
    assert second["energy"] == pytest.approx([6.0, 6.0])
    assert (second["computation"], second["exit"]) == (pytest.approx(1.0), 2)


def test_without_a_power_nobody_knows_the_energy() -> None:
    assert np.isnan(seen(progress_of(None), 1, [0, 1, 2], [1.0] * 3, 3.3)["energy"]).all()  # type: ignore[call-overload]


def test_answers_are_worth_what_the_condition_of_the_catalog_says_of_their_like() -> None:
    """The first row is one of those that the first exit answers, and stays one when it goes on."""
    progress = progress_of()
    assert seen(progress, 1, [0, 1, 2], [2.0, 1.0, math.nan], 3.1)["accuracy"] == [0.9, 0.4, 0.4]
    worth = seen(progress, 2, [0, 1, 2], [1.0, 2.0, 1.0], 3.2)["accuracy"]
    np.testing.assert_array_equal(worth, [0.9, 0.7, np.nan])
