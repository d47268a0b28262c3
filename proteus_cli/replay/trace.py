"""Trace files: read strictly, written, summarised.

Two CSV forms, in any order of columns, gzipped or not::

    arrival_s,family,…       one row per arrival, sorted; `domain.trace.OWN` has the columns that may follow
    second,family,count      arrivals counted by second, sorted
"""

import csv
import io
import math
import operator
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from proteus_cli.arrays import Floats, Ints
from proteus_cli.csv_cells import CsvTable, csv_table, fraction, number, number_within, positive_number, whole_number
from proteus_cli.domain.base import Value, require
from proteus_cli.domain.catalog import LONGEST_NAME
from proteus_cli.domain.request import MAX_CONFIDENCE
from proteus_cli.domain.trace import OWN, Trace
from proteus_cli.errors import ArtefactError, UsageError
from proteus_cli.input_files import TRACE, LineReader, number_of_lines, open_input

MAX_DURATION_S = 366 * 24 * 3600
MAX_ARRIVALS = 50_000_000
MAX_FAMILIES = 10_000
ROWS_PER_PIECE = 1 << 16  # of CSV

_ARRIVALS = ("arrival_s", "family")
COUNTS = ("second", "family", "count")
_HINT = "docs/formats.md describes trace files; `proteus trace make` writes one"


class FamilyCount(Value, frozen=True):
    """Arrivals of one family, and their fraction of all."""

    count: int
    share: float


class TraceSummary(Value, frozen=True):
    """The demand of a trace.

    ``peak_qps`` is the busiest 10 s. ``gap_cv`` is the standard deviation of the times between arrivals divided by
    their mean: 0 evenly spaced, 1 Poisson, above it bursty; None where there are too few. ``peak_to_mean`` compares
    the busiest second with the average one.
    """

    trace: str
    arrivals: int
    duration_s: float
    mean_qps: float
    peak_qps: float
    gap_cv: float | None
    peak_to_mean: float
    families: dict[str, FamilyCount]


# --- reading


def read_trace(path: Path, *, rng: np.random.Generator | None = None) -> Trace:
    """Read a trace; families are sorted by name.

    Counted arrivals are spread uniformly over their second by ``rng``, as a Poisson process with that count. The
    default seed is 0: a file always gives the same trace. Raises `ArtefactError` with the line.

    Lines are counted first, so that a file that unpacks to too many is refused in a second.
    """
    with open_input(path, TRACE, hint=_HINT) as file:
        if number_of_lines(file, str(path), TRACE, MAX_ARRIVALS + 1, hint=_HINT) > MAX_ARRIVALS + 1:
            problem = f"`{path}` has more than {MAX_ARRIVALS:,} lines, more than a trace may have."
            raise ArtefactError(problem, hint="take a part of it with `proteus trace convert --window`")
        lines = LineReader(file, str(path), TRACE, hint=_HINT)
        with csv_table(lines, path, hint=_HINT) as table:
            return _parse(path.name, table, rng or np.random.default_rng(0))


class FamilyIndex(dict[str, int]):
    """Family name → index in order of first appearance; checks a name once, when it is new."""

    def __missing__(self, name: str) -> int:
        if len(self) >= MAX_FAMILIES:
            raise ValueError(f"more than {MAX_FAMILIES:,} families")
        require(len(name) <= LONGEST_NAME, f"a family's name has at most {LONGEST_NAME} characters")
        require(bool(name), "family is empty")
        require(name == name.strip(), f"family `{name}` has blanks around it")
        self[name] = len(self)
        return self[name]

    def sorted(self, family: Ints) -> tuple[tuple[str, ...], Ints]:
        """The names in alphabetical order, and ``family`` as indexes into them."""
        names = tuple(sorted(self))
        rank = np.empty(len(names), dtype=np.int64)
        rank[[self[name] for name in names]] = np.arange(len(names))
        return names, rank[family]


def _confidence(column: str, cell: str) -> float:
    """On the scale of the family's confidence, whatever that is."""
    return number_within(column, cell, MAX_CONFIDENCE)


_READ: Mapping[str, Callable[[str, str], float]] = {
    "slo_s": positive_number,
    "min_accuracy": fraction,
    "confidence": fraction,
    "min_expected_accuracy": fraction,
    "max_energy_j": positive_number,
    "eval_row": whole_number,
    "min_confidence": _confidence,
}


def own_value(name: str, cell: str, column: str) -> float:
    """The value of a cell for the column ``name`` of `OWN`. ``column`` is its name in the file. Raises `ValueError`."""
    return _READ[name](column, cell) if cell else OWN[name].unset


def _own_cells(name: str, values: Sequence[float]) -> Iterator[str]:
    """The cells of a column of `OWN`; empty where a request has no value."""
    is_unset = operator.not_ if OWN[name].unset == 0 else math.isnan
    write: Callable[[float], str] = "{:.0f}".format if name == "eval_row" else repr
    return ("" if is_unset(value) else write(value) for value in values)


