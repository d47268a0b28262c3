"""``proteus study concurrency``: how much at once a device should do."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

from typer import Option

from proteus_cli.cli import options
from proteus_cli.cli.command_line import sections
from proteus_cli.cli.study import shared

if TYPE_CHECKING:
    from proteus_cli.store import Workspace
    from proteus_cli.studies.frame import StudyDraft

_measuring = partial(Option, rich_help_panel=sections.MEASURING)

Variants = Annotated[
    str | None,
    _measuring(
        "--variants",
        metavar="VARIANT,…",
        show_default="the most accurate of each family",
        help="The variants to measure, such as `digits-s,signals-l`.",
    ),
]
Batch = Annotated[
    int | None,
    _measuring(min=1, max=1024, metavar="N", show_default="that of plans", help="The rows of each batch."),
]
InFlight = Annotated[
    int | None,
    _measuring(
        min=2, max=16, metavar="N", show_default="slots and 2 more", help="The most batches in flight to measure."
    ),
]


def concurrency(
    *,
    device: shared.Device,
    variants: Variants = None,
    batch: Batch = None,
    in_flight: InFlight = None,
    emulate: shared.Emulate = False,
    name: shared.Name = None,
    budget: shared.Budget = None,
    force: shared.Force = False,
    state: options.State = None,
    workspace_dir: options.Workspace = options.WORKSPACE,
    json: options.Json = False,
) -> None:
    """Measure throughput and latency by batches in flight, and find the knee: the slots to use.

    Devices are opened as a server opens them.
    """

    def drafted(workspace: "Workspace") -> "StudyDraft":
        from proteus_cli.studies.concurrency import ConcurrencyQuestion, best_of_families, concurrency_draft

        catalog = workspace.catalog()
        if variants is None:
            keys = best_of_families(catalog, workspace.profile(device))
        else:
            keys = tuple(dict.fromkeys(shared.variant_keys(catalog, variants)))
        return concurrency_draft(workspace, ConcurrencyQuestion(device, keys, batch, in_flight, emulate), name)

    shared.run(drafted, budget, workspace_dir, state, force=force, json=json)
