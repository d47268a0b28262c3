"""Traces in any known format, converted to one of ours.

A source is a file or stdin, gzipped or not: CSV with or without a header, or JSON lines. `_Source` reads its rows as
cells, one line at a time. `_read` adds them to arrays, one for each column of all sources. `convert` repeats each row
by its count of arrivals, and sorts by time.
"""

import csv
import math
import os
import sys
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from hashlib import blake2b
from itertools import accumulate, chain, count
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
import numpy as np

from proteus_cli.arrays import Ints
from proteus_cli.csv_cells import column_names, number, require_width, whole_number
from proteus_cli.domain.base import require
from proteus_cli.domain.trace import Trace
from proteus_cli.errors import UsageError
from proteus_cli.input_files import LineReader, open_input
from proteus_cli.progress import Advance
from proteus_cli.replay.formats import DAY_US, MINUTE_US, SECOND_US, Column, Format, is_number, recognised
from proteus_cli.replay.scaling import scaled
from proteus_cli.replay.synthesis import draw_families, require_shares
from proteus_cli.replay.trace import MAX_ARRIVALS, MAX_DURATION_S, OWN, FamilyIndex, no_slos
from proteus_cli.units import parse_duration

STDIN = Path("-")
HINT = "docs/formats.md lists the formats of traces that can be converted"
MAX_COLUMNS_SHOWN = 8  # of a header, in an error
COMMENT = "#"
RULES = "column=NAME, hash=NAME[+NAME…], name=FAMILY, file or weights"
MAX_CACHED_HASHES = 1 << 16
MAX_TIME_US = 1e17  # so that microseconds stay whole numbers in a float
END_US = 2**62  # later than any arrival
ROWS_PER_PROGRESS = 1 << 16
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DRAWN = -1  # in place of the index of a family that is drawn later, by the shares

Row = Mapping[str, str]
"""The cells of a row, by column."""
Shares = Callable[[], dict[str, float]]
"""Reads the shares by family. They are asked for only where rows are spread over families."""


@dataclass(frozen=True, slots=True)
class TraceWindow:
    """From ``start_us`` up to but not including ``stop_us``, in microseconds since the trace began."""

    start_us: int = 0
    stop_us: int = END_US


def parse_window(text: str) -> TraceWindow:
    """``"10m..20m"``, ``"10m.."``, ``"..20m"``. Raises `UsageError`."""
    start, dots, stop = (part.strip() for part in text.partition(".."))
    if not dots or not (start or stop):
        raise UsageError(f"`{text}` is no window of time.", hint="write it like `10m..20m`, `10m..` or `..20m`")
    start_s, stop_s = parse_duration(start) if start else 0.0, parse_duration(stop) if stop else math.inf
    if not start_s < stop_s:
        raise UsageError(f"The window `{text}` is empty.", hint="write it like `10m..20m`, `10m..` or `..20m`")
    return TraceWindow(*(round(min(seconds * 1e6, END_US)) for seconds in (start_s, stop_s)))


@dataclass(frozen=True, slots=True)
class FamilyRule:
    """The source of families: ``how`` is column, hash, name, file or weights. ``what`` are columns, or the name."""

    how: str
    what: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        return self.what if self.how in {"column", "hash"} else ()

    def __str__(self) -> str:
        return f"{self.how}={'+'.join(self.what)}" if self.what else self.how


def parse_rule(text: str) -> FamilyRule:
    """``"column=Model"``, ``"hash=app+func"``, ``"name=bert"``, ``"file"``, ``"weights"``. Raises `UsageError`."""
    how, equals, what = text.partition("=")
    if bool(equals) != bool(what) or how not in ({"column", "hash", "name"} if what else {"file", "weights"}):
        raise UsageError(f"`{text}` names no source of families.", hint=f"use one of: {RULES}")
    return FamilyRule(how, tuple(what.split("+")) if how == "hash" else (what,) if what else ())


