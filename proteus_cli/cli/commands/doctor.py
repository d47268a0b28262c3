"""``proteus doctor``: check what is here and what is missing, and say how to get it."""

import typer

from proteus_cli.cli import console
from proteus_cli.cli.options import common

MARKS = {"ok": "ok", "missing": "MISSING", "optional": "optional"}


def doctor(*, workspace: common.Workspace = common.WORKSPACE, json: common.Json = False) -> None:
    """Check the installation, this machine's devices and the workspace. Exits with code 1 if something is missing."""
    from rich.table import Column, Table

    from proteus_cli.diagnosis import diagnose

    findings = diagnose(workspace)
    if json:
        console.show_json(findings)
    else:
        table = Table("what", "state", Column("found", overflow="fold"), Column("what to do", overflow="fold"))
        for finding in findings:
            table.add_row(finding.what, MARKS[finding.state], finding.found, finding.hint)
        console.show(table)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)
