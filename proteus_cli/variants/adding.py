"""Adds models to the catalog as the variants of a family, and makes catalog and family where there are none."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from proteus_cli import store
from proteus_cli.backends.base import Backend, Signature, TensorSpec
from proteus_cli.backends.free_memory import within_free_memory
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.catalog import Catalog, Family, Variant, is_name
from proteus_cli.errors import ArtefactError, UsageError
from proteus_cli.input_files import CATALOG, read_text
from proteus_cli.profiling.importing import parse_slo
from proteus_cli.progress import Advance, StepCounter
from proteus_cli.store import catalog_text
from proteus_cli.variants.accuracy import AccuracyFinder, Evidence
from proteus_cli.variants.image_folders import split_of_folder
from proteus_cli.variants.models import NewModel, name_in, require_same_tensors, stage_model
from proteus_cli.variants.staging import Staging, staging

_HINT = "name another workspace with `--workspace`"


@dataclass(frozen=True, slots=True)
class AddedVariant:
    """``basis`` says how the accuracy is known; ``fixed_batch`` is the batch that was made dynamic."""

    variant: str
    onnx: str
    accuracy: float
    estimated: bool
    basis: str
    fixed_batch: int | None


@dataclass(frozen=True, slots=True)
class Addition:
    """Variants that were added to a family, and the tensors that all of the family take and give."""

    family: str
    slo: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    variants: tuple[AddedVariant, ...]


def add(
    place: store.Workspace,
    family: str,
    models: Mapping[str, Path],
    *,
    slo: str | None,
    evidence: Evidence,
    backend: Backend,
    advance: Advance,
) -> Addition:
    """Add models, by the names of their variants; files that are not below ``engines/`` are copied there.

    Tensors are compared before anything is measured. The catalog is written last; after an error all is as before.
    Raises `UsageError`, `ArtefactError`, and `BackendUnavailable` where the package `onnx` is needed.
    """
    for model in models.values():
        if not model.is_file():
            raise ArtefactError(f"No file `{model}`.", hint="name ONNX models that are there")
    text = read_text(place.catalog_path, CATALOG, hint=_HINT) if place.catalog_path.exists() else None
    before = store.parse_catalog(text.encode(), place.catalog_path) if text is not None else None
    known = before.family(family) if before is not None and family in before.names else None
    if known is not None:
        _require_new(known, models, evidence)
    slo = family_slo(known, family, slo)
    if known is not None:
        evidence = replace(evidence, eval=place.eval_path(known))
    reference = _reference(place, known)
    AccuracyFinder(backend, family, evidence, reference).require_enough(list(models), is_new=known is None)
    steps = StepCounter(advance, len(models))
    with within_free_memory("the models"), staging(place) as staged:
        made = [stage_model(staged, place, family, name, path, backend) for name, path in models.items()]
        new = [replace(model, file=staged.loaded(known, model.file)) for model in made]
        signature = _signature(place, known, reference, new, backend)
        split = known.eval if known is not None else eval_name(staged, place, family, evidence.eval, signature)
        if split is not None:
            evidence = replace(evidence, eval=staged.path(split))
        finder = AccuracyFinder(backend, family, evidence, reference)
        planned = tuple(Variant(each.variant, 1.0, each.onnx) for each in new)
        target = known if known is not None else Family(family, slo, planned, eval=split)
        changed_text(place, text, before, target, planned)  # raises before anything is measured
        added = tuple(_measured(new, finder, backend, steps))
        variants = [Variant(each.variant, each.accuracy, each.onnx, each.estimated) for each in added]
        staged.commit(changed_text(place, text, before, target, variants), before=text)
    return Addition(family, slo, _described(signature.inputs), _described(signature.outputs), added)


def family_slo(known: Family | None, family: str, slo: str | None) -> str:
    """The SLO of a family that is known, or as given for a new one. Raises `UsageError`."""
    if known is not None:
        if slo is not None:
            raise UsageError(
                f"Family `{family}` has the SLO {known.slo} already.",
                hint="leave out `--slo`, and change `slo` in engines/catalog.toml",
            )
        return known.slo
    if not is_name(family):
        raise UsageError(f"`{family}` is no name for a family.", hint="use letters, digits, `.`, `_` and `-`")
    if slo is None:
        raise UsageError(f"Family `{family}` is new, and needs a latency target.", hint="give one: `--slo 200ms`")
    return parse_slo(slo)


def _require_new(known: Family, models: Mapping[str, Path], evidence: Evidence) -> None:
    """Raise `UsageError` where a family has a variant of that name, or its eval split is to be set."""
    if taken := [variant.name for variant in known.variants if variant.name in models]:
        raise UsageError(
            f"Family `{known.name}` has a variant `{taken[0]}` already.",
            hint="rename the file: a variant has the name of its file",
        )
    if evidence.eval is not None:
        raise UsageError(
            f"Family `{known.name}` is in the catalog already.",
            hint="leave out `--eval`, and set `eval` in engines/catalog.toml",
        )


def _signature(
    place: store.Workspace,
    known: Family | None,
    reference: tuple[Variant, Path] | None,
    new: Sequence[NewModel],
    backend: Backend,
) -> Signature:
    """The signature of the family. Raises `ArtefactError` where a model has another one.

    A model that fits the reference fits the whole family, unless a size varies in the reference; then all are compared.
    """
    signatures: list[tuple[str, Signature]] = []
    if known is not None and reference is not None:
        with backend.runner(reference[1]) as runner:
            signatures.append((reference[0].name, runner.signature))
        if any(None in spec.shape for spec in signatures[0][1].outputs):
            signatures.extend(_others(place, known, reference[0], backend))
    for model in new:
        with model.runner(backend) as runner:
            signatures.append((model.variant, runner.signature))
    return require_same_tensors(signatures)


def _others(
    place: store.Workspace, known: Family, reference: Variant, backend: Backend
) -> Iterator[tuple[str, Signature]]:
    """The signatures of a family's variants but for the reference, where their models are here."""
    for variant in known.variants:
        files = place.files_of(variant)
        if variant is not reference and files and all(path.exists() for path in files):
            with backend.runner(place.loaded_model_of(known, variant, to="compare with")) as runner:
                yield variant.name, runner.signature


