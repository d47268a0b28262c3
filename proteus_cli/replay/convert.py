"""Traces in any known format, converted to one of ours.

A source is a file or stdin, gzipped or not: CSV with or without a header. `_Source` reads its rows as cells, one line
at a time. `_read` makes arrays of them, with an element for each arrival. `convert` joins the arrays of
all sources, and sorts them by time.
"""

import csv
import math
import os
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from proteus_cli.arrays import Floats, Ints
from proteus_cli.csv_cells import column_names, number, require_width, whole_number
from proteus_cli.domain.trace import OWN, Trace
from proteus_cli.errors import UsageError
from proteus_cli.input_files import LineReader, open_input
from proteus_cli.progress import Advance
from proteus_cli.replay.formats import SECOND_US, Column, Format, is_number, recognised
from proteus_cli.replay.scaling import scaled
from proteus_cli.replay.synthesis import families_at
from proteus_cli.replay.trace import MAX_ARRIVALS, MAX_DURATION_S, FamilyIndex, own_value
from proteus_cli.units import parse_duration

STDIN = Path("-")
HINT = "docs/formats.md lists the formats of traces that can be converted"
MAX_COLUMNS_SHOWN = 8  # of a header, in an error
COMMENT = "#"
RULES = "column=NAME, name=FAMILY, file or weights"
MAX_TIME_US = 1e17  # so that microseconds stay whole numbers in a float
END_US = 2**62  # later than any arrival
ROWS_PER_PROGRESS = 1 << 16
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DRAWN = -1  # in place of the index of a family that is drawn later, by the shares

Shares = Callable[[], Mapping[str, float]]
"""Reads the shares by family. They are asked for only where rows are spread over families."""
FamilyOf = Callable[[str], int]
"""From the cell of a rule's column, or "", to the index of a family, or `_DRAWN`. Raises `ValueError`."""


def parse_window(text: str) -> tuple[int, int]:
    """``"10m..20m"``, ``"10m.."``, ``"..20m"`` as ``window_us`` of `ConversionOptions`. Raises `UsageError`."""
    start, dots, stop = (part.strip() for part in text.partition(".."))
    hint = "write it like `10m..20m`, `10m..` or `..20m`"
    if not dots or not (start or stop):
        raise UsageError(f"`{text}` is no window of time.", hint=hint)
    start_s, stop_s = parse_duration(start) if start else 0.0, parse_duration(stop) if stop else math.inf
    if not start_s < stop_s:
        raise UsageError(f"The window `{text}` is empty.", hint=hint)
    return round(min(start_s * SECOND_US, END_US)), round(min(stop_s * SECOND_US, END_US))


@dataclass(frozen=True, slots=True)
class ConversionOptions:
    """How to convert. ``format`` and ``families``, a rule of `RULES`, are found from the source where they are None.

    The window is cut first: from its start up to but not including its end, in microseconds since the trace began. Then
    the trace is sped up, then scaled so that its busiest 10 s have ``scale_to_qps``.
    """

    format: Format | None = None
    families: str | None = None
    window_us: tuple[int, int] = (0, END_US)
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


class _Arrivals(NamedTuple):
    """The arrivals of a source. Some families are `_DRAWN`. ``own`` has its columns of `domain.trace.OWN`."""

    time_us: Ints
    family: Ints
    own: dict[str, Floats]


