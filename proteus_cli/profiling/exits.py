"""Measures the parts of a multi-exit model: stages by batch size, and exits on the rows of an eval split.

How long a batch takes depends on its rows, so batches are made of rows of the eval split; of random ones where a family
has none. The stages are measured with all rows: the next stage may have to compute all of them.
"""

import math
from collections.abc import Sequence
from itertools import cycle, pairwise
from pathlib import Path
from time import monotonic

import msgspec
import numpy as np

from proteus_cli.arrays import Bools, Floats, Ints
from proteus_cli.backends.base import NamedArrays, Signature
from proteus_cli.backends.exits.runner import EXIT_NOTE, ExitRunner
from proteus_cli.domain.conditions import Condition, Metric
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.stage_forecast import ExitBounds
from proteus_cli.errors import EngineError
from proteus_cli.profiling.answers import EVAL_BATCH
from proteus_cli.profiling.closed_loop import FEWEST_RUNS, WARM_UP_RUNS
from proteus_cli.store.eval_splits import labelled_rows

MAX_BATCHES, MAX_BYTES = 64, 64 * 2**20
"""Batches of one size that are drawn before they are measured, and the memory that they may take."""
STAGE_RUNS = 2000
"""Runs that the stages of a batch size are measured with, if the time allows: ten of them are above the p99.5."""


def batches_of(signature: Signature, rows: NamedArrays | None, size: int) -> list[NamedArrays]:
    """Batches of ``size`` rows, drawn from ``rows`` with replacement; None: one of random values. Always the same."""
    rng = np.random.default_rng(size)
    if rows is None:
        return [signature.sample(size, rng)]
    row_bytes = sum(spec.row_bytes for spec in signature.inputs)
    count = min(MAX_BATCHES, max(MAX_BYTES // (size * row_bytes), 1))
    known = len(next(iter(rows.values())))
    return [_rows(rows, rng.integers(0, known, size)) for _ in range(count)]


def stage_points(runner: ExitRunner, batches: Sequence[NamedArrays], budget_s: float) -> tuple[StagePoint, ...]:
    """The times of each stage if all rows of a batch get there; ``budget_s`` is for all stages together.

    The chain runs as it serves, with bounds that cut nothing short: one stage after another, with what is done between
    them. Percentiles include the way of the answers out of the chain after the last stage: answers may leave after each
    stage.
    """
    size, stop_s = len(next(iter(batches[0].values()))), monotonic() + budget_s
    inputs = cycle(batches)
    for _ in range(WARM_UP_RUNS):
        stages_s(runner, next(inputs), size)
    taken_s = [stages_s(runner, next(inputs), size) for _ in range(FEWEST_RUNS)]
    while len(taken_s) < STAGE_RUNS and monotonic() < stop_s:
        taken_s.append(stages_s(runner, next(inputs), size))
    *each_s, out_s = np.array(taken_s).T
    return tuple(_point(size, each, each + out_s) for each in each_s)


def stages_s(runner: ExitRunner, inputs: NamedArrays, size: int) -> list[float]:
    """The seconds of each stage, and those from the end of the last one to the answers, of one batch."""
    moments_s: list[float] = []

    def noting() -> float:
        moments_s.append(monotonic())
        return moments_s[-1]

    anything = ExitProfile(points=(StagePoint(size, 1.0, 1.0),))
    last = Condition(Metric.EXIT, ">=", float(runner.exits))
    bounds = ExitBounds((math.inf,), (size,), (anything,) * runner.exits, stop_when=last)
    runner.infer(inputs, bounds, noting)
    return [after_s - before_s for before_s, after_s in pairwise(moments_s)]


def _point(size: int, stage_s: Floats, answered_s: Floats) -> StagePoint:
    p95_s, p99_s, p995_s = np.percentile(answered_s, (95, 99, 99.5)).tolist()
    return StagePoint(size, float(stage_s.mean()), p95_s, p99_s, p995_s)


def with_points(exits: Sequence[ExitProfile], points: Sequence[StagePoint]) -> tuple[ExitProfile, ...]:
    """With a point more for each exit, in place of one of the same batch."""
    known = exits or [ExitProfile()] * len(points)
    return tuple(
        msgspec.structs.replace(each, points=_added(each, new)) for each, new in zip(known, points, strict=True)
    )


def _added(known: ExitProfile, new: StagePoint) -> tuple[StagePoint, ...]:
    others = (point for point in known.points if point.batch != new.batch)
    return tuple(sorted((*others, new), key=lambda point: point.batch))


def judged(exits: Sequence[ExitProfile], runner: ExitRunner, eval_path: Path) -> tuple[ExitProfile, ...]:
    """With shares and accuracies, on the rows of an eval split. Raises as `measure_answers` does."""
    inputs, labels = labelled_rows(eval_path, runner.signature.inputs)
    answered, correct = _answers(runner, inputs, labels)
    known = exits or [ExitProfile()] * runner.exits
    return tuple(
        msgspec.structs.replace(
            each,
            share=float(np.mean(answered == place)),
            accuracy=_mean(correct[place - 1], answered == place),
            cut_accuracy=_mean(correct[place - 1], answered > place),
        )
        for place, each in enumerate(known, start=1)
    )


def unjudged(known: ExitProfile) -> ExitProfile:
    """The times only, where shares and accuracies are from another eval split."""
    return ExitProfile(points=known.points)


def _answers(runner: ExitRunner, inputs: NamedArrays, labels: Ints) -> tuple[Ints, Bools]:
    """By row, the exit that answers it; and by exit and row, whether the answer of that exit is right."""
    rows = len(labels)
    exits, correct = np.empty(rows, np.int64), np.empty((runner.exits, rows), np.bool_)
    for first in range(0, rows, EVAL_BATCH):
        part = slice(first, first + EVAL_BATCH)
        batch = {name: values[part] for name, values in inputs.items()}
        exits[part] = runner.infer(batch)[EXIT_NOTE]
        for place, passed in enumerate(runner.passed(batch)):
            scores = next(iter(passed.outputs.values()))
            if not scores.size:
                raise EngineError("The first output of a multi-exit model has no scores.")
            correct[place, part] = scores.reshape(len(scores), -1).argmax(axis=1) == labels[part]
    return exits, correct


def _mean(correct: Bools, chosen: Bools) -> float | None:
    return float(np.mean(correct[chosen])) if chosen.any() else None


def _rows(rows: NamedArrays, places: Ints) -> NamedArrays:
    return {name: values[places] for name, values in rows.items()}
