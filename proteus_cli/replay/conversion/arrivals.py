"""Rows of sources → chunks of arrival records, in the order of the sources.

Counted arrivals are spread over the time that they count, and rows without a family draw one.
"""

import csv
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, count
from pathlib import Path

import numpy as np

from proteus_cli.csv_cells import number, whole_number
from proteus_cli.errors import ArtefactError
from proteus_cli.progress import Advance
from proteus_cli.replay.conversion.external_sort import CHUNK, RECORD, ArrivalSorter, Records
from proteus_cli.replay.conversion.families import FamilyRule, RowFamilies, parse_rule
from proteus_cli.replay.conversion.formats import DAY_US, MINUTE_US, SECOND_US, Column, Format, is_number
from proteus_cli.replay.conversion.source import SourceTable, open_lines
from proteus_cli.replay.conversion.stream import TraceWindow
from proteus_cli.replay.trace import MAX_ARRIVALS, OWN, OWN_NAMES

MAX_TIME_US = 1e17  # so that microseconds stay whole numbers in a float
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

OnSource = Callable[[str, Format, FamilyRule], None]
"""Called with the name of each source, its format, and the rule for its families."""

ArrivalRow = tuple[int, int, tuple[float, ...], int]
"""Time in microseconds, index of the family, a value for each column of `trace.OWN`, number of arrivals.

A plain tuple, as there is one per row.
"""
_Columns = tuple["array[int]", "array[int]", "list[tuple[float, ...]]", "array[int]"]
"""The same by column."""
_UNSET = tuple(column.unset for column in OWN)


class TraceReader:
    """Reads sources into a sorter, one after another. ``rng`` spreads counted arrivals over their time."""

    def __init__(
        self, sorter: ArrivalSorter, families: RowFamilies, rng: np.random.Generator, window: TraceWindow
    ) -> None:
        self._sorter, self._families, self._rng, self._window = sorter, families, rng, window
        self._days = 0

    def read(
        self, path: Path, wanted: Format | None, rule: FamilyRule | None, *, on_source: OnSource, progress: Advance
    ) -> None:
        """Add all arrivals of a source. Raises `ArtefactError` with the line that is wrong, `UsageError`."""
        with open_lines(path) as lines:
            table = SourceTable(lines, wanted)
            chosen = _rule_for(table, rule)
            on_source(lines.name, table.format, chosen)
            for records in self._chunks(self._rows(table, chosen), table):
                self._add(records)
                progress(lines.name, lines.done_frac)
            self._days += table.format.by_minute

    def _rows(self, table: SourceTable, rule: FamilyRule) -> Iterator[ArrivalRow]:
        try:
            if table.format.by_minute:
                yield from _rows_by_minute(table, rule, self._families, self._days * DAY_US, self._window)
            else:
                yield from _rows_by_time(table, rule, self._families)
        except (ValueError, csv.Error) as error:
            raise table.lines.error(error) from None

    def _add(self, records: Records) -> None:
        try:
            self._sorter.add(records)
        except OSError as error:
            raise ArtefactError(
                f"Can't keep arrivals aside in `{tempfile.gettempdir()}`: {error.strerror or error}.",
                hint=f"{RECORD.itemsize} bytes are needed per arrival; set TMPDIR to a place with more room",
            ) from error

    def _chunks(self, rows: Iterator[ArrivalRow], table: SourceTable) -> Iterator[Records]:
        """The arrivals of the rows, `CHUNK` of them at a time; a row that counts more goes into several chunks."""
        spread_us = table.format.spread_us
        columns = times_us, families, owns, counts = _empty_columns()
        pending = total = 0
        for time_us, family, own, arrivals in rows:
            left, total = arrivals, total + arrivals
            if spread_us and total > MAX_ARRIVALS:
                raise table.lines.error(f"more than {MAX_ARRIVALS:,} arrivals up to here, more than a trace may have")
            while left:
                part = min(left, CHUNK - pending)
                times_us.append(time_us)
                families.append(family)
                owns.append(own)
                counts.append(part)
                left, pending = left - part, pending + part
                if pending == CHUNK:
                    yield self._records(columns, spread_us)
                    columns = times_us, families, owns, counts = _empty_columns()
                    pending = 0
        yield self._records(columns, spread_us)

    def _records(self, columns: _Columns, spread_us: int) -> Records:
        time_us, family, counts = (np.array(columns[place]) for place in (0, 1, 3))
        row = np.repeat(np.arange(len(counts)), counts)
        records = np.empty(len(row), dtype=RECORD)
        records["time_us"] = time_us[row]
        for name, values in zip(OWN_NAMES, np.array(columns[2]).reshape(-1, len(OWN_NAMES)).T, strict=True):
            records[name] = values[row]
        records["family"] = self._families.draw(family[row])
        if spread_us:
            records["time_us"] += (self._rng.random(len(records)) * spread_us).astype(np.int64)
        return records


