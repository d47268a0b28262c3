"""Adds a task: a family of variants that are trained on labelled rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proteus_cli import store
from proteus_cli.backends.base import Backend
from proteus_cli.domain.catalog import Catalog, Family, FamilyPolicy, Task, Variant, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.errors import ArtefactError, TrainingFailed, UsageError
from proteus_cli.input_files import CATALOG, read_text
from proteus_cli.progress import Advance, StepCounter
from proteus_cli.variants.accuracy import AccuracyFinder, Evidence
from proteus_cli.variants.adding import changed_text, family_slo
from proteus_cli.variants.judging import STEPS_OF_A_MODEL, Measurement, Standing, frontier, measure_beside
from proteus_cli.variants.models import name_in
from proteus_cli.variants.staging import Staging, staging
from proteus_cli.variants.training.arrays import LabelledRows, apart_from, at_most, held_out, read_labelled
from proteus_cli.variants.training.fitting import OUTPUT
from proteus_cli.variants.training.processes import Limits
from proteus_cli.variants.training.recipes import require_packages, train_ladder, variant_name

FIRST_VERSION = 1


@dataclass(frozen=True, slots=True)
class TrainedVariant:
    """A variant that was trained, and whether and ``why`` it was kept; ``qps``: its highest rate within the SLO."""

    variant: str
    onnx: str
    accuracy: float
    qps: float
    size_bytes: int
    kept: bool
    why: str


@dataclass(frozen=True, slots=True)
class AddedTask:
    """A task that was added. ``untrained``: kinds of models for which no time was left."""

    family: str
    slo: str
    device: str
    train_rows: int
    eval_rows: int
    variants: tuple[TrainedVariant, ...]
    untrained: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TaskPlace:
    """Where a task is put: a workspace, and its catalog as it is read before; None where there is none."""

    workspace: store.Workspace
    text: str | None
    catalog: Catalog | None


def read_place(workspace: store.Workspace) -> TaskPlace:
    """Raises `ArtefactError` where there is a catalog that can't be read."""
    path = workspace.catalog_path
    if not path.exists():
        return TaskPlace(workspace, None, None)
    text = read_text(path, CATALOG, hint="name another workspace with `--workspace`")
    return TaskPlace(workspace, text, store.parse_catalog(text.encode(), path))


def new_family(
    place: TaskPlace, name: str, slo: str, data: Path, policy: FamilyPolicy, *, seed: int, rows: int
) -> Family:
    """The family of a new task, yet without variants that are trained. Raises `UsageError`, also where it is there."""
    if place.catalog is not None and name in place.catalog.names:
        raise UsageError(
            f"There is a family `{name}` already.", hint=f"`proteus task retrain {name}` trains its variants anew"
        )
    slo = family_slo(None, name, slo)
    placeholder = Variant(variant_name(name, "linear"), 1.0)
    task = Task(catalog_name(place.workspace, data), seed, rows)
    return Family(name, slo, (placeholder,), eval=f"models/{name}/eval.npz", policy=policy, task=task)


def catalog_name(workspace: store.Workspace, data: Path) -> str:
    """How the catalog names the labelled rows: relative to it, where they are in its directory; else without `..`."""
    return name_in(workspace, data) or str(data.parent.resolve() / data.name)


