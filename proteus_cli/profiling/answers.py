"""The answers of a variant to an eval split: its accuracy, and how sure it is of each row."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from proteus_cli.arrays import Bools, Ints, Singles
from proteus_cli.backends.base import ANY_RUNNER_TAKES, NamedArrays, Runner, Signature
from proteus_cli.domain.catalog import Family
from proteus_cli.domain.stages.cascade import margin, output_of
from proteus_cli.errors import EngineError
from proteus_cli.store.eval_splits import labelled_rows

EVAL_BATCH = ANY_RUNNER_TAKES


@dataclass(frozen=True, slots=True)
class MeasuredAnswers:
    """By row of an eval split: the confidence of a variant, whether its answer was right, and its class."""

    confidences: Singles
    correct: Bools
    classes: Ints

    @property
    def accuracy(self) -> float:
        """The fraction of rows that it gets right."""
        return int(self.correct.sum()) / len(self.correct)


def measure_answers(runner: Runner, eval_path: Path, confidence: str | None = None) -> MeasuredAnswers:
    """Answers to the rows of an eval split. A row is right if its label has the highest score.

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
    """The output that is the confidence of a family's variants; None: the margin of the scores is.

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
