"""Trains the variants of a task anew: new versions take the place of the earlier ones where they are as good."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from proteus_cli import store
from proteus_cli.backends.base import Backend
from proteus_cli.domain.catalog import VERSION_MARK, Catalog, Family, Task, Variant
from proteus_cli.domain.device import Device
from proteus_cli.errors import ArtefactError, TrainingFailed, UsageError
from proteus_cli.input_files import CATALOG, MODEL, read_bytes, read_text
from proteus_cli.progress import Advance, Say, StepCounter
from proteus_cli.store import catalog_text
from proteus_cli.store.models.external_data import external_files
from proteus_cli.variants.accuracy import DIGITS
from proteus_cli.variants.judging import STEPS_OF_A_MODEL, Measurement
from proteus_cli.variants.models import require_same_tensors, unusable
from proteus_cli.variants.staging import Staging, staging
from proteus_cli.variants.training.adding import catalog_name, measured, training_rows
from proteus_cli.variants.training.arrays import LabelledRows, apart_from, held_out, read_labelled
from proteus_cli.variants.training.processes import Limits, require_success, run_command
from proteus_cli.variants.training.recipes import kinds_of, require_packages, train_ladder, variant_name
from proteus_cli.variants.training.registered import versions_in


@dataclass(frozen=True, slots=True)
class NewVersion:
    """Both versions of a variant, on the same rows; ``passed``: the new one is as good as was asked for."""

    variant: str
    version: int
    onnx: str
    old_accuracy: float
    accuracy: float
    old_qps: float
    qps: float
    passed: bool

    @property
    def name(self) -> str:
        """As servers call it: ``wine-mlp-64@2``."""
        return f"{self.variant}{VERSION_MARK}{self.version}"


@dataclass(frozen=True, slots=True)
class Retraining:
    """The result. ``untrained`` variants have no new version: no time was left, or the command did not train them."""

    family: str
    data: str
    device: str
    train_rows: int
    eval: str
    eval_rows: int
    versions: tuple[NewVersion, ...]
    untrained: tuple[str, ...]

    @property
    def passed(self) -> tuple[NewVersion, ...]:
        """The versions that are as good as was asked for."""
        return tuple(each for each in self.versions if each.passed)


@dataclass(frozen=True, slots=True)
class KnownTask:
    """A task of the catalog as it was read; ``data`` are the rows to train on now."""

    workspace: store.Workspace
    text: str
    catalog: Catalog
    family: Family
    task: Task
    data: Path

    @property
    def is_as_before(self) -> bool:
        """Whether it is trained on the rows that the catalog names."""
        return self.data.resolve() == self.workspace.model_path(self.task.data).resolve()


@dataclass(frozen=True, slots=True)
class _RetrainingRows:
    """The rows to train on, and the ``split`` that judges both versions; ``is_new``: not the family's eval split."""

    to_train: LabelledRows
    split: LabelledRows
    is_new: bool


def known_task(workspace: store.Workspace, name: str, data: Path | None) -> KnownTask:
    """Raises `ArtefactError`, and `UsageError` where there is no such task."""
    text = read_text(workspace.catalog_path, CATALOG, hint="`proteus task add` makes a catalog")
    catalog = store.parse_catalog(text.encode(), workspace.catalog_path)
    family = catalog.family(name)
    if family.task is None or family.eval is None:
        missing = "[family.task]" if family.task is None else "an eval split"
        raise UsageError(
            f"Family `{name}` is no task: it has no {missing.removeprefix('an ')}.",
            hint="docs/lifecycle.md says what makes a family with models of your own a task",
        )
    path = data if data is not None else workspace.model_path(family.task.data)
    return KnownTask(workspace, text, catalog, family, family.task, path)