def convert(
    sources: Sequence[Path],
    options: ConversionOptions,
    shares: Shares,
    *,
    on_source: Callable[[str, Format, str], None] = lambda _name, _format, _rule: None,
    progress: Advance = lambda _now, _done_frac: None,
) -> Conversion:
    """Read all sources, and return one trace. All arrivals are in memory, up to `MAX_ARRIVALS`.

    ``on_source`` is called with the name of each source, its format, and the rule for its families. Raises
    `ArtefactError` with the line that is wrong, `UsageError`.
    """
    families, parts, left = _Families(shares), list[_Arrivals](), MAX_ARRIVALS
    # Counts are spread as `read_trace` does; the other draws have generators of their own, so that they don't depend
    # on how many counts there are.
    spreading = np.random.default_rng(options.seed)
    drawing, scaling = (np.random.default_rng([options.seed, purpose]) for purpose in (1, 2))
    for path in sources:
        with _opened(path, options.format) as source:
            form = source.format
            try:
                fitting = (each for each in form.families if each != "column=family" or "family" in source.columns)
                rule = options.families or next(fitting)
                column, family_of = families.reader(rule, source.name)
                on_source(source.name, form, rule)
                parts.append(_read(source, column, family_of, left, progress))
            except (ValueError, csv.Error) as error:
                raise source.error(error) from None
        arrivals = len(parts[-1].time_us)
        if "count" in form.roles:
            parts[-1].time_us[:] += (spreading.random(arrivals) * SECOND_US).astype(np.int64)
        left -= arrivals
    time_us, family = np.concatenate([part.time_us for part in parts]), np.concatenate([part.family for part in parts])
    own = {
        name: np.concatenate([part.own.get(name, np.full(len(part.family), unset)) for part in parts])
        for name, (unset, *_) in OWN.items()
        if any(name in part.own for part in parts) and (options.keeps_slos or name != "slo_s")
    }
    del parts  # before the sort takes memory
    families.draw(family, drawing)
    order = np.argsort(time_us, kind="stable")
    time_us = time_us[order]
    origin_us = _origin_us(time_us, options)
    start_us, stop_us = (origin_us + edge_us for edge_us in options.window_us)
    kept = slice(*np.searchsorted(time_us, (start_us, stop_us)).tolist())
    order, time_us = order[kept], time_us[kept]
    if not len(order):
        raise UsageError("The window has no arrivals.", hint="choose another --window")
    names, ordered = families.index.sorted(family[order])
    asked = {name: values[order] for name, values in own.items()}
    trace = Trace("", names, np.rint((time_us - start_us) / options.speedup) / SECOND_US, ordered, **asked)
    peak_qps = sum(trace.peak_demand().values())
    shown = trace if options.scale_to_qps is None else scaled(trace, options.scale_to_qps / peak_qps, scaling)
    began = f"{EPOCH + timedelta(microseconds=start_us):%Y-%m-%d %H:%M:%S.%f} UTC" if origin_us > 0 else None
    return Conversion(shown, len(trace), trace.duration_s, peak_qps, began)


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
    lasts_us = min(options.window_us[1], last_us - origin_us) - options.window_us[0]
    if lasts_us / SECOND_US / options.speedup > MAX_DURATION_S:
        raise UsageError("The trace would last more than a year.", hint="take a part of it with --window")
    return origin_us


# --- sources


class _Source(LineReader):
    """Rows of cells under named ``columns``. Raises `ArtefactError` where the first line tells no known format.

    The first line that is neither blank nor a comment tells the format from others, unless one is ``wanted``.
    ``size_bytes`` is 0 where it is unknown.
    """

    def __init__(self, file: BinaryIO, name: str, size_bytes: int, wanted: Format | None) -> None:
        super().__init__(file, name, hint=HINT)
        self._file, self._size_bytes = file, size_bytes
        first = next((line for line in self if line.strip() and not line.startswith(COMMENT)), None)
        if first is None:
            raise self.error("nothing to convert")
        cells = self._first_cells(first)
        self._has_names = not is_number(cells[0])
        self._rest = iter(self) if self._has_names else chain([first], self)
        known = wanted or recognised(cells, is_header=self._has_names)
        if known is None:
            raise self.error(
                f"no known format begins with `{_shown(cells, ',')}`; name one with --format, or name its columns "
                "with --map-column"
            )
        numbered = tuple(str(place) for place in range(1, len(cells) + 1))
        self.format = known
        self.columns = tuple(cells) if self._has_names else known.unnamed[: len(cells)] or numbered
        self._places(known.needs)

    @property
    def done_frac(self) -> float:
        """The part of the file that was read; 0 where its size is unknown."""
        return min(1.0, self._file.tell() / self._size_bytes) if self._size_bytes else 0.0

    def rows(self, columns: Sequence[str]) -> Iterator[Sequence[str]]:
        """The cells of every row in these columns. Raises `ValueError`, `csv.Error`, `ArtefactError`."""
        places = self._places(columns)
        for cells in csv.reader(self._rest, skipinitialspace=True, strict=True):
            if cells and (self._has_names or not cells[0].startswith(COMMENT)):
                require_width(cells, self.columns)
                yield [cells[place] for place in places]

    def _places(self, columns: Sequence[str]) -> list[int]:
        for column in columns:
            if column not in self.columns:
                raise self.error(f"no column `{column}`; there are: {_shown(self.columns, ', ')}")
        return [*map(self.columns.index, columns)]

    def _first_cells(self, line: str) -> list[str]:
        """The cells of the first line; a header must name each column once."""
        try:
            cells = [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True, strict=True))]
            return cells if is_number(cells[0]) else column_names(cells)
        except (ValueError, csv.Error) as error:
            raise self.error(error) from None


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


