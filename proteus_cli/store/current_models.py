"""Whether a profile is of the models, eval splits and accuracies that the catalog names now."""

from proteus_cli.domain.catalog import Catalog, Family, Variant
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.errors import ArtefactError
from proteus_cli.store.digests import digest
from proteus_cli.store.workspace import Workspace

ACCURACY_TOLERANCE = 0.01  # how far a measured accuracy may be from the declared one


def require_current_models(catalog: Catalog, profile: Profile, workspace: Workspace) -> None:
    """Raise `ArtefactError` where a model, its eval split or its declared accuracy changed after it was profiled.

    An imported profile is compared by its accuracy, and by its model if both the profile and the catalog have one.
    """
    for measured in profile.variants:
        family = next((f for f in catalog.families if f.name == measured.family), None)
        variant = family and next((v for v in family.variants if v.name == measured.variant), None)
        if not family or not variant:
            continue  # the catalog no longer offers it: the planner leaves it out
        where = f"`{measured.family}/{measured.variant}` in the profile of `{profile.device.id}`"
        if measured.is_imported:
            _require_declared(measured, family, variant, where)
            if measured.model_digest is not None:
                require_model(workspace, family, variant, measured.model_digest, where)
        else:
            hint = f"run `proteus profile --device {profile.device.id}`; it measures only what changed"
            _require_measured(measured, family, variant, workspace, where, hint)


def _require_declared(measured: VariantProfile, family: Family, variant: Variant, where: str) -> None:
    if not is_as_declared(measured.accuracy, family, variant):
        raise ArtefactError(
            f"The accuracy of {where} is {measured.accuracy}; the catalog declares {variant.accuracy}.",
            hint="correct the one that is wrong; a file is imported again with `proteus profile --from-csv`",
        )


def require_model(workspace: Workspace, family: Family, variant: Variant, expected: str, where: str) -> None:
    """Raise `ArtefactError` where the model of a variant is here, and is not the one with the digest ``expected``."""
    files = workspace.files_of(variant)
    if files and all(path.is_file() for path in files) and workspace.loaded_digest(family, variant) != expected:
        hint = "measure the model that the catalog names, and import that"
        raise ArtefactError(f"{where} was measured with another {_named(variant)}.", hint=hint)


def _named(variant: Variant) -> str:
    """The model of a variant, as the catalog has it."""
    return f"`{variant.onnx}`" if not variant.exits else f"`{', '.join(variant.exits)}`, or another `stop_when`"


def _require_measured(
    measured: VariantProfile, family: Family, variant: Variant, workspace: Workspace, where: str, hint: str
) -> None:
    if variant.files and workspace.loaded_digest(family, variant) != measured.model_digest:
        another = _named(variant) if family.input is None else f"{_named(variant)} or another `[family.input]`"
        raise ArtefactError(f"{where} was measured with another {another}.", hint=hint)
    eval_path = workspace.eval_path(family)
    is_declared = measured.eval_digest is None
    if not is_declared and measured.eval_digest != (digest(eval_path) if eval_path is not None else None):
        raise ArtefactError(f"The accuracy of {where} is not that of the eval split in the catalog.", hint=hint)
    if is_declared and measured.accuracy != variant.accuracy:
        raise ArtefactError(f"The accuracy of {where} is not the one that the catalog declares.", hint=hint)


def is_as_declared(accuracy: float, family: Family, variant: Variant) -> bool:
    """Whether an imported accuracy agrees with the catalog.

    If the family has an eval split, the accuracy was probably measured on a similar one, and has to be near the
    declared one. An estimate in the catalog is replaced, whatever it is.
    """
    if family.eval is None:
        return accuracy == variant.accuracy
    return variant.estimated or abs(accuracy - variant.accuracy) <= ACCURACY_TOLERANCE
