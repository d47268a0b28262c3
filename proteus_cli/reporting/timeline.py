"""A run over time in spans coarse enough to print or draw."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from proteus_cli.domain.report import Report, Window

_WIDTHS_S = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


def window_width_s(reports: Sequence[Report], max_windows: int) -> float:
    """The shortest round width that cuts the longest of the runs into ``max_windows`` at most."""
    end_s = max((_end_s(report.seconds[-1]) for report in reports if report.seconds), default=0.0)
    fitting = (width for width in _WIDTHS_S if end_s <= width * (max_windows + 0.5))
    return float(next(fitting, math.ceil(end_s / max_windows / _WIDTHS_S[-1]) * _WIDTHS_S[-1]))


def merge_windows(windows: Sequence[Window], width_s: float) -> tuple[Window, ...]:
    """Neighbouring windows joined into spans of ``width_s``; a rest shorter than half a span joins the span before."""
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
    lengths_s = [part.length_s for part in parts]
    return Window(
        start_s=parts[0].start_s,
        length_s=math.fsum(lengths_s),
        demand_qps=weighted_mean([part.demand_qps for part in parts], lengths_s) or 0.0,
        throughput_qps=weighted_mean([part.throughput_qps for part in parts], lengths_s) or 0.0,
        relative_accuracy=weighted_mean(
            [part.relative_accuracy for part in parts], [part.throughput_qps * part.length_s for part in parts]
        ),
        violations=sum(part.violations for part in parts),
        answers_by_variant=summed_answers(part.answers_by_variant for part in parts),
    )


def summed_answers(parts: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """Counts of answers by family and variant, added up."""
    total: dict[str, Counter[str]] = {}
    for part in parts:
        for family, by_variant in part.items():
            total.setdefault(family, Counter()).update(by_variant)
    return {family: dict(by_variant) for family, by_variant in total.items()}


def weighted_mean(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """The mean of the values that are known; None where their weights add up to nothing."""
    known = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None]
    total = math.fsum(weight for _, weight in known)
    return math.fsum(value * weight for value, weight in known) / total if total else None
