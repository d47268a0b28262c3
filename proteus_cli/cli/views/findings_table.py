"""What `proteus doctor` found, in a terminal."""

from collections.abc import Iterable

from rich.console import RenderableType

from proteus_cli.cli.workflows.diagnosis import Finding
from proteus_cli.reporting.tables import table, text

MARKS = {"ok": "ok", "missing": "MISSING", "optional": "optional"}


def findings_table(findings: Iterable[Finding]) -> RenderableType:
    """A row for each finding, with its hint below what was found."""
    rows = table(*map(text, ("what", "state", "found, and what to do")))
    for finding in findings:
        lines = (finding.found, f"→ {finding.hint}" if finding.hint else "")
        rows.add_row(finding.what, MARKS[finding.state], "\n".join(filter(None, lines)))
    return rows
