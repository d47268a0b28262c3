"""Adds one ONNX model with several exits to the catalog, cut into stages, at a few operating points.

The chain of stages must compute what the whole model does, exit by exit. The thresholds of the operating points are
quantiles of the first exit's confidence on the eval split. Labels have no part in their choice, so that all rows can
judge them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from proteus_cli import store
from proteus_cli.arrays import Singles
from proteus_cli.backends.base import Backend, NamedArrays, Signature
from proteus_cli.backends.exits.runner import ExitRunner, Passed
from proteus_cli.backends.free_memory import within_free_memory
from proteus_cli.domain.catalog import Family, Variant, VariantKey
from proteus_cli.domain.conditions import Condition, Metric
from proteus_cli.domain.stages.exits import ExitProfile
from proteus_cli.errors import ArtefactError, UsageError
from proteus_cli.input_files import CATALOG, read_text
from proteus_cli.profiling.exits import judged
from proteus_cli.progress import Advance, StepCounter
from proteus_cli.store.eval_splits import labelled_rows
from proteus_cli.store.models.exit_chains import ExitChain, chain_file
from proteus_cli.store.models.onnx_files import onnx_package
from proteus_cli.variants.adding import changed_text, eval_name, family_slo
from proteus_cli.variants.cutting import Cut, outputs_by_exit, stages_of
from proteus_cli.variants.models import require_same_tensors, unusable, variant_names
from proteus_cli.variants.staging import Staging, staging

STOPPING = {"fast": 0.7, "balanced": 0.4, "accurate": 0.1}
"""The operating points that are proposed: the part of the rows that stops at the first exit."""
COMPARED_ROWS = 64
RTOL, ATOL = 1e-3, 1e-4
"""Tolerances of the outputs of the chain against the whole model: kernels may differ from one graph to the other."""
DIGITS = 4  # of an accuracy in the catalog


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A variant that was added, with its exits and its accuracy on the eval split."""

    variant: str
    stop_when: Condition
    accuracy: float
    exits: tuple[ExitProfile, ...]


@dataclass(frozen=True, slots=True)
class SplitModel:
    """The stages, as the catalog names them, and the variants that were made of them."""

    family: str
    stages: tuple[str, ...]
    variants: tuple[OperatingPoint, ...]


def split(
    place: store.Workspace,
    family: str,
    model: Path,
    cuts: Sequence[Cut],
    *,
    slo: str | None,
    eval_path: Path | None,
    stop_when: Condition | None,
    backend: Backend,
    advance: Advance,
) -> SplitModel:
    """Cut a model, and add it to a family at one operating point, ``stop_when``, or at the ones of `STOPPING`.

    The catalog is written last; after an error all is as before. Raises `UsageError`, `ArtefactError`, and
    `BackendUnavailable` where the package `onnx` is needed.
    """
    onnx = onnx_package("cut a model into stages")
    path = place.catalog_path
    text = read_text(path, CATALOG, hint="name another workspace with `--workspace`") if path.exists() else None
    before = store.parse_catalog(text.encode(), path) if text is not None else None
    known = before.family(family) if before is not None and family in before.names else None
    slo, split_path = family_slo(known, family, slo), _eval_path(place, known, eval_path, family)
    ((stem, _),) = variant_names([model]).items()
    wanted = [stem] if stop_when is not None else [f"{stem}-{name}" for name in STOPPING]
    _require_new(known, wanted)
    steps = StepCounter(advance, 2 + len(wanted))
    steps.begin("cutting")
    with within_free_memory("the model"), staging(place) as staged:
        contents = stages_of(onnx, model, cuts)
        names = tuple(f"models/{family}/{stem}.{number}.onnx" for number in range(1, len(contents) + 1))
        for name, content in zip(names, contents, strict=True):
            staged.write(name, content)
        made = known or _new_family(staged, place, family, slo, split_path)
        work = _Splitting(staged, made, names, backend, split_path)
        steps.begin("comparing with the whole model")
        outputs, others = outputs_by_exit(onnx, model, len(names)), _signatures(place, known, backend)
        confidences = work.compared(model, outputs, others)
        conditions = [stop_when] if stop_when is not None else proposed(confidences)
        points = []
        for name, condition in zip(wanted, conditions, strict=False):  # few rows may differ in too few confidences
            steps.begin(f"accuracy of {name}")
            points.append(work.judged(name, condition))
        variants = [Variant(point.variant, point.accuracy, exits=names, stop_when=point.stop_when) for point in points]
        staged.commit(changed_text(place, text, before, made, variants), before=text)
    return SplitModel(family, names, tuple(points))


def proposed(confidences: Singles) -> list[Condition]:
    """The conditions of `STOPPING`, each once. Raises `UsageError` where no row has a confidence."""
    known = confidences[np.isfinite(confidences)]
    if not len(known):
        raise UsageError(
            "The first exit has no confidence in any row, so nothing tells which queries to stop.",
            hint='name the condition: `--stop-when "exit >= 2"`; or `confidence` of the family in engines/catalog.toml',
        )
    thresholds = (np.quantile(known, 1 - part, method="higher") for part in STOPPING.values())
    return list(dict.fromkeys(Condition(Metric.CONFIDENCE, ">=", float(threshold)) for threshold in thresholds))


