"""A comparison of runs as text: measures by row, a cell for each run. Terminal tables and pages only arrange it."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from proteus_cli.domain.report import FamilySummary, Report, Summary, SwapsPerReplan
from proteus_cli.intervals import wilson
from proteus_cli.units import ESTIMATED, format_duration, format_qps, mark_estimate, or_unknown

MAX_BESIDE = 3  # runs that have a column each; more have a row each


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One measure of several runs.

    ``cells`` are for a row, each with its unit; ``plain`` are for a column, with ``unit`` in its heading. ``best`` are
    the places of the best values; it is empty where all read the same. ``short`` is a name for narrow columns.
    """

    label: str
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()
    plain: tuple[str, ...] = ()
    unit: str = ""
    short: str = ""

    @property
    def heading(self) -> str:
        """The heading of its column: ``"throughput (qps)"``."""
        return self.label.strip() + (f" ({self.unit})" if self.unit else "")


@dataclass(frozen=True, slots=True)
class Measure:
    """One number of a summary: its name, how it is read and written, and whether higher or lower is better, if either.

    ``plain`` writes it in ``unit``. ``text`` writes it with a unit, where that isn't ``unit`` after ``plain``. One that
    ``is_accuracy`` is marked where accuracies are estimates.
    """

    label: str
    value: Callable[[Summary], float | None]
    plain: Callable[[float], str]
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    short: str = ""
    text: Callable[[float], str] | None = None
    is_accuracy: bool = False

    def row(self, summaries: Sequence[Summary], estimated: Sequence[bool] = ()) -> ReportRow:
        """The measure of each of ``summaries``; ``estimated``: whether its accuracies are estimates, false if empty."""
        marks = [self.is_accuracy and each for each in estimated] or [False] * len(summaries)
        values = [self.value(summary) for summary in summaries]
        cells, plain = (
            tuple(
                mark_estimate(cell, estimated=mark)
                for mark, cell in zip(marks, self._written(values, write), strict=True)
            )
            for write in (self._text, self.plain)
        )
        return ReportRow(self.label, cells, self._best(values), plain, self.unit, self.short or self.label.strip())

    def _text(self, value: float) -> str:
        return self.text(value) if self.text else f"{self.plain(value)} {self.unit}".rstrip()

    @staticmethod
    def _written(values: Sequence[float | None], write: Callable[[float], str]) -> tuple[str, ...]:
        return tuple(or_unknown(value, write) for value in values)

    def _best(self, values: Sequence[float | None]) -> frozenset[int]:
        known = [value for value in values if value is not None]
        cells = self._written(values, self._text)
        if self.better is None or not known or len(set(cells)) == 1:
            return frozenset()
        best = self._text(max(known) if self.better == "higher" else min(known))
        return frozenset(place for place, cell in enumerate(cells) if cell == best)


def format_hundredths(fraction: float) -> str:
    """0.97314 → ``"97.31"``."""
    return f"{fraction * 100:.2f}"


def format_milliseconds(seconds: float) -> str:
    """0.0123 → ``"12.3"``, with more digits below 1."""
    return f"{seconds * 1e3:,.1f}" if seconds >= 1e-3 or not seconds else f"{seconds * 1e3:.3f}"  # noqa: PLR2004


def format_count(number: float) -> str:
    """24000 → ``"24,000"``."""
    return f"{number:,.0f}"


def format_target(fraction: float) -> str:
    """0.995 → ``"99.5"``: a target in percent, with all of its digits."""
    return f"{100 * fraction:.10g}"


def format_budget(used: float) -> str:
    """0.4 → ``"40"``: how much of an error budget was used, in percent, with a decimal below 10."""
    percent = 100 * used
    return f"{percent:.1f}" if 0 < percent < 10 else f"{percent:,.0f}"  # noqa: PLR2004


def format_span(start_s: float, length_s: float) -> str:
    """A part of a run: ``"0–10 s"``, with a decimal only where it needs one."""
    return f"{_short(start_s)}–{_short(start_s + length_s)} s"


def _short(number: float) -> str:
    return f"{number:,.1f}".removesuffix(".0")


def _latency(name: str) -> Measure:
    def value(summary: Summary) -> float | None:
        return None if summary.latency_s is None else float(getattr(summary.latency_s, name))

    return Measure(f"latency {name}", value, format_milliseconds, "ms", "lower", name, format_duration)


