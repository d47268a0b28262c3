"""Whether a server can follow a catalog while it serves: else nothing changes, and the error says why."""

from collections.abc import Collection, Iterable, Mapping

from proteus_cli.backends.base import Signature
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.catalog_changes import Succession
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import ArtefactError, Conflict
from proteus_cli.serving.adaptation.catalog.source import CatalogFiles, Measurements
from proteus_cli.serving.devices.hardware import Hardware, signature_of_file


def require_possible(following: Succession, hardware: Hardware) -> None:
    """Raise `Conflict` where a change needs a new start."""
    if not hardware.takes_variants and following.changes:
        raise Conflict("devices that are emulated in other processes know the variants of the start alone")
    for change in following.changes:
        if change.family and not change.variant and change.what != "eval":
            raise Conflict(f"{change}: families stay as they are while they are served; start the server anew")


def require_fitting(
    following: Succession,
    files: CatalogFiles,
    hardware: Hardware,
    known: Collection[VariantKey],
    signatures: Mapping[str, Signature],
) -> None:
    """Raise `ArtefactError` where a model that is not ``known`` takes or gives other tensors than its family."""
    if hardware.is_emulated:
        return
    for plain, name in following.names.items():
        key = VariantKey(plain.family, name)
        if key not in known and not signature_of_file(files.models[plain], key).fits(signatures[plain.family]):
            raise ArtefactError(
                f"`{plain.variant}` takes or gives other tensors than the rest of family `{plain.family}`.",
                hint="queries of a family must fit each of its variants",
            )


def require_successors(following: Succession, measured: Measurements, served: Mapping[str, Profile]) -> None:
    """Raise `ArtefactError` where what serves would go, and no device has a profile of what is to replace it."""
    before, now = _profiled(served.values()), _profiled(measured.profiles.values())
    known = {plain for plain, name in following.names.items() if plain in now or (plain.family, name) in before}
    changed = {VariantKey(each.family, each.variant) for each in following.changes if each.kind == "changed"}
    lost = {key.family for key in before} - {key.family for key in known}
    for key in following.names.keys() - known:
        if key in changed or key.family in lost:
            raise ArtefactError(
                f"No device has a profile of `{key.family}/{key.variant}` as it is now.",
                hint="run `proteus profile`, and have the catalog read again; what it replaces serves until then",
            )


def _profiled(profiles: Iterable[Profile]) -> set[VariantKey]:
    return {each.key for profile in profiles for each in profile.variants if each.points}
