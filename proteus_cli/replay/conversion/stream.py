"""A sorted stream of arrivals, block by block: cut to a window, sped up, surveyed, scaled, and written as CSV."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from proteus_cli.domain.trace import PEAK_WINDOW_S
from proteus_cli.errors import UsageError
from proteus_cli.replay import trace
from proteus_cli.replay.conversion.external_sort import CHUNK, Records
from proteus_cli.replay.conversion.formats import SECOND_US
from proteus_cli.replay.scaling import JITTER_S, repeat_arrivals
from proteus_cli.units import parse_duration

Blocks = Iterator[Records]
PEAK_SECONDS = int(PEAK_WINDOW_S)
END_US = 2**62  # later than any arrival


@dataclass(frozen=True, slots=True)
class TraceWindow:
    """From ``start_us`` up to but not including ``stop_us``, in microseconds since the trace began."""

    start_us: int = 0
    stop_us: int = END_US

    def overlaps(self, start_us: int, stop_us: int) -> bool:
        """Whether it has a moment in common with that time."""
        return start_us < self.stop_us and stop_us > self.start_us


ALL = TraceWindow()


def parse_window(text: str) -> TraceWindow:
    """``"10m..20m"``, ``"10m.."``, ``"..20m"``. Raises `UsageError`."""
    start, dots, stop = (part.strip() for part in text.partition(".."))
    hint = "write it like `10m..20m`, `10m..` or `..20m`"
    if not dots or not (start or stop):
        raise UsageError(f"`{text}` is no window of time.", hint=hint)
    start_s = parse_duration(start) if start else 0.0
    stop_s = parse_duration(stop) if stop else math.inf
    if not start_s < stop_s:
        raise UsageError(f"The window `{text}` is empty.", hint=hint)
    start_us, stop_us = (round(min(seconds * 1e6, END_US)) for seconds in (start_s, stop_s))
    return TraceWindow(start_us, stop_us)


def origin_us(first_us: int) -> int:
    """Where the trace begins: at the source's zero, or at its first arrival if that is before zero or a year after.

    So times that count from a start stay as they are, and dates become times since the first.
    """
    return 0 if 0 <= first_us <= trace.MAX_DURATION_S * SECOND_US else first_us


def cut(blocks: Blocks, window: TraceWindow, *, origin_us: int, speedup: float) -> Blocks:
    """The arrivals in the window, by times from its start, ``speedup`` times as fast."""
    start_us, stop_us = origin_us + window.start_us, origin_us + window.stop_us
    for block in blocks:
        first, last = np.searchsorted(block["time_us"], (start_us, stop_us))
        part = block[first:last].copy()
        part["time_us"] = np.rint((part["time_us"] - start_us) / speedup)
        if len(part):
            yield part
        if last < len(block):
            return


def without_slos(blocks: Blocks) -> Blocks:
    """The stream without latency targets of single arrivals; changes its blocks."""
    for block in blocks:
        block["slo_s"] = math.nan
        yield block


@dataclass(frozen=True, slots=True)
class Survey:
    """What a stream holds. ``peak_qps`` is all demand of the busiest window, as `Trace.peak_demand` finds it.

    ``own_columns`` hold what single arrivals ask for.
    """

    arrivals: int
    last_us: int
    own_columns: tuple[str, ...]
    peak_qps: float

    @property
    def duration_s(self) -> float:
        return self.last_us / SECOND_US


def survey(blocks: Blocks) -> Survey:
    """Read a stream once, and sum it up."""
    arrivals, last_us, own, peak_arrivals = 0, 0, set[str](), 0
    seconds, counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    last_window_us = np.empty(0, dtype=np.int64)
    for block in blocks:
        is_open = seconds > last_us // SECOND_US - PEAK_SECONDS  # windows that begin there may get more arrivals
        arrivals += len(block)
        last_us = int(block["time_us"][-1])
        own.update(trace.own_columns({name: block[name] for name in trace.OWN_NAMES}))
        every = np.concatenate([seconds[is_open], block["time_us"] // SECOND_US])
        weights = np.concatenate([counts[is_open], np.ones(len(block), dtype=np.int64)])
        seconds, inverse = np.unique(every, return_inverse=True)
        counts = np.bincount(inverse, weights=weights).astype(np.int64)
        up_to = np.concatenate([[0], np.cumsum(counts)])
        stops = np.searchsorted(seconds, seconds + PEAK_SECONDS)
        peak_arrivals = max(peak_arrivals, int((up_to[stops] - up_to[:-1]).max()))
        last_window_us = np.concatenate([last_window_us, block["time_us"]])
        last_window_us = last_window_us[last_window_us > last_us - PEAK_SECONDS * SECOND_US]
    peak_arrivals = max(peak_arrivals, len(last_window_us))
    duration_s = last_us / SECOND_US
    is_long = duration_s >= PEAK_WINDOW_S
    peak_qps = peak_arrivals / PEAK_WINDOW_S if is_long else arrivals / max(duration_s, 1.0)
    return Survey(arrivals, last_us, tuple(name for name in trace.OWN_NAMES if name in own), peak_qps)


def scaled(blocks: Blocks, factor: float, duration_s: float, rng: np.random.Generator) -> Blocks:
    """The stream with its rate multiplied, as `scaling.scaled` does with a trace.

    Copies move by up to `JITTER_S`, so arrivals are kept back until none that come before them can follow.
    """
    size = max(1, int(CHUNK / max(factor, 1.0)))
    waiting: Records | None = None
    pieces = (block[start : start + size] for block in blocks for start in range(0, len(block), size))
    for block in pieces:
        arrival_s, source = repeat_arrivals(block["time_us"] / SECOND_US, factor, duration_s, rng)
        copies = block[source]
        copies["time_us"] = np.rint(arrival_s * SECOND_US)
        known = copies if waiting is None else np.concatenate([waiting, copies])
        known = known[np.argsort(known["time_us"], kind="stable")]
        settled_us = int(block["time_us"][-1]) - math.ceil(JITTER_S * SECOND_US)
        count = int(np.searchsorted(known["time_us"], settled_us))
        yield known[:count]
        waiting = known[count:]
    if waiting is not None:
        yield waiting


# --- writing


def csv_pieces(blocks: Blocks, names: Sequence[str], *, own: Sequence[str], per_second: bool) -> Iterator[str]:
    """The CSV that `trace.to_csv` would write, in pieces.

    ``names`` are those of the families, ``own`` the columns with what single arrivals ask for. Raises `UsageError`
    before the first piece where there is nothing to write, or something that counts can't hold.
    """
    if per_second:
        leaves_out = "; `--without-slo` leaves latency targets out" if list(own) == ["slo_s"] else ""
        trace.require_countable(own, "The trace", hint=f"write one row per arrival{leaves_out}")
    full = (block for block in blocks if len(block))
    first = next(full, None)
    if first is None:
        raise UsageError("Scaled so far down, the trace has no arrivals left.", hint="scale it to more")
    whole = chain([first], full)
    return _count_pieces(whole, names) if per_second else _arrival_pieces(whole, names, own)


def _arrival_pieces(blocks: Blocks, names: Sequence[str], own: Sequence[str]) -> Iterator[str]:
    yield trace.arrivals_header(own)
    cells = [trace.quoted(name) for name in names]
    for block in blocks:
        arrival_s = block["time_us"] / SECOND_US
        yield trace.arrival_lines(arrival_s, block["family"], cells, {name: block[name] for name in own})


def _count_pieces(blocks: Blocks, names: Sequence[str]) -> Iterator[str]:
    """Counts by second; those of the last second of a block wait, as the next block may add to them."""
    yield ",".join(trace.COUNTS) + "\n"
    order = sorted(range(len(names)), key=names.__getitem__)
    cells = [trace.quoted(names[family]) for family in order]
    rank = np.argsort(order)
    slots, counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)  # a slot is a second of a family
    for block in blocks:
        new = block["time_us"] // SECOND_US * len(names) + rank[block["family"]]
        slots, inverse = np.unique(np.concatenate([slots, new]), return_inverse=True)
        weights = np.concatenate([counts, np.ones(len(new), dtype=np.int64)])
        counts = np.bincount(inverse, weights=weights).astype(np.int64)
        done = int(np.searchsorted(slots, slots[-1] // len(names) * len(names)))
        yield trace.count_lines(slots[:done], counts[:done], cells)
        slots, counts = slots[done:], counts[done:]
    yield trace.count_lines(slots, counts, cells)
