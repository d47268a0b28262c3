"""Tables and aims of benchmarks, for the terminal and for pages in docs/."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from proteus_cli.domain.base import Value

UNKNOWN = "–"


class Table(Value, frozen=True):
    """Cells as text, a row for each run or trace; ``note`` says how to read them. The first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


class Aim(Value, frozen=True):
    """One figure that was to be reached; ``possible`` is the best that the machine allows, where that is known."""

    what: str
    measured: float
    limit: float
    unit: str
    is_most: bool
    possible: float | None = None

    @property
    def is_reached(self) -> bool:
        return self.measured <= self.limit if self.is_most else self.measured >= self.limit


def table_lines(table: Table) -> Iterator[str]:
    """As Markdown."""
    yield f"**{table.title}**"
    yield ""
    yield _row(table.columns)
    yield _row(("---", *("---:" for _ in table.columns[1:])))
    yield from (_row(row) for row in table.rows)
    yield ""
    if table.note:
        yield from (table.note, "")


def _row(cells: Sequence[str]) -> str:
    escaped = (cell.replace("*", "\\*") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def aim_line(aim: Aim) -> str:
    """In one line, with a mark."""
    sign, mark = ("≤" if aim.is_most else "≥"), ("✓" if aim.is_reached else "✗")
    possible = "" if aim.possible is None else f"; possible: {aim.possible:.2f}"
    return f"{mark} {aim.what}: {aim.measured:.2f} {aim.unit} (to reach: {sign} {aim.limit:g}{possible})"


def conclude(aims: Sequence[Aim]) -> int:
    """Print a line for each aim. The exit code of a benchmark: 1 where one is missed, else 0."""
    for aim in aims:
        print(aim_line(aim))
    return 0 if all(aim.is_reached for aim in aims) else 1


def rich_table(table: Table) -> RichTable:
    """For the terminal; a row that ends in a star is bold."""
    drawn = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, caption=table.note or None)
    drawn.caption_justify = "left"
    for place, column in enumerate(table.columns):
        drawn.add_column(column, justify="right" if place else "left")
    for row in table.rows:
        drawn.add_row(*(Text(cell, style="bold" if cell.endswith("*") else "") for cell in row))
    return drawn


def put_between(page: str, begin: str, end: str, text: str) -> str:
    """The page with ``text`` between two markers. Raises `ValueError` where it lacks them."""
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"the page must have `{begin}` and `{end}`")
    return f"{before}{begin}\n\n{text}\n{end}{after}"
