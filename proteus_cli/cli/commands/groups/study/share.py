"""``proteus study share``: what it costs variants to share a device."""

from proteus_cli.cli.options import common
from proteus_cli.cli.options.groups.study import share as options
from proteus_cli.cli.options.groups.study import shared


def share(
    *,
    device: shared.Device,
    variants: options.Variants = None,
    load: options.Load = common.unparsed("50%,90%,100%"),
    where: options.Where = options.SharingPlace.BOTH,
    sets: options.Sets = None,
    emulate: shared.Emulate = False,
    name: shared.Name = None,
    budget: shared.Budget = None,
    force: shared.Force = False,
    state: common.State = None,
    workspace_dir: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
) -> None:
    """Measure what batches take alone and together: on one device in turn, and at once on neighbouring devices.

    All pairs of the variants are measured and, where there are three or four, all together. The costs at full load are
    written beside the profile, where `proteus plan` finds them.
    """
    from proteus_cli.studies.budget import Budget

    limit = Budget.of(budget)  # what follows takes time, too

    from proteus_cli.cli.workflows.study.running import show, studied
    from proteus_cli.cli.workflows.study.sharing import asked, warn_of_company
    from proteus_cli.store import Workspace
    from proteus_cli.studies.sharing.drafting import share_draft

    workspace = Workspace(workspace_dir, state)
    question = asked(workspace, device, variants, load, where.value, sets, emulated=emulate)
    draft = share_draft(workspace, question, name or "")
    if not emulate:
        warn_of_company(workspace, device)
    show(studied(workspace, draft, limit, force=force), json=json)
