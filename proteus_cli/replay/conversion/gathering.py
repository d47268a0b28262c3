"""Sources → one spool of single arrivals: what is counted is spread over its time, what has no family yet draws one."""

import csv
import tempfile
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from proteus_cli.errors import ArtefactError
from proteus_cli.replay.conversion.families import Families, FamilyRule
from proteus_cli.replay.conversion.formats import Format
from proteus_cli.replay.conversion.lines import open_lines
from proteus_cli.replay.conversion.reading import ArrivalRow, events, rule_for
from proteus_cli.replay.conversion.spool import CHUNK, RECORD, Records, Spool
from proteus_cli.replay.conversion.table import Table
from proteus_cli.replay.conversion.window import TraceWindow
from proteus_cli.replay.trace import MAX_ARRIVALS

Tell = Callable[[str, Format, FamilyRule], None]
"""Called with the name of each source, its format, and where its families come from."""
Progress = Callable[[str, float], None]

_Columns = tuple["array[int]", "array[int]", "array[float]", "array[float]", "array[int]"]
"""Of rows: times, families, latency targets, minimum accuracies, and how many arrivals each is."""


class TraceReader:
    """Reads sources into a spool, one after another. ``rng`` spreads counted arrivals over their time."""

    def __init__(self, spool: Spool, families: Families, rng: np.random.Generator, window: TraceWindow) -> None:
        self._spool, self._families, self._rng, self._window = spool, families, rng, window
        self._days = 0

    def read(
        self, path: Path, wanted: Format | None, rule: FamilyRule | None, *, tell: Tell, progress: Progress
    ) -> None:
        """Add all arrivals of a source. Raises `ArtefactError` with the line that is wrong, `UsageError`."""
        with open_lines(path) as lines:
            table = Table(lines, wanted)
            chosen = rule_for(table, rule)
            tell(lines.name, table.format, chosen)
            for records in self._chunks(self._events(table, chosen), table):
                self._keep(records)
                progress(lines.name, lines.done_frac)
            self._days += table.format.by_minute

    def _events(self, table: Table, rule: FamilyRule) -> Iterator[ArrivalRow]:
        try:
            yield from events(table, rule, self._families, day=self._days, window=self._window)
        except (ValueError, csv.Error) as error:
            raise table.lines.error(error) from None

    def _keep(self, records: Records) -> None:
        try:
            self._spool.add(records)
        except OSError as error:
            raise ArtefactError(
                f"Can't keep arrivals aside in `{tempfile.gettempdir()}`: {error.strerror or error}.",
                hint="28 bytes are needed per arrival; set TMPDIR to a place with more room",
            ) from error

    def _chunks(self, rows: Iterator[ArrivalRow], table: Table) -> Iterator[Records]:
        """The arrivals of the rows, `CHUNK` of them at a time; a row that counts more goes into several chunks."""
        spread_us = table.format.spread_us
        columns = times_us, families, slos_s, minima, counts = _columns()
        pending = total = 0
        for time_us, family, slo_s, min_accuracy, arrivals in rows:
            left, total = arrivals, total + arrivals
            if spread_us and total > MAX_ARRIVALS:
                raise table.lines.error(f"more than {MAX_ARRIVALS:,} arrivals up to here, more than a trace may have")
            while left:
                part = min(left, CHUNK - pending)
                times_us.append(time_us)
                families.append(family)
                slos_s.append(slo_s)
                minima.append(min_accuracy)
                counts.append(part)
                left, pending = left - part, pending + part
                if pending == CHUNK:
                    yield self._records(columns, spread_us)
                    columns = times_us, families, slos_s, minima, counts = _columns()
                    pending = 0
        yield self._records(columns, spread_us)

    def _records(self, columns: _Columns, spread_us: int) -> Records:
        time_us, family, slo_s, min_accuracy, counts = map(np.array, columns)
        source = np.repeat(np.arange(len(counts)), counts)
        records = np.empty(len(source), dtype=RECORD)
        records["time_us"] = time_us[source]
        records["slo_s"] = slo_s[source]
        records["min_accuracy"] = min_accuracy[source]
        records["family"] = self._families.draw(family[source])
        if spread_us:
            records["time_us"] += (self._rng.random(len(records)) * spread_us).astype(np.int64)
        return records


def _columns() -> _Columns:
    return array("q"), array("i"), array("d"), array("d"), array("q")
