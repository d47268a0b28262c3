"""The one style of tables in the terminal: no frame, and as wide as their content."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table


def table(*columns: Column, legend: str = "", **options: Any) -> Table:
    """An empty table; the ``legend`` below it explains its columns."""
    frame: dict[str, Any] = {"box": SIMPLE_HEAD, "collapse_padding": True, "pad_edge": False, "show_edge": False}
    return Table(*columns, caption=legend or None, caption_justify="left", **frame, **options)


def text(*lines: str) -> Column:
    """A column of names or sentences, which may wrap anywhere; each line of the header is one of ``lines``."""
    return Column("\n".join(lines), overflow="fold")


def name(header: str) -> Column:
    """A column of names, which are never wrapped."""
    return Column(header, no_wrap=True)


def number(*lines: str) -> Column:
    """A column of numbers; each line of the header is one of ``lines``."""
    return Column("\n".join(lines), justify="right", no_wrap=True, min_width=max(map(len, lines)))
