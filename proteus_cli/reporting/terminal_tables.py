"""Reports in a terminal: readable without colour and when piped."""

from collections.abc import Callable, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from proteus_cli.domain.attainment import Attainment
from proteus_cli.domain.report import Report, Window
from proteus_cli.reporting.comparison import (
    MAX_BESIDE,
    ReportRow,
    comparison_rows,
    estimate_note,
    format_budget,
    format_count,
    format_hundredths,
    format_span,
    format_target,
    outcome_rows,
    quality_rows,
    run_names,
    run_subject,
)
from proteus_cli.reporting.timeline import merge_windows, violation_frac, window_width_s
from proteus_cli.units import UNKNOWN, counted, format_bar, or_unknown

_MAX_ROWS = 12
_MAX_COLUMNS = 8
_BAR_COLUMNS = 14
_ATTAINMENT = "in time: share of requests · budget: error budget used · ! target missed"


def comparison_table(reports: Sequence[Report]) -> RenderableType:
    """The measures of runs; the best of each is bold and starred. A few runs have a column each, more a row each."""
    estimates = [note] if (note := estimate_note(reports)) else []
    if len(reports) <= MAX_BESIDE:
        notes = ["* best of the row"] if len(reports) > 1 else []
        return _titled(run_subject(reports), _in_columns(reports), *notes, *estimates)
    outcomes = outcome_rows(reports)
    requests, *others = outcomes
    is_same = len(set(requests.cells)) == 1
    title = f"{run_subject(reports)} · {counted(reports[0].requests, 'request')}" if is_same else run_subject(reports)
    return Group(
        _titled(title, _in_rows(reports, others if is_same else outcomes)),
        "",
        _titled(
            "accuracy, batches, latency",
            _in_rows(reports, quality_rows(reports)),
            "* best of the column · viol.: SLO violations · eff., rel., drop: effective and\n"
            "relative accuracy, and its largest drop · p50, p99: latency",
            *estimates,
        ),
    )


def attainment_table(reports: Sequence[Report]) -> RenderableType:
    """What families with requests attained, beside their targets, and how much of their error budgets was used.

    Of many families only those are shown that used most of theirs. Of many runs, each has a row about the family that
    used most.
    """
    runs = [_attained(report) for report in reports]
    if len(reports) > MAX_BESIDE:
        return Group(
            "", _titled("attainment", _attained_in_rows(reports, runs), "worst: the family that used most", _ATTAINMENT)
        )
    targets = {name: of.target for run in runs for name, of in run.items()}
    shown = list(targets)
    if len(shown) > _MAX_ROWS:
        shown = sorted(shown, key=lambda name: max(_used(run[name]) for run in runs if name in run), reverse=True)
    table = _table(reports)
    table.add_column("\nfamily", overflow="fold")
    table.add_column("target\n%", justify="right", no_wrap=True)
    for name in run_names(reports):
        table.add_column(Text(f"{name}\nin time%  budget%"), justify="right", overflow="fold")
    for family in shown[:_MAX_ROWS]:
        cells = (or_unknown(run.get(family), _in_time) for run in runs)
        table.add_row(Text(family), format_target(targets[family]), *cells)
    others = (
        [f"and {counted(len(shown) - _MAX_ROWS, 'family', 'families')} that used less"]
        if len(shown) > _MAX_ROWS
        else []
    )
    return _titled("attainment", table, *others, _ATTAINMENT)


def timeline_table(reports: Sequence[Report]) -> RenderableType:
    """Reports of one trace over time: the demand, and the relative accuracy and SLO violations of each."""
    runs, demand = _over_time(reports)
    if len(reports) > MAX_BESIDE:
        return _timelines_in_rows(reports, runs, demand)
    table = _table(reports)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("demand\nqps", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=_BAR_COLUMNS)
    for name in run_names(reports):
        table.add_column(Text(f"{name}\nacc.% viol.%"), justify="right", overflow="fold")
    peak_qps = max((window.demand_qps for window in demand), default=0.0)
    for place, window in enumerate(demand):
        bar = format_bar(window.demand_qps / peak_qps if peak_qps else 0.0, _BAR_COLUMNS)
        shares = [
            f"{_accuracy(run[place]):>5}  {_violations(run[place]):>5}" if place < len(run) else UNKNOWN for run in runs
        ]
        table.add_row(format_span(window.start_s, window.length_s), f"{window.demand_qps:,.0f}", bar, *shares)
    note = "acc.: relative accuracy · viol.: share of requests that missed their SLO"
    return _titled("over time", table, note)


