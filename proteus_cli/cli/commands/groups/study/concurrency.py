"""``proteus study concurrency``: how much at once a device should do."""

from proteus_cli.cli.options import common, study_concurrency
from proteus_cli.cli.options.groups import study


def concurrency(
    *,
    device: study_concurrency.Device,
    variants: study_concurrency.SomeVariants = None,
    batch: study_concurrency.Batch = None,
    in_flight: study_concurrency.InFlight = None,
    emulate: study_concurrency.Emulate = False,
    name: study.Name = None,
    budget: study.Budget = None,
    force: study.Force = False,
    state: common.State = None,
    workspace_dir: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
) -> None:
    """Measure throughput and latency by batches in flight, and find the knee: slots, threads and devices to use.

    Devices are opened as a server opens them. Of CPU devices, threads and a split of the cores are measured as well.
    """
    from proteus_cli.cli.workflows.study.concurrency import asked
    from proteus_cli.cli.workflows.study.running import show, studied
    from proteus_cli.store import Workspace
    from proteus_cli.studies.concurrency.drafting import concurrency_draft

    workspace = Workspace(workspace_dir, state)
    question = asked(workspace, device, variants, batch, in_flight, emulated=emulate)
    draft = concurrency_draft(workspace, question, name)
    show(studied(workspace, draft, budget, force=force), json=json)
