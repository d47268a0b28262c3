"""A run over time in stretches coarse enough to print or draw."""

import math
from collections.abc import Iterable, Sequence
from itertools import groupby

from proteus_cli.domain.report import Report, Window

_WIDTHS_S = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


def window_width_s(reports: Sequence[Report], at_most: int) -> float:
    """The shortest round width that cuts the longest of the runs into ``at_most`` stretches."""
    end_s = max((_end_s(report.seconds[-1]) for report in reports if report.seconds), default=0.0)
    fitting = (width for width in _WIDTHS_S if end_s <= width * (at_most + 0.5))
    return float(next(fitting, math.ceil(end_s / at_most / _WIDTHS_S[-1]) * _WIDTHS_S[-1]))


def merge_windows(windows: Sequence[Window], width_s: float) -> tuple[Window, ...]:
    """Neighbouring windows joined into stretches of ``width_s``; a rest below half a stretch joins the one before."""
    if not windows:
        return ()
    last = max(0, math.floor(_end_s(windows[-1]) / width_s + 0.5) - 1)
    return tuple(_joined(tuple(group)) for _, group in groupby(windows, lambda w: min(int(w.start_s // width_s), last)))


def violation_frac(window: Window) -> float | None:
    """The share of the window's requests that missed their SLO; None where there were none."""
    requests = window.demand_qps * window.length_s
    return min(1.0, window.violations / requests) if requests else None


def _end_s(window: Window) -> float:
    return window.start_s + window.length_s


def _joined(parts: Sequence[Window]) -> Window:
    length_s = math.fsum(part.length_s for part in parts)
    known = [part for part in parts if part.relative_accuracy is not None]
    answers = [part.throughput_qps * part.length_s for part in known]
    relative = _weighted((part.relative_accuracy or 0.0 for part in known), answers)
    return Window(
        start_s=parts[0].start_s,
        length_s=length_s,
        demand_qps=_weighted((part.demand_qps for part in parts), [part.length_s for part in parts]) or 0.0,
        throughput_qps=_weighted((part.throughput_qps for part in parts), [part.length_s for part in parts]) or 0.0,
        relative_accuracy=relative,
        violations=sum(part.violations for part in parts),
    )


def _weighted(values: Iterable[float], weights: Sequence[float]) -> float | None:
    total = math.fsum(weights)
    return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / total if total else None
