"""The one style of tables in the terminal: a line below the header, no frame, and as wide as their content."""

from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Column, Table
from rich.text import Text


def table(*columns: Column, is_dense: bool = False, has_line: bool = True) -> Table:
    """An empty table. Its columns are two spaces apart, or one if it ``is_dense``."""
    return Table(
        *columns, box=SIMPLE_HEAD if has_line else None, padding=(0, 2 - has_line - is_dense, 0, 0), pad_edge=False,
        show_edge=False,
    )  # fmt: skip


def text(*lines: str, justify: Literal["left", "right"] = "left") -> Column:
    """A column of names or sentences, which may wrap anywhere; each line of the header is one of ``lines``."""
    return Column(Text("\n".join(lines)), justify=justify, overflow="fold")


def name(header: str) -> Column:
    """A column of names, which are never wrapped."""
    return Column(Text(header), no_wrap=True)


def folded_name(header: str) -> Column:
    """A column of names, which are wrapped where there is no room for the numbers else."""
    return Column(Text(header), overflow="fold", min_width=len(header))


def number(*lines: str) -> Column:
    """A column of numbers; each line of the header is one of ``lines``."""
    return Column(Text("\n".join(lines)), justify="right", no_wrap=True, min_width=max(map(len, lines)))


def bars(columns: int) -> Column:
    """A column of bars with a width in characters, without a header."""
    return Column(no_wrap=True, min_width=columns)


def described(rows: Table, *notes: str, title: str = "") -> Group:
    """A table below its title and above its notes. Rich's own notes would wrap at the width of the table."""
    above = [Text(title, style="bold")] if title else []
    return Group(*above, rows, *map(Text, notes))
