"""A source as a table of text cells: a file or stdin, gzipped or not, CSV with or without column names, or JSON lines.

Lines are read one at a time, so that a source may have any length. The first line that is neither blank nor a comment
tells CSV from JSON, and the format from others.
"""

import csv
import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import IO, cast

import msgspec

from proteus_cli.csv_cells import column_names, require_width
from proteus_cli.domain.base import require
from proteus_cli.errors import ArtefactError
from proteus_cli.replay.conversion.formats import Format, fitting, fitting_unnamed, is_number, positions
from proteus_cli.store import GZIP_MAGIC

STDIN = Path("-")
MAX_LINE_BYTES = 1 << 20
MAX_COLUMNS_SHOWN = 8  # of a header, in an error
COMMENT = "#"
HINT = "docs/formats.md lists the formats of traces that can be converted"

Cells = Sequence[str]


class SourceLines:
    """The lines of an open file, and the number of the last line taken, from 1.

    ``size_bytes`` is 0 where it is unknown. The iterator raises `ArtefactError` where the source is not text.
    """

    def __init__(self, name: str, file: io.BufferedReader, size_bytes: int = 0) -> None:
        self.name, self.number = name, 0
        self._file, self._size_bytes = file, size_bytes
        self._decoded = self._decode()

    def __iter__(self) -> Iterator[str]:
        return self._decoded

    @property
    def done_frac(self) -> float:
        """How much of the file was read; 0 where its size is unknown."""
        return min(1.0, self._file.tell() / self._size_bytes) if self._size_bytes else 0.0

    def error(self, problem: object) -> ArtefactError:
        """The error for a problem in the last line taken."""
        return ArtefactError(f"`{self.name}`, line {max(self.number, 1)}: {problem}.", hint=HINT)

    def _decode(self) -> Iterator[str]:
        encoding = "utf-8-sig"  # a byte order mark can only be on the first line
        try:
            readline = self._decompressed().readline
            while line := readline(MAX_LINE_BYTES):
                self.number += 1
                if len(line) == MAX_LINE_BYTES:
                    raise self.error("longer than 1 MiB, so no row of a trace")
                yield line.decode(encoding)
                encoding = "utf-8"
        except UnicodeDecodeError:
            raise self.error("not UTF-8 text") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            message = f"`{self.name}` is not whole gzip data: {error}."
            raise ArtefactError(message, hint="fetch or make the file anew") from None
        except OSError as error:
            raise ArtefactError(f"Can't read `{self.name}`: {error.strerror or error}.", hint=HINT) from error

    def _decompressed(self) -> IO[bytes]:
        is_gzip = self._file.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC)
        return cast("IO[bytes]", gzip.GzipFile(fileobj=self._file)) if is_gzip else self._file


@contextmanager
def open_lines(path: Path) -> Iterator[SourceLines]:
    """The lines of a file, or of stdin where ``path`` is ``-``. Raises `ArtefactError` where it can't be read."""
    if path == STDIN:
        yield SourceLines("stdin", cast("io.BufferedReader", sys.stdin.buffer))
        return
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise ArtefactError(f"No file `{path}`.", hint=HINT) from None
    except OSError as error:
        raise ArtefactError(f"Can't read `{path}`: {error.strerror or error}.", hint=HINT) from error
    with file:
        status = os.fstat(file.fileno())
        yield SourceLines(str(path), file, status.st_size if stat.S_ISREG(status.st_mode) else 0)


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
                f"no known format begins with `{_shown(cells, ',')}`; name it with --format, or map its --map-column"
            )
        self.format = known
        self.columns = tuple(cells) if self._is_named else positions(known, len(cells))
        self._require(known.needs)

    def has(self, columns: Sequence[str]) -> bool:
        """Whether it has all of these columns."""
        return set(columns) <= set(self.columns)

    def rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        """These cells of every row, in this order. Raises `ValueError`, `csv.Error`, `ArtefactError`."""
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
            yield [str(record[column]) for column in columns]


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


def picker(at: Sequence[int]) -> Callable[[Sequence[str]], tuple[str, ...]]:
    """A function that takes the cells at these places out of a row, in this order."""
    if len(at) == 1:
        return lambda cells: (cells[at[0]],)
    pick: Callable[[Sequence[str]], tuple[str, ...]] = itemgetter(*at)
    return pick