def retrain(
    known: KnownTask, device: Device, backend: Backend, limits: Limits, *, max_loss: float, keeps_split: bool,
    keeps_catalog: bool, advance: Advance, say: Say,
) -> Retraining:  # fmt: skip
    """Train new versions, write them beside the earlier ones, and name the passing ones in the catalog.

    A version passes unless it is less accurate than the earlier one by more than ``max_loss``, or misses the SLO. Both
    are judged on the same rows, which the new one is not trained on. These are the eval split, or a held-out part of
    ``data`` if that is new, unless ``keeps_split``. With ``keeps_catalog``, new versions are only written. After an
    error all is as before. Raises `UsageError`, `ArtefactError`, `TrainingFailed`, `EngineError`.
    """
    rows = _rows(known, keeps_split=keeps_split, keeps_catalog=keeps_catalog)
    family = known.family
    wanted = [variant.name for variant in family.variants if variant.onnx is not None]
    steps = StepCounter(advance, len(wanted) * (1 + 2 * STEPS_OF_A_MODEL))
    with staging(known.workspace) as staged:
        staged.scratch.mkdir()
        models = _trained(known, rows.to_train, wanted, staged.scratch, limits, steps, say)
        split = _split_path(known, staged, rows)
        numbered = {variant: _stage_version(known, staged, variant, model) for variant, model in models.items()}
        versions = {variant: version for variant, (version, _) in numbered.items()}
        paths = {variant: path for variant, (_, path) in numbered.items()}
        _require_same_tensors(known, staged, paths, backend)
        old = {variant: str(family.variant(variant).onnx) for variant in (wanted if rows.is_new else models)}
        new = {f"{variant}{VERSION_MARK}{versions[variant]}": path for variant, path in paths.items()}
        found = measured(family, staged, old | new, staged.path(split), device, backend, steps)
        made = tuple(_judged(variant, versions[variant], path, found, max_loss) for variant, path in paths.items())
        _commit(known, staged, made, found, split, is_new=rows.is_new, keeps_catalog=keeps_catalog)
    untrained = tuple(variant.name for variant in family.variants if variant.name not in models)
    return Retraining(
        family.name, str(known.data), device.id, len(rows.to_train.y), split, len(rows.split.y), made, untrained
    )


def _rows(known: KnownTask, *, keeps_split: bool, keeps_catalog: bool) -> _RetrainingRows:
    """Raises `ArtefactError` where no rows are left, to train on or to judge by.

    A catalog that is kept names the eval split that there is, so its rows are not trained on either.
    """
    rows, seed = read_labelled(known.data), known.task.seed
    path = known.workspace.eval_path(known.family)
    assert path is not None  # noqa: S101 - `known_task` has seen to it
    split = kept = read_labelled(path, fewest=0)
    if (rows.name, rows.x.shape[1:]) != (split.name, split.x.shape[1:]):
        raise ArtefactError(
            f"`{known.data}` has `{rows.name}` of shape {rows.x.shape[1:]}; the eval split has `{split.name}` of shape "
            f"{split.x.shape[1:]}.",
            hint="clients send the same tensors as before: give rows of the same name and shape",
        )
    is_new = not (known.is_as_before or keeps_split)
    if is_new:
        before = known.workspace.model_path(known.task.data)
        others = apart_from(rows, read_labelled(before)) if before.is_file() else rows
        if not len(others.y):
            raise ArtefactError(
                f"`{known.data}` has no row that the earlier versions were not trained on, to judge both versions by.",
                hint="`--keep-eval` judges them by the eval split of the family",
            )
        split = held_out(others, seed)
    if keeps_catalog:
        rows = apart_from(rows, kept)
    return _RetrainingRows(training_rows(rows, split, known.task.rows, seed), split, is_new)


def _trained(
    known: KnownTask,
    rows: LabelledRows,
    wanted: Sequence[str],
    directory: Path,
    limits: Limits,
    steps: StepCounter,
    say: Say,
) -> dict[str, Path]:
    """The new models by the names of their variants: by the user's own command, where there is one, or our recipe."""
    if known.task.retrain is not None:
        steps.begin("training")
        return _trained_by_command(known, rows, wanted, directory.absolute(), limits, say)
    kinds = kinds_of(known.family.name, wanted)
    require_packages()
    if not kinds:
        raise UsageError(
            f"No variant of `{known.family.name}` was trained by `proteus task add`.",
            hint='name a command that trains them: `retrain = "python train.py {data} {out}"` in [family.task]',
        )
    models = train_ladder(rows, kinds, known.task.seed, directory, limits, steps)
    return {variant_name(known.family.name, kind): path for kind, path in models.items()}


def _trained_by_command(
    known: KnownTask, rows: LabelledRows, wanted: Sequence[str], directory: Path, limits: Limits, say: Say
) -> dict[str, Path]:
    """The files that the command writes for variants of the family. Raises `TrainingFailed`."""
    data, out = directory / "rows.npz", directory / "out"
    store.write_bytes(data, rows.npz())
    out.mkdir()
    command = known.task.command(str(data), str(out))
    ended = run_command(command, known.workspace.root.absolute(), limits, say)
    require_success(ended, f"`{command[0]}`", limits)
    written = {path.stem: path for path in sorted(out.glob("*.onnx"))}
    if unknown := [name for name in written if name not in wanted]:
        raise TrainingFailed(
            f"`{command[0]}` wrote `{unknown[0]}.onnx`, and `{known.family.name}` has no variant of that name.",
            hint=f"it has: {', '.join(wanted)}",
        )
    if not written:
        raise TrainingFailed(f"`{command[0]}` wrote no model.", hint=f"it is to write {{out}}/{wanted[0]}.onnx")
    return written