@dataclass(frozen=True, slots=True)
class ConversionOptions:
    """How to convert. ``format`` and ``rule`` are found from the source where they are None.

    The window is cut first; then the trace is sped up, then scaled so that its busiest 10 s have ``scale_to_qps``.
    """

    format: Format | None = None
    rule: FamilyRule | None = None
    window: TraceWindow = TraceWindow()
    speedup: float = 1.0
    scale_to_qps: float | None = None
    keeps_slos: bool = True
    seed: int = 0


class Conversion(NamedTuple):
    """The trace, and its measures before it was scaled; ``peak_qps`` is of all families, in the busiest 10 s.

    ``began`` is the date at which the trace begins, where the sources have dates.
    """

    trace: Trace
    arrivals: int
    duration_s: float
    peak_qps: float
    began: str | None


class _Rows:
    """The rows of all sources, as columns: times in microseconds, indexes of families, and counts of arrivals.

    ``own`` are the columns of `trace.OWN` that a source has.
    """

    def __init__(self) -> None:
        self.time_us, self.family, self.counts = array("q"), array("i"), array("i")
        self.own: dict[str, array[float]] = {}
        self.arrivals = 0


def convert(
    sources: Sequence[Path],
    options: ConversionOptions,
    shares: Shares,
    *,
    on_source: Callable[[str, Format, FamilyRule], None] = lambda _name, _format, _rule: None,
    progress: Advance = lambda _now, _done_frac: None,
) -> Conversion:
    """Read all sources, and return one trace. All arrivals are in memory, up to `MAX_ARRIVALS`.

    ``on_source`` is called with the name of each source, its format, and the rule for its families. Raises
    `ArtefactError` with the line that is wrong, `UsageError`.
    """
    families, rows, days, spreads = _Families(shares), _Rows(), 0, list[tuple[int, int]]()
    for path in sources:
        with _opened(path, options.format) as source:
            wanted = [options.rule] if options.rule else [parse_rule(text) for text in source.format.families]
            rule = next((each for each in wanted if {*each.columns} <= {*source.columns}), wanted[-1])
            on_source(source.name, source.format, rule)
            minutes_us = _minutes_us(source.columns, days, options.window) if source.format.by_minute else {}
            before = rows.arrivals
            try:
                _read(source, rule, families, minutes_us, rows, progress)
            except (ValueError, csv.Error) as error:
                raise source.error(error) from None
        days += source.format.by_minute
        spreads.append((rows.arrivals - before, source.format.spread_us))
    # Counts are spread as `read_trace` does; the other draws have generators of their own, so that they don't depend
    # on how many counts there are.
    spreading = np.random.default_rng(options.seed)
    drawing, scaling = (np.random.default_rng([options.seed, purpose]) for purpose in (1, 2))
    repeats, end = np.asarray(rows.counts), 0
    time_us, family = np.repeat(rows.time_us, repeats), np.repeat(rows.family, repeats)
    for arrivals, spread_us in spreads:
        end += arrivals
        if spread_us:
            time_us[end - arrivals : end] += (spreading.random(arrivals) * spread_us).astype(np.int64)
    families.draw(family, drawing)
    own = {name: np.repeat(values, repeats) for name, values in rows.own.items()}
    del rows
    if not options.keeps_slos:
        own.pop("slo_s", None)
    order = np.argsort(time_us, kind="stable")
    time_us = time_us[order]
    origin_us = _origin_us(time_us, options)
    start_us, stop_us = origin_us + options.window.start_us, origin_us + options.window.stop_us
    kept = slice(*np.searchsorted(time_us, (start_us, stop_us)).tolist())
    order, time_us = order[kept], time_us[kept]
    if not len(order):
        raise UsageError("The window has no arrivals.", hint="choose another --window")
    names, ordered = families.index.sorted(family[order])
    columns = {name: values[order] for name, values in own.items()}
    arrival_s = np.rint((time_us - start_us) / options.speedup) / SECOND_US
    trace = Trace("", names, arrival_s, ordered, **{"slo_s": no_slos(len(order)), **columns})
    peak_qps = sum(trace.peak_demand().values())
    factor = options.scale_to_qps / peak_qps if options.scale_to_qps is not None else 1.0
    began = f"{EPOCH + timedelta(microseconds=start_us):%Y-%m-%d %H:%M:%S.%f} UTC" if origin_us > 0 else None
    shown = trace if factor == 1 else scaled(trace, factor, scaling)
    return Conversion(shown, len(trace), trace.duration_s, peak_qps, began)