OUTCOMES = (
    Measure("requests", attrgetter("requests"), format_count),
    Measure("SLO violations", attrgetter("slo_violation_ratio"), format_hundredths, "%", "lower", "viol."),
    Measure("  late", attrgetter("late"), format_count),
    Measure("  dropped", attrgetter("dropped"), format_count),
    Measure("  rejected", attrgetter("rejected"), format_count),
    Measure("  failed", attrgetter("failed"), format_count),
)
ACCURACY = (
    Measure(
        "effective accuracy",
        attrgetter("effective_accuracy"),
        format_hundredths,
        "%",
        "higher",
        "eff.",
        is_accuracy=True,
    ),
    Measure(
        "relative accuracy", attrgetter("relative_accuracy"), format_hundredths, "%", "higher", "rel.", is_accuracy=True
    ),
    Measure("max accuracy drop", attrgetter("max_accuracy_drop"), "{:.2f}".format, "pts", "lower", "drop"),
)
RATES = (
    Measure("throughput", attrgetter("throughput_qps"), format_qps, "qps", "higher"),
    Measure("goodput", attrgetter("goodput_qps"), format_qps, "qps", "higher"),
)
BATCHES = (Measure("mean batch", attrgetter("mean_batch"), lambda rows: f"{rows:.1f}", short="batch"),)
PERCENTILES = tuple(_latency(name) for name in ("p50", "p90", "p95", "p99", "max"))
P99 = PERCENTILES[3]
ATTAINMENT = (
    Measure("attainment", attrgetter("attainment.reached"), format_hundredths, "%", "higher"),
    Measure("expected", attrgetter("expected_attainment"), format_hundredths, "%"),
    Measure("target", attrgetter("attainment.target"), format_target, "%"),
    Measure("target met", attrgetter("attainment.met"), lambda met: "met" if met else "missed"),
    Measure("error budget used", attrgetter("attainment.error_budget_used"), format_budget, "%", "lower"),
)
"""Columns of a `FamilySummary` only."""


def comparison_rows(reports: Sequence[Report], *, percentiles: Iterable[str] = ("p50", "p99")) -> tuple[ReportRow, ...]:
    """The measures of whole runs, one cell per report."""
    measures = (*OUTCOMES, *ACCURACY, *RATES, *BATCHES, *_latencies(percentiles))
    return (*_measured(measures, reports), *_run_rows(reports, with_mean_swaps=True))


def outcome_rows(reports: Sequence[Report]) -> tuple[ReportRow, ...]:
    """The part of a comparison about the outcomes of requests."""
    return tuple(_measured((*OUTCOMES, *RATES), reports))


def quality_rows(reports: Sequence[Report], *, percentiles: Iterable[str] = ("p50", "p99")) -> tuple[ReportRow, ...]:
    """The rest of a comparison: accuracy, batches, latency, plan changes."""
    measures = (*ACCURACY, *BATCHES, *_latencies(percentiles))
    return (*_measured(measures, reports), *_run_rows(reports))


STAGES_NOTE = (
    "First stages of cascades answer the queries that they are sure of, second stages the hard ones: the accuracy of "
    "answers says little about that of a variant."
)
COMPOSITION_NOTE = (
    "Relative accuracy can be more than 100 %, as a cascade can be more accurate than the most accurate variant, and "
    "as some seconds have more of the easy queries than others."
)


@dataclass(frozen=True, slots=True)
class FamilyRow:
    """Some figures of a family in the run of that ``name``."""

    name: str
    family: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FamilyTable:
    """Figures of families by run, for the runs and families that have them; a note for each that is not plain."""

    title: str
    headings: tuple[str, ...]
    notes: tuple[str, ...]
    rows: Sequence[FamilyRow]


def family_tables(reports: Sequence[Report]) -> list[FamilyTable]:
    """Answers that were judged by labels, deferred by cascades, or cut short; those tables that have a row."""
    judged = _family_table(
        reports, _judged, "Accuracy of answers", ("promised (%)", "measured (%)", "95 % interval", "answers"),
        "measured: answers that were right by the labels of the eval split whose rows were sent",
        "promised: what profiles say of the variants and cascades that answered",
    )  # fmt: skip
    cascades = _family_table(
        reports, _deferred, "Cascades", ("deferred (%)", "fallbacks (%)"),
        "deferred: answered queries that the first stage was not sure of",
        "fallbacks: those of them that got its answer all the same",
    )  # fmt: skip
    exits = _family_table(
        reports, _cut, "Exits", ("cut short (%)",),
        "cut short: answered queries to which a multi-exit model gave an answer before their exit, for want of time",
    )  # fmt: skip
    return [each for each in (judged, cascades, exits) if each.rows]


