"""The tables of a page: every number that its plots show, and more."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from proteus_cli.domain.report import DeviceSummary, Report, Window
from proteus_cli.reporting import html_markup
from proteus_cli.reporting.comparison import (
    MAX_BESIDE,
    MEASURES,
    PERCENTILES,
    UNKNOWN,
    ReportRow,
    comparison_rows,
    format_count,
    format_hundredths,
    format_milliseconds,
    format_span,
    outcome_rows,
    quality_rows,
    run_names,
)
from proteus_cli.reporting.device_groups import SimilarDevices, similar_devices, variant_shares
from proteus_cli.reporting.html_markup import Group, cell, columns, head, name, row, table, text, titled_table
from proteus_cli.reporting.timeline import merge_windows, violation_frac, window_width_s
from proteus_cli.units import format_duration, format_percent

_MAX_WINDOWS = 200
_MAX_DEVICES = 256
_MIN_SHARE = 0.001
_PARTS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995)


def summary(reports: Sequence[Report]) -> str:
    """The measures of whole runs: in rows beside a few runs, in columns across many."""
    percentiles = [measure.short for measure in PERCENTILES]
    if len(reports) <= MAX_BESIDE:
        heads = row(head(""), *(head(heading) for heading in run_names(reports)))
        body = (
            row(name(each.label), *html_markup.values(each))
            for each in comparison_rows(reports, percentiles=percentiles)
        )
        note = '<p class="note">* best of the row</p>' if len(reports) > 1 else ""
        return f"<div>{table('Summary', [heads], body)}{note}</div>"
    return "\n".join(
        (
            _by_run("Requests", reports, outcome_rows(reports)),
            _by_run("Accuracy, batches, latency", reports, quality_rows(reports, percentiles=percentiles)),
            '<p class="note">* best of the column</p>',
        )
    )


def over_time(reports: Sequence[Report]) -> str:
    """Rates, accuracy and violations in stretches of 10 s or more: together for a few runs, apart for many."""
    width = max(10.0, window_width_s(reports, _MAX_WINDOWS))
    runs = [merge_windows(report.windows, width) for report in reports]
    if len(reports) <= MAX_BESIDE:
        return table("Over time", _beside(reports), _window_rows(runs, [write for _, write in _OF_WINDOW]))
    heads = [row(head("time", "text"), head("demand (qps)"), *(head(heading) for heading in run_names(reports)))]
    return "\n".join(titled_table(title, heads, _window_rows(runs, [write])) for title, write in _OF_WINDOW)


def _beside(reports: Sequence[Report]) -> Iterator[str]:
    yield row(
        head("time", "text", rows=2),
        head("demand (qps)", rows=2),
        *(head(heading, "group", columns=len(_OF_WINDOW)) for heading in run_names(reports)),
    )
    yield row(*(head(title) for _ in reports for title, _ in _OF_WINDOW))


def _window_rows(runs: Sequence[Sequence[Window]], written: Sequence[Callable[[Window], str]]) -> Iterator[str]:
    longest: Sequence[Window] = max(runs, key=len)
    for place, window in enumerate(longest):
        cells = (cell(write(run[place]) if place < len(run) else UNKNOWN) for run in runs for write in written)
        yield row(name(format_span(window.start_s, window.length_s)), cell(f"{window.demand_qps:,.1f}"), *cells)


def _percentage(frac: float | None) -> str:
    return UNKNOWN if frac is None else format_hundredths(frac)


_OF_WINDOW: Sequence[tuple[str, Callable[[Window], str]]] = (
    ("throughput (qps)", lambda window: f"{window.throughput_qps:,.1f}"),
    ("relative accuracy (%)", lambda window: _percentage(window.relative_accuracy)),
    ("SLO violations (%)", lambda window: _percentage(violation_frac(window))),
)


def latency(reports: Sequence[Report]) -> str:
    """In what time a part of all requests was answered; unknown for parts that never were."""
    rows = [_row_of_part(part, reports) for part in _PARTS]
    answered = [(r.served + r.late) / r.requests if r.requests else None for r in reports]
    cells = tuple(_percentage(frac) for frac in answered)
    rows.append(ReportRow("answered at all", cells, plain=cells, unit="%"))
    return _by_run("Time within which so many of all requests were answered", reports, rows)


def _row_of_part(part: float, reports: Sequence[Report]) -> ReportRow:
    cells = tuple(UNKNOWN if (s := _within_s(report, part)) is None else format_milliseconds(s) for report in reports)
    return ReportRow(f"{100 * part:g} %", cells, plain=cells, unit="ms")


def _within_s(report: Report, part: float) -> float | None:
    """The time in which that part of all requests was answered, in seconds; None where it never was."""
    answered = report.served + report.late
    wanted = part * report.requests
    if not report.latency_quantiles_s or wanted > answered:
        return None
    quantiles_s = report.latency_quantiles_s
    return float(np.interp(wanted / answered, np.linspace(0, 1, len(quantiles_s)), quantiles_s))


def families(reports: Sequence[Report]) -> str:
    """The measures by family, and where there are several runs, by run in each."""
    groups = []
    for family in dict.fromkeys(each for report in reports for each in report.families):
        asked = [
            (heading, report.families[family])
            for heading, report in zip(run_names(reports), reports, strict=True)
            if family in report.families
        ]
        rows = [measure.row([found for _, found in asked]) for measure in MEASURES]
        runs = [heading for heading, _ in asked]
        groups.append((family, runs, columns(rows)))
    titles = [head(measure.row([]).heading) for measure in MEASURES]
    return _in_groups("Families", "family", groups, titles, alone=len(reports) == 1)


def devices(reports: Sequence[Report]) -> str:
    """What each device answered: like ones together, and each alone where that isn't the same."""
    groups = similar_devices(reports)
    if not groups:
        return "<p>No device is known.</p>"
    together = _devices("Devices", groups, reports)
    each = [SimilarDevices(device, (device,)) for kind in groups for device in kind.devices]
    if len(each) == len(groups):
        return together
    if len(each) > _MAX_DEVICES:
        return f'{together}\n<p class="note">Each of the {format_count(len(each))} devices is in the JSON report.</p>'
    alone = _devices("Each device", each, reports)
    return f"{together}\n<details><summary>Each of the {len(each)} devices</summary>\n{alone}\n</details>"


