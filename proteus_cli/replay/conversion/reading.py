"""Rows of a source → arrivals, or counts of them, in the order of the source."""

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain, count

from proteus_cli.replay.cells import fraction, number, slo, whole
from proteus_cli.replay.conversion.families import Families, FamilyRule, parse_rule
from proteus_cli.replay.conversion.formats import DAY_US, MINUTE_US, SECOND_US, Column, is_number
from proteus_cli.replay.conversion.table import Table
from proteus_cli.replay.conversion.window import TraceWindow

LATEST_US = 1e17  # so that microseconds stay whole numbers
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


ArrivalRow = tuple[int, int, float, float, int]
"""Time in microseconds, index of the family, latency target in seconds (NaN: the family's), how accurate an answer must
be (0: at all), how many arrivals.

A plain tuple, as there is one per row.
"""


def rule_for(table: Table, wanted: FamilyRule | None) -> FamilyRule:
    """The rule that the user wants, or the format's first one that fits the columns."""
    rules = [wanted] if wanted else [parse_rule(text) for text in table.format.families]
    return next((rule for rule in rules if table.has(rule.columns)), rules[-1])


def events(
    table: Table, rule: FamilyRule, families: Families, *, day: int, window: TraceWindow
) -> Iterator[ArrivalRow]:
    """What the rows of a table say. Raises `ValueError`, `csv.Error`, `ArtefactError`, `UsageError`.

    ``day`` counts the sources of a format that has one file per day; of such, only what is in the window is read.
    """
    if table.format.by_minute:
        return _by_minute(table, rule, families, day * DAY_US, window)
    return _by_row(table, rule, families)


def _by_row(table: Table, rule: FamilyRule, families: Families) -> Iterator[ArrivalRow]:
    form = table.format
    slo_column = form.slo if form.slo and table.has([form.slo.name]) else None
    columns = _Columns(list(rule.columns))
    family_of = families.reader(rule, table, range(len(rule.columns)))
    time_at, slo_at = columns.add(form.time), columns.add(slo_column)
    duration_at = columns.add(form.duration)
    count_at = columns.add(Column(form.count) if form.count else None)
    accuracy_name = form.min_accuracy if form.min_accuracy and table.has([form.min_accuracy]) else None
    accuracy_at = columns.add(Column(accuracy_name) if accuracy_name else None)

    rows = table.rows(columns.names)
    first = next(rows, None)
    if first is None:
        return
    time_of = _clock(form.time, first[time_at] if form.time else "")
    duration_of = _microseconds(form.duration) if form.duration else None
    slo_per_s = SECOND_US / slo_column.unit_us if slo_column else 1.0
    for cells in chain([first], rows):
        time_us = time_of(cells[time_at])
        if duration_of:
            time_us -= duration_of(cells[duration_at])
        slo_s = slo(cells[slo_at], slo_column.name) / slo_per_s if slo_column else math.nan
        arrivals = whole(form.count, cells[count_at]) if form.count else 1
        min_accuracy = fraction(accuracy_name, cells[accuracy_at]) if accuracy_name else 0.0
        yield time_us, family_of(cells), slo_s, min_accuracy, arrivals


def _by_minute(
    table: Table, rule: FamilyRule, families: Families, base_us: int, window: TraceWindow
) -> Iterator[ArrivalRow]:
    minutes = [name for name in table.columns if name.isdigit()]
    starts_us = {name: base_us + (int(name) - 1) * MINUTE_US for name in minutes}
    inside = [name for name in minutes if window.meets(starts_us[name], starts_us[name] + MINUTE_US)]
    skipped = len(rule.columns)
    family_of = families.reader(rule, table, range(skipped))
    for cells in table.rows([*rule.columns, *inside]):
        family = family_of(cells)
        for name, cell in zip(inside, cells[skipped:], strict=True):
            if cell != "0":
                yield starts_us[name], family, math.nan, 0.0, whole(name, cell)


class _Columns:
    """Columns to read, by where they will stand; a missing one stands at 0, and isn't read."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def add(self, column: Column | None) -> int:
        if column is None:
            return 0
        self.names.append(column.name)
        return len(self.names) - 1


def _clock(column: Column | None, first: str) -> Callable[[str], int]:
    """What reads a time in microseconds, by how the first one is written; without a column, rows are seconds."""
    if column is None:
        seconds = count()
        return lambda _cell: next(seconds) * SECOND_US
    return _microseconds(column) if is_number(first) else _date(column.name)


def _microseconds(column: Column) -> Callable[[str], int]:
    name, unit_us = column.name, column.unit_us

    def read(cell: str) -> int:
        time_us = number(name, cell) * unit_us
        if time_us > LATEST_US:
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
