"""Traces in any known format → one trace of ours, in a stream."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO

import numpy as np

from proteus_cli.errors import UsageError
from proteus_cli.progress import Advance
from proteus_cli.replay.conversion import stream
from proteus_cli.replay.conversion.arrivals import EPOCH, OnSource, TraceReader
from proteus_cli.replay.conversion.external_sort import ArrivalSorter
from proteus_cli.replay.conversion.families import FamilyRule, RowFamilies, Shares
from proteus_cli.replay.conversion.formats import SECOND_US, Format
from proteus_cli.replay.conversion.stream import ALL, TraceWindow
from proteus_cli.replay.scaling import require_scalable
from proteus_cli.replay.trace import MAX_DURATION_S


@dataclass(frozen=True, slots=True)
class ConversionOptions:
    """How to convert. ``format`` and ``rule`` are found from the source where they are None.

    The window is cut first; then the trace is sped up, then scaled so that its busiest 10 s have ``scale_to_qps``.
    """

    format: Format | None = None
    rule: FamilyRule | None = None
    window: TraceWindow = ALL
    speedup: float = 1.0
    scale_to_qps: float | None = None
    keeps_slos: bool = True
    per_second: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Conversion:
    """What the sources hold, before scaling, and the trace as pieces of CSV, which can be read once.

    ``began`` is the date at which the trace begins, where the sources have dates.
    """

    found: stream.Survey
    families: tuple[str, ...]
    began: str | None
    pieces: Iterator[str]


def convert(
    sources: Sequence[Path],
    options: ConversionOptions,
    shares: Callable[[], Shares],
    spool: IO[bytes],
    *,
    on_source: OnSource = lambda _name, _format, _rule: None,
    progress: Advance = lambda _now, _done_frac: None,
) -> Conversion:
    """Read all sources, and return one trace that is ready to be written.

    ``shares`` by family are asked for only where rows are spread over families. ``spool`` is an empty temporary file,
    which takes 60 bytes per arrival. Raises `ArtefactError` with the line that is wrong, `UsageError`.
    """
    # Counts are spread as `read_trace` does; the other draws have generators of their own, so that they don't depend
    # on how many counts there are.
    spreading = np.random.default_rng(options.seed)
    drawing, scaling = (np.random.default_rng([options.seed, purpose]) for purpose in (1, 2))
    families, sorter = RowFamilies(shares, drawing), ArrivalSorter(spool)
    reader = TraceReader(sorter, families, spreading, options.window)
    for path in sources:
        reader.read(path, options.format, options.rule, on_source=on_source, progress=progress)
    origin_us = _origin_us(sorter, options)

    def blocks() -> stream.Blocks:
        cut = stream.cut(sorter.merged(), options.window, origin_us=origin_us, speedup=options.speedup)
        return cut if options.keeps_slos else stream.without_slos(cut)

    found = stream.survey(blocks())
    if not found.arrivals:
        raise UsageError("The window has no arrivals.", hint="choose another --window")
    factor = options.scale_to_qps / found.peak_qps if options.scale_to_qps is not None else 1.0
    require_scalable(found.arrivals, factor)
    result = blocks() if factor == 1 else stream.scaled(blocks(), factor, found.duration_s, scaling)
    return Conversion(
        found=found,
        families=families.names,
        began=_date(origin_us + options.window.start_us) if origin_us > 0 else None,
        pieces=stream.csv_pieces(result, families.names, own=found.own_columns, per_second=options.per_second),
    )


def _origin_us(sorter: ArrivalSorter, options: ConversionOptions) -> int:
    """Where the trace begins. Raises `UsageError` where it has no arrivals, or would last more than a year."""
    if sorter.ends_us is None:
        raise UsageError("The sources have no arrivals.", hint="look into them, and at the --window")
    if not 0 < options.speedup < math.inf:
        hint = "give a finite number above zero"
        raise UsageError(f"A trace can't be {options.speedup} times as fast.", hint=hint)
    first_us, last_us = sorter.ends_us
    origin_us = stream.origin_us(first_us)
    lasts_us = min(options.window.stop_us, last_us - origin_us) - options.window.start_us
    if lasts_us / SECOND_US / options.speedup > MAX_DURATION_S:
        raise UsageError("The trace would last more than a year.", hint="take a part of it with --window")
    return origin_us


def _date(time_us: int) -> str:
    return f"{EPOCH + timedelta(microseconds=time_us):%Y-%m-%d %H:%M:%S.%f} UTC"