class _Splitting:
    """The stages of a model on their way into a family."""

    def __init__(self, staged: Staging, family: Family, names: Sequence[str], backend: Backend, split: Path) -> None:
        self._staged, self._family, self._names, self._backend = staged, family, names, backend
        self._eval = split
        self._files = tuple(staged.path(name) for name in names)

    def variant(self, name: str, stop_when: Condition) -> Variant:
        try:
            return Variant(name, 1.0, exits=tuple(self._names), stop_when=stop_when)
        except ValueError as error:
            raise UsageError(f"{error}.", hint="docs/serving.md#conditions says what a condition is") from None

    def compared(self, model: Path, outputs: Sequence[tuple[str, ...]], others: Mapping[str, Signature]) -> Singles:
        """The first exit's confidence in each row of the eval split.

        Raises `ArtefactError` where the chain does not compute what the model does, or not what the family takes and
        gives (``others``: signatures of its variants).
        """
        with ExitStack() as stack:
            file = self._staged.loaded(self._family, model)
            stack.enter_context(unusable(file, str(model)))
            whole = stack.enter_context(self._backend.runner(file))  # first: errors name it, not its stages
            runner = stack.enter_context(
                self._runner(self.variant("all", Condition(Metric.EXIT, ">=", float(len(self._names)))))
            )
            require_same_tensors([*others.items(), (model.stem, runner.signature)])
            rows, _ = labelled_rows(self._eval, runner.signature.inputs)
            few = {name: values[:COMPARED_ROWS] for name, values in rows.items()}
            _require_same(model, whole.infer(few), list(runner.passed(few)), outputs)
            return _first_confidence(runner, rows)

    def judged(self, name: str, stop_when: Condition) -> OperatingPoint:
        """The exits of a variant, judged on the eval split. Raises as `profiling.exits.judged` does."""
        with self._runner(self.variant(name, stop_when)) as runner:
            exits = judged((), runner, self._eval)
        accuracy = sum((each.share or 0.0) * (each.accuracy or 0.0) for each in exits)
        return OperatingPoint(name, stop_when, round(accuracy, DIGITS), exits)

    @contextmanager
    def _runner(self, variant: Variant) -> Iterator[ExitRunner]:
        chain = ExitChain.of(variant, self._files, self._family.confidence, self._staged.preparation(self._family))
        key = VariantKey(self._family.name, variant.name)
        with self._backend.runner(chain_file(chain, self._staged.scratch), key) as runner:
            assert isinstance(runner, ExitRunner)  # noqa: S101 - it is a chain file
            yield runner


def _eval_path(place: store.Workspace, known: Family | None, split: Path | None, family: str) -> Path:
    """The rows that the exits are judged on. Raises `UsageError` without any."""
    if known is not None and split is not None:
        raise UsageError(
            f"Family `{known.name}` is in the catalog already.",
            hint="leave out `--eval`, and set `eval` in engines/catalog.toml",
        )
    found = split if known is None else place.eval_path(known)
    if found is None:
        where = "`--eval labelled.npz`" if known is None else "`eval` in engines/catalog.toml"
        raise UsageError(
            f"Family `{family}` has no labelled rows, and what an exit is worth is measured on them.",
            hint=f"name some: {where}",
        )
    return found


def _require_new(known: Family | None, names: Sequence[str]) -> None:
    taken = [variant.name for variant in known.variants if variant.name in names] if known is not None else []
    if known is not None and taken:
        raise UsageError(
            f"Family `{known.name}` has a variant `{taken[0]}` already.",
            hint="rename the file: variants have its name",
        )


def _new_family(staged: Staging, place: store.Workspace, family: str, slo: str, split: Path) -> Family:
    """A family without variants yet: the one that it has stands for those to come."""
    return Family(family, slo, (Variant("none", 1.0),), eval=eval_name(staged, place, family, split))


def _signatures(place: store.Workspace, known: Family | None, backend: Backend) -> dict[str, Signature]:
    """The signature of the most accurate variant of a family; empty if none has ONNX files."""
    with_model = [variant for variant in known.variants if variant.files] if known is not None else []
    if known is None or not with_model:
        return {}
    best = max(with_model, key=lambda variant: variant.accuracy)
    with backend.runner(place.loaded_model_of(known, best, to="compare with")) as runner:
        return {best.name: runner.signature}


def _require_same(model: Path, whole: NamedArrays, exits: Sequence[Passed], outputs: Sequence[tuple[str, ...]]) -> None:
    """Raise `ArtefactError` unless the exits give what the whole model gives, some rounding apart."""
    for place, (names, passed) in enumerate(zip(outputs, exits, strict=True), start=1):
        for name, (own, values) in zip(names, passed.outputs.items(), strict=True):
            expected = whole[name]
            if expected.shape != values.shape or not np.allclose(values, expected, RTOL, ATOL, equal_nan=True):
                raise ArtefactError(
                    f"Exit {place} of the stages of `{model}` gives another `{own}` than `{name}` of the whole model.",
                    hint="does a row's answer depend on the rows beside it? Else report it, with the model",
                )


def _first_confidence(runner: ExitRunner, rows: NamedArrays) -> Singles:
    count = len(next(iter(rows.values())))
    parts = (slice(first, first + COMPARED_ROWS) for first in range(0, count, COMPARED_ROWS))
    found = [next(runner.passed({name: values[part] for name, values in rows.items()})).confidence for part in parts]
    return np.concatenate(found)
