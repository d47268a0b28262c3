"""CSV read strictly, by one set of rules for traces and profiles.

A `CsvTable` has named columns, each name once, and as many cells in each row as in the header; blank lines are skipped.
The functions below read one cell each, and raise `ValueError` that names the column and quotes the cell.
"""

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from proteus_cli.domain.base import is_count, require
from proteus_cli.errors import ArtefactError
from proteus_cli.units import counted

MAX_DIGITS = 18  # of a whole number


class CsvTable:
    """The rows of lines of CSV under their header. Iterating raises `ValueError` and `csv.Error`."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._rows = csv.reader(lines, skipinitialspace=True, strict=True)
        self.header: list[str] = []

    def read_header(self) -> None:
        """Read the first row as the names of the columns."""
        self.header = column_names(next(self._rows, []))

    @property
    def line(self) -> int:
        """The number of the last line read, from 1."""
        return max(self._rows.line_num, 1)

    def __iter__(self) -> Iterator[list[str]]:
        for cells in self._rows:
            if cells:
                require_width(cells, self.header)
                yield cells


@contextmanager
def csv_table(lines: Iterable[str], name: str | Path, *, hint: str) -> Iterator[CsvTable]:
    """The table of lines of CSV. An error in a cell becomes an `ArtefactError` with ``name`` and the line."""
    table = CsvTable(lines)
    try:
        table.read_header()
        yield table
    except (ValueError, csv.Error) as error:
        raise ArtefactError(f"`{name}`, line {table.line}: {error}.", hint=hint) from None


def column_names(cells: Sequence[str]) -> list[str]:
    """The cells of a header, without blanks around them."""
    names = [cell.strip() for cell in cells]
    require(len(set(names)) == len(names), "the header names a column twice")
    return names


def require_width(cells: Sequence[str], header: Sequence[str]) -> None:
    """Raises `ValueError` unless a row has as many cells as the header."""
    if len(cells) != len(header):
        raise ValueError(f"{counted(len(cells), 'cell')} where the header has {len(header)}")


def number(column: str, cell: str) -> float:
    """A finite number from 0 up. Raises `ValueError`, like all that follow."""
    value = _value(cell)
    if not 0 <= value < math.inf:
        raise ValueError(f"{column} `{cell}` is not a finite number from 0 up")
    return value


def number_within(column: str, cell: str, maximum: float) -> float:
    """A number of either sign that is no larger than ``maximum``."""
    value = _value(cell)
    if not -maximum <= value <= maximum:
        raise ValueError(f"{column} `{cell}` is not a number from {-maximum:g} to {maximum:g}")
    return value


def _value(cell: str) -> float:
    """The number of a cell; NaN where it is none."""
    try:
        return float(cell) if "_" not in cell and cell.isascii() else math.nan
    except ValueError:
        return math.nan


def positive_number(column: str, cell: str) -> float:
    """A finite number above 0."""
    value = number(column, cell)
    if not value:
        raise ValueError(f"{column} `{cell}` is not above zero")
    return value


def fraction(column: str, cell: str) -> float:
    """A number from 0 to 1."""
    value = number(column, cell)
    if value > 1:
        raise ValueError(f"{column} `{cell}` is not a fraction from 0 to 1")
    return value


def whole_number(column: str, cell: str) -> int:
    """A whole number from 0 up that is exact as a float."""
    digits = cell.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS):
        raise ValueError(f"{column} `{cell}` is not a whole number from 0 up")
    value = int(digits)
    require(is_count(value), f"{column} `{cell}` is too large")
    return value
