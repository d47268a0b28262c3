"""Traces in any known format → one trace of ours."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np

from proteus_cli.arrays import Ints
from proteus_cli.domain.trace import Trace
from proteus_cli.errors import UsageError
from proteus_cli.progress import Advance
from proteus_cli.replay.conversion.arrivals import EPOCH, Arrivals, OnSource
from proteus_cli.replay.conversion.families import FamilyRule, RowFamilies, Shares
from proteus_cli.replay.conversion.formats import SECOND_US, Format
from proteus_cli.replay.conversion.window import ALL, TraceWindow
from proteus_cli.replay.scaling import scaled
from proteus_cli.replay.trace import MAX_DURATION_S, no_slos


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
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Conversion:
    """The trace, and its measures before it was scaled; ``peak_qps`` is of all families, in the busiest 10 s.

    ``began`` is the date at which the trace begins, where the sources have dates.
    """

    trace: Trace
    arrivals: int
    duration_s: float
    peak_qps: float
    began: str | None


def convert(
    sources: Sequence[Path],
    options: ConversionOptions,
    shares: Callable[[], Shares],
    *,
    on_source: OnSource = lambda _name, _format, _rule: None,
    progress: Advance = lambda _now, _done_frac: None,
) -> Conversion:
    """Read all sources, and return one trace. All arrivals are in memory, up to `MAX_ARRIVALS`.

    ``shares`` by family are asked for only where rows are spread over families. Raises `ArtefactError` with the line
    that is wrong, `UsageError`.
    """
    # Counts are spread as `read_trace` does; the other draws have generators of their own, so that they don't depend
    # on how many counts there are.
    spreading = np.random.default_rng(options.seed)
    drawing, scaling = (np.random.default_rng([options.seed, purpose]) for purpose in (1, 2))
    families = RowFamilies(shares, drawing)
    arrivals = Arrivals(families, spreading, options.window)
    for path in sources:
        arrivals.read(path, options.format, options.rule, on_source=on_source, progress=progress)
    time_us, family, own = arrivals.columns()
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
    return Conversion(
        trace=trace if factor == 1 else scaled(trace, factor, scaling),
        arrivals=len(trace),
        duration_s=trace.duration_s,
        peak_qps=peak_qps,
        began=_date(start_us) if origin_us > 0 else None,
    )


def _origin_us(time_us: Ints, options: ConversionOptions) -> int:
    """Where the trace begins: at the source's zero, or at its first arrival if that is before zero or a year after.

    So times that count from a start stay as they are, and dates become times since the first. ``time_us`` rises.
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


def _date(time_us: int) -> str:
    return f"{EPOCH + timedelta(microseconds=time_us):%Y-%m-%d %H:%M:%S.%f} UTC"
