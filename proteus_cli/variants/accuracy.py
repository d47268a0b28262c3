"""How accurate a new variant is, and how that is known.

Measured on an eval split where there is one. Else as stated; else estimated: the first variant of a new family counts
as always right. Another one has the accuracy of its reference, times the part of inputs on which both answer alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from proteus_cli.backends.base import Backend, Runner, Signature
from proteus_cli.domain.catalog import Variant, VariantKey
from proteus_cli.errors import UsageError
from proteus_cli.profiling.answers import measure_accuracy, predicted_classes
from proteus_cli.store.eval_splits import unlabelled_rows
from proteus_cli.units import format_percent, parse_assignments

DIGITS = 4  # of an accuracy in the catalog


class Accuracy(NamedTuple):
    """A fraction; ``basis`` says in words how it is known."""

    value: float
    estimated: bool
    basis: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence of accuracies: rows with labels, accuracies by variant, or rows without labels."""

    eval: Path | None = None
    stated: Mapping[str, Accuracy] = field(default_factory=dict)
    inputs: Path | None = None


class AccuracyFinder:
    """Finds the accuracies of a family's new variants, one after another."""

    def __init__(
        self, backend: Backend, family: str, evidence: Evidence, reference: tuple[Variant, Path] | None = None
    ) -> None:
        """``reference`` is the variant that others are compared with, and its model; None: the first that comes."""
        self._backend, self._family, self._evidence, self._reference = backend, family, evidence, reference
        self._compared: _Reference | None = None

    def require_enough(self, names: Sequence[str], *, is_new: bool) -> None:
        """Raise `UsageError` unless the accuracy of each new variant can be found, in just one way.

        Only in a family that ``is_new`` may the first variant count as always right.
        """
        labelled, stated, inputs = self._evidence.eval, self._evidence.stated, self._evidence.inputs
        if labelled is not None and (stated or inputs is not None):
            option = "--accuracy" if stated else "--calibration"
            raise UsageError("The accuracies are measured on the eval split.", hint=f"leave out `{option}`")
        if labelled is None and self._reference is None and not is_new and names[0] not in stated:
            raise UsageError(
                f"Nothing tells how accurate `{names[0]}` is: `{self._family}` has no model to compare it with.",
                hint=f"`--accuracy {names[0]}=0.9` states it; or set `eval` in engines/catalog.toml",
            )
        compared = [name for name in names[self._reference is None :] if name not in stated]
        if compared and labelled is None and inputs is None:
            raise UsageError(
                f"Nothing tells how accurate `{compared[0]}` is.",
                hint="`--eval labelled.npz` measures it, `--calibration inputs.npz` estimates it by agreement with the "
                f"family's best variant, and `--accuracy {compared[0]}=0.9` states it",
            )

    def accuracy_of(self, name: str, model: Path, runner: Runner) -> Accuracy:
        """Raises `ArtefactError` where rows don't fit the model, `EngineError` where it fails, and `UsageError`."""
        if self._evidence.eval is not None:
            value = measure_accuracy(runner, self._evidence.eval)
            return Accuracy(round(value, DIGITS), estimated=False, basis="measured on the eval split")
        if name in self._evidence.stated:
            found = self._evidence.stated[name]
        elif self._reference is None:
            found = Accuracy(1.0, estimated=True, basis="estimated: the first variant counts as always right")
        else:
            found = self._agreement_with(*self._reference).accuracy_of(runner)
        self._reference = self._reference or (Variant(name, found.value), model)
        return found

    def _agreement_with(self, variant: Variant, model: Path) -> "_Reference":
        if self._compared is None:
            assert self._evidence.inputs is not None  # noqa: S101 - `require_enough` was asked
            with self._backend.runner(model, VariantKey(self._family, variant.name)) as runner:
                self._compared = _Reference(variant, runner, self._evidence.inputs)
        return self._compared


class _Reference:
    """A variant that others are compared with, on inputs without labels."""

    def __init__(self, variant: Variant, runner: Runner, inputs: Path) -> None:
        _require_classes(runner.signature, variant.name)
        self._variant, self._source = variant, inputs
        self._inputs = unlabelled_rows(inputs, runner.signature.inputs)
        self._classes = predicted_classes(runner, self._inputs)

    def accuracy_of(self, runner: Runner) -> Accuracy:
        """The estimated accuracy of a model with the same inputs and outputs."""
        agreement = float(np.mean(predicted_classes(runner, self._inputs) == self._classes))
        basis = f"estimated: agrees with {self._variant.name} on {format_percent(agreement)} of {self._source.name}"
        return Accuracy(round(self._variant.accuracy * agreement, DIGITS), estimated=True, basis=basis)


def _require_classes(signature: Signature, name: str) -> None:
    scores = signature.outputs[0]
    if scores.shape in {(), (1,)}:
        raise UsageError(
            f"`{name}` answers with a single number, `{scores.name}`, so agreement with it says nothing.",
            hint="state the accuracies with `--accuracy`",
        )


def parse_accuracies(text: str, names: Sequence[str]) -> dict[str, Accuracy]:
    """``"0.91"`` for one variant, or ``"small=0.9,large=95.2%"`` → accuracies by name. Raises `UsageError`."""
    hint = f"write `--accuracy {','.join(f'{name}=0.9' for name in names)}`"
    if "=" not in text:
        if len(names) > 1:
            raise UsageError(f"`--accuracy {text}` doesn't say of which variant.", hint=hint)
        return {names[0]: _stated(text, hint)}
    stated = parse_assignments(text, "`--accuracy`")
    if unknown := [name for name in stated if name not in names]:
        raise UsageError(f"`--accuracy` names `{unknown[0]}`, which is not added.", hint=hint)
    return {name: _stated(value or "", hint) for name, value in stated.items()}


def _stated(text: str, hint: str) -> Accuracy:
    number, is_percentage = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        value = float(f"{number}e-2" if is_percentage else number)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"`{text}` is not an accuracy.", hint=f"{hint}: a fraction or a percentage")
    return Accuracy(value, estimated=False, basis="as stated")
