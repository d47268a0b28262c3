"""A sorted stream of arrivals, cut to a window, sped up, and scaled to a rate: block by block, as often as is asked."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from proteus_cli.domain.trace import PEAK_WINDOW_S
from proteus_cli.replay.conversion.formats import SECOND_US
from proteus_cli.replay.conversion.spool import CHUNK, Records
from proteus_cli.replay.conversion.window import TraceWindow
from proteus_cli.replay.trace import JITTER_S, LONGEST_S, OPTIONAL, own_columns, repeated

Blocks = Iterator[Records]
PEAK_SECONDS = int(PEAK_WINDOW_S)


def origin_us(first_us: int) -> int:
    """Where the trace begins: at the source's zero, or at its first arrival where that is before zero or a year after.

    So times that count from a start keep it, and dates become times since the first.
    """
    return 0 if 0 <= first_us <= LONGEST_S * SECOND_US else first_us


def cut(blocks: Blocks, window: TraceWindow, *, origin_us: int, speedup: float) -> Blocks:
    """What arrives in the window, by times from its start, ``speedup`` times as fast."""
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
    """What a stream holds. ``peak_qps`` is over the busiest 10 s that begin with a second, or over all if shorter.

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
    """Look through a stream once."""
    arrivals, last_us, own, most = 0, 0, set[str](), 0
    seconds, counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    for block in blocks:
        near = seconds > last_us // SECOND_US - PEAK_SECONDS  # from there on windows may not be full yet
        arrivals += len(block)
        last_us = int(block["time_us"][-1])
        own.update(own_columns(block["slo_s"], block["min_accuracy"]))
        every = np.concatenate([seconds[near], block["time_us"] // SECOND_US])
        weights = np.concatenate([counts[near], np.ones(len(block), dtype=np.int64)])
        seconds, inverse = np.unique(every, return_inverse=True)
        counts = np.bincount(inverse, weights=weights).astype(np.int64)
        up_to = np.concatenate([[0], np.cumsum(counts)])
        stops = np.searchsorted(seconds, seconds + PEAK_SECONDS)
        most = max(most, int((up_to[stops] - up_to[:-1]).max()))
    duration_s = last_us / SECOND_US
    length_s = PEAK_WINDOW_S if duration_s >= PEAK_WINDOW_S else max(duration_s, 1.0)
    columns = tuple(name for name in OPTIONAL if name in own)
    return Survey(arrivals, last_us, columns, (most if duration_s >= PEAK_WINDOW_S else arrivals) / length_s)


def scaled(blocks: Blocks, factor: float, duration_s: float, rng: np.random.Generator) -> Blocks:
    """The stream with its rate multiplied, as `trace.scaled` does with a trace.

    Copies move by up to `JITTER_S`, so that much of the stream is kept back until what could come before it has come.
    """
    most = max(1, int(CHUNK / max(factor, 1.0)))
    waiting: Records | None = None
    for block in _pieces(blocks, most):
        arrival_s, source = repeated(block["time_us"] / SECOND_US, factor, duration_s, rng)
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


def _pieces(blocks: Blocks, most: int) -> Blocks:
    for block in blocks:
        for start in range(0, len(block), most):
            yield block[start : start + most]