def _stage_version(known: KnownTask, staged: Staging, variant: str, model: Path) -> tuple[int, str]:
    """Stage a new version beside the earlier one, with its external data: its number, and the path of the model.

    The number is one more than any that is there, and a later one where variants share a file or a directory, and its
    files would have places of others. Raises `ArtefactError`.
    """
    current = PurePosixPath(str(known.family.variant(variant).onnx))
    is_numbered = current.parent.name.isdecimal()
    directory = current.parent.parent if is_numbered else current.parent
    parts = external_files(model, read_bytes(model, MODEL, hint="the task's command is to write ONNX files"))
    files = {current.name: model} | {part.relative_to(model.parent).as_posix(): part for part in parts}
    version = 1 + max(versions_in(known.workspace.model_path(str(directory)), current.name), default=1)
    while any(staged.is_taken(str(directory / str(version) / name)) for name in files):
        version += 1
    for name, file in files.items():
        staged.copy(file, str(directory / str(version) / name))
    return version, str(directory / str(version) / current.name)


def _split_path(known: KnownTask, staged: Staging, rows: _RetrainingRows) -> str:
    """How the catalog names the rows that both versions are judged on."""
    if not rows.is_new:
        return str(known.family.eval)
    number = 2
    while known.workspace.model_path(path := f"models/{known.family.name}/eval-{number}.npz").exists():
        number += 1
    staged.write(path, rows.split.npz())
    return path


def _require_same_tensors(known: KnownTask, staged: Staging, paths: Mapping[str, str], backend: Backend) -> None:
    """Raise `ArtefactError` where a new model can't be run, or takes or gives other tensors than the earlier one."""
    for variant, path in paths.items():
        now = known.family.variant(variant)
        signatures = []
        for name, file in (
            (variant, known.workspace.loaded_model_of(known.family, now, to="compare with")),
            (f"{variant}, trained anew", staged.loaded(known.family, staged.path(path))),
        ):
            with unusable(file, name), backend.runner(file) as runner:
                signatures.append((name, runner.signature))
        require_same_tensors(signatures)


def _judged(variant: str, version: int, path: str, found: Mapping[str, Measurement], max_loss: float) -> NewVersion:
    old, new = found[variant], found[f"{variant}{VERSION_MARK}{version}"]
    is_as_good = round(new.accuracy - old.accuracy, DIGITS) >= -max_loss
    passed = is_as_good and (new.qps > 0 or old.qps == 0)
    return NewVersion(variant, version, path, old.accuracy, new.accuracy, old.qps, new.qps, passed)


def _commit(
    known: KnownTask, staged: Staging, made: Sequence[NewVersion], found: Mapping[str, Measurement], split: str, *,
    is_new: bool, keeps_catalog: bool,
) -> None:  # fmt: skip
    """Move all new versions to their places; where some pass, the catalog names these, and the split is its own.

    Accuracies in the catalog are all of one split.
    """
    passed = {each.variant: (each.onnx, each.accuracy) for each in made if each.passed}
    if not passed or keeps_catalog:
        if is_new:
            staged.drop(split)
        staged.commit(known.text, before=known.text)
        return
    others = {
        variant.name: (str(variant.onnx), found[variant.name].accuracy)
        for variant in known.family.variants
        if is_new and variant.name in found and variant.name not in passed
    }
    data = catalog_name(known.workspace, known.data)
    text = catalog_text.with_models(known.text, known.family.name, passed | others, split=split, data=data)
    meant = _meant(known, passed | others, split, data)
    catalog_text.require_says(text, meant, known.workspace.catalog_path)
    staged.commit(text, before=known.text)


def _meant(known: KnownTask, models: Mapping[str, tuple[str, float]], split: str, data: str) -> Catalog:
    family, task = known.family, msgspec.structs.replace(known.task, data=data)
    variants = tuple(_with_model(each, *models[each.name]) if each.name in models else each for each in family.variants)
    changed = msgspec.structs.replace(family, variants=variants, eval=split, task=task)
    families = tuple(changed if each is family else each for each in known.catalog.families)
    return msgspec.structs.replace(known.catalog, families=families)


def _with_model(variant: Variant, onnx: str, accuracy: float) -> Variant:
    return msgspec.structs.replace(variant, onnx=onnx, accuracy=accuracy, estimated=False)
