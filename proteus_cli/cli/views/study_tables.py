"""What a study found, for the terminal."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from proteus_cli.reporting.tables import described, folded_name, name, number, table
from proteus_cli.studies.pages.section import Section, StudyTable


def finding_lines(section: Section) -> Iterator[RenderableType]:
    """The title, and the findings below it."""
    yield Text(section.title, style="bold")
    for finding in section.findings:
        yield Text(f"  {finding}")


def section_parts(section: Section) -> Iterator[RenderableType]:
    """The findings, then each table."""
    for finding in section.findings:
        yield Text(finding)
    for each in section.tables:
        yield described(_table(each), *([each.note] if each.note else []), title=each.title)


def _table(of: StudyTable) -> Table:
    first, *others = of.columns
    rows = table(folded_name(first), *(name(each) if each in of.of_text else number(each) for each in others))
    for row in of.rows:
        rows.add_row(*row)
    return rows
