"""The question of `proteus study share`, of what stands on the command line, and whether the device is quiet."""

from collections.abc import Collection

from proteus_cli.backends.discovery import discover, select
from proteus_cli.cli import console
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.profiling.measuring.noise import NOISE_FRAC, waiting_now
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace
from proteus_cli.studies.sharing.cells import WAYS, SharingQuestion, usual_variants
from proteus_cli.units import format_percent


def asked(
    workspace: Workspace,
    device: str,
    variants: str | None,
    loads: Collection[float],
    where: str,
    sets: str | None,
    *,
    emulated: bool,
) -> SharingQuestion:
    """``variants`` like ``a,b``, the usual ones where it is None; ``sets`` like ``a+b+c,a+b+d``.

    Raises `ProteusError`.
    """
    catalog = workspace.catalog()
    keys = _keys(catalog, variants, ",") if variants is not None else usual_variants(catalog, workspace.profile(device))
    chosen = tuple(_keys(catalog, each, "+") for each in sets.split(",")) if sets is not None else ()
    places = tuple(each for each in WAYS if where in {each, "both"})
    return SharingQuestion(device, keys, tuple(sorted(loads)), chosen, places, emulated)


def _keys(catalog: Catalog, text: str, separator: str) -> tuple[VariantKey, ...]:
    found = (catalog.find(name.strip()) for name in text.split(separator))
    return tuple(VariantKey(family.name, variant.name) for family, variant in found)


def warn_of_company(workspace: Workspace, device: str) -> None:
    """Say so where other programs use the cores of a device now. Raises `DeviceUnavailable`."""
    (found,) = select(discover(read_settings(workspace.root).devices), device)
    waiting_frac = waiting_now(found.cores) if found.cores else 0.0
    if waiting_frac > NOISE_FRAC:
        console.warn(
            f"other programs use {device} now: work there waits for a core for {format_percent(waiting_frac)} of the "
            "time. They evict what is in the caches, too, so that costs are less sure; stop these programs first"
        )
