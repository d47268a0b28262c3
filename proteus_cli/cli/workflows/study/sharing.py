"""The question of `proteus study share`, of what stands on the command line."""

from collections.abc import Collection

from proteus_cli.domain.catalog.catalog import Catalog, VariantKey
from proteus_cli.store import Workspace
from proteus_cli.studies.sharing.question import SharingQuestion, usual_variants


def asked(
    workspace: Workspace,
    device: str,
    variants: str | None,
    loads: Collection[float],
    sets: str | None,
    *,
    emulated: bool,
) -> SharingQuestion:
    """``variants`` like ``a,b``, the usual ones where it is None; ``sets`` like ``a+b+c,a+b+d``.

    Raises `ProteusError`.
    """
    catalog = workspace.catalog()
    keys = _keys(catalog, variants, ",") if variants is not None else usual_variants(catalog, workspace.profile(device))
    chosen = tuple(_keys(catalog, each, "+") for each in (sets or "").split(",") if each.strip())
    return SharingQuestion(device, keys, tuple(sorted(loads)), chosen, emulated)


def _keys(catalog: Catalog, text: str, separator: str) -> tuple[VariantKey, ...]:
    found = (catalog.find(name.strip()) for name in text.split(separator))
    return tuple(VariantKey(family.name, variant.name) for family, variant in found)
