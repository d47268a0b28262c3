"""Whether profiles still are of the models, eval splits and accuracies that the catalog names."""

from proteus_cli.domain.catalog import Catalog, Family, Variant
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.errors import ArtefactError
from proteus_cli.store.digests import digest, model_digest
from proteus_cli.store.workspace import Workspace

ACCURACY_TOLERANCE = 0.01  # how far a measured accuracy may be from the declared one


def require_current_models(catalog: Catalog, profile: Profile, workspace: Workspace) -> None:
    """Raise `ArtefactError` where a model, its eval split or its declared accuracy changed after it was profiled.

    Without an ONNX file in the catalog, or with an imported profile, there is no model to compare, only an accuracy.
    """
    for measured in profile.variants:
        family = next((f for f in catalog.families if f.name == measured.family), None)
        variant = family and next((v for v in family.variants if v.name == measured.variant), None)
        if not family or not variant:
            continue  # the catalog no longer offers it: the planner leaves it out
        where = f"`{measured.family}/{measured.variant}` in the profile of `{profile.device.id}`"
        if measured.model_digest is None:
            _require_declared(measured, family, variant, where)
        else:
            hint = f"run `proteus profile --device {profile.device.id}`; it measures only what changed"
            _require_measured(measured, family, variant, workspace, where, hint)


def _require_declared(measured: VariantProfile, family: Family, variant: Variant, where: str) -> None:
    if not is_as_declared(measured.accuracy, family, variant):
        raise ArtefactError(
            f"The accuracy of {where} is {measured.accuracy}; the catalog declares {variant.accuracy}.",
            hint="correct the one that is wrong; a file is imported again with `proteus profile --from-csv`",
        )


def _require_measured(
    measured: VariantProfile, family: Family, variant: Variant, workspace: Workspace, where: str, hint: str
) -> None:
    if variant.onnx is not None and model_digest(workspace.model_path(variant.onnx)) != measured.model_digest:
        raise ArtefactError(f"{where} was measured with another `{variant.onnx}`.", hint=hint)
    eval_path = workspace.eval_path(family)
    if measured.eval_digest != (digest(eval_path) if eval_path is not None else None):
        raise ArtefactError(f"The accuracy of {where} is not that of the eval split in the catalog.", hint=hint)
    if eval_path is None and measured.accuracy != variant.accuracy:
        raise ArtefactError(f"The accuracy of {where} is not the one that the catalog declares.", hint=hint)


def is_as_declared(accuracy: float, family: Family, variant: Variant) -> bool:
    """Whether an imported accuracy is that of the catalog.

    Where the family has an eval split it was probably measured on one like it, so that the declared one is near.
    """
    if family.eval is None:
        return accuracy == variant.accuracy
    return abs(accuracy - variant.accuracy) <= ACCURACY_TOLERANCE
