"""A source as a table of text cells: a file or stdin, gzipped or not, CSV with or without column names, or JSON lines.

Lines are read one at a time, so that a source may have any length. The first line that is neither blank nor a comment
tells CSV from JSON, and the format from others.
"""

import csv
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

import msgspec

from proteus_cli.csv_cells import column_names, require_width
from proteus_cli.domain.base import require
from proteus_cli.input_files import LineReader, open_input
from proteus_cli.replay.conversion.formats import Format, fitting, fitting_unnamed, is_number, positions

STDIN = Path("-")
MAX_COLUMNS_SHOWN = 8  # of a header, in an error
COMMENT = "#"
HINT = "docs/formats.md lists the formats of traces that can be converted"

Cells = Sequence[str]


class SourceLines(LineReader):
    """The lines of an open file; ``size_bytes`` is 0 where it is unknown."""

    def __init__(self, file: BinaryIO, name: str, size_bytes: int = 0) -> None:
        super().__init__(file, name, hint=HINT)
        self._file, self._size_bytes = file, size_bytes

    @property
    def done_frac(self) -> float:
        """How much of the file was read; 0 where its size is unknown."""
        return min(1.0, self._file.tell() / self._size_bytes) if self._size_bytes else 0.0


@contextmanager
def open_lines(path: Path) -> Iterator[SourceLines]:
    """The lines of a file, or of stdin where ``path`` is ``-``. Raises `ArtefactError` where it can't be read."""
    if path == STDIN:
        yield SourceLines(sys.stdin.buffer, "stdin")
        return
    with open_input(path, None, hint=f"{HINT}; `-` reads a pipe") as file:
        yield SourceLines(file, str(path), os.fstat(file.fileno()).st_size)


class SourceTable:
    """Rows under named columns. Raises `ArtefactError` where the first line tells no known format.

    ``wanted`` is the format that the user gave, instead of the one that the columns tell.
    """

    def __init__(self, lines: SourceLines, wanted: Format | None) -> None:
        self.lines = lines
        first = _first_content(lines)
        self._is_json = first.lstrip().startswith("{")
        cells = list(_json_object(lines, first)) if self._is_json else _first_cells(lines, first)
        self._is_named = self._is_json or not is_number(cells[0])
        self._content = chain([first], lines) if self._is_json or not self._is_named else iter(lines)
        known = wanted or (fitting(cells) if self._is_named else fitting_unnamed(cells))
        if known is None:
            raise lines.error(
                f"no known format begins with `{_shown(cells, ',')}`; name one with --format, or name its columns "
                "with --map-column"
            )
        self.format = known
        self.columns = tuple(cells) if self._is_named else positions(known, len(cells))
        self._require(known.needs)

    def has(self, columns: Sequence[str]) -> bool:
        """Whether it has all of these columns."""
        return set(columns) <= set(self.columns)

    def rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        """The named cells of every row, in this order. Raises `ValueError`, `csv.Error`, `ArtefactError`."""
        self._require(columns)
        return self._json_rows(columns) if self._is_json else self._csv_rows(columns)

    def _require(self, columns: Sequence[str]) -> None:
        for column in columns:
            if column not in self.columns:
                raise self.lines.error(f"no column `{column}`; there are: {_shown(self.columns, ', ')}")

    def _csv_rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        pick = picker([self.columns.index(column) for column in columns])
        for cells in csv.reader(self._content, skipinitialspace=True, strict=True):
            if self._is_skipped(cells):
                continue
            require_width(cells, self.columns)
            yield pick(cells)

    def _is_skipped(self, cells: Cells) -> bool:
        """Whether a row is a blank line or a comment. Where lines are seconds, a blank line is an error."""
        if not cells:
            return self.format.time is not None or self.format.by_minute
        return not self._is_named and cells[0].startswith(COMMENT)

    def _json_rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        for line in self._content:
            if line.isspace():
                continue
            record = _json_object(self.lines, line)
            for column in columns:
                require(column in record, f"no `{column}`")
                require(not isinstance(record[column], dict | list), f"`{column}` is neither a number nor a text")
            yield ["" if record[column] is None else str(record[column]) for column in columns]


def _first_content(lines: SourceLines) -> str:
    for line in lines:
        if line.strip() and not line.startswith(COMMENT):
            return line
    raise lines.error("nothing to convert")


def _first_cells(lines: SourceLines, line: str) -> list[str]:
    """The cells of the first line; a header must name each column once."""
    try:
        cells = [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True, strict=True))]
        return cells if is_number(cells[0]) else column_names(cells)
    except (ValueError, csv.Error) as error:
        raise lines.error(error) from None


def _shown(columns: Sequence[str], separator: str) -> str:
    return separator.join([*columns[:MAX_COLUMNS_SHOWN], *(["…"] if len(columns) > MAX_COLUMNS_SHOWN else [])])


def _json_object(lines: SourceLines, line: str) -> dict[str, object]:
    try:
        return msgspec.json.decode(line, type=dict[str, object])
    except msgspec.DecodeError as error:
        raise lines.error(f"not a JSON object: {error}") from None
    except RecursionError:
        raise lines.error("not a JSON object: it is nested too deeply") from None


def picker(at: Sequence[int]) -> Callable[[Sequence[str]], tuple[str, ...]]:
    """A function that takes the cells at these places out of a row, in this order."""
    if len(at) == 1:
        return lambda cells: (cells[at[0]],)
    pick: Callable[[Sequence[str]], tuple[str, ...]] = itemgetter(*at)
    return pick