def _minutes_us(columns: Sequence[str], days: int, window: TraceWindow) -> dict[str, int]:
    """The start of each minute of a day that is in the window, by its column, after a number of ``days``."""
    starts_us = {name: days * DAY_US + (int(name) - 1) * MINUTE_US for name in columns if name.isdigit()}
    return {name: at_us for name, at_us in starts_us.items() if window.start_us - MINUTE_US < at_us < window.stop_us}


def _origin_us(time_us: Ints, options: ConversionOptions) -> int:
    """The zero of the trace: the zero of the source, or the first arrival if it is before zero or a year after.

    Times that count from a start stay as they are, and dates become times since the first. ``time_us`` rises.
    Raises `UsageError` where the trace has no arrivals, or would last more than a year.
    """
    if not len(time_us):
        raise UsageError("The sources have no arrivals.", hint="look into them, and at the --window")
    if not 0 < options.speedup < math.inf:
        hint = "give a finite number above zero"
        raise UsageError(f"A trace can't be {options.speedup} times as fast.", hint=hint)
    first_us, last_us = int(time_us[0]), int(time_us[-1])
    origin_us = 0 if 0 <= first_us <= MAX_DURATION_S * SECOND_US else first_us
    lasts_us = min(options.window.stop_us, last_us - origin_us) - options.window.start_us
    if lasts_us / SECOND_US / options.speedup > MAX_DURATION_S:
        raise UsageError("The trace would last more than a year.", hint="take a part of it with --window")
    return origin_us


# --- sources


class _Source(LineReader):
    """Rows of cells under named ``columns``. Raises `ArtefactError` where the first line tells no known format.

    The first line that is neither blank nor a comment tells CSV from JSON, and the format from others, unless one is
    ``wanted``. ``size_bytes`` is 0 where it is unknown.
    """

    def __init__(self, file: BinaryIO, name: str, size_bytes: int, wanted: Format | None) -> None:
        super().__init__(file, name, hint=HINT)
        self._file, self._size_bytes = file, size_bytes
        first = next((line for line in self if line.strip() and not line.startswith(COMMENT)), None)
        if first is None:
            raise self.error("nothing to convert")
        self._is_json = first.lstrip().startswith("{")
        cells = list(self._object(first)) if self._is_json else self._first_cells(first)
        self._has_names = self._is_json or not is_number(cells[0])
        self._rest = chain([first], self) if self._is_json or not self._has_names else iter(self)
        known = wanted or recognised(cells, is_header=self._has_names)
        if known is None:
            raise self.error(
                f"no known format begins with `{_shown(cells, ',')}`; name one with --format, or name its columns "
                "with --map-column"
            )
        numbered = tuple(str(place) for place in range(1, len(cells) + 1))
        self.format = known
        self.columns = tuple(cells) if self._has_names else known.unnamed[: len(cells)] or numbered
        self._require(known.needs)

    @property
    def done_frac(self) -> float:
        """The part of the file that was read; 0 where its size is unknown."""
        return min(1.0, self._file.tell() / self._size_bytes) if self._size_bytes else 0.0

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """The named cells of every row. Raises `ValueError`, `csv.Error`, `ArtefactError`."""
        self._require(columns)
        if self._is_json:
            for line in self._rest:
                if not line.isspace():
                    row = self._object(line)
                    for column in columns:
                        require(column in row, f"no `{column}`")
                        require(not isinstance(row[column], dict | list), f"`{column}` is neither a number nor a text")
                    yield {column: "" if row[column] is None else str(row[column]) for column in columns}
            return
        places = {column: self.columns.index(column) for column in columns}
        is_second = "time" not in self.format.roles and not self.format.by_minute  # a blank line is an error then
        for cells in csv.reader(self._rest, skipinitialspace=True, strict=True):
            is_comment = not self._has_names and bool(cells) and cells[0].startswith(COMMENT)
            if not is_comment and (cells or is_second):
                require_width(cells, self.columns)
                yield {column: cells[place] for column, place in places.items()}

    def _require(self, columns: Sequence[str]) -> None:
        for column in columns:
            if column not in self.columns:
                raise self.error(f"no column `{column}`; there are: {_shown(self.columns, ', ')}")

    def _first_cells(self, line: str) -> list[str]:
        """The cells of the first line; a header must name each column once."""
        try:
            cells = [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True, strict=True))]
            return cells if is_number(cells[0]) else column_names(cells)
        except (ValueError, csv.Error) as error:
            raise self.error(error) from None

    def _object(self, line: str) -> dict[str, object]:
        try:
            return msgspec.json.decode(line, type=dict[str, object])
        except msgspec.DecodeError as error:
            raise self.error(f"not a JSON object: {error}") from None
        except RecursionError:
            raise self.error("not a JSON object: it is nested too deeply") from None