def add_task(
    place: TaskPlace, family: Family, data: Path, kinds: Sequence[str], device: Device, backend: Backend,
    limits: Limits, advance: Advance,
) -> AddedTask:  # fmt: skip
    """Train these kinds of models, and add the useful ones as variants of ``family``.

    After an error all is as before. Raises `UsageError`, `ArtefactError`, `BackendUnavailable`, `TrainingFailed`, and
    `EngineError`.
    """
    require_packages()
    assert family.task is not None  # noqa: S101 - `new_family` made it
    seed, max_rows = family.task.seed, family.task.rows
    rows = read_labelled(data)
    if rows.name == OUTPUT:
        raise ArtefactError(
            f"The rows in `{data}` are named `{OUTPUT}`, as the output of the models is.",
            hint="name the array `x`, or otherwise as the input of the models is to be named",
        )
    split = held_out(rows, seed)
    to_train = training_rows(rows, split, max_rows, seed)
    steps = StepCounter(advance, len(kinds) * (1 + STEPS_OF_A_MODEL))
    with staging(place.workspace) as staged:
        _text(place, family, [Variant(family.variants[0].name, 1.0)])  # raises before anything is trained
        staged.write(str(family.eval), split.npz())  # raises where its place is taken
        scratch = staged.scratch
        scratch.mkdir()
        models = train_ladder(to_train, kinds, seed, scratch, limits, steps)
        if not models:
            raise TrainingFailed("No model was trained.", hint="give it more time: `--budget 10min`")
        names = {variant_name(family.name, kind): path for kind, path in models.items()}
        onnx = {variant: version_path(family.name, variant, FIRST_VERSION) for variant in names}
        for variant, path in names.items():
            staged.copy(path, onnx[variant])
        found = measured(family, staged, onnx, staged.path(str(family.eval)), device, backend, steps)
        made = _judged(found, onnx, staged)
        _keep(place, family, staged, made)
    untrained = tuple(kind for kind in kinds if kind not in models)
    return AddedTask(family.name, family.slo, device.id, len(to_train.y), len(split.y), made, untrained)


def training_rows(rows: LabelledRows, split: LabelledRows, max_rows: int | None, seed: int) -> LabelledRows:
    """Rows to train on: none of them is in the eval split. Raises `ArtefactError` where a class has none left."""
    left = apart_from(rows, split)
    if len(set(left.y.tolist())) < rows.classes:
        raise ArtefactError(
            "A class has no rows left to train on: all of them are in the eval split, too.",
            hint="the same row, many times, teaches nothing: give more different rows of each class",
        )
    return left if max_rows is None else at_most(left, max_rows, seed)


def version_path(family: str, variant: str, version: int) -> str:
    """Where the catalog has the model of a version: in a directory that is named for it."""
    return f"models/{family}/{variant}/{version}/model.onnx"


def measured(
    family: Family, staged: Staging, onnx: Mapping[str, str], split: Path, device: Device, backend: Backend,
    steps: StepCounter,
) -> dict[str, Measurement]:  # fmt: skip
    """Measurements of models beside each other, by the names of their variants. Raises `EngineError`."""
    finder = AccuracyFinder(backend, family.name, Evidence(eval=split))
    keys = {VariantKey(family.name, name): staged.loaded(family, staged.path(path)) for name, path in onnx.items()}
    found = measure_beside(device, backend, keys, family.slo_s, finder, steps)
    return {key.variant: each for key, each in found.items()}


def _judged(found: Mapping[str, Measurement], onnx: Mapping[str, str], staged: Staging) -> tuple[TrainedVariant, ...]:
    """The fastest first."""
    judgements = frontier({variant: Standing(each.accuracy, each.qps) for variant, each in found.items()})
    return tuple(
        TrainedVariant(
            variant, onnx[variant], found[variant].accuracy, found[variant].qps,
            staged.path(onnx[variant]).stat().st_size, *judgements[variant],
        )
        for variant in sorted(found, key=lambda name: -found[name].qps)
    )  # fmt: skip


def _keep(place: TaskPlace, family: Family, staged: Staging, made: Sequence[TrainedVariant]) -> None:
    kept = [each for each in made if each.kept]
    if not kept:
        raise TrainingFailed(
            f"No model that was trained is within the SLO, {family.slo}.", hint="give a longer one: `--slo 100ms`"
        )
    for each in made:
        if not each.kept:
            staged.drop(each.onnx)
    variants = [Variant(each.variant, each.accuracy, each.onnx) for each in kept]
    staged.commit(_text(place, family, variants), before=place.text)


def _text(place: TaskPlace, family: Family, variants: Sequence[Variant]) -> str:
    return changed_text(place.workspace, place.text, place.catalog, family, variants, made_by="proteus task add")
