"""Reports as one page that stands alone: no network, no scripts; importing this loads matplotlib."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from proteus_cli.domain.catalog import VariantKey, variant_labels
from proteus_cli.domain.report import DeviceSummary, Report, Window
from proteus_cli.reporting import comparison
from proteus_cli.reporting.device_groups import (
    DevicesOfHost,
    SimilarDevices,
    grouped_devices,
    similar_devices,
    variant_shares,
)
from proteus_cli.reporting.page_templates import page_templates
from proteus_cli.reporting.plots import plots, variant_plots
from proteus_cli.reporting.timeline import merge_windows, violation_frac, window_width_s
from proteus_cli.store import write_bytes
from proteus_cli.units import ESTIMATED, UNKNOWN, format_duration, format_percent, mark_estimate, or_unknown

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
            span=comparison.format_span(window.start_s, window.length_s),
            demand_qps=f"{window.demand_qps:,.1f}",
            runs=tuple(_window_texts(run[place] if place < len(run) else None) for run in runs),
        )
        for place, window in enumerate(longest)
    ]


def _window_texts(window: Window | None) -> tuple[str, ...]:
    if window is None:
        return (UNKNOWN,) * len(WINDOW_MEASURES)
    fractions = (window.relative_accuracy, violation_frac(window))
    return f"{window.throughput_qps:,.1f}", *(or_unknown(each, comparison.format_hundredths) for each in fractions)


def latency_rows(reports: Sequence[Report]) -> list[comparison.ReportRow]:
    """The time within which parts of all requests were answered; unknown for parts that never were."""
    rows = []
    for part in _PARTS:
        times = tuple(or_unknown(_within_s(report, part), comparison.format_milliseconds) for report in reports)
        rows.append(comparison.ReportRow(f"{100 * part:g} %", times, plain=times, unit="ms"))
    answered = [(r.served + r.late) / r.requests if r.requests else None for r in reports]
    percents = tuple(or_unknown(frac, comparison.format_hundredths) for frac in answered)
    return [*rows, comparison.ReportRow("answered at all", percents, plain=percents, unit="%")]


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
    """The measures of a family in the runs that have it, in two tables; its p99 and SLO, and its attainment."""

    name: str
    run_names: tuple[str, ...]
    outcomes: list[comparison.ReportRow]
    quality: list[comparison.ReportRow]
    attainment: list[comparison.ReportRow]


def family_rows(reports: Sequence[Report]) -> list[FamilyRows]:
    """Every family, in the order in which they first appear."""
    rows = []
    for family in dict.fromkeys(each for report in reports for each in report.families):
        named = zip(comparison.run_names(reports), reports, strict=True)
        found = {name: report for name, report in named if family in report.families}
        summaries = [report.families[family] for report in found.values()]
        estimated = [family in report.estimated for report in found.values()]
        slos = tuple(or_unknown(report.slo_s.get(family), comparison.format_milliseconds) for report in found.values())
        outcomes, quality, (p99, *attainment) = (
            [measure.row(summaries, estimated) for measure in each] for each in (_OUTCOMES, _QUALITY, _ATTAINMENT)
        )
        slo = comparison.ReportRow("SLO", slos, plain=slos, unit="ms")
        rows.append(FamilyRows(family, tuple(found), outcomes, quality, [p99, slo, *attainment]))
    return rows


_OUTCOMES = (*comparison.OUTCOMES, *comparison.RATES)
_QUALITY = (*comparison.ACCURACY, *comparison.BATCHES, *comparison.PERCENTILES)
_ATTAINMENT = (comparison.P99, *comparison.ATTAINMENT)


def each_device(reports: Sequence[Report]) -> list[SimilarDevices]:
    """Every device by itself."""
    return [SimilarDevices(device, (device,)) for group in similar_devices(reports) for device in group.devices]


def variants_text(summary: DeviceSummary, labels: Mapping[VariantKey, str]) -> str:
    """The variants that answered, with their shares: ``"l 80.0 % · s 20.0 %"``."""
    shares = variant_shares(summary)
    return " · ".join(f"{labels[variant]} {_share(share)}" for variant, share in shares) or UNKNOWN


def has_estimates(summary: DeviceSummary, report: Report) -> bool:
    """Whether some of what a device answered was of a family with estimated accuracies."""
    return not summary.answers_by_variant.keys().isdisjoint(report.estimated)


def _share(share: float) -> str:
    return format_percent(share) if share >= _MIN_SHARE or not share else f"< {format_percent(_MIN_SHARE)}"


_TEMPLATES = page_templates()
_TEMPLATES.filters |= {
    "count": comparison.format_count,
    "duration": format_duration,
    "mark_estimate": mark_estimate,
    "or_unknown": or_unknown,
    "variants": variants_text,
}
_TEMPLATES.globals |= {
    "count": comparison.format_count,
    "has_estimates": has_estimates,
    "hundredths": comparison.format_hundredths,
    "percent": _share,
    "unknown": UNKNOWN,
}
_PLOTS = {
    "over_time": plots.OVER_TIME,
    "latency": plots.LATENCY,
    "families": plots.FAMILIES,
    "devices": plots.DEVICES,
}


@dataclass(frozen=True, slots=True)
class FamilyVariants:
    """The variants of a family that answered, and their plot; families beyond the bound of plots have none.

    ``has_estimates``: some of their accuracies are estimates; reports do not say which.
    """

    family: str
    variants: Sequence[variant_plots.AnsweringVariant]
    picture: str | None
    has_estimates: bool


def family_variants(reports: Sequence[Report]) -> list[FamilyVariants]:
    """Every family that answered, the busiest first."""
    pictures = plots.variant_svgs(reports)
    answering = variant_plots.answering_variants(reports)
    estimated = {family for report in reports for family in report.estimated}
    return [
        FamilyVariants(family, variants, pictures.get(family), family in estimated)
        for family, variants in answering.items()
    ]


def write_html(path: Path, reports: Sequence[Report]) -> None:
    """Write a page about ``reports`` of one trace, at least one. Raises `ArtefactError`."""
    write_bytes(path, page(reports).encode())


def page(reports: Sequence[Report]) -> str:
    """The page about ``reports`` of one trace, at least one; the same for the same reports."""
    made = _listed(f"proteus {report.made_by.version} on {report.made_by.host}" for report in reports)
    percentiles = [measure.short for measure in comparison.PERCENTILES]
    groups = grouped_devices(reports)
    return _TEMPLATES.get_template("report.html.jinja").render(
        title=f"Replay of {_listed(report.trace for report in reports)}",
        facts=_facts(reports),
        reports=reports,
        run_names=comparison.run_names(reports),
        is_single_run=len(reports) == 1,
        is_wide=len(reports) > comparison.MAX_BESIDE,
        plots=_PLOTS,
        pictures=plots.inline_svgs(reports),
        legend_symbols=plots.legend_symbols(reports),
        measures=comparison.comparison_rows(reports, percentiles=percentiles),
        outcomes=comparison.outcome_rows(reports),
        quality=comparison.quality_rows(reports, percentiles=percentiles),
        family_variants=family_variants(reports),
        max_runs=variant_plots.MAX_RUNS,
        latencies=latency_rows(reports),
        windows=window_rows(reports),
        window_measures=WINDOW_MEASURES,
        families=family_rows(reports),
        outcome_headings=_headings(_OUTCOMES),
        quality_headings=_headings(_QUALITY),
        attainment_headings=["p99 (ms)", "SLO (ms)", *_headings(comparison.ATTAINMENT)],
        has_cascades=any(of.deferred for report in reports for of in report.families.values()),
        family_tables=comparison.family_tables(reports),
        stages_note=comparison.STAGES_NOTE,
        composition_note=comparison.COMPOSITION_NOTE,
        device_groups=groups,
        has_hosts=any(isinstance(group, DevicesOfHost) for group in groups),
        devices=each_device(reports),
        variant_labels=variant_labels(
            key for report in reports for device in report.devices.values() for key, _ in variant_shares(device)
        ),
        max_devices=MAX_DEVICES,
        footer=f"Made by {made}, {max(report.made_by.time for report in reports)}.",
    )


def _headings(measures: Iterable[comparison.Measure]) -> list[str]:
    return [measure.row([]).heading for measure in measures]


def _facts(reports: Sequence[Report]) -> dict[str, str]:
    estimated = _listed(family for report in reports for family in report.estimated)
    estimates = {f"estimated accuracies ({ESTIMATED})": estimated} if estimated != UNKNOWN else {}
    return {
        "policies": _listed(report.policy for report in reports),
        "mode": _listed(report.mode for report in reports),
        "duration": _listed(f"{report.duration_s:,.1f} s" for report in reports),
        "latency targets (SLO)": _slos(reports),
        "date": _listed(report.made_by.time[:10] for report in reports),
        **estimates,
    }


def _slos(reports: Sequence[Report]) -> str:
    slos = {family: format_duration(slo_s) for report in reports for family, slo_s in report.slo_s.items()}
    if len(slos) > 1 and len(set(slos.values())) == 1:
        return f"{_listed(slos.values())} for all families"
    return _listed(f"{family} {slo}" for family, slo in slos.items())


def _listed(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values)) or UNKNOWN
