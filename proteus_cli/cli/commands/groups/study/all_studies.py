"""``proteus study all``: all studies that make sense, and one page."""

from pathlib import Path

from proteus_cli.cli import console
from proteus_cli.cli.options import common
from proteus_cli.cli.options.groups.study import shared


def all_studies(
    *,
    budget: shared.Budget = None,
    force: shared.Force = False,
    output: shared.Page = Path("studies.html"),
    state: common.State = None,
    workspace_dir: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
) -> None:
    """Run all studies that make sense for the workspace, and write one page about them.

    Each study gets a fair part of the budget: none gets more than it wants while another gets less. Those that can't be
    run here are named, with what they lack.
    """
    from proteus_cli.cli.workflows.study.all_studies import all_studied
    from proteus_cli.cli.workflows.study.running import pages, show_findings
    from proteus_cli.store import Workspace

    found = all_studied(Workspace(workspace_dir, state), budget, force=force)
    if found.studies:
        with console.writing(output) as write:
            write(pages(found.studies))
        console.say(f"wrote {output}")
    if json:
        console.show_json(found.studies)
    elif output != console.DASH:
        show_findings(found.studies)
    found.require_whole()
