"""Reports as one page that stands alone: no network, no scripts; importing this loads matplotlib."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from proteus_cli.domain.report import Report, Window
from proteus_cli.reporting.page import PAGE, STYLE, TERMS
from proteus_cli.reporting.plots import PLOTS, svgs
from proteus_cli.reporting.rows import (
    MEASURES,
    PERCENTILES,
    UNKNOWN,
    Row,
    comparison,
    count,
    headings,
    percent,
    stretch,
)
from proteus_cli.reporting.timeline import merged, violation_frac, width_s
from proteus_cli.store import write_bytes
from proteus_cli.units import format_duration

_MOST_WINDOWS = 200


def write_html(path: Path, reports: Sequence[Report]) -> None:
    """Write a page about ``reports`` of one trace, at least one. Raises `ArtefactError`."""
    write_bytes(path, page(reports).encode())


def page(reports: Sequence[Report]) -> str:
    """The page about ``reports`` of one trace, at least one; the same for the same reports."""
    demand, accuracy, *others = _figures(reports)
    sections = (
        _section("Summary", f'<div class="beside">\n{_summary(reports)}\n{_grid(demand, accuracy)}\n</div>'),
        _section("Violations and latency", _grid(*others)),
        _section("Over time", _windows(reports)),
        _section("Families", _families(reports)),
        _section("Changes of plan", _replans(reports)),
        _section("What is measured", _terms()),
    )
    made = _listed(f"proteus {report.made_by.version} on {report.made_by.host}" for report in reports)
    return PAGE.substitute(
        title=escape(f"Replay of {_listed(report.trace for report in reports)}"),
        style=STYLE,
        facts=_facts(reports),
        sections="\n".join(sections),
        footer=escape(f"Measured by {made}, {max(report.made_by.time for report in reports)}."),
    )


def _facts(reports: Sequence[Report]) -> str:
    slos = {family: format_duration(slo_s) for report in reports for family, slo_s in report.slo_s.items()}
    facts = {
        "policies": _listed(report.policy for report in reports),
        "mode": _listed(report.mode for report in reports),
        "duration": _listed(f"{report.duration_s:,.1f} s" for report in reports),
        "latency targets (SLO)": _listed(f"{family} {slo}" for family, slo in slos.items()),
        "date": _listed(report.made_by.time[:10] for report in reports),
    }
    return "\n".join(f"<div><dt>{term}</dt><dd>{escape(value)}</dd></div>" for term, value in facts.items())


def _listed(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values)) or UNKNOWN


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{body}\n</section>"


def _summary(reports: Sequence[Report]) -> str:
    head = _row(_head(""), *(_head(name) for name in headings(reports)))
    rows = comparison(reports, percentiles=[m.label.removeprefix("latency ") for m in PERCENTILES])
    body = (_row(_name(row.label), *_values(row)) for row in rows)
    note = '<p class="note">* best of the row</p>' if len(reports) > 1 else ""
    return f"<div>{_table('Summary', [head], body)}{note}</div>"


def _figures(reports: Sequence[Report]) -> list[str]:
    drawn = svgs(reports)
    return [
        f"<figure><h3>{plot.title}</h3>{drawn[plot.name]}<figcaption>{plot.about}</figcaption></figure>"
        for plot in PLOTS
    ]


def _grid(*figures: str) -> str:
    return "\n".join(('<div class="plots">', *figures, "</div>"))


def _windows(reports: Sequence[Report]) -> str:
    width = max(10.0, width_s(reports, _MOST_WINDOWS))
    runs = [merged(report.windows, width) for report in reports]
    longest = max(runs, key=len)
    groups = (f'<th class="group" colspan="3" scope="colgroup">{escape(name)}</th>' for name in headings(reports))
    head = [
        _row(
            '<th class="text" rowspan="2" scope="col">time</th>',
            '<th rowspan="2" scope="col">demand (qps)</th>',
            *groups,
        ),
        _row(*(_head(name) for _ in reports for name in ("throughput (qps)", "relative accuracy", "SLO violations"))),
    ]
    body = (
        _row(
            _name(stretch(window.start_s, window.length_s)),
            _cell(f"{window.demand_qps:,.1f}"),
            *(cell for run in runs for cell in _window_cells(run[place] if place < len(run) else None)),
        )
        for place, window in enumerate(longest)
    )
    return _table("Over time", head, body)


def _window_cells(window: Window | None) -> Sequence[str]:
    if window is None:
        return [_cell(UNKNOWN)] * 3
    accuracy, violations = window.relative_accuracy, violation_frac(window)
    return (
        _cell(f"{window.throughput_qps:,.1f}"),
        _cell(UNKNOWN if accuracy is None else percent(accuracy)),
        _cell(count(window.violations) + ("" if violations is None else f" ({percent(violations)})")),
    )


def _families(reports: Sequence[Report]) -> str:
    head = _row(
        _head("family", "text"), _head("policy", "text"), *(_head(measure.label.strip()) for measure in MEASURES)
    )
    names = dict.fromkeys(name for report in reports for name in report.families)
    return _table("Families", [head], (row for name in names for row in _family_rows(name, reports)))


def _family_rows(family: str, reports: Sequence[Report]) -> Iterable[str]:
    asked = [
        (name, r.families[family]) for name, r in zip(headings(reports), reports, strict=True) if family in r.families
    ]
    columns = [_values(measure.row([summary for _, summary in asked])) for measure in MEASURES]
    for place, (heading, _) in enumerate(asked):
        yield _row(_name(family), _text(heading), *(column[place] for column in columns))


def _replans(reports: Sequence[Report]) -> str:
    head = _row(_head("policy", "text"), _head("at"), _head("reason", "text"), _head("solved in"), _head("swaps"))
    rows = [
        _row(
            _name(heading),
            _cell(f"{replan.at_s:,.1f} s"),
            _text(replan.reason),
            _cell(format_duration(replan.solve_s)),
            _cell(count(replan.swaps)),
        )
        for heading, report in zip(headings(reports), reports, strict=True)
        for replan in report.replans
    ]
    return _table("Changes of plan", [head], rows) if rows else "<p>The plan never changed.</p>"


def _terms() -> str:
    terms = "\n".join(
        f"<div><dt>{escape(term)}</dt><dd>{escape(meaning)}</dd></div>" for term, meaning in TERMS.items()
    )
    return f'<dl class="terms">\n{terms}\n</dl>'


def _table(label: str, head: Sequence[str], body: Iterable[str]) -> str:
    heads, rows = "\n".join(head), "\n".join(body)
    return (
        f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table>\n'
        f"<thead>\n{heads}\n</thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def _row(*cells: str) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def _head(text: str, kind: str = "") -> str:
    return f'<th scope="col" class="{kind}">{escape(text)}</th>' if kind else f'<th scope="col">{escape(text)}</th>'


def _name(label: str) -> str:
    indented = ' class="sub"' if label.startswith(" ") else ""
    return f'<th scope="row"{indented}>{escape(label.strip())}</th>'


def _text(text: str) -> str:
    return f'<td class="text">{escape(text)}</td>'


def _cell(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def _values(row: Row) -> Sequence[str]:
    return [
        f'<td class="best">* {escape(cell)}</td>' if n in row.best else _cell(cell) for n, cell in enumerate(row.cells)
    ]
