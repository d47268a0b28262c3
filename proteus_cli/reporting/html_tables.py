"""The tables of a report page, as values that its template writes: every number that the plots show, and more."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from proteus_cli.domain.report import DeviceSummary, Report, Window
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
    or_unknown,
    outcome_rows,
    quality_rows,
    run_names,
)
from proteus_cli.reporting.device_groups import SimilarDevices, similar_devices, variant_shares
from proteus_cli.reporting.timeline import merge_windows, violation_frac, window_width_s
from proteus_cli.units import format_duration, format_percent

_MAX_WINDOWS = 200
_MAX_DEVICES = 256
_MIN_SHARE = 0.001
_PARTS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995)  # of all requests
_PERCENTILE_NAMES = [measure.short for measure in PERCENTILES]


@dataclass(frozen=True, slots=True)
class HeadCell:
    """The heading of a column, or of several."""

    text: str
    style: str = ""
    rows: int = 1
    columns: int = 1

    @property
    def attributes(self) -> dict[str, str | int | None]:
        """Those of HTML; None is left out."""
        return {
            "class": self.style or None,
            "rowspan": self.rows if self.rows > 1 else None,
            "colspan": self.columns if self.columns > 1 else None,
            "scope": "colgroup" if self.columns > 1 else "col",
        }


@dataclass(frozen=True, slots=True)
class BodyCell:
    """A cell; ``style`` is a class of report.css."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class BodyRow:
    """A named row. A group names the rows below it; a sub-row belongs to the row or the group above."""

    name: str
    cells: Sequence[BodyCell] = ()
    is_group: bool = False
    is_sub: bool = False


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table: rows of headings, then rows with as many cells as there are columns."""

    label: str
    head: Sequence[Sequence[HeadCell]]
    rows: Sequence[BodyRow]

    @property
    def width(self) -> int:
        """How many columns it has."""
        return sum(cell.columns for cell in self.head[0])


@dataclass(frozen=True, slots=True)
class DeviceTables:
    """Devices in groups of similar ones; ``each`` alone, where that says more and there aren't too many to show."""

    groups: PageTable
    each: PageTable | None
    count: int
    is_too_many: bool


def summary(reports: Sequence[Report]) -> tuple[PageTable, ...]:
    """The measures of whole runs: a table with a column for each of a few runs, or two with a row for each of many."""
    if len(reports) <= MAX_BESIDE:
        measures = comparison_rows(reports, percentiles=_PERCENTILE_NAMES)
        rows = [
            BodyRow(each.label.strip(), _marked(each.cells, each.best), is_sub=each.label.startswith(" "))
            for each in measures
        ]
        return (PageTable("Summary", [_heads("", *run_names(reports))], rows),)
    return (
        _by_run("Requests", reports, outcome_rows(reports)),
        _by_run("Accuracy, batches, latency", reports, quality_rows(reports, percentiles=_PERCENTILE_NAMES)),
    )


def over_time(reports: Sequence[Report]) -> tuple[PageTable, ...]:
    """Rates, accuracy and violations in spans of 10 s or more: one table for a few runs, one by measure for many."""
    runs = [merge_windows(report.windows, max(10.0, window_width_s(reports, _MAX_WINDOWS))) for report in reports]
    names = run_names(reports)
    if len(reports) <= MAX_BESIDE:
        measures = [HeadCell(title) for title in _WINDOW_MEASURES]
        groups = [HeadCell(name, "group", columns=len(measures)) for name in names]
        head = [
            [HeadCell("time", "text", rows=2), HeadCell("demand (qps)", rows=2), *groups],
            measures * len(reports),
        ]
        return (PageTable("Over time", head, list(_window_rows(runs, _WINDOW_MEASURES.values()))),)
    head = [[HeadCell("time", "text"), *_heads("demand (qps)", *names)]]
    return tuple(PageTable(title, head, list(_window_rows(runs, [write]))) for title, write in _WINDOW_MEASURES.items())


def _window_rows(runs: Sequence[Sequence[Window]], measures: Iterable[Callable[[Window], str]]) -> Iterator[BodyRow]:
    writers = tuple(measures)
    longest: Sequence[Window] = max(runs, key=len)
    for place, window in enumerate(longest):
        texts = [write(run[place]) if place < len(run) else UNKNOWN for run in runs for write in writers]
        yield BodyRow(format_span(window.start_s, window.length_s), _cells(f"{window.demand_qps:,.1f}", *texts))


_WINDOW_MEASURES: dict[str, Callable[[Window], str]] = {
    "throughput (qps)": lambda window: f"{window.throughput_qps:,.1f}",
    "relative accuracy (%)": lambda window: or_unknown(window.relative_accuracy, format_hundredths),
    "SLO violations (%)": lambda window: or_unknown(violation_frac(window), format_hundredths),
}


def latency(reports: Sequence[Report]) -> PageTable:
    """The time within which a part of all requests was answered; unknown for parts that never were."""
    rows = [_row_of_part(part, reports) for part in _PARTS]
    answered = [(r.served + r.late) / r.requests if r.requests else None for r in reports]
    cells = tuple(or_unknown(frac, format_hundredths) for frac in answered)
    rows.append(ReportRow("answered at all", cells, plain=cells, unit="%"))
    return _by_run("Time within which so many of all requests were answered", reports, rows)


def _row_of_part(part: float, reports: Sequence[Report]) -> ReportRow:
    times_s = [_within_s(report, part) for report in reports]
    cells = tuple(or_unknown(time_s, format_milliseconds) for time_s in times_s)
    return ReportRow(f"{100 * part:g} %", cells, plain=cells, unit="ms")