def _read(source: _Source, family_column: str | None, family_of: FamilyOf, most: int, progress: Advance) -> _Arrivals:
    """The arrivals of a source. Raises `ValueError` where there are more than ``most``."""
    roles = source.format.roles
    time, counted = roles["time"], roles.get("count")
    own = [(name, roles[name]) for name in OWN if name in roles and roles[name].name in source.columns]
    time_us, family, counts, total = array("q"), array("i"), array("i"), 0
    values = [array("d") for _ in own]
    count = counted.name if counted is not None else time.name
    columns = [time.name, count, family_column or time.name, *(column.name for _, column in own)]
    for at, arrivals, named, *asked in source.rows(columns):
        counts.append(1 if counted is None else whole_number(count, arrivals))
        total += counts[-1]
        if total > most:
            raise ValueError(f"more than {MAX_ARRIVALS:,} arrivals up to here, more than a trace may have")
        time_us.append(_time_us(time, at))
        family.append(family_of(named))
        for kept, cell, (name, column) in zip(values, asked, own, strict=True):
            kept.append(own_value(name, cell, column.name) / (SECOND_US / column.unit_us))
        if len(time_us) % ROWS_PER_PROGRESS == 0:
            progress(source.name, source.done_frac)
    by_name = {name: np.repeat(kept, counts) for (name, _), kept in zip(own, values, strict=True)}
    return _Arrivals(np.repeat(time_us, counts), np.repeat(family, counts), by_name)


def _time_us(column: Column, cell: str) -> int:
    """Microseconds of a number, or of a date since 1970. Raises `ValueError`."""
    if is_number(cell):
        time_us = number(column.name, cell) * column.unit_us
        if time_us > MAX_TIME_US:
            raise ValueError(f"{column.name} `{cell}` is no time")
        return round(time_us)
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

    def reader(self, rule: str, source: str) -> tuple[str | None, FamilyOf]:
        """The column that a rule reads, if any, and a function from its cell. ``source`` is the name of the file.

        Raises `UsageError`, and `ValueError` for a name that no family can have.
        """
        how, _, what = rule.partition("=")
        match how, bool(what):
            case "column", True:
                return what, self.index.__getitem__
            case "weights", False:
                _ = self._shared  # an error comes before rows are read
                return None, lambda _: _DRAWN
            case "name", True:
                index = self.index[what]
            case "file", False:
                if source == "stdin":
                    hint = "add `--family-from name=FAMILY`"
                    raise UsageError("Families can't come from the name of stdin.", hint=hint)
                index = self.index[Path(source.removesuffix(".gz")).stem]
            case _:
                raise UsageError(f"`{rule}` names no source of families.", hint=f"use one of: {RULES}")
        return None, lambda _: index

    def draw(self, family: Ints, rng: np.random.Generator) -> None:
        """Replace each `_DRAWN` index by a draw."""
        is_drawn = family == _DRAWN
        if is_drawn.any():
            indexes, shares = self._shared
            family[is_drawn] = indexes[families_at(shares, rng.random(int(is_drawn.sum())))]

    @cached_property
    def _shared(self) -> tuple[Ints, list[float]]:
        """The indexes of the families to spread over, in order of their names, and their shares."""
        shares = self._read_shares()
        names = sorted(shares)
        return np.array([self.index[name] for name in names]), [shares[name] for name in names]
