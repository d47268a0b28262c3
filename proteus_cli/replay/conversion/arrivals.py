"""Rows of sources → columns of arrivals, in the order of the sources.

Counted arrivals are spread over the time that they count, and rows without a family draw one.
"""

import csv
from array import array
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, count
from pathlib import Path

import numpy as np

from proteus_cli.arrays import Floats, Ints
from proteus_cli.csv_cells import number, whole_number
from proteus_cli.progress import Advance
from proteus_cli.replay.conversion.families import FamilyRule, RowFamilies, parse_rule
from proteus_cli.replay.conversion.formats import DAY_US, MINUTE_US, SECOND_US, Column, Format, is_number
from proteus_cli.replay.conversion.source import Cells, SourceTable, open_lines
from proteus_cli.replay.conversion.window import TraceWindow
from proteus_cli.replay.trace import MAX_ARRIVALS, OWN, OWN_NAMES, OwnColumn

MAX_TIME_US = 1e17  # so that microseconds stay whole numbers in a float
ROWS_PER_PROGRESS = 1 << 16
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

OnSource = Callable[[str, Format, FamilyRule], None]
"""Called with the name of each source, its format, and the rule for its families."""

CountedRow = tuple[int, int, int, Cells]
"""Time in microseconds, index of the family, number of arrivals, and all cells that are read.

There is one per row, so it is a plain tuple.
"""


class Arrivals:
    """All arrivals of sources that are `read` one after another. ``rng`` spreads counted arrivals over their time."""

    def __init__(self, families: RowFamilies, rng: np.random.Generator, window: TraceWindow) -> None:
        self._families, self._rng, self._window = families, rng, window
        self._days = self._total = 0
        self._time_us: list[Ints] = []
        self._family: list[Ints] = []
        self._own: list[dict[str, Floats]] = []  # by source, of the columns that it has

    def read(
        self, path: Path, wanted: Format | None, rule: FamilyRule | None, *, on_source: OnSource, progress: Advance
    ) -> None:
        """Add all arrivals of a source. Raises `ArtefactError` with the line that is wrong, `UsageError`."""
        with open_lines(path) as lines:
            table = SourceTable(lines, wanted)
            chosen = _rule_for(table, rule)
            on_source(lines.name, table.format, chosen)
            try:
                self._add(table, chosen, progress)
            except (ValueError, csv.Error) as error:
                raise lines.error(error) from None
            self._days += table.format.by_minute

    def columns(self) -> tuple[Ints, Ints, dict[str, Floats]]:
        """The time in microseconds [n], the family's index [n], and the columns of `trace.OWN` that a source has [n].

        They may be called once: memory is given up as they are made.
        """
        sizes = [len(each) for each in self._time_us]
        own: dict[str, Floats] = {}
        for column in OWN:
            if any(column.name in each for each in self._own):
                parts = [
                    each.pop(column.name) if column.name in each else np.full(size, column.unset)
                    for each, size in zip(self._own, sizes, strict=True)
                ]
                own[column.name] = np.concatenate(parts)
        return _joined(self._time_us), _joined(self._family), own

    def _add(self, table: SourceTable, rule: FamilyRule, progress: Advance) -> None:
        names = list(rule.columns)
        own = [(column, text.name, _added(names, text), SECOND_US / text.unit_us) for column, text in _own(table)]
        rows = self._rows(table, rule, names)
        time_us, family, counts = array("q"), array("q"), array("q")
        values = [array("d") for _ in own]
        for at_us, index, arrivals, cells in rows:
            self._total += arrivals
            if self._total > MAX_ARRIVALS:
                raise ValueError(f"more than {MAX_ARRIVALS:,} arrivals up to here, more than a trace may have")
            time_us.append(at_us)
            family.append(index)
            counts.append(arrivals)
            for (column, name, place, per_unit), known in zip(own, values, strict=True):
                known.append(column.read(cells[place], name) / per_unit)
            if len(time_us) % ROWS_PER_PROGRESS == 0:
                progress(table.lines.name, table.lines.done_frac)
        progress(table.lines.name, table.lines.done_frac)
        repeats = np.frombuffer(counts, np.int64)
        times_us = np.repeat(np.frombuffer(time_us, np.int64), repeats)
        if table.format.spread_us:
            times_us += (self._rng.random(len(times_us)) * table.format.spread_us).astype(np.int64)
        self._time_us.append(times_us)
        self._family.append(self._families.draw(np.repeat(np.frombuffer(family, np.int64), repeats)))
        self._own.append(
            {
                column.name: np.repeat(np.frombuffer(known), repeats)
                for (column, *_), known in zip(own, values, strict=True)
            }
        )

    def _rows(self, table: SourceTable, rule: FamilyRule, names: list[str]) -> Iterator[CountedRow]:
        """The rows of a source; ``names`` are the columns to read, first the rule's."""
        family_of = self._families.reader(rule, table.lines.name, range(len(rule.columns)))
        if table.format.by_minute:
            return _rows_by_minute(table, names, family_of, self._days * DAY_US, self._window)
        return _rows_by_time(table, names, family_of)


def _joined(parts: list[Ints]) -> Ints:
    """The parts as one array; the list is empty afterwards."""
    joined = np.concatenate([np.empty(0, np.int64), *parts])
    parts.clear()
    return joined


def _rule_for(table: SourceTable, wanted: FamilyRule | None) -> FamilyRule:
    """The rule that the user wants, or the format's first one whose columns are there."""
    rules = [wanted] if wanted else [parse_rule(text) for text in table.format.families]
    return next((rule for rule in rules if table.has(rule.columns)), rules[-1])


def _own(table: SourceTable) -> list[tuple[OwnColumn, Column]]:
    """The columns of a source that say what a request asks for itself."""
    form = table.format
    found = {name: Column(name) for name in form.own} | ({"slo_s": form.slo} if form.slo else {})
    own = dict(zip(OWN_NAMES, OWN, strict=True))
    return [(own[name], column) for name, column in found.items() if table.has([column.name])]


def _added(names: list[str], column: Column) -> int:
    """Add a column to the names to read; returns its place."""
    names.append(column.name)
    return len(names) - 1


# --- rows


def _rows_by_time(table: SourceTable, names: list[str], family_of: Callable[[Cells], int]) -> Iterator[CountedRow]:
    """The rows of a format whose rows have a time, or are one second each."""
    form = table.format
    time_at = _added(names, form.time) if form.time else 0
    duration_at = _added(names, form.duration) if form.duration else 0
    count_at = _added(names, Column(form.count)) if form.count else 0
    rows = table.rows(names)
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
        yield time_us, family_of(cells), arrivals, cells


def _rows_by_minute(
    table: SourceTable, names: Sequence[str], family_of: Callable[[Cells], int], day_us: int, window: TraceWindow
) -> Iterator[CountedRow]:
    """The rows of a format with a column for each minute of a day, which begins at ``day_us``.

    Only the minutes in the window are read.
    """
    starts_us = {name: day_us + (int(name) - 1) * MINUTE_US for name in table.columns if name.isdigit()}
    inside = [name for name, start_us in starts_us.items() if window.overlaps(start_us, start_us + MINUTE_US)]
    for cells in table.rows([*names, *inside]):
        family = family_of(cells)
        for name, cell in zip(inside, cells[len(names) :], strict=True):
            if cell != "0":
                yield starts_us[name], family, whole_number(name, cell), cells


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