@contextmanager
def _opened(path: Path, wanted: Format | None) -> Iterator[_Source]:
    """A file, or stdin where ``path`` is ``-``. Raises `ArtefactError` where it can't be read."""
    if path == STDIN:
        yield _Source(sys.stdin.buffer, "stdin", 0, wanted)
        return
    with open_input(path, None, hint=f"{HINT}; `-` reads a pipe") as file:
        yield _Source(file, str(path), os.fstat(file.fileno()).st_size, wanted)


def _shown(columns: Sequence[str], separator: str) -> str:
    return separator.join([*columns[:MAX_COLUMNS_SHOWN], *(["…"] if len(columns) > MAX_COLUMNS_SHOWN else [])])


# --- rows


def _read(
    source: _Source,
    rule: FamilyRule,
    families: "_Families",
    minutes_us: Mapping[str, int],
    rows: _Rows,
    progress: Advance,
) -> None:
    """Add the rows of a source. Some of their families are `_DRAWN`. Raises `ValueError`.

    ``minutes_us``: the start of each minute to read, by its column.
    """
    roles, family_of, before = source.format.roles, families.reader(rule, source.name), len(rows.time_us)
    own = [(each, roles[each.name]) for each in OWN if each.name in roles and roles[each.name].name in source.columns]
    timing = [roles[role].name for role in ("time", "duration", "count") if role in roles]
    times_of = _times_of(roles)
    for each, _ in own:
        rows.own.setdefault(each.name, array("d", [each.unset]) * before)
    for row in source.rows([*rule.columns, *timing, *(column.name for _, column in own), *minutes_us]):
        index = family_of(row)
        counted = (
            [(at_us, whole_number(name, row[name])) for name, at_us in minutes_us.items() if row[name] != "0"]
            if source.format.by_minute
            else (times_of(row),)
        )
        for at_us, arrivals in counted:
            rows.arrivals += arrivals
            if rows.arrivals > MAX_ARRIVALS:
                raise ValueError(f"more than {MAX_ARRIVALS:,} arrivals up to here, more than a trace may have")
            rows.time_us.append(at_us)
            rows.family.append(index)
            rows.counts.append(arrivals)
            for each, column in own:
                rows.own[each.name].append(each.read(row[column.name], column.name) / (SECOND_US / column.unit_us))
            if len(rows.time_us) % ROWS_PER_PROGRESS == 0:
                progress(source.name, source.done_frac)
    progress(source.name, source.done_frac)
    new = len(rows.time_us) - before
    for each in OWN:
        if each.name in rows.own and each not in dict(own):
            rows.own[each.name].extend([each.unset] * new)