def _reference(place: store.Workspace, known: Family | None) -> tuple[Variant, Path] | None:
    """The most accurate variant of a family that has a model, and its file. Raises `ArtefactError` without the file."""
    with_model = [variant for variant in known.variants if variant.files] if known is not None else []
    if known is None or not with_model:
        return None
    best = max(with_model, key=lambda variant: variant.accuracy)
    return best, place.loaded_model_of(known, best, to="compare with")


def eval_name(
    staged: Staging, place: store.Workspace, family: str, eval_path: Path | None, signature: Signature | None = None
) -> str | None:
    """The path of an eval split in the catalog; it is copied unless it is below ``engines/``.

    With the ``signature`` of the models it may be a folder of images. Raises `ArtefactError`.
    """
    if eval_path is None:
        return None
    if (there := name_in(place, eval_path)) is not None:
        return there
    name = f"models/{family}/eval.npz"
    if signature is not None and eval_path.is_dir():
        staged.write(name, split_of_folder(eval_path, signature))
    else:
        staged.copy(eval_path, name)
    return name


def _measured(
    new: Sequence[NewModel], finder: AccuracyFinder, backend: Backend, steps: StepCounter
) -> Iterator[AddedVariant]:
    for model in new:
        steps.begin(f"accuracy of {model.variant}")
        with model.runner(backend) as runner:
            accuracy = finder.accuracy_of(model.variant, model.file, runner)
        yield AddedVariant(model.variant, model.onnx, *accuracy, fixed_batch=model.rows)


def changed_text(
    place: store.Workspace,
    text: str | None,
    before: Catalog | None,
    family: Family,
    added: Sequence[Variant],
    *,
    made_by: str = "proteus catalog add",
) -> str:
    """The catalog's text with variants added to a family that it has, or with a new family of them.

    ``made_by`` is the command that makes a catalog where there is none. Raises `ArtefactError` where that can't be put
    into the text.
    """
    made = msgspec.structs.replace(family, variants=tuple(added))
    if text is None or before is None:
        meant = Catalog(format=FORMAT, families=(made,))
        changed = catalog_text.new_text(meant, made_by=made_by)
    elif family not in before.families:
        meant = msgspec.structs.replace(before, families=(*before.families, made))
        changed = catalog_text.with_family(text, made)
    else:
        last = family.variants[-1].name
        meant = before.with_variants(family, last, added)
        changed = catalog_text.with_variants(text, family.name, last, added)
    catalog_text.require_says(changed, meant, place.catalog_path)
    return changed


def _described(specs: Sequence[TensorSpec]) -> dict[str, str]:
    return {spec.name: f"{spec.dtype} {spec.shape_text}" for spec in specs}
