"""Makes variants out of a variant, measures them beside it, and keeps the useful ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from proteus_cli import store
from proteus_cli.backends.base import Backend, NamedArrays, Signature
from proteus_cli.domain.catalog import Catalog, Family, Variant, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.errors import ArtefactError, EngineError, UsageError
from proteus_cli.input_files import CATALOG, read_text
from proteus_cli.progress import Advance, StepCounter
from proteus_cli.store import catalog_text
from proteus_cli.store.eval_splits import unlabelled_rows
from proteus_cli.variants.accuracy import Accuracy, AccuracyFinder, Evidence
from proteus_cli.variants.conversions.calibration import require_others
from proteus_cli.variants.conversions.recipes import Recipe, Wanted, recipes
from proteus_cli.variants.judging import STEPS_OF_A_MODEL, Judgement, Measurement, Standing, judge, measure_beside
from proteus_cli.variants.models import unusable
from proteus_cli.variants.staging import staging


@dataclass(frozen=True, slots=True)
class Derived:
    """A variant that was made: ``how``, its measurements by device, and whether and ``why`` it was kept."""

    variant: str
    onnx: str
    how: str
    size_bytes: int
    devices: dict[str, Measurement]
    kept: bool
    why: str


@dataclass(frozen=True, slots=True)
class Derivation:
    """The variants that were made of a variant, and its own measurements by device."""

    family: str
    variant: str
    size_bytes: int
    devices: dict[str, Measurement]
    derived: tuple[Derived, ...]


@dataclass(frozen=True, slots=True)
class Parent:
    """The variant that others are derived from, as the catalog has it, and calibration rows as clients send them.

    ``model`` is its file, and ``loaded`` what is run: the same, but for a family with an input of its own.
    """

    place: store.Workspace
    text: str
    catalog: Catalog
    family: Family
    variant: Variant
    model: Path
    loaded: Path
    signature: Signature
    inputs: Path | None
    rows: NamedArrays | None

    @property
    def eval(self) -> Path | None:
        """The eval split of its family."""
        return self.place.eval_path(self.family)

    def key(self, recipe: Recipe | None = None) -> VariantKey:
        """The variant itself, or what a recipe makes of it."""
        suffix = f"-{recipe.suffix}" if recipe is not None else ""
        return VariantKey(self.family.name, f"{self.variant.name}{suffix}")

    def onnx(self, recipe: Recipe) -> str:
        """The new file's name: ``models/a/b.onnx`` → ``models/a/b-int8.onnx``."""
        path = Path(str(self.variant.onnx))
        return path.with_name(f"{path.stem}-{recipe.suffix}{path.suffix}").as_posix()

    def recipes(self, wanted: Wanted) -> list[Recipe]:
        """The recipes that are wanted. Raises `UsageError` where a variant is there already, or as `recipes` does."""
        found = list(recipes(self.model, self.loaded, wanted, self.rows))
        if not found:
            raise UsageError("Nothing to derive.", hint="give `--int8`, `--fp16`, or `--sizes 160,192`")
        names = {variant.name for variant in self.family.variants}
        if taken := [each for recipe in found if (each := self.key(recipe).variant) in names]:
            raise UsageError(
                f"Family `{self.family.name}` has a variant `{taken[0]}` already.",
                hint="to make it anew, take it out of engines/catalog.toml and remove its file first",
            )
        return found


def read_parent(place: store.Workspace, name: str, inputs: Path | None, backend: Backend) -> Parent:
    """The variant ``name``, or ``family/name``, and the rows of the .npz ``inputs``.

    Raises `UsageError` without evidence of the accuracy of its children. Raises `ArtefactError` if the catalog, the
    model or the rows can't be used, or rows are in the eval split, too.
    """
    text = read_text(place.catalog_path, CATALOG, hint="`proteus catalog add` makes a catalog")
    catalog = store.parse_catalog(text.encode(), place.catalog_path)
    family, variant = catalog.find(name)
    model, eval_path = place.model_of(family, variant, to="derive from"), place.eval_path(family)
    store.model_parts(model)  # raises where one can't be read
    if eval_path is None and inputs is None:
        raise UsageError(
            f"Nothing tells how accurate variants of `{variant.name}` are: `{family.name}` has no eval split.",
            hint="`--calibration rows.npz` estimates it by agreement; or set `eval` in engines/catalog.toml",
        )
    loaded = place.loaded_path(family, model)
    with unusable(loaded, str(model)), backend.runner(loaded, VariantKey(family.name, variant.name)) as runner:
        signature = runner.signature
    rows = unlabelled_rows(inputs, signature.inputs) if inputs is not None else None
    if rows is not None and eval_path is not None:
        require_others(rows, unlabelled_rows(eval_path, signature.inputs), str(inputs))
    return Parent(place, text, catalog, family, variant, model, loaded, signature, inputs, rows)