def _times_of(roles: Mapping[str, Column]) -> Callable[[Row], tuple[int, int]]:
    """A function from a row to its time in microseconds, and its number of arrivals. The first time may be a date."""
    time, duration, counted = map(roles.get, ("time", "duration", "count"))
    seconds = count()
    read: Callable[[Column, str], int] | None = None

    def times_of(row: Row) -> tuple[int, int]:
        nonlocal read
        if time is None:
            at_us = next(seconds) * SECOND_US
        else:
            read = read or (_microseconds if is_number(row[time.name]) else _date)
            at_us = read(time, row[time.name])
        if duration is not None:
            at_us -= _microseconds(duration, row[duration.name])
        return at_us, 1 if counted is None else whole_number(counted.name, row[counted.name])

    return times_of


def _microseconds(column: Column, cell: str) -> int:
    time_us = number(column.name, cell) * column.unit_us
    if time_us > MAX_TIME_US:
        raise ValueError(f"{column.name} `{cell}` is no time")
    return round(time_us)


def _date(column: Column, cell: str) -> int:
    try:
        moment = datetime.fromisoformat(cell)
    except ValueError:
        raise ValueError(f"{column.name} `{cell}` is neither a number nor a date with a time") from None
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH) // timedelta(microseconds=1)


class _Families:
    """The families of rows; ``index`` grows as families appear."""

    def __init__(self, shares: Shares) -> None:
        self._read_shares = shares
        self.index = FamilyIndex()

    def reader(self, rule: FamilyRule, source: str) -> Callable[[Row], int]:
        """A function from a row to the index of its family, or `_DRAWN`. The columns of the rule come first in a row.

        The function raises `ValueError`. ``source`` is the name of the file.
        """
        match rule.how:
            case "column":
                (column,) = rule.what
                return lambda row: self.index[row[column]]
            case "hash":
                of_values, columns = self._hashed(), rule.what
                return lambda row: of_values(tuple([row[column] for column in columns]))
            case "weights":
                self._shared  # noqa: B018 - an error comes before rows are read
                return lambda _row: _DRAWN
            case "name":
                index = self.index[rule.what[0]]
            case _:
                if source == "stdin":
                    hint = "add `--family-from name=FAMILY`"
                    raise UsageError("Families can't come from the name of stdin.", hint=hint)
                index = self.index[Path(source.removesuffix(".gz")).stem]
        return lambda _row: index

    def draw(self, family: Ints, rng: np.random.Generator) -> None:
        """Replace each `_DRAWN` index by a draw."""
        is_drawn = family == _DRAWN
        if is_drawn.any():
            indexes, shares = self._shared
            family[is_drawn] = indexes[draw_families(shares, int(is_drawn.sum()), rng)]

    @cached_property
    def _shared(self) -> tuple[Ints, list[float]]:
        """The indexes of the families to spread over, in order of their names, and their shares."""
        shares = self._read_shares()
        names = sorted(shares)
        require_shares([shares[name] for name in names])
        return np.array([self.index[name] for name in names]), [shares[name] for name in names]

    def _hashed(self) -> Callable[[tuple[str, ...]], int]:
        """A function that gives the same values the same family, in any order and on any machine."""
        indexes, shares = self._shared
        edges = list(accumulate(shares))

        @lru_cache(MAX_CACHED_HASHES)
        def family(values: tuple[str, ...]) -> int:
            digest = blake2b("\0".join(values).encode(), digest_size=8).digest()
            share = int.from_bytes(digest, "big") / 2**64 * edges[-1]
            return int(indexes[min(bisect_right(edges, share), len(edges) - 1)])

        return family
