"""Pieces of a page: tables, sections, figures."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from proteus_cli.reporting.comparison import ReportRow


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of a table that belong together under a name."""

    name: str
    rows: Sequence[str]


def section(title: str, *parts: str) -> str:
    """A section of the page."""
    body = "\n".join(parts)
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"


def table(label: str, head: Iterable[str], body: Iterable[str]) -> str:
    """A table that scrolls by itself where it is larger than the screen; ``label`` names it to screen readers."""
    heads, rows = "\n".join(head), "\n".join(body)
    return (
        f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0"><table>\n'
        f"<thead>\n{heads}\n</thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def titled_table(label: str, head: Iterable[str], body: Iterable[str]) -> str:
    """The same below its label."""
    return f"<div>\n<h3>{escape(label)}</h3>\n{table(label, head, body)}\n</div>"


def grouped(groups: Iterable[Group], *, width: int) -> Iterator[str]:
    """The rows of a table of ``width`` columns, each group below a row that names it."""
    for group in groups:
        yield f'<tr class="group"><th scope="rowgroup">{escape(group.name)}</th><td colspan="{width - 1}"></td></tr>'
        yield from group.rows


def row(*cells: str) -> str:
    """A row of a table."""
    return f"<tr>{''.join(cells)}</tr>"


def head(text: str, kind: str = "", *, rows: int = 1, columns: int = 1) -> str:
    """The heading of a column, or of several."""
    attributes = {
        "class": kind,
        "rowspan": str(rows) if rows > 1 else "",
        "colspan": str(columns) if columns > 1 else "",
        "scope": "colgroup" if columns > 1 else "col",
    }
    written = "".join(f' {name}="{value}"' for name, value in attributes.items() if value)
    return f"<th{written}>{escape(text)}</th>"


def name(label: str) -> str:
    """The heading of a row; one that starts with a space belongs to the row above."""
    indented = ' class="sub"' if label.startswith(" ") else ""
    return f'<th scope="row"{indented}>{escape(label.strip())}</th>'


def text(words: str, kind: str = "text") -> str:
    """A cell of words."""
    return f'<td class="{kind}">{escape(words)}</td>'


def cell(number: str, *, is_best: bool = False) -> str:
    """A cell of a number."""
    return f'<td class="best">* {escape(number)}</td>' if is_best else f"<td>{escape(number)}</td>"


def values(measure: ReportRow) -> list[str]:
    """The cells of a row, the best ones marked."""
    return [cell(each, is_best=place in measure.best) for place, each in enumerate(measure.cells)]


def columns(measures: Sequence[ReportRow]) -> list[list[str]]:
    """The cells of measures that have a column each, by row, the best of a column marked."""
    marked = [
        [cell(each, is_best=place in measure.best) for place, each in enumerate(measure.plain)] for measure in measures
    ]
    return [list(cells) for cells in zip(*marked, strict=True)]