def _parse(name: str, table: CsvTable, rng: np.random.Generator) -> Trace:
    is_counted = set(table.header) == set(COUNTS)
    require(any(table.header), "the file is empty")
    known = is_counted or set(_ARRIVALS) <= set(table.header) <= {*_ARRIVALS, *OWN}
    ours = ",".join(_ARRIVALS) + "".join(f"[,{name}]" for name in OWN)
    require(known, f"unknown header `{','.join(table.header)}`; it must be `{ours}` or `{','.join(COUNTS)}`")
    place, read_time = {column: at for at, column in enumerate(table.header)}, whole_number if is_counted else number
    time_at, family_at, count_at = place[COUNTS[0] if is_counted else _ARRIVALS[0]], place["family"], place.get("count")
    own = [(place[name], name, array("d")) for name in OWN if name in place]
    times_s, family, counts, indexes = array("d"), array("q"), array("q"), FamilyIndex()
    last_s, total = 0.0, 0
    for cells in table:
        now_s = read_time(table.header[time_at], cells[time_at])
        if not last_s <= now_s <= MAX_DURATION_S:
            why = f"comes after {last_s:g} s; rows must be sorted by time"
            late = "is more than a year; times count from the start of the trace"
            raise ValueError(f"{now_s:g} s {why if now_s < last_s else late}")
        last_s = now_s
        times_s.append(now_s)
        family.append(indexes[cells[family_at]])
        if count_at is not None:
            counts.append(whole_number("count", cells[count_at]))
            total += counts[-1]
            require(total <= MAX_ARRIVALS, f"more than {MAX_ARRIVALS:,} arrivals")
        for at, column, values in own:
            values.append(own_value(column, cells[at], column))
    arrival_s, (names, ranked) = np.frombuffer(times_s), indexes.sorted(np.frombuffer(family, np.int64))
    if is_counted:
        arrival_s = np.repeat(arrival_s, counts) + rng.random(total)
        order = np.argsort(arrival_s, kind="stable")
        arrival_s, ranked = arrival_s[order], np.repeat(ranked, counts)[order]
    require(len(arrival_s) > 0, "the trace has no arrivals")
    return Trace(name, names, arrival_s, ranked, **{column: np.frombuffer(values) for _, column, values in own})


# --- writing


def to_csv(trace: Trace, *, per_second: bool = False) -> str:
    """The text of `csv_pieces`."""
    return "".join(csv_pieces(trace, per_second=per_second))


def csv_pieces(trace: Trace, *, per_second: bool = False) -> Iterator[str]:
    """A row per arrival, to the microsecond; or, much shorter, arrivals counted by second and family.

    Each piece has up to `ROWS_PER_PIECE` rows. Counts can't hold what single requests ask for: `UsageError`, before the
    first piece.
    """
    if not per_second:
        return _arrival_pieces(trace)
    if own := [*trace.own]:
        leaves_out = ", or leave latency targets out with `--without-slo`" if own == ["slo_s"] else ""
        raise UsageError(
            f"The trace has `{own[0]}` by request, which counts can't hold.",
            hint=f"write one row per arrival{leaves_out}",
        )
    return _count_pieces(trace)


def _arrival_pieces(trace: Trace) -> Iterator[str]:
    own = trace.own
    yield ",".join((*_ARRIVALS, *own)) + "\n"
    names = [_quoted(name) for name in trace.families]
    for start in range(0, len(trace), ROWS_PER_PIECE):
        part = slice(start, start + ROWS_PER_PIECE)
        ends: Iterable[str] = map(names.__getitem__, trace.family[part].tolist())
        if own:
            cells = (_own_cells(name, values[part].tolist()) for name, values in own.items())
            ends = map(",".join, zip(ends, *cells, strict=True))
        times_s = trace.arrival_s[part].tolist()
        yield "".join([f"{time_s:.6f},{end}\n" for time_s, end in zip(times_s, ends, strict=True)])


def _count_pieces(trace: Trace) -> Iterator[str]:
    yield ",".join(COUNTS) + "\n"
    names = [_quoted(name) for name in trace.families]
    slots, counts = np.unique(trace.arrival_s.astype(np.int64) * len(names) + trace.family, return_counts=True)
    for start in range(0, len(slots), ROWS_PER_PIECE):
        part = slice(start, start + ROWS_PER_PIECE)
        rows = zip(slots[part].tolist(), counts[part].tolist(), strict=True)
        yield "".join([f"{slot // len(names)},{names[slot % len(names)]},{count}\n" for slot, count in rows])


def _quoted(text: str) -> str:
    """A cell as the csv module writes it, in quotes where it needs them."""
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="").writerow(["", text])
    return line.getvalue()[1:]


# --- summary


def summary(trace: Trace) -> TraceSummary:
    """The demand of a trace of at least one arrival."""
    counts = np.bincount(trace.family, minlength=len(trace.families)).tolist()
    seconds, in_second = np.unique(trace.arrival_s.astype(np.int64), return_counts=True)
    return TraceSummary(
        trace=trace.name,
        arrivals=len(trace),
        duration_s=trace.duration_s,
        mean_qps=len(trace) / max(trace.duration_s, 1.0),
        peak_qps=sum(trace.peak_demand().values()),
        gap_cv=_gap_cv(trace.arrival_s),
        peak_to_mean=float(np.max(in_second) * (seconds[-1] + 1) / len(trace)),
        families={
            name: FamilyCount(count=count, share=count / len(trace))
            for name, count in zip(trace.families, counts, strict=True)
        },
    )


def _gap_cv(arrival_s: Floats) -> float | None:
    gaps_s = np.diff(arrival_s)
    if len(gaps_s) < 2 or not gaps_s.any():  # noqa: PLR2004 - one gap doesn't vary
        return None
    return float(gaps_s.std() / gaps_s.mean())
