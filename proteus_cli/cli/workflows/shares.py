"""The shares of families in a trace that is made or converted."""

from pathlib import Path

from proteus_cli.errors import UsageError
from proteus_cli.replay.synthesis import parse_shares, zipf_shares
from proteus_cli.store import Workspace


def family_shares(families: str | None, zipf: float | None, workspace_dir: Path) -> dict[str, float]:
    """Shares by family: those given, else the catalog's weights; by Zipf's law if ``zipf`` is given.

    Raises `UsageError`.
    """
    if families is not None:
        return parse_shares(families, zipf)
    workspace = Workspace(workspace_dir)
    if not workspace.catalog_path.exists():
        hint = "name them, like `--families digits=0.7,signals=0.3`, or a workspace with `--workspace`"
        raise UsageError(f"No file `{workspace.catalog_path}` to take the families from.", hint=hint)
    catalog = workspace.catalog()
    if zipf is not None:
        return zipf_shares(catalog.names, zipf)
    return {family.name: family.weight for family in catalog.families}
