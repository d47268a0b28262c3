"""``proteus study report``: one page about several studies."""

from pathlib import Path

from proteus_cli.cli import console
from proteus_cli.cli.options import common
from proteus_cli.cli.options.groups.study import shared


def report(
    names: shared.Names = None,
    *,
    output: shared.Page = Path("studies.html"),
    state: common.State = None,
    workspace_dir: common.Workspace = common.WORKSPACE,
) -> None:
    """Write one page about studies that were measured before."""
    from proteus_cli.cli.workflows.study.running import pages
    from proteus_cli.store import Workspace
    from proteus_cli.studies.artefacts import named_studies

    found = named_studies(Workspace(workspace_dir, state), names)
    with console.writing(output) as write:
        write(pages(found))
    if output != console.DASH:
        console.say(f"wrote {output}")
