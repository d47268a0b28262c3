"""A source as a table: CSV with or without column names, or JSON lines, told apart by the first line."""

import csv
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from operator import itemgetter

import msgspec

from proteus_cli.domain.base import require
from proteus_cli.replay.cells import require_width
from proteus_cli.replay.conversion.formats import Format, fitting, fitting_unnamed, is_number, positions
from proteus_cli.replay.conversion.lines import Lines

Cells = Sequence[str]
COMMENT = "#"


class Table:
    """Rows under named columns. Raises `ArtefactError` where the first line tells no format that is known.

    ``wanted`` is the format that the user gave, instead of the one that the columns tell.
    """

    def __init__(self, lines: Lines, wanted: Format | None) -> None:
        self.lines = lines
        first = _first_content(lines)
        self._is_json = first.lstrip().startswith("{")
        cells = list(_record(lines, first)) if self._is_json else _cells(lines, first)
        self._is_named = self._is_json or not is_number(cells[0])
        self._content = chain([first], lines) if self._is_json or not self._is_named else iter(lines)
        told = wanted or (fitting(cells) if self._is_named else fitting_unnamed(cells))
        if told is None:
            shown = ",".join(cells[:8]) + (",…" if len(cells) > 8 else "")  # noqa: PLR2004
            raise lines.error(f"no known format begins with `{shown}`; name it with --format, or map its --map-column")
        self.format = told
        self.columns = tuple(cells) if self._is_named else positions(told, len(cells))
        self._require(told.needs)

    def has(self, columns: Sequence[str]) -> bool:
        return set(columns) <= set(self.columns)

    def rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        """These cells of every row, in this order. Raises `ValueError`, `csv.Error`, `ArtefactError`."""
        self._require(columns)
        return self._json_rows(columns) if self._is_json else self._csv_rows(columns)

    def _require(self, columns: Sequence[str]) -> None:
        for column in columns:
            if column not in self.columns:
                there = ", ".join(self.columns[:8]) + (", …" if len(self.columns) > 8 else "")  # noqa: PLR2004
                raise self.lines.error(f"no column `{column}`; there are: {there}")

    def _csv_rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        pick = picker([self.columns.index(column) for column in columns])
        for cells in csv.reader(self._content, skipinitialspace=True, strict=True):
            if self._is_blank(cells):
                continue
            require_width(cells, self.columns)
            yield pick(cells)

    def _is_blank(self, cells: Cells) -> bool:
        """A line to skip. Where lines are seconds, none can be left out; a comment can where columns have no names."""
        if not cells:
            return self.format.time is not None or self.format.by_minute
        return not self._is_named and cells[0].startswith(COMMENT)

    def _json_rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        for line in self._content:
            if line.isspace():
                continue
            record = _record(self.lines, line)
            for column in columns:
                require(column in record, f"no `{column}`")
            yield [str(record[column]) for column in columns]


def _first_content(lines: Lines) -> str:
    for line in lines:
        if line.strip() and not line.startswith(COMMENT):
            return line
    raise lines.error("nothing to convert")


def _cells(lines: Lines, line: str) -> list[str]:
    """The cells of the first line; a header must name each column once."""
    try:
        cells = [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True, strict=True))]
    except csv.Error as error:
        raise lines.error(error) from None
    if not is_number(cells[0]) and len(set(cells)) < len(cells):
        raise lines.error("the header names a column twice")
    return cells


def _record(lines: Lines, line: str) -> dict[str, object]:
    try:
        return msgspec.json.decode(line, type=dict[str, object])
    except msgspec.DecodeError as error:
        raise lines.error(f"not a JSON object: {error}") from None


def picker(at: Sequence[int]) -> Callable[[Sequence[str]], tuple[str, ...]]:
    """What takes the cells at these places out of a row, in this order."""
    if len(at) == 1:
        return lambda cells: (cells[at[0]],)
    pick: Callable[[Sequence[str]], tuple[str, ...]] = itemgetter(*at)
    return pick
