"""The latency of a batch size, and the accuracy of a variant."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from proteus_cli.arrays import Bools, Ints, Singles
from proteus_cli.backends.base import ANY_RUNNER_TAKES, NamedArrays, Runner, Signature
from proteus_cli.domain.catalog import Family
from proteus_cli.domain.profile import Point
from proteus_cli.domain.stages.cascade import margin, output_of
from proteus_cli.errors import EngineError
from proteus_cli.store.eval_splits import labelled_rows

CELL_S = 1.0  # the longest that the runs of a cell take, stable or not
WARM_UP_RUNS = 3
FEWEST_RUNS = 5
EMPTY_RUNS = 20  # of no work: the shortest is what timing takes at the least, so that no run seems shorter than it is
ROUND_RUNS = 20
STABLE_FRAC = 0.03  # the p95 is stable when two rounds in a row move it by no more
EVAL_BATCH = ANY_RUNNER_TAKES


@dataclass(frozen=True, slots=True)
class MeasuredAnswers:
    """How confident a variant was of its answer to each row of an eval split, whether that was right, and its class."""

    confidences: Singles
    correct: Bools
    classes: Ints

    @property
    def accuracy(self) -> float:
        """The fraction of rows that it gets right."""
        return int(self.correct.sum()) / len(self.correct)


def measure_point(
    run: Callable[[], object],
    batch: int,
    budget_s: float,
    *,
    min_s: float = 0.0,
    waited_s: Callable[[], float] = lambda: 0.0,
) -> Point:
    """Run until the p95 is stable, until runs have taken `CELL_S`, or until ``budget_s`` is spent, after a warm-up.

    There are at least `FEWEST_RUNS`. It takes ``min_s`` or more, even where the p95 is stable before, unless the budget
    is smaller. What ``waited_s`` grows by during a run is no part of the run's time, but of the budget. Nor is what it
    takes to read it and the clock, at the least.
    """
    start_s = time.perf_counter()

    def timed_s(work: Callable[[], object]) -> float:
        work_start_s, waited_before_s = time.perf_counter(), waited_s()
        work()
        waits_s = waited_s() - waited_before_s
        return time.perf_counter() - work_start_s - waits_s

    def took_s() -> float:
        return timed_s(run) - reads_s

    reads_s = min(timed_s(lambda: None) for _ in range(EMPTY_RUNS))
    left_s = CELL_S - sum(took_s() for _ in range(WARM_UP_RUNS))
    taken_s: list[float] = []
    p95s: list[float] = []
    while not (is_stable(p95s) and time.perf_counter() >= start_s + min_s):
        for _ in range(ROUND_RUNS):
            taken_s.append(took_s())
            left_s -= taken_s[-1]
            is_over = left_s <= 0.0 or time.perf_counter() >= start_s + budget_s
            if is_over and len(taken_s) >= FEWEST_RUNS:
                return point_of(taken_s, batch)
        p95s.append(float(np.percentile(taken_s, 95)))
    return point_of(taken_s, batch)


def is_stable(p95s: list[float]) -> bool:
    """Whether the last two rounds moved the p95 by no more than `STABLE_FRAC` each."""
    moves = pairwise(p95s[-3:])
    return len(p95s) > 2 and all(abs(after - before) <= STABLE_FRAC * before for before, after in moves)  # noqa: PLR2004


def point_of(taken_s: list[float], batch: int, slots: int = 1) -> Point:
    """The point of the seconds that each run took, with ``slots`` batches on the device at once."""
    p50_s, p90_s, p95_s, p99_s = (float(value) for value in np.percentile(taken_s, (50, 90, 95, 99)))
    mean_s = float(np.mean(taken_s))
    return Point(
        batch=batch,
        runs=len(taken_s),
        mean_s=mean_s,
        p50_s=p50_s,
        p90_s=p90_s,
        p95_s=p95_s,
        p99_s=p99_s,
        qps=slots * batch / mean_s,
        slots=slots,
    )


def measure_answers(runner: Runner, eval_path: Path, confidence: str | None = None) -> MeasuredAnswers:
    """Answers to the rows of an eval split. A row is right if its highest class score is that of its label.

    The ``.npz`` holds labels ``y`` and one array per input of the model, or ``x`` where it has just one. Confidences
    are values of the output ``confidence``, one of `confidence_output`; None: margins of the scores. Raises
    `ArtefactError` where the split doesn't fit the model, and `EngineError` where a row has no scores.
    """
    inputs, labels = labelled_rows(eval_path, runner.signature.inputs)
    classes, confidences = _answers(runner, inputs, confidence)
    return MeasuredAnswers(confidences, classes == labels, classes)


def measure_accuracy(runner: Runner, eval_path: Path) -> float:
    """The fraction of rows of an eval split that a model gets right, as `measure_answers` has it. Raises like that."""
    return measure_answers(runner, eval_path).accuracy


def predicted_classes(runner: Runner, inputs: NamedArrays) -> Ints:
    """The place of the highest score of the first output, by row. Raises `EngineError` where a row has no scores."""
    return _answers(runner, inputs, None)[0]


def confidence_output(family: Family, signature: Signature) -> str | None:
    """The output that tells the confidence of a family's variants; None: the margin of the scores does.

    Raises `EngineError` where they have no such output, or where it is not one number for each row.
    """
    name = output_of(family.confidence)
    if name is None:
        return None
    spec = next((output for output in signature.outputs if output.name == name), None)
    where = f'`confidence = "{family.confidence}"` of family `{family.name}` in engines/catalog.toml'
    if spec is None:
        raise EngineError(
            f"{where}: no variant has an output `{name}`.",
            hint=f"they have: {', '.join(output.name for output in signature.outputs)}",
        )
    if spec.shape not in {(), (1,)} or spec.dtype.kind not in "fiu":
        raise EngineError(
            f"{where}: `{name}` has {spec.dtype} of shape {spec.shape_text} for each row.",
            hint="it must be a single number, the higher the surer",
        )
    return name


def _answers(runner: Runner, inputs: NamedArrays, confidence: str | None) -> tuple[Ints, Singles]:
    """By row, the predicted class and the confidence."""
    rows = len(next(iter(inputs.values())))
    classes, confidences = np.empty(rows, np.int64), np.empty(rows, np.float32)
    for first in range(0, rows, EVAL_BATCH):
        part = slice(first, first + EVAL_BATCH)
        outputs = runner.infer({name: values[part] for name, values in inputs.items()})
        name, scores = next(iter(outputs.items()))
        if not scores.size:
            raise EngineError(
                f"The output `{name}` has no scores.",
                hint="the first output of a model must have a score for each class",
            )
        classes[part] = scores.reshape(len(scores), -1).argmax(axis=1)
        confidences[part] = margin(scores) if confidence is None else outputs[confidence].reshape(-1)
    return classes, confidences
