"""Profiles, models and devices that a study measures."""

from collections.abc import Collection, Sequence
from pathlib import Path

from msgspec.structs import replace

from proteus_cli.backends.discovery import select
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.errors import ArtefactError
from proteus_cli.store import Workspace, require_current_models


def of_variants(profile: Profile, keys: Collection[VariantKey]) -> Profile:
    """The profile with these variants only."""
    return replace(profile, variants=tuple(each for each in profile.variants if each.key in keys))


def measured_variant(profile: Profile, key: VariantKey) -> VariantProfile:
    """The profile of a variant. Raises `ArtefactError` if it has no times."""
    found = profile.of(*key)
    if found is None or not found.points:
        raise ArtefactError(
            f"`{key.family}/{key.variant}` has no times in the profile of `{profile.device.id}`.",
            hint=f"measure it with `proteus profile --device {profile.device.id}`",
        )
    return found


def mean_batch_s(profile: Profile, key: VariantKey, batch: int) -> float:
    """The mean time of a batch, alone on the device. Raises as `measured_variant` does."""
    return LatencyTable(measured_variant(profile, key).points, of=lambda point: point.mean_s)(batch)


def models_of(
    workspace: Workspace, catalog: Catalog, profile: Profile, keys: Collection[VariantKey], *, to: str, hint: str
) -> dict[VariantKey, Path]:
    """The model files of variants. Raises `ArtefactError` if one is missing, or is another than was profiled."""
    families = {key: catalog.family(key.family) for key in keys}
    models = {
        key: workspace.loaded_model_of(family, family.variant(key.variant), to=to, hint=hint)
        for key, family in families.items()
    }
    require_current_models(catalog, of_variants(profile, keys), workspace)
    return models


def profiled_here(profile: Profile, here: Sequence[Device]) -> Device:
    """The device of a profile. Raises `DeviceUnavailable`, and `ArtefactError` where another one has its id now."""
    (device,) = select(here, profile.device.id)
    if not profile.device.is_like(device):
        raise ArtefactError(
            f"The profile of `{device.id}` is of another device: {profile.device.name}.",
            hint=f"run `proteus profile --device {device.id}` to measure the one that is here",
        )
    return device