def _within_s(report: Report, part: float) -> float | None:
    """The time in which that part of all requests was answered, in seconds; None where it never was."""
    answered = report.served + report.late
    wanted = part * report.requests
    if not report.latency_quantiles_s or wanted > answered:
        return None
    quantiles_s = report.latency_quantiles_s
    return float(np.interp(wanted / answered, np.linspace(0, 1, len(quantiles_s)), quantiles_s))


def families(reports: Sequence[Report]) -> PageTable:
    """The measures by family, and where there are several runs, by run in each."""
    groups = []
    for family in dict.fromkeys(each for report in reports for each in report.families):
        found = {
            name: report.families[family]
            for name, report in zip(run_names(reports), reports, strict=True)
            if family in report.families
        }
        cells = _transposed([measure.row(list(found.values())) for measure in MEASURES])
        groups.append((family, list(zip(found, cells, strict=True))))
    titles = _heads(*(measure.row([]).heading for measure in MEASURES))
    return _in_groups("Families", "family", groups, titles, is_single_run=len(reports) == 1)


def devices(reports: Sequence[Report]) -> DeviceTables | None:
    """What each device answered; None where no device is known."""
    groups = similar_devices(reports)
    each = [SimilarDevices(device, (device,)) for group in groups for device in group.devices]
    if not groups:
        return None
    is_too_many = len(each) > _MAX_DEVICES
    has_each = len(groups) < len(each) and not is_too_many
    return DeviceTables(
        groups=_devices("Devices", groups, reports),
        each=_devices("Each device", each, reports) if has_each else None,
        count=len(each),
        is_too_many=is_too_many,
    )


def _devices(label: str, groups: Sequence[SimilarDevices], reports: Sequence[Report]) -> PageTable:
    titles = [
        *_heads("answers", "answers (qps)", "batches", "mean batch", "relative accuracy (%)"),
        HeadCell("answers by variant", "text"),
    ]
    named = list(zip(run_names(reports), reports, strict=True))
    found = [
        (group.label, [(name, _device_cells(group.summary(report), report)) for name, report in named])
        for group in groups
    ]
    return _in_groups(label, "device", found, titles, is_single_run=len(reports) == 1)


def _device_cells(found: DeviceSummary, report: Report) -> list[BodyCell]:
    variants = " · ".join(f"{variant} {_share(share)}" for variant, share in variant_shares(found))
    numbers = _cells(
        format_count(found.answers),
        f"{found.answers / report.duration_s:,.1f}" if report.duration_s else UNKNOWN,
        or_unknown(found.batches, format_count),
        or_unknown(found.mean_batch, "{:.1f}".format),
        or_unknown(found.relative_accuracy, format_hundredths),
    )
    return [*numbers, BodyCell(variants or UNKNOWN, "wide")]


def _share(share: float) -> str:
    return format_percent(share) if share >= _MIN_SHARE else f"< {format_percent(_MIN_SHARE)}"


def replans(reports: Sequence[Report]) -> PageTable:
    """When plans changed, and why."""
    head = [HeadCell("policy", "text"), HeadCell("at"), HeadCell("reason", "text"), *_heads("solved in", "swaps")]
    rows = [
        BodyRow(
            name,
            [
                BodyCell(f"{replan.at_s:,.1f} s"),
                BodyCell(replan.reason, "text"),
                *_cells(format_duration(replan.solve_s), format_count(replan.swaps)),
            ],
        )
        for name, report in zip(run_names(reports), reports, strict=True)
        for replan in report.replans
    ]
    return PageTable("Changes of plan", [head], rows)


# --- parts


def _heads(*texts: str) -> list[HeadCell]:
    return [HeadCell(text) for text in texts]


def _cells(*texts: str) -> list[BodyCell]:
    return [BodyCell(text) for text in texts]


def _marked(texts: Sequence[str], best: frozenset[int]) -> list[BodyCell]:
    return [BodyCell(f"* {text}", "best") if place in best else BodyCell(text) for place, text in enumerate(texts)]


def _transposed(measures: Sequence[ReportRow]) -> list[tuple[BodyCell, ...]]:
    """The cells of measures that have a column each, by row."""
    return list(zip(*(_marked(measure.plain, measure.best) for measure in measures), strict=True))


def _by_run(label: str, reports: Sequence[Report], measures: Sequence[ReportRow]) -> PageTable:
    """A row for each run, a column for each measure."""
    head = [HeadCell("policy", "text"), *_heads(*(measure.heading for measure in measures))]
    rows = [BodyRow(name, cells) for name, cells in zip(run_names(reports), _transposed(measures), strict=True)]
    return PageTable(label, [head], rows)


def _in_groups(
    label: str,
    what: str,
    groups: Iterable[tuple[str, Sequence[tuple[str, Sequence[BodyCell]]]]],
    titles: Sequence[HeadCell],
    *,
    is_single_run: bool,
) -> PageTable:
    """A table of groups, each with a row for each run; of a single run, each group is that row."""
    if is_single_run:
        rows = [BodyRow(group, cells) for group, runs in groups for _, cells in runs]
        return PageTable(label, [[HeadCell(what, "text"), *titles]], rows)
    rows = []
    for group, runs in groups:
        rows.append(BodyRow(group, is_group=True))
        rows += [BodyRow(name, cells, is_sub=True) for name, cells in runs]
    return PageTable(label, [[HeadCell(f"{what}, policy", "text"), *titles]], rows)
