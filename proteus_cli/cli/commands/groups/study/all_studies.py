"""``proteus study all``: all studies that make sense, and one page."""

from pathlib import Path
from typing import TYPE_CHECKING

from proteus_cli.cli import console
from proteus_cli.cli.options import common
from proteus_cli.cli.options.groups.study import cost, shared
from proteus_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from proteus_cli.store import Workspace
    from proteus_cli.studies.frame import StudyDraft


def all_studies(
    *,
    traffic: cost.SomeTraffic = None,
    price: cost.Prices = None,
    budget: shared.Budget = None,
    force: shared.Force = False,
    output: shared.Page = Path("studies.html"),
    state: common.State = None,
    workspace_dir: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
) -> None:
    """Run all studies that make sense for the workspace, and write one page about them.

    Each study gets a fair part of the budget: none gets more than it wants while another gets less. Those that can't be
    run here are named, with what they lack. Costs are studied of a --traffic, as `proteus study cost` does without
    other options.
    """
    from proteus_cli.studies.budget import Budget

    limit = Budget.of(budget)  # what follows takes time, too

    from proteus_cli.cli.workflows.study.all_studies import all_studied
    from proteus_cli.cli.workflows.study.running import pages, show_findings
    from proteus_cli.store import Workspace

    workspace = Workspace(workspace_dir, state)
    found = all_studied(workspace, limit, force=force, given=_given(workspace, traffic, price))
    if found.studies:
        with console.writing(output) as write:
            write(pages(found.studies))
        console.say(f"wrote {output}")
    if json:
        console.show_json(found.studies)
    elif output != console.DASH:
        show_findings(found.studies)
    found.require_whole()


def _given(workspace: "Workspace", traffic: Path | None, price: str | None) -> "dict[str, Callable[[], StudyDraft]]":
    """The studies for which the workspace alone is not enough, by kind."""
    from proteus_cli.cli.workflows.study.costs import usually_asked
    from proteus_cli.studies.cost.drafts import KIND, cost_draft

    if traffic is None and price is not None:
        raise UsageError("`--price` is for the costs of a traffic.", hint="add `--traffic trace.csv`, or leave it out")
    if traffic is None:
        return {}
    return {KIND: lambda: cost_draft(workspace, traffic, usually_asked(workspace, price))}