def _titled(title: str, table: Table, *notes: str) -> Group:
    """A table between lines of text; a title of the table itself would wrap at the width of the table."""
    return Group(Text(title, style="bold"), table, *(Text(note) for note in notes))


def _table(reports: Sequence[Report], *, space: int = 1) -> Table:
    return Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        padding=(0, space, 0, 0),
        header_style="bold" if len(reports) > 1 else "",
    )


def _in_columns(reports: Sequence[Report]) -> Table:
    table = _table(reports)
    table.add_column("", no_wrap=True)
    for name in run_names(reports):
        table.add_column(Text(name), justify="right", overflow="fold")
    for row in comparison_rows(reports):
        table.add_row(row.label, *_starred(row, row.cells, "* "))
    return table


def _in_rows(reports: Sequence[Report], measures: Sequence[ReportRow]) -> Table:
    table = _table(reports, space=0)
    table.add_column("\npolicy", overflow="fold")
    for row in measures:
        table.add_column(f"{row.short}\n{row.unit}" if row.unit else f"\n{row.short}", justify="right", no_wrap=True)
    for name, *cells in zip(run_names(reports), *(_starred(row, row.plain, "*") for row in measures), strict=True):
        table.add_row(Text(name), *cells)
    return table


def _timelines_in_rows(
    reports: Sequence[Report], runs: Sequence[Sequence[Window]], demand: Sequence[Window]
) -> RenderableType:
    def over_time(title: str, value: Callable[[Window], str]) -> Group:
        table = _table(reports, space=0)
        table.add_column("from (s)", overflow="fold")
        for window in demand:
            table.add_column(format_count(window.start_s), justify="right", no_wrap=True)
        table.add_row("demand (qps)", *(format_count(window.demand_qps) for window in demand), end_section=True)
        for name, run in zip(run_names(reports), runs, strict=True):
            table.add_row(Text(name), *(value(w) for w in run), *[UNKNOWN] * (len(demand) - len(run)))
        return _titled(title, table)

    accuracy = over_time("over time: relative accuracy, %", _accuracy)
    return Group("", accuracy, "", over_time("over time: SLO violations, % of requests", _violations))


def _attained_in_rows(reports: Sequence[Report], runs: Sequence[Mapping[str, Attainment]]) -> Table:
    table = _table(reports, space=0)
    table.add_column("policy", overflow="fold")
    table.add_column("met", justify="right", no_wrap=True)
    table.add_column("worst", overflow="fold")
    table.add_column("target%", justify="right", no_wrap=True)
    table.add_column("in time%  budget%", justify="right", no_wrap=True)
    for name, run in zip(run_names(reports), runs, strict=True):
        worst = max(run, key=lambda family: _used(run[family]), default=None)
        cells = [f"{sum(bool(of.met) for of in run.values())} of {len(run)}"]
        if worst is not None:
            cells += [worst, format_target(run[worst].target), _in_time(run[worst])]
        table.add_row(Text(name), *map(Text, cells))
    return table


def _attained(report: Report) -> dict[str, Attainment]:
    return {name: of.attainment for name, of in report.families.items() if of.requests}


def _used(of: Attainment) -> float:
    return of.error_budget_used or 0.0


def _in_time(of: Attainment) -> str:
    reached, used = or_unknown(of.reached, format_hundredths), or_unknown(of.error_budget_used, format_budget)
    return f"{reached:>6}  {used:>6}{' ' if of.met else '!'}"


def _starred(row: ReportRow, cells: Sequence[str], star: str) -> list[Text]:
    return [Text(f"{star}{cell}", style="bold") if n in row.best else Text(cell) for n, cell in enumerate(cells)]


def _over_time(reports: Sequence[Report]) -> tuple[list[tuple[Window, ...]], tuple[Window, ...]]:
    """Each run in windows of one width, and the longest of them, which holds the demand."""
    width = window_width_s(reports, _MAX_ROWS if len(reports) <= MAX_BESIDE else _MAX_COLUMNS)
    runs = [merge_windows(report.seconds, width) for report in reports]
    return runs, max(runs, key=len, default=())


def _accuracy(window: Window) -> str:
    return or_unknown(window.relative_accuracy, _percent)


def _violations(window: Window) -> str:
    return or_unknown(violation_frac(window), _percent)


def _percent(fraction: float) -> str:
    return f"{fraction * 100:.1f}"
