"""``proteus study startup``: from nothing to the first answer."""

from proteus_cli.cli.options import common
from proteus_cli.cli.options.groups.study import shared
from proteus_cli.cli.options.groups.study import startup as options


def startup(
    *,
    family: options.Families = None,
    variant: options.Variants = None,
    device: options.Device = None,
    runs: options.Runs = 20,
    budget: shared.Budget = None,
    force: shared.Force = False,
    name: shared.Name = None,
    state: common.State = None,
    workspace_dir: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
) -> None:
    """Measure the time from nothing to the first answer of each variant, as a distribution.

    Each start is a fresh process that imports the backend, loads the model and answers one row: with the files of model
    and backend evicted from the file cache, and again with them in it.
    """
    from proteus_cli.studies.budget import Budget

    limit = Budget.of(budget)  # what follows takes time, too

    from proteus_cli.cli.workflows.study.running import show, studied
    from proteus_cli.store import Workspace
    from proteus_cli.studies.startup.starts import startup_draft

    workspace = Workspace(workspace_dir, state)
    draft = startup_draft(workspace, family or (), variant or (), device, runs, name or "")
    show(studied(workspace, draft, limit, force=force), json=json)