def _family_table(
    reports: Sequence[Report],
    cells_of: Callable[[FamilySummary], tuple[str, ...] | None],
    title: str,
    headings: tuple[str, ...],
    *notes: str,
) -> FamilyTable:
    rows = [
        FamilyRow(name, family, cells)
        for name, report in zip(run_names(reports), reports, strict=True)
        for family, of in report.families.items()
        if (cells := cells_of(of)) is not None
    ]
    return FamilyTable(title, headings, notes, rows)


def _judged(of: FamilySummary) -> tuple[str, ...] | None:
    """How accurate answers were, and how sure that is."""
    if not of.judged or of.measured_accuracy is None:
        return None
    low, high = wilson(round(of.measured_accuracy * of.judged), of.judged)
    promised = or_unknown(of.effective_accuracy, format_hundredths)
    interval = f"{format_hundredths(low)} to {format_hundredths(high)}"
    return promised, format_hundredths(of.measured_accuracy), interval, format_count(of.judged)


def _deferred(of: FamilySummary) -> tuple[str, ...] | None:
    """The fraction of answered queries, and of fallbacks among them."""
    if not of.deferred:
        return None
    return format_hundredths(of.deferred / (of.served + of.late)), format_hundredths(of.fallbacks / of.deferred)


def _cut(of: FamilySummary) -> tuple[str, ...] | None:
    return (format_hundredths(of.cut / (of.served + of.late)),) if of.cut else None


def _measured(measures: Iterable[Measure], reports: Sequence[Report]) -> list[ReportRow]:
    estimated = [bool(report.estimated) for report in reports]
    return [measure.row(reports, estimated) for measure in measures]


def _latencies(percentiles: Iterable[str]) -> list[Measure]:
    wanted = set(percentiles)
    return [measure for measure in PERCENTILES if measure.short in wanted]


def _run_rows(reports: Sequence[Report], *, with_mean_swaps: bool = False) -> Iterable[ReportRow]:
    yield _counted("replans", [len(report.replans) for report in reports])
    yield _counted("swaps", [sum(replan.swaps for replan in report.replans) for report in reports])
    if with_mean_swaps and any(each.most for report in reports if (each := report.swaps_per_replan) is not None):
        cells = tuple(or_unknown(report.swaps_per_replan, _mean_and_most) for report in reports)
        yield ReportRow("  per replan", cells, plain=cells, short="per replan")
    if any(report.noisy_cells for report in reports):
        noisy = tuple(or_unknown(report.noisy_cells, format_count) for report in reports)
        yield ReportRow("noisy cells in profiles", noisy, plain=noisy, short="noisy cells")
    if any(report.interrupted for report in reports):
        ended = tuple("yes" if report.interrupted else "no" for report in reports)
        yield ReportRow("interrupted", ended, plain=ended, short="interrupted")
    lags = [report.generator_lag_s for report in reports]
    if any(lag is not None for lag in lags):
        cells = tuple(or_unknown(lag, format_duration) for lag in lags)
        plain = tuple(or_unknown(lag, format_milliseconds) for lag in lags)
        yield ReportRow("generator lag p99", cells, plain=plain, unit="ms", short="lag p99")


def _mean_and_most(swaps: SwapsPerReplan) -> str:
    return f"{swaps.mean:.1f}, most {format_count(swaps.most)}"


def _counted(label: str, numbers: Sequence[int]) -> ReportRow:
    cells = tuple(format_count(number) for number in numbers)
    return ReportRow(label, cells, plain=cells, short=label)


def run_names(reports: Sequence[Report]) -> tuple[str, ...]:
    """A name for each report: its policy, with its mode and its place only where the policy names several."""
    plain = [report.policy for report in reports]
    twice = {name for name, n in Counter(plain).items() if n > 1}
    named = [f"{r.policy} ({r.mode})" if r.policy in twice else r.policy for r in reports]
    again = {name for name, n in Counter(named).items() if n > 1}
    return tuple(f"{name} #{place}" if name in again else name for place, name in enumerate(named, start=1))


def estimate_note(reports: Sequence[Report]) -> str:
    """The meaning of the mark of estimates, with its families; empty without any."""
    families = dict.fromkeys(family for report in reports for family in report.estimated)
    return f"{ESTIMATED} accuracies of {', '.join(families)} are estimated, without labels" if families else ""


def run_subject(reports: Sequence[Report]) -> str:
    """The subject of the reports: trace, mode and duration, each named once."""
    parts = ([r.trace for r in reports], [r.mode for r in reports], [f"{_short(r.duration_s)} s" for r in reports])
    return " · ".join(", ".join(dict.fromkeys(part)) for part in parts)
