"""Reports in a terminal: readable without colour and when piped."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from proteus_cli.domain.attainment import Attainment
from proteus_cli.domain.report import Report, Window
from proteus_cli.reporting.comparison import (
    MAX_BESIDE,
    FamilyTable,
    ReportRow,
    comparison_rows,
    estimate_note,
    family_tables,
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
from proteus_cli.reporting.tables import bars, described, name, number, table, text
from proteus_cli.reporting.timeline import merge_windows, violation_frac, window_width_s
from proteus_cli.units import UNKNOWN, counted, format_bar, or_unknown

_MAX_ROWS = 12
_MAX_COLUMNS = 8
_BAR_COLUMNS = 14
_MISSED = "!"


def report_tables(reports: Sequence[Report]) -> Iterator[RenderableType]:
    """All tables that a terminal shows of runs of one trace."""
    yield comparison_table(reports)
    yield attainment_table(reports)
    yield timeline_table(reports)
    for found in family_tables(reports):
        yield family_table(found, has_runs=len(reports) > 1)
    if any(report.losses for report in reports):
        yield losses_table(reports)


def comparison_table(reports: Sequence[Report]) -> RenderableType:
    """The measures of runs; the best of each is bold and starred. A few runs have a column each, more a row each."""
    estimates = [note] if (note := estimate_note(reports)) else []
    if len(reports) <= MAX_BESIDE:
        notes = ["* best of the row"] if any(row.best for row in comparison_rows(reports)) else []
        return described(_in_columns(reports), *notes, *estimates, title=run_subject(reports))
    outcomes = outcome_rows(reports)
    requests, *others = outcomes
    is_same = len(set(requests.cells)) == 1
    best = "* best of the column · " if any(row.best for row in (*outcomes, *quality_rows(reports))) else ""
    title = f"{run_subject(reports)} · {counted(reports[0].requests, 'request')}" if is_same else run_subject(reports)
    return Group(
        described(_in_rows(reports, others if is_same else outcomes), title=title),
        "",
        described(
            _in_rows(reports, quality_rows(reports)),
            f"{best}viol.: SLO violations · eff., rel., drop: effective and",
            "relative accuracy, and its largest drop · p50, p99: latency",
            *estimates,
            title="accuracy, batches, latency",
        ),
    )


def attainment_table(reports: Sequence[Report]) -> RenderableType:
    """The attainment of families with requests, beside their targets, and the used part of their error budgets.

    If there are many families, only the highest uses are shown. If there are many runs, each has a row about the family
    that used most.
    """
    runs = [_attained(report) for report in reports]
    if len(reports) > MAX_BESIDE:
        worst = [run[family] for run in runs if (family := _worst(run)) is not None]
        below = "worst: the family that used most", _attainment_note(worst)
        return Group("", described(_attained_in_rows(reports, runs), *below, title="attainment"))
    targets = {family: of.target for run in runs for family, of in run.items()}
    shown = list(targets)
    if len(shown) > _MAX_ROWS:
        shown = sorted(shown, key=lambda family: max(_used(run[family]) for run in runs if family in run), reverse=True)
    expected = [_expected(report) if len(reports) < MAX_BESIDE else {} for report in reports]  # for want of room
    columns = (
        text(run, f"{'plan%  ' if of else ''}in time%  budget%", justify="right")
        for run, of in zip(run_names(reports), expected, strict=True)
    )
    rows = table(text("", "family"), number("target", "%"), *columns)
    for family in shown[:_MAX_ROWS]:
        cells = (
            f"{or_unknown(of.get(family), format_hundredths):>6}   {cell}" if of and family in run else cell
            for run, of in zip(runs, expected, strict=True)
            for cell in (or_unknown(run.get(family), _in_time),)
        )
        rows.add_row(Text(family), format_target(targets[family]), *cells)
    others = len(shown) - _MAX_ROWS
    notes = [f"and {counted(others, 'family', 'families')} that used less"] if others > 0 else []
    seen = [run[family] for run in runs for family in shown[:_MAX_ROWS] if family in run]
    notes += ["plan: the share that its plans expected"] if any(expected) else []
    return described(rows, *notes, _attainment_note(seen), title="attainment")


def timeline_table(reports: Sequence[Report]) -> RenderableType:
    """Reports of one trace over time: the demand, and the relative accuracy and SLO violations of each."""
    runs, demand = _over_time(reports)
    if len(reports) > MAX_BESIDE:
        return _timelines_in_rows(reports, runs, demand)
    columns = (text(run, "acc.% viol.%", justify="right") for run in run_names(reports))
    rows = table(number("", "time"), number("demand", "qps"), bars(_BAR_COLUMNS), *columns)
    peak_qps = max((window.demand_qps for window in demand), default=0.0)
    for place, window in enumerate(demand):
        bar = format_bar(window.demand_qps / peak_qps if peak_qps else 0.0, _BAR_COLUMNS)
        shares = [
            f"{_accuracy(run[place]):>5}  {_violations(run[place]):>5}" if place < len(run) else UNKNOWN for run in runs
        ]
        rows.add_row(format_span(window.start_s, window.length_s), f"{window.demand_qps:,.0f}", bar, *shares)
    note = "acc.: relative accuracy · viol.: share of requests that missed their SLO"
    return described(rows, note, title="over time")


def losses_table(reports: Sequence[Report]) -> RenderableType:
    """Losses of simulated runs, with their times and the seconds until service was back; the first of many."""
    found = [(run, loss) for run, report in zip(run_names(reports), reports, strict=True) for loss in report.losses]
    policies = (text("", "policy"),) if len(reports) > 1 else ()
    rows = table(*policies, text("", "lost"), number("", "devices"), number("at", "s"), number("back after", "s"))
    for run, loss in found[:_MAX_ROWS]:
        after = or_unknown(loss.away_s, "{:.1f}".format)
        cells = loss.what, str(loss.devices), f"{loss.at_s:.1f}", after
        rows.add_row(*map(Text, (run, *cells) if policies else cells))
    others = len(found) - _MAX_ROWS
    notes = [f"and {counted(others, 'loss', 'losses')} more"] if others > 0 else []
    return described(rows, *notes, "back: all of its devices serve again", title="losses")


def family_table(found: FamilyTable, *, has_runs: bool) -> RenderableType:
    """One of `family_tables`; where it ``has_runs``, they have a column."""
    policies = (text("policy"),) if has_runs else ()
    rows = table(*policies, text("family"), *(number(heading) for heading in found.headings))
    for row in found.rows:
        cells = row.family, *row.cells
        rows.add_row(*map(Text, (row.name, *cells) if policies else cells))
    return described(rows, *found.notes, title=found.title.lower())


def _in_columns(reports: Sequence[Report]) -> Table:
    rows = table(name(""), *(text(run, justify="right") for run in run_names(reports)))
    for row in comparison_rows(reports):
        rows.add_row(row.label, *_starred(row, row.cells, "* "))
    return rows


def _in_rows(reports: Sequence[Report], measures: Sequence[ReportRow]) -> Table:
    columns = (number(row.short, row.unit) if row.unit else number(*["", *row.short.split()][-2:]) for row in measures)
    rows = table(text("", "policy"), *columns, is_dense=True)
    for run, *cells in zip(run_names(reports), *(_starred(row, row.plain, "*") for row in measures), strict=True):
        rows.add_row(Text(run), *cells)
    return rows


def _timelines_in_rows(
    reports: Sequence[Report], runs: Sequence[Sequence[Window]], demand: Sequence[Window]
) -> RenderableType:
    def over_time(title: str, value: Callable[[Window], str]) -> Group:
        columns = (number(format_count(window.start_s)) for window in demand)
        rows = table(text("from (s)"), *columns, is_dense=True)
        rows.add_row("demand (qps)", *(format_count(window.demand_qps) for window in demand), end_section=True)
        for label, run in zip(run_names(reports), runs, strict=True):
            rows.add_row(Text(label), *(value(w) for w in run), *[UNKNOWN] * (len(demand) - len(run)))
        return described(rows, title=title)

    accuracy = over_time("over time: relative accuracy, %", _accuracy)
    return Group("", accuracy, "", over_time("over time: SLO violations, % of requests", _violations))


def _attained_in_rows(reports: Sequence[Report], runs: Sequence[Mapping[str, Attainment]]) -> Table:
    columns = (text("policy"), number("met"), text("worst"), number("target%"), number("in time%  budget%"))
    rows = table(*columns, is_dense=True)
    for label, run in zip(run_names(reports), runs, strict=True):
        worst = _worst(run)
        cells = [f"{sum(bool(of.met) for of in run.values())} of {len(run)}"]
        if worst is not None:
            cells += [worst, format_target(run[worst].target), _in_time(run[worst])]
        rows.add_row(Text(label), *map(Text, cells))
    return rows


def _attained(report: Report) -> dict[str, Attainment]:
    return {name: of.attainment for name, of in report.families.items() if of.requests}


def _expected(report: Report) -> dict[str, float]:
    """The expectations of the plans of a run, by family."""
    return {name: of.expected_attainment for name, of in report.families.items() if of.expected_attainment is not None}


def _worst(run: Mapping[str, Attainment]) -> str | None:
    """The family that used most of its error budget; None where none had requests."""
    return max(run, key=lambda family: _used(run[family]), default=None)


def _attainment_note(shown: Iterable[Attainment]) -> str:
    """The meaning of the columns of attainment, and of the mark if a shown family has it."""
    missed = "" if all(of.met for of in shown) else f" · {_MISSED} target missed"
    return f"in time: share of requests · budget: error budget used{missed}"


def _used(of: Attainment) -> float:
    return of.error_budget_used or 0.0


def _in_time(of: Attainment) -> str:
    reached, used = or_unknown(of.reached, format_hundredths), or_unknown(of.error_budget_used, format_budget)
    return f"{reached:>6}  {used:>6}{' ' if of.met else _MISSED}"


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