def _devices(label: str, groups: Sequence[SimilarDevices], reports: Sequence[Report]) -> str:
    titles = [
        head("answers"), head("answers (qps)"), head("batches"), head("mean batch"), head("relative accuracy (%)"),
        head("answers by variant", "text"),
    ]  # fmt: skip
    found = [
        (kind.label, run_names(reports), [_device_cells(kind.summary(report), report) for report in reports])
        for kind in groups
    ]
    return _in_groups(label, "device", found, titles, alone=len(reports) == 1)


def _device_cells(found: DeviceSummary, report: Report) -> list[str]:
    variants = " · ".join(f"{variant} {_share(share)}" for variant, share in variant_shares(found))
    return [
        cell(format_count(found.answers)),
        cell(f"{found.answers / report.duration_s:,.1f}" if report.duration_s else UNKNOWN),
        cell(UNKNOWN if found.batches is None else format_count(found.batches)),
        cell(UNKNOWN if found.mean_batch is None else f"{found.mean_batch:.1f}"),
        cell(_percentage(found.relative_accuracy)),
        text(variants or UNKNOWN, "wide"),
    ]


def _share(share: float) -> str:
    return format_percent(share) if share >= _MIN_SHARE else f"< {format_percent(_MIN_SHARE)}"


def replans(reports: Sequence[Report]) -> str:
    """When plans changed, and why."""
    heads = row(head("policy", "text"), head("at"), head("reason", "text"), head("solved in"), head("swaps"))
    rows = [
        row(
            name(heading),
            cell(f"{replan.at_s:,.1f} s"),
            text(replan.reason),
            cell(format_duration(replan.solve_s)),
            cell(format_count(replan.swaps)),
        )
        for heading, report in zip(run_names(reports), reports, strict=True)
        for replan in report.replans
    ]
    return table("Changes of plan", [heads], rows) if rows else "<p>The plan never changed.</p>"


def _by_run(label: str, reports: Sequence[Report], measures: Sequence[ReportRow]) -> str:
    """A row for each run, a column for each measure."""
    heads = row(head("policy", "text"), *(head(measure.heading) for measure in measures))
    runs = zip(run_names(reports), columns(measures), strict=True)
    return titled_table(label, [heads], (row(name(heading), *cells) for heading, cells in runs))


def _in_groups(
    label: str,
    what: str,
    groups: Iterable[tuple[str, Sequence[str], Sequence[Sequence[str]]]],
    titles: Sequence[str],
    *,
    alone: bool,
) -> str:
    """A table of groups, each of a name, the names of its rows and their cells; groups of one row are that row."""
    if alone:
        heads = row(head(what, "text"), *titles)
        return table(label, [heads], (row(name(group), *cells) for group, _, rows in groups for cells in rows))
    heads = row(head(f"{what}, policy", "text"), *titles)
    named = (
        Group(group, [row(name(f" {run}"), *cells) for run, cells in zip(runs, rows, strict=True)])
        for group, runs, rows in groups
    )
    return table(label, [heads], html_markup.grouped(named, width=1 + len(titles)))
