"""Values for the tables of a report page that are not measures of whole runs; the template arranges them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from proteus_cli.domain.report import DeviceSummary, Report, Window
from proteus_cli.reporting.comparison import (
    MEASURES,
    UNKNOWN,
    ReportRow,
    format_hundredths,
    format_milliseconds,
    format_span,
    or_unknown,
    run_names,
)
from proteus_cli.reporting.device_groups import SimilarDevices, similar_devices, variant_shares
from proteus_cli.reporting.timeline import merge_windows, violation_frac, window_width_s
from proteus_cli.units import format_percent

MAX_DEVICES = 256  # that have a row each
_MAX_WINDOWS = 200
_MIN_SHARE = 0.001
_PARTS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995)  # of all requests


@dataclass(frozen=True, slots=True)
class WindowRow:
    """A span of time: the demand, and the `WINDOW_MEASURES` of each run, unknown where a run has ended."""

    span: str
    demand_qps: str
    runs: tuple[tuple[str, ...], ...]


WINDOW_MEASURES = ("throughput (qps)", "relative accuracy (%)", "SLO violations (%)")


def window_rows(reports: Sequence[Report]) -> list[WindowRow]:
    """The runs over time, in spans of 10 s or more."""
    width_s = max(10.0, window_width_s(reports, _MAX_WINDOWS))
    runs = [merge_windows(report.windows, width_s) for report in reports]
    longest: Sequence[Window] = max(runs, key=len)
    return [
        WindowRow(
            span=format_span(window.start_s, window.length_s),
            demand_qps=f"{window.demand_qps:,.1f}",
            runs=tuple(_window_texts(run[place] if place < len(run) else None) for run in runs),
        )
        for place, window in enumerate(longest)
    ]


def _window_texts(window: Window | None) -> tuple[str, ...]:
    if window is None:
        return (UNKNOWN,) * len(WINDOW_MEASURES)
    fractions = (window.relative_accuracy, violation_frac(window))
    return f"{window.throughput_qps:,.1f}", *(or_unknown(each, format_hundredths) for each in fractions)


def latency_rows(reports: Sequence[Report]) -> list[ReportRow]:
    """The time within which parts of all requests were answered; unknown for parts that never were."""
    rows = []
    for part in _PARTS:
        times = tuple(or_unknown(_within_s(report, part), format_milliseconds) for report in reports)
        rows.append(ReportRow(f"{100 * part:g} %", times, plain=times, unit="ms"))
    answered = [(r.served + r.late) / r.requests if r.requests else None for r in reports]
    percents = tuple(or_unknown(frac, format_hundredths) for frac in answered)
    return [*rows, ReportRow("answered at all", percents, plain=percents, unit="%")]


def _within_s(report: Report, part: float) -> float | None:
    """The time in which that part of all requests was answered, in seconds; None where it never was."""
    answered = report.served + report.late
    wanted = part * report.requests
    if not report.latency_quantiles_s or wanted > answered:
        return None
    quantiles_s = report.latency_quantiles_s
    return float(np.interp(wanted / answered, np.linspace(0, 1, len(quantiles_s)), quantiles_s))


@dataclass(frozen=True, slots=True)
class FamilyRows:
    """The measures of a family in the runs that have it."""

    name: str
    run_names: tuple[str, ...]
    measures: list[ReportRow]


def family_rows(reports: Sequence[Report]) -> list[FamilyRows]:
    """Every family, in the order in which they first appear."""
    rows = []
    for family in dict.fromkeys(each for report in reports for each in report.families):
        named = zip(run_names(reports), reports, strict=True)
        found = {name: report.families[family] for name, report in named if family in report.families}
        rows.append(FamilyRows(family, tuple(found), [measure.row(list(found.values())) for measure in MEASURES]))
    return rows


def each_device(reports: Sequence[Report]) -> list[SimilarDevices]:
    """Every device by itself."""
    return [SimilarDevices(device, (device,)) for group in similar_devices(reports) for device in group.devices]


def variants_text(summary: DeviceSummary) -> str:
    """The variants that answered, with their shares: ``"l 80.0 % · s 20.0 %"``."""
    shares = variant_shares(summary)
    return " · ".join(f"{variant} {_share(share)}" for variant, share in shares) or UNKNOWN


def _share(share: float) -> str:
    return format_percent(share) if share >= _MIN_SHARE else f"< {format_percent(_MIN_SHARE)}"
