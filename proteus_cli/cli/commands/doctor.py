"""``proteus doctor``: what is here, what is missing, how to get it."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from proteus_cli.cli import console
from proteus_cli.cli.options.common import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from proteus_cli.diagnosis import Finding

MARKS = {"ok": "ok", "missing": "MISSING", "optional": "optional"}


def doctor(*, workspace: WorkspaceOption = DEFAULT_WORKSPACE, json: JsonOption = False) -> None:
    """Check the installation, the machine's devices and the workspace. Exits 1 where something needed is missing."""
    from rich.table import Table

    from proteus_cli.diagnosis import diagnose

    findings = diagnose(Path(workspace))
    if json:
        console.show_json(findings)
    else:
        table = Table("what", "state", "found", "how to get it")
        for finding in findings:
            table.add_row(finding.what, MARKS[finding.state], finding.found, finding.hint)
        console.show(table)
    if _is_ill(findings):
        raise typer.Exit(1)


def _is_ill(findings: "list[Finding]") -> bool:
    return any(finding.state == "missing" for finding in findings)
