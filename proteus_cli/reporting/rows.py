"""What a comparison of runs says, as text; tables and pages only arrange it."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from proteus_cli.domain.report import Report, Summary
from proteus_cli.units import format_duration, format_rate

UNKNOWN = "–"


@dataclass(frozen=True, slots=True)
class Row:
    """One measure of several runs; ``best`` holds the columns of the best values, none where all read the same."""

    label: str
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Measure:
    """How one number of a summary is named, found and written, and which direction is better, if any is."""

    label: str
    value: Callable[[Summary], float | None]
    text: Callable[[float], str]
    better: Literal["higher", "lower"] | None = None

    def row(self, summaries: Sequence[Summary]) -> Row:
        values = [self.value(summary) for summary in summaries]
        cells = tuple(UNKNOWN if value is None else self.text(value) for value in values)
        return Row(self.label, cells, self._best(values, cells))

    def _best(self, values: Sequence[float | None], cells: Sequence[str]) -> frozenset[int]:
        known = [value for value in values if value is not None]
        if self.better is None or not known or len(set(cells)) == 1:
            return frozenset()
        best = self.text(max(known) if self.better == "higher" else min(known))
        return frozenset(column for column, cell in enumerate(cells) if cell == best)


def percent(fraction: float) -> str:
    """0.97314 → ``"97.31 %"``: one digit more than elsewhere, since differences matter here."""
    return f"{fraction * 100:.2f} %"


def count(number: float) -> str:
    """24000 → ``"24,000"``."""
    return f"{number:,.0f}"


def stretch(start_s: float, length_s: float) -> str:
    """A stretch of a run: ``"0–10 s"``, with a decimal only where it needs one."""
    return f"{_short(start_s)}–{_short(start_s + length_s)} s"


def _short(number: float) -> str:
    return f"{number:,.1f}".removesuffix(".0")


def _latency(name: str) -> Measure:
    def value(summary: Summary) -> float | None:
        return None if summary.latency_s is None else float(getattr(summary.latency_s, name))

    return Measure(f"latency {name}", value, format_duration, "lower")


OUTCOMES = (
    Measure("requests", attrgetter("requests"), count),
    Measure("SLO violations", attrgetter("slo_violation_ratio"), percent, "lower"),
    Measure("  late", attrgetter("late"), count),
    Measure("  dropped", attrgetter("dropped"), count),
    Measure("  rejected", attrgetter("rejected"), count),
    Measure("  failed", attrgetter("failed"), count),
)
ACCURACY = (
    Measure("effective accuracy", attrgetter("effective_accuracy"), percent, "higher"),
    Measure("relative accuracy", attrgetter("relative_accuracy"), percent, "higher"),
    Measure("max accuracy drop", attrgetter("max_accuracy_drop"), lambda points: f"{points:.2f} pts", "lower"),
)
RATES = (
    Measure("throughput", attrgetter("throughput_qps"), format_rate, "higher"),
    Measure("goodput", attrgetter("goodput_qps"), format_rate, "higher"),
    Measure("mean batch", attrgetter("mean_batch"), lambda rows: f"{rows:.1f}"),
)
PERCENTILES = tuple(_latency(name) for name in ("p50", "p90", "p95", "p99", "max"))
MEASURES = (*OUTCOMES, *ACCURACY, *RATES, *PERCENTILES)


def comparison(reports: Sequence[Report], *, percentiles: Iterable[str] = ("p50", "p99")) -> tuple[Row, ...]:
    """The measures of whole runs, one cell per report."""
    wanted = {f"latency {name}" for name in percentiles}
    measures = (*OUTCOMES, *ACCURACY, *RATES, *(m for m in PERCENTILES if m.label in wanted))
    return (*(measure.row(reports) for measure in measures), *_run_rows(reports))


def _run_rows(reports: Sequence[Report]) -> Iterable[Row]:
    yield Row("replans", tuple(count(len(report.replans)) for report in reports))
    yield Row("swaps", tuple(count(sum(replan.swaps for replan in report.replans)) for report in reports))
    lags = [report.generator_lag_s for report in reports]
    if any(lag is not None for lag in lags):
        cells = (UNKNOWN if lag is None else format_duration(lag) for lag in lags)
        yield Row("generator lag p99", tuple(cells))


def headings(reports: Sequence[Report]) -> tuple[str, ...]:
    """What to call each report: its policy, then its mode, then its place, as far as needed to tell them apart."""
    plain = [report.policy for report in reports]
    twice = {name for name, n in Counter(plain).items() if n > 1}
    named = [f"{r.policy} ({r.mode})" if r.policy in twice else r.policy for r in reports]
    again = {name for name, n in Counter(named).items() if n > 1}
    return tuple(f"{name} #{place}" if name in again else name for place, name in enumerate(named, start=1))


def subject(reports: Sequence[Report]) -> str:
    """Of what the reports are: trace, mode and duration, each named once."""
    parts = ([r.trace for r in reports], [r.mode for r in reports], [_duration(r.duration_s) for r in reports])
    return " · ".join(", ".join(dict.fromkeys(part)) for part in parts)


def _duration(duration_s: float) -> str:
    return f"{_short(duration_s)} s"
