"""``proteus study concurrency``: how much at once a device should do."""

from proteus_cli.cli.options import common
from proteus_cli.cli.options.groups.study import concurrency as options
from proteus_cli.cli.options.groups.study import shared


def concurrency(
    *,
    device: shared.Device,
    variants: options.Variants = None,
    batch: options.Batch = None,
    in_flight: options.InFlight = None,
    emulate: shared.Emulate = False,
    name: shared.Name = None,
    budget: shared.Budget = None,
    force: shared.Force = False,
    state: common.State = None,
    workspace_dir: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
) -> None:
    """Measure throughput and latency by batches in flight, and find the knee: slots, threads and devices to use.

    Devices are opened as a server opens them. Of CPU devices, threads and a split of the cores are measured as well.
    """
    from proteus_cli.studies.budget import Budget

    limit = Budget.of(budget)  # what follows takes time, too

    from proteus_cli.cli.workflows.study.concurrency import asked
    from proteus_cli.cli.workflows.study.running import show, studied
    from proteus_cli.store import Workspace
    from proteus_cli.studies.concurrency.drafting import concurrency_draft

    workspace = Workspace(workspace_dir, state)
    question = asked(workspace, device, variants, batch, in_flight, emulated=emulate)
    draft = concurrency_draft(workspace, question, name)
    show(studied(workspace, draft, limit, force=force), json=json)
