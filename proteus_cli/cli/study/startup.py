"""``proteus study startup``: from nothing to the first answer."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

from typer import Option

from proteus_cli.cli import options
from proteus_cli.cli.command_line import completion, sections
from proteus_cli.cli.study import shared

if TYPE_CHECKING:
    from proteus_cli.store import Workspace
    from proteus_cli.studies.frame import StudyDraft

_measuring = partial(Option, rich_help_panel=sections.MEASURING)

Families = Annotated[
    list[str] | None,
    Option(
        **shared.NAMES, metavar="FAMILY", show_default="all", help="A family whose variants are started. Repeatable."
    ),
]
Variants = Annotated[
    list[str] | None,
    Option(
        **shared.NAMES,
        metavar="VARIANT",
        show_default="all with a model",
        help="A variant to start, or FAMILY/VARIANT. Repeatable.",
    ),
]
Device = Annotated[
    str | None,
    Option(
        metavar="DEVICE,…",
        autocompletion=completion.devices,
        show_default="the first one of each type",
        help="Ids of devices that variants are loaded on.",
    ),
]
Runs = Annotated[int, _measuring(min=3, max=1000, metavar="N", help="Starts of each variant, cold and warm each.")]


def startup(
    *,
    family: Families = None,
    variant: Variants = None,
    device: Device = None,
    runs: Runs = 20,
    budget: shared.Budget = None,
    force: shared.Force = False,
    name: shared.Name = None,
    state: options.State = None,
    workspace_dir: options.Workspace = options.WORKSPACE,
    json: options.Json = False,
) -> None:
    """Measure the time from nothing to the first answer of each variant, as a distribution.

    Each start is a fresh process that imports the backend, loads the model and answers one row. The files of model and
    backend are evicted from the file cache for every other start.
    """

    def drafted(workspace: "Workspace") -> "StudyDraft":
        from proteus_cli.studies.startup.starts import startup_draft

        return startup_draft(workspace, family or (), variant or (), device, runs, name or "")

    shared.run(drafted, budget, workspace_dir, state, force=force, json=json)