def derive(
    parent: Parent,
    made: Sequence[Recipe],
    devices: Sequence[tuple[Device, Backend]],
    *,
    keep_all: bool,
    advance: Advance,
) -> Derivation:
    """Follow recipes of `Parent.recipes`, measure the results, and add the useful ones to the catalog, or all.

    After an error all is as before. Raises `UsageError`, `ArtefactError`, and `EngineError`.
    """
    _text(parent, [Variant(parent.key(each).variant, 1.0, parent.onnx(each)) for each in made])  # raises early
    steps = StepCounter(advance, len(made) + len(devices) * (1 + len(made)) * STEPS_OF_A_MODEL)
    with staging(parent.place) as staged:
        for recipe in made:
            steps.begin(f"making {parent.key(recipe).variant}")
            staged.write(parent.onnx(recipe), recipe.convert())
        models = {parent.key(): parent.loaded} | {
            parent.key(each): staged.loaded(parent.family, staged.path(parent.onnx(each))) for each in made
        }
        _require_work(models, parent, devices[0][1])
        found = _measured(models, parent, devices, steps)
        derived = tuple(
            _derived(parent, recipe, staged.path(parent.onnx(recipe)), found, keep_all=keep_all) for recipe in made
        )
        if kept := [each for each in derived if each.kept]:
            for each in derived:
                if not each.kept:
                    staged.drop(each.onnx)
            staged.commit(_text(parent, [_variant(each) for each in kept]), before=parent.text)
    size_bytes = sum(part.stat().st_size for part in store.model_parts(parent.model))
    return Derivation(parent.family.name, parent.variant.name, size_bytes, _of(parent.key(), found), derived)


def _require_work(models: Mapping[VariantKey, Path], parent: Parent, backend: Backend) -> None:
    """Raise `ArtefactError` where a new model doesn't run, or takes or gives other tensors than its parent."""
    sample = parent.signature.sample(2, np.random.default_rng(0))
    for key, model in models.items():
        try:
            with backend.runner(model, key) as runner:
                runner.infer(sample)
                different = "; ".join(runner.signature.differences(parent.signature))
        except EngineError as error:
            different = error.message.replace(str(model), key.variant).rstrip(".")
        if different:
            raise ArtefactError(
                f"`{key.variant}` can't replace `{parent.variant.name}`: {different}.",
                hint="leave out its option; the model does not allow it",
            )


def _measured(
    models: Mapping[VariantKey, Path], parent: Parent, devices: Sequence[tuple[Device, Backend]], steps: StepCounter
) -> dict[str, dict[VariantKey, Measurement]]:
    """Measurements by device and variant."""
    own = Accuracy(parent.variant.accuracy, parent.variant.estimated, "as in the catalog")
    evidence = Evidence(parent.eval, {parent.variant.name: own}, parent.inputs)
    found: dict[str, dict[VariantKey, Measurement]] = {}
    for device, backend in devices:
        finder = AccuracyFinder(backend, parent.family.name, evidence)
        found[device.id] = measure_beside(device, backend, models, parent.family.slo_s, finder, steps)
    return found


def _derived(
    parent: Parent,
    recipe: Recipe,
    model: Path,
    found: Mapping[str, Mapping[VariantKey, Measurement]],
    *,
    keep_all: bool,
) -> Derived:
    own = _of(parent.key(recipe), found)
    judgements = {device: _judgement(parent.key(recipe), parent.key(), by_key) for device, by_key in found.items()}
    why = "; ".join(
        f"{judgement.why} on {device}" if len(judgements) > 1 else judgement.why
        for device, judgement in judgements.items()
    )
    kept = keep_all or any(judgement.kept for judgement in judgements.values())
    name, onnx = parent.key(recipe).variant, parent.onnx(recipe)
    return Derived(name, onnx, recipe.how, model.stat().st_size, own, kept, why)


def _judgement(own: VariantKey, parent: VariantKey, by_key: Mapping[VariantKey, Measurement]) -> Judgement:
    standings = {key: Standing(each.accuracy, each.qps) for key, each in by_key.items()}
    siblings = [standing for key, standing in standings.items() if key not in {own, parent}]
    return judge(standings[own], standings[parent], siblings)


def _of(key: VariantKey, found: Mapping[str, Mapping[VariantKey, Measurement]]) -> dict[str, Measurement]:
    """Measurements of one variant by device."""
    return {device: by_key[key] for device, by_key in found.items()}


def _variant(made: Derived) -> Variant:
    """Its entry in the catalog, with the accuracy on the first device."""
    measured = next(iter(made.devices.values()))
    return Variant(made.variant, measured.accuracy, made.onnx, measured.estimated)


def _text(parent: Parent, added: Sequence[Variant]) -> str:
    """The catalog with more variants behind their parent. Raises `ArtefactError` where they can't be put there."""
    after = parent.variant.name
    text = catalog_text.with_variants(parent.text, parent.family.name, after, added)
    meant = parent.catalog.with_variants(parent.family, after, added)
    catalog_text.require_says(text, meant, parent.place.catalog_path)
    return text
