"""Reports as one page that stands alone: no network, no scripts; importing this loads matplotlib."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from proteus_cli.domain.report import Report
from proteus_cli.reporting import html_tables, plots
from proteus_cli.reporting.comparison import (
    MAX_BESIDE,
    MEASURES,
    PERCENTILES,
    UNKNOWN,
    comparison_rows,
    format_count,
    format_hundredths,
    or_unknown,
    outcome_rows,
    quality_rows,
    run_names,
)
from proteus_cli.reporting.device_groups import similar_devices
from proteus_cli.store import write_bytes
from proteus_cli.units import format_duration

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {
    "count": format_count,
    "duration": format_duration,
    "or_unknown": or_unknown,
    "variants": html_tables.variants_text,
}
_TEMPLATES.globals |= {"count": format_count, "hundredths": format_hundredths, "unknown": UNKNOWN}
_PLOTS = {
    "over_time": plots.OVER_TIME,
    "latency": plots.LATENCY,
    "families": plots.FAMILIES,
    "devices": plots.DEVICES,
}


def write_html(path: Path, reports: Sequence[Report]) -> None:
    """Write a page about ``reports`` of one trace, at least one. Raises `ArtefactError`."""
    write_bytes(path, page(reports).encode())


def page(reports: Sequence[Report]) -> str:
    """The page about ``reports`` of one trace, at least one; the same for the same reports."""
    made = _listed(f"proteus {report.made_by.version} on {report.made_by.host}" for report in reports)
    percentiles = [measure.short for measure in PERCENTILES]
    return _TEMPLATES.get_template("report.html.jinja").render(
        title=f"Replay of {_listed(report.trace for report in reports)}",
        facts=_facts(reports),
        reports=reports,
        run_names=run_names(reports),
        is_single_run=len(reports) == 1,
        is_wide=len(reports) > MAX_BESIDE,
        plots=_PLOTS,
        pictures=plots.inline_svgs(reports),
        legend_symbols=plots.legend_symbols(reports),
        measures=comparison_rows(reports, percentiles=percentiles),
        outcomes=outcome_rows(reports),
        quality=quality_rows(reports, percentiles=percentiles),
        latencies=html_tables.latency_rows(reports),
        windows=html_tables.window_rows(reports),
        window_measures=html_tables.WINDOW_MEASURES,
        families=html_tables.family_rows(reports),
        family_headings=[measure.row([]).heading for measure in MEASURES],
        device_groups=similar_devices(reports),
        devices=html_tables.each_device(reports),
        max_devices=html_tables.MAX_DEVICES,
        footer=f"Measured by {made}, {max(report.made_by.time for report in reports)}.",
    )


def _facts(reports: Sequence[Report]) -> dict[str, str]:
    return {
        "policies": _listed(report.policy for report in reports),
        "mode": _listed(report.mode for report in reports),
        "duration": _listed(f"{report.duration_s:,.1f} s" for report in reports),
        "latency targets (SLO)": _slos(reports),
        "date": _listed(report.made_by.time[:10] for report in reports),
    }


def _slos(reports: Sequence[Report]) -> str:
    slos = {family: format_duration(slo_s) for report in reports for family, slo_s in report.slo_s.items()}
    if len(slos) > 1 and len(set(slos.values())) == 1:
        return f"{_listed(slos.values())} for all families"
    return _listed(f"{family} {slo}" for family, slo in slos.items())


def _listed(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values)) or UNKNOWN
