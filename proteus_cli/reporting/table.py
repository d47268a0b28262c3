"""Reports in a terminal: readable without colour and when piped."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from proteus_cli.domain.report import Report, Window
from proteus_cli.reporting.rows import UNKNOWN, Row, comparison, headings, stretch, subject
from proteus_cli.reporting.timeline import merged, violation_frac, width_s

_MOST_ROWS = 12
_BAR_COLUMNS = 14
_MOST_POLICIES_BESIDE_BAR = 3
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def comparison_table(reports: Sequence[Report]) -> Table:
    """Measures in rows, one column per report; the best of a row is bold and starred."""
    table = _table(subject(reports), reports)
    table.add_column("", no_wrap=True)
    for name in headings(reports):
        table.add_column(Text(name), justify="right", overflow="fold")
    for row in comparison(reports):
        table.add_row(row.label, *_cells(row))
    if len(reports) > 1:
        table.caption = Text("* best of the row")
    return table


def timeline_table(reports: Sequence[Report]) -> Table:
    """Reports of one trace over time: demand, and each one's relative accuracy and share of SLO violations."""
    runs, demand = _stretches(reports)
    barred = len(reports) <= _MOST_POLICIES_BESIDE_BAR
    table = _table("over time", reports)
    table.caption = Text("acc.: relative accuracy · viol.: share of requests\nthat missed their SLO")
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("demand\nqps", justify="right", no_wrap=True)
    if barred:
        table.add_column("", no_wrap=True, min_width=_BAR_COLUMNS)
    for name in headings(reports):
        table.add_column(Text(f"{name}\nacc.% viol.%"), justify="right", overflow="fold")
    peak_qps = max((window.demand_qps for window in demand), default=0.0)
    for place, window in enumerate(demand):
        bar = [_bar(window.demand_qps, peak_qps)] if barred else []
        shares = [_shares(run[place]) if place < len(run) else UNKNOWN for run in runs]
        table.add_row(stretch(window.start_s, window.length_s), f"{window.demand_qps:,.0f}", *bar, *shares)
    return table


def _table(title: str, reports: Sequence[Report]) -> Table:
    return Table(
        title=Text(title, style="bold"),
        title_justify="left",
        caption_justify="left",
        caption_style="",
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold" if len(reports) > 1 else "",
    )


def _cells(row: Row) -> list[Text]:
    return [Text(f"* {cell}", style="bold") if n in row.best else Text(cell) for n, cell in enumerate(row.cells)]


def _stretches(reports: Sequence[Report]) -> tuple[list[tuple[Window, ...]], tuple[Window, ...]]:
    """Each run in stretches of one width, and the longest of them for the demand."""
    width = width_s(reports, _MOST_ROWS)
    runs = [merged(report.seconds, width) for report in reports]
    return runs, max(runs, key=len, default=())


def _shares(window: Window) -> str:
    return f"{_percent(window.relative_accuracy):>5}  {_percent(violation_frac(window)):>5}"


def _percent(fraction: float | None) -> str:
    return UNKNOWN if fraction is None else f"{fraction * 100:.1f}"


def _bar(value: float, peak: float) -> str:
    eighths = round(value / peak * _BAR_COLUMNS * 8) if peak else 0
    full, rest = divmod(eighths, 8)
    return (_EIGHTHS[-1] * full + _EIGHTHS[rest]).rstrip()
