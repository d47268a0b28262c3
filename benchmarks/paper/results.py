"""What the experiments find, as values: runs, tables of them, and what was to be reached."""

from typing import Self

from benchmarks.tables import UNKNOWN, Aim, Table
from proteus_cli.domain.base import MadeBy, Value
from proteus_cli.domain.report import Report

MARK_DIGITS = 4  # what is as good in all digits that are shown is as good


class Figures(Value, frozen=True):
    """One run in numbers, as its report has them; ``cpu_s`` is what the run itself took, planning included.

    ``worst_window_violations``: how many queries missed their SLO in the window of the report with the most of them.
    """

    policy: str
    trace: str
    load_time_s: float
    slo_s: tuple[float, ...]
    requests: int
    late: int
    dropped: int
    rejected: int
    slo_violation_ratio: float
    relative_accuracy: float | None
    max_accuracy_drop: float | None
    throughput_qps: float
    goodput_qps: float
    mean_batch: float | None
    replans: int
    swaps: int
    cpu_s: float
    worst_window_violations: int = 0
    duration_s: float = 0.0

    @classmethod
    def of(cls, report: Report, *, load_time_s: float, cpu_s: float) -> Self:
        """The figures of a report."""
        same = {name: getattr(report, name) for name in set(cls.__struct_fields__) & set(report.__struct_fields__)}
        return cls(
            **same
            | {
                "slo_s": tuple(sorted(set(report.slo_s.values()))),
                "replans": len(report.replans),
                "swaps": sum(replan.swaps for replan in report.replans),
                "load_time_s": load_time_s,
                "cpu_s": cpu_s,
                "worst_window_violations": max((window.violations for window in report.windows), default=0),
            }
        )

    @property
    def accuracy_on_time(self) -> float:
        """Relative accuracy per request, where one that missed its SLO counts as 0."""
        return (1 - self.slo_violation_ratio) * (self.relative_accuracy or 0.0)


class Section(Value, frozen=True):
    """One experiment: ``text`` says what is done and why it comes out so, ``remarks`` what was found this time."""

    name: str
    title: str
    text: str
    tables: tuple[Table, ...]
    remarks: tuple[str, ...] = ()
    aims: tuple[Aim, ...] = ()
    picture: str = ""


class Benchmark(Value, frozen=True):
    """All that was found, and where (``--json``)."""

    made_by: MadeBy
    command: str
    machine: str
    versions: dict[str, str]
    cluster: str
    seconds: float
    sections: tuple[Section, ...]
    runs: tuple[Figures, ...]
    skipped: tuple[str, ...]


# --- cells


def percent(fraction: float | None, digits: int = 2) -> str:
    """``0.0123`` → ``1.23 %``."""
    return UNKNOWN if fraction is None else f"{100 * fraction:.{digits}f} %"


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash where it isn't known."""
    return UNKNOWN if value is None else f"{value:,.{digits}f}"


def short(figures: Figures) -> str:
    """Violations and relative accuracy in one cell, both in percent."""
    accuracy = UNKNOWN if figures.relative_accuracy is None else f"{100 * figures.relative_accuracy:.1f}"
    return f"{100 * figures.slo_violation_ratio:.2f} / {accuracy}"


SHORT_NOTE = "Violations / relative accuracy, in percent; `*` is the row's best relative accuracy on time."


def beside(names: tuple[str, ...], runs: tuple[Figures, ...]) -> tuple[str, ...]:
    """A row of runs beside each other, the one that is most accurate on time marked."""
    found = [round(run.accuracy_on_time, MARK_DIGITS) for run in runs]
    return *names, *(
        f"{short(run)} *" if each == max(found) else short(run) for run, each in zip(runs, found, strict=True)
    )


MEASURES = ("violations", "relative accuracy", "max drop", "on time", "throughput", "mean batch", "re-plans", "swaps")
MEASURES_NOTE = (
    "Violations: late, dropped, refused or failed, over all queries, counted at the SLO. Max drop: in points, over "
    "windows of 10 s. On time: relative accuracy where a query that missed its SLO counts as 0. Throughput: answers "
    "per second. Swaps: variants loaded."
)


def measures(name: str, run: Figures) -> tuple[str, ...]:
    """A row with everything that is measured of a run."""
    return (
        name,
        percent(run.slo_violation_ratio),
        percent(run.relative_accuracy),
        number(run.max_accuracy_drop),
        percent(run.accuracy_on_time),
        number(run.throughput_qps, 1),
        number(run.mean_batch),
        str(run.replans),
        str(run.swaps),
    )
