"""``proteus study share``: the cost for variants of sharing a device."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

from typer import Option

from proteus_cli.cli import console, options
from proteus_cli.cli.command_line import sections
from proteus_cli.cli.study import shared
from proteus_cli.units import format_percent

if TYPE_CHECKING:
    from proteus_cli.store import Workspace
    from proteus_cli.studies.frame import StudyDraft

_measuring = partial(Option, rich_help_panel=sections.MEASURING)


Variants = Annotated[
    str | None,
    _measuring(
        metavar="VARIANT,…",
        show_default="the fastest, the slowest, one between",
        help="The variants that share it, 2 to 24, such as `digits-s,signals-l`.",
    ),
]
Sets = Annotated[
    str | None,
    _measuring(
        metavar="VARIANT+…,…",
        show_default="all variants together, up to four",
        help="Sets of three or more to measure as well, such as `a+b+c,a+b+d`.",
    ),
]


def share(
    *,
    device: shared.Device,
    variants: Variants = None,
    sets: Sets = None,
    name: shared.Name = None,
    budget: shared.Budget = None,
    force: shared.Force = False,
    state: options.State = None,
    workspace_dir: options.Workspace = options.WORKSPACE,
    json: options.Json = False,
) -> None:
    """Measure what batches take alone, and in turn with other variants on the device.

    All pairs of the variants are measured and, where there are three or four, all together. The costs are
    written beside the profile, where `proteus plan` finds them.
    """

    def drafted(workspace: "Workspace") -> "StudyDraft":
        from proteus_cli.studies.sharing import SharingQuestion, share_draft, usual_variants

        catalog = workspace.catalog()
        if variants is None:
            keys = usual_variants(catalog, workspace.profile(device))
        else:
            keys = shared.variant_keys(catalog, variants)
        chosen = tuple(shared.variant_keys(catalog, each, "+") for each in sets.split(",")) if sets is not None else ()
        question = SharingQuestion(device, keys, chosen)
        draft = share_draft(workspace, question, name or "")
        _warn_of_company(workspace, device)
        return draft

    shared.run(drafted, budget, workspace_dir, state, force=force, json=json)


def _warn_of_company(workspace: "Workspace", device: str) -> None:
    """Warn where other programs use the cores of a device now. Raises `DeviceUnavailable`."""
    from proteus_cli.backends.discovery import discover, select
    from proteus_cli.profiling.noise import NOISE_FRAC, waiting_now
    from proteus_cli.settings import read_settings

    (found,) = select(discover(read_settings(workspace.root).devices), device)
    waiting_frac = waiting_now(found.cores) if found.cores else 0.0
    if waiting_frac > NOISE_FRAC:
        console.warn(
            f"other programs use {device} now: work there waits for a core for {format_percent(waiting_frac)} of the "
            "time. They evict what is in the caches, too, so that costs are less sure; stop these programs first"
        )
