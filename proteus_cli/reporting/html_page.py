"""Reports as one page that stands alone: no network, no scripts; importing this loads matplotlib."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from proteus_cli.domain.report import Report
from proteus_cli.reporting import html_tables
from proteus_cli.reporting.comparison import MAX_BESIDE, UNKNOWN, run_names
from proteus_cli.reporting.html_frame import PAGE, STYLE, TERMS
from proteus_cli.reporting.html_markup import section
from proteus_cli.reporting.plots import DEVICES, FAMILIES, LATENCY, OVER_TIME, Plot, keys, svgs
from proteus_cli.store import write_bytes
from proteus_cli.units import format_duration


def write_html(path: Path, reports: Sequence[Report]) -> None:
    """Write a page about ``reports`` of one trace, at least one. Raises `ArtefactError`."""
    write_bytes(path, page(reports).encode())


def page(reports: Sequence[Report]) -> str:
    """The page about ``reports`` of one trace, at least one; the same for the same reports."""
    drawn, legend = svgs(reports), _legend(reports)
    is_wide = len(reports) > MAX_BESIDE  # then nothing fits beside the table
    beside, below = ((), OVER_TIME) if is_wide else (OVER_TIME[:2], OVER_TIME[2:])
    summary = html_tables.summary(reports)
    sections = (
        section(
            "Summary", summary if is_wide else f'<div class="beside">{summary}{_grid(beside, drawn, legend)}</div>'
        ),
        section("Plots" if is_wide else "Violations and latency", _grid((*below, *LATENCY), drawn, legend)),
        section("Time to an answer", html_tables.latency(reports)),
        section("Over time", html_tables.over_time(reports)),
        section("Families", _grid(FAMILIES, drawn, legend), html_tables.families(reports)),
        section("Devices", _grid(DEVICES, drawn, legend), html_tables.devices(reports)),
        section("Changes of plan", html_tables.replans(reports)),
        section("What is measured", _terms()),
    )
    made = _listed(f"proteus {report.made_by.version} on {report.made_by.host}" for report in reports)
    return PAGE.substitute(
        title=escape(f"Replay of {_listed(report.trace for report in reports)}"),
        style=STYLE,
        facts=_facts(reports),
        sections="\n".join((keys(reports), *sections)),
        footer=escape(f"Measured by {made}, {max(report.made_by.time for report in reports)}."),
    )


def _facts(reports: Sequence[Report]) -> str:
    facts = {
        "policies": _listed(report.policy for report in reports),
        "mode": _listed(report.mode for report in reports),
        "duration": _listed(f"{report.duration_s:,.1f} s" for report in reports),
        "latency targets (SLO)": _slos(reports),
        "date": _listed(report.made_by.time[:10] for report in reports),
    }
    return "\n".join(f"<div><dt>{term}</dt><dd>{escape(value)}</dd></div>" for term, value in facts.items())


def _slos(reports: Sequence[Report]) -> str:
    slos = {family: format_duration(slo_s) for report in reports for family, slo_s in report.slo_s.items()}
    if len(slos) > 1 and len(set(slos.values())) == 1:
        return f"{_listed(slos.values())} for all families"
    return _listed(f"{family} {slo}" for family, slo in slos.items())


def _listed(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values)) or UNKNOWN


def _legend(reports: Sequence[Report]) -> str:
    """How the runs are drawn, for pages as narrow as they come."""
    entries = (
        f'<li><svg class="key" aria-hidden="true"><use href="#key{place}"/></svg>{escape(heading)}</li>'
        for place, heading in enumerate(run_names(reports))
    )
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _grid(plots: Sequence[Plot], drawn: Mapping[str, str], legend: str) -> str:
    figures = (
        f'<figure class="{"lines" if plot.has_lines else "cells"}"><h3>{plot.title}</h3>'
        f"{legend if plot.has_lines else ''}<div>{drawn[plot.name]}</div>"
        f"<figcaption>{plot.about}</figcaption></figure>"
        for plot in plots
    )
    return "\n".join(('<div class="plots">', *figures, "</div>"))


def _beside(*parts: str) -> str:
    return f'<div class="beside">{"".join(parts)}</div>'


def _terms() -> str:
    terms = "\n".join(
        f"<div><dt>{escape(term)}</dt><dd>{escape(meaning)}</dd></div>" for term, meaning in TERMS.items()
    )
    return f'<dl class="terms">\n{terms}\n</dl>'
