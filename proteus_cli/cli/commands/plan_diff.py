"""``proteus plan diff``: what changes from one plan to another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proteus_cli.cli import console
from proteus_cli.cli.options.common import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from proteus_cli.domain.difference import Pair


def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="A plan: a path, or a name in plans/ or plans/history/.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    *,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    json: JsonOption = False,
) -> None:
    """Show what changes from plan A to plan B: what each device keeps, loads and unloads, and what that carries."""
    from proteus_cli.cli.views.plan_tables import difference_tables
    from proteus_cli.domain.difference import difference
    from proteus_cli.store import Workspace

    place = Workspace(workspace)
    found = difference(place.plan(before), place.plan(after))
    if json:
        console.show_json(found)
        return
    console.show(difference_tables(found))
    accuracy, relative = _accuracy(found.effective_accuracy), _accuracy(found.relative_accuracy)
    loads = f"{found.swaps} load{'s' if found.swaps != 1 else ''}"
    console.say(f"{loads}; effective accuracy {accuracy}, of the best {relative}")


def _accuracy(pair: "Pair") -> str:
    before, after = (f"{value:.4f}" if value is not None else "–" for value in (pair.before, pair.after))
    return before if before == after else f"{before} → {after}"
