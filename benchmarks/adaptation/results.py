"""What was measured and what was simulated, as values (``--json``)."""

import statistics
from collections.abc import Callable
from typing import Literal, Self

from proteus_cli.domain.base import MadeBy, Value
from proteus_cli.domain.report import Mode, Report

PROTEUS, ORACLE = "proteus", "oracle"
MOST_ACCURATE, LEAST_ACCURATE = "most accurate", "least accurate"
MEAN, PEAK = "static, mean demand", "static, peak demand"
STATIC = (MOST_ACCURATE, LEAST_ACCURATE, MEAN, PEAK)

MAX_VIOLATIONS = 0.003  # of proteus: to be reached
MAX_STATIC_VIOLATIONS = 0.01  # of a static plan: with more, it does not keep to its SLO

Kind = Literal["measured", "emulated", "simulated"]
_KINDS: dict[Mode, Kind] = {"live": "measured", "emulated": "emulated", "simulated": "simulated"}


class Run(Value, frozen=True):
    """One run of the trace. ``lag_p99_s``: by how much the client itself was late; None where there was none."""

    name: str
    mode: Mode
    round: int
    requests: int
    slo_violation_ratio: float
    relative_accuracy: float
    mean_batch: float
    latency_p99_s: float
    replans: int
    swaps: int
    lag_p99_s: float | None

    @classmethod
    def of(cls, name: str, number: int, report: Report) -> Self:
        """The figures of a report. A run in which nothing was answered has none: that raises `ValueError`."""
        if report.relative_accuracy is None or report.latency_s is None:
            raise ValueError(f"{name}: nothing was answered")
        return cls(
            name=name,
            mode=report.mode,
            round=number,
            requests=report.requests,
            slo_violation_ratio=report.slo_violation_ratio,
            relative_accuracy=report.relative_accuracy,
            mean_batch=report.mean_batch or 1.0,  # the oracle has no batches
            latency_p99_s=report.latency_s.p99,
            replans=len(report.replans),
            swaps=sum(replan.swaps for replan in report.replans),
            lag_p99_s=report.generator_lag_s,
        )

    @property
    def kind(self) -> Kind:
        return _KINDS[self.mode]


class Reaction(Value, frozen=True):
    """To one step in demand, from its first arrival: seconds to the next plan, and to one that carries it all.

    With ``standbys``, what that plan needs may be loaded already; ``swaps`` variants were loaded until then. None: no
    such plan came before the step was over. ``carried_s`` is 0 where the plan in force carried it all already.
    ``lost_frac`` is the part of the queries of the first second that missed their SLO.
    """

    step: int
    standbys: bool
    first_s: float | None
    carried_s: float | None
    swaps: int
    lost_frac: float


class Benchmark(Value, frozen=True):
    """All that was found, and where. ``most_accurate_qps`` is what the most accurate variants carry."""

    made_by: MadeBy
    command: str
    machine: str
    rounds: int
    lasts_s: float
    most_accurate_qps: float
    lowest_qps: float
    peak_qps: float
    low_qps: float
    high_qps: float
    seconds: float
    runs: tuple[Run, ...]
    reactions: tuple[Reaction, ...]

    def of(self, name: str, kind: Kind) -> tuple[Run, ...]:
        """All rounds."""
        return tuple(run for run in self.runs if run.name == name and run.kind == kind)

    def median(self, name: str, kind: Kind, read: Callable[[Run], float]) -> float:
        return statistics.median(map(read, self.of(name, kind)))

    @property
    def best_static(self) -> str | None:
        """The most accurate static plan that keeps to its SLO: one that refuses a third isn't accurate but small."""
        kept = [name for name in STATIC if self.median(name, "measured", violations) <= MAX_STATIC_VIOLATIONS]
        return max(kept, key=lambda name: self.median(name, "measured", accuracy), default=None)

    def way_to_oracle(self, static: str, kind: Kind) -> float:
        """How far proteus gets in accuracy from a static plan to the oracle: 1 is all the way."""
        low, high = self.median(static, kind, accuracy), self.median(ORACLE, "simulated", accuracy)
        return (self.median(PROTEUS, kind, accuracy) - low) / (high - low)


def violations(run: Run) -> float:
    return run.slo_violation_ratio


def accuracy(run: Run) -> float:
    return run.relative_accuracy


def batch(run: Run) -> float:
    return run.mean_batch
