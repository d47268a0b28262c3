"""The question of `proteus study concurrency`, of what stands on the command line."""

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.store import Workspace
from proteus_cli.studies.concurrency.drafting import ConcurrencyQuestion, best_of_families


def asked(
    workspace: Workspace, device: str, variants: str | None, batch: int | None, in_flight: int | None, *, emulated: bool
) -> ConcurrencyQuestion:
    """``variants`` like ``a,b``; the most accurate of each family where it is None. Raises `ProteusError`."""
    catalog = workspace.catalog()
    if variants is None:
        keys = best_of_families(catalog, workspace.profile(device))
    else:
        found = (catalog.find(name.strip()) for name in variants.split(","))
        keys = tuple(dict.fromkeys(VariantKey(family.name, variant.name) for family, variant in found))
    return ConcurrencyQuestion(device, keys, batch, in_flight, emulated)
