"""The one style of tables in the terminal: no frame, and as wide as their content."""

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table


def table(*columns: Column, legend: str = "") -> Table:
    """An empty table; the ``legend`` below it explains its columns."""
    return Table(
        *columns, caption=legend or None, caption_justify="left", box=SIMPLE_HEAD, collapse_padding=True,
        pad_edge=False, show_edge=False,
    )  # fmt: skip


def text(*lines: str) -> Column:
    """A column of names or sentences, which may wrap anywhere; each line of the header is one of ``lines``."""
    return Column("\n".join(lines), overflow="fold")


def name(header: str) -> Column:
    """A column of names, which are never wrapped."""
    return Column(header, no_wrap=True)


def number(*lines: str) -> Column:
    """A column of numbers; each line of the header is one of ``lines``."""
    return Column("\n".join(lines), justify="right", no_wrap=True, min_width=max(map(len, lines)))