def _empty_columns() -> _Columns:
    return array("q"), array("i"), [], array("q")


def _rule_for(table: SourceTable, wanted: FamilyRule | None) -> FamilyRule:
    """The rule that the user wants, or the format's first one whose columns are there."""
    rules = [wanted] if wanted else [parse_rule(text) for text in table.format.families]
    return next((rule for rule in rules if table.has(rule.columns)), rules[-1])


# --- rows


def _rows_by_time(table: SourceTable, rule: FamilyRule, families: RowFamilies) -> Iterator[ArrivalRow]:
    """The rows of a format whose rows have a time, or are one second each."""
    form = table.format
    read = _ColumnPlaces(list(rule.columns))
    family_of = families.reader(rule, table.lines.name, range(len(rule.columns)))
    time_at, duration_at = read.add(form.time), read.add(form.duration)
    count_at = read.add(Column(form.count) if form.count else None)
    own_of = _own_reader(table, read)

    rows = table.rows(read.names)
    first = next(rows, None)
    if first is None:
        return
    time_of = _clock(form.time, first[time_at] if form.time else "")
    duration_of = _microseconds(form.duration) if form.duration else None
    for cells in chain([first], rows):
        time_us = time_of(cells[time_at])
        if duration_of:
            time_us -= duration_of(cells[duration_at])
        arrivals = whole_number(form.count, cells[count_at]) if form.count else 1
        yield time_us, family_of(cells), own_of(cells), arrivals


def _own_reader(table: SourceTable, read: "_ColumnPlaces") -> Callable[[Sequence[str]], tuple[float, ...]]:
    """A reader of what a row says of its arrivals: a value for each column of `trace.OWN`."""
    form = table.format
    found = {name: Column(name) for name in form.own} | ({"slo_s": form.slo} if form.slo else {})
    used = [
        (place, own, column.name, read.add(column), SECOND_US / column.unit_us)
        for place, own in enumerate(OWN)
        if (column := found.get(own.name)) is not None and table.has([column.name])
    ]
    if not used:
        return lambda _cells: _UNSET

    def own_of(cells: Sequence[str]) -> tuple[float, ...]:
        values = list(_UNSET)
        for place, own, name, at, per_unit in used:
            values[place] = own.read(cells[at], name) / per_unit
        return tuple(values)

    return own_of


def _rows_by_minute(
    table: SourceTable, rule: FamilyRule, families: RowFamilies, day_us: int, window: TraceWindow
) -> Iterator[ArrivalRow]:
    """The rows of a format with a column for each minute of a day, which begins at ``day_us``.

    Only the minutes in the window are read.
    """
    starts_us = {name: day_us + (int(name) - 1) * MINUTE_US for name in table.columns if name.isdigit()}
    inside = [name for name, start_us in starts_us.items() if window.overlaps(start_us, start_us + MINUTE_US)]
    skipped = len(rule.columns)
    family_of = families.reader(rule, table.lines.name, range(skipped))
    for cells in table.rows([*rule.columns, *inside]):
        family = family_of(cells)
        for name, cell in zip(inside, cells[skipped:], strict=True):
            if cell != "0":
                yield starts_us[name], family, _UNSET, whole_number(name, cell)


class _ColumnPlaces:
    """The names of columns to read, in order; `add` returns a column's place, 0 for one that isn't read."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def add(self, column: Column | None) -> int:
        if column is None:
            return 0
        self.names.append(column.name)
        return len(self.names) - 1


def _clock(column: Column | None, first: str) -> Callable[[str], int]:
    """A reader of times in microseconds, by how the first one is written; without a column, rows are seconds."""
    if column is None:
        seconds = count()
        return lambda _cell: next(seconds) * SECOND_US
    return _microseconds(column) if is_number(first) else _date(column.name)


def _microseconds(column: Column) -> Callable[[str], int]:
    name, unit_us = column.name, column.unit_us

    def read(cell: str) -> int:
        time_us = number(name, cell) * unit_us
        if time_us > MAX_TIME_US:
            raise ValueError(f"{name} `{cell}` is no time")
        return round(time_us)

    return read


def _date(name: str) -> Callable[[str], int]:
    def read(cell: str) -> int:
        try:
            moment = datetime.fromisoformat(cell)
        except ValueError:
            raise ValueError(f"{name} `{cell}` is neither a number nor a date with a time") from None
        return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH) // MICROSECOND

    return read
