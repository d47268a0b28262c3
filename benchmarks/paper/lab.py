"""Simulated runs through the functions of ``proteus replay``, each once, and their figures."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from benchmarks.frame import UNKNOWN, percent
from benchmarks.paper.traces import made_up, shared_trace
from benchmarks.worlds import PAPER, SEED, Cluster, cluster_at
from proteus_cli.cli import replay as options
from proteus_cli.cli.simulating import Scenario, simulated
from proteus_cli.control.policies import Policy, policy_named
from proteus_cli.domain.base import Value
from proteus_cli.domain.report import Report
from proteus_cli.domain.trace import Trace
from proteus_cli.simulation.conditions import Conditions, SlowSpan

MAIN = ("proteus", "proteus-paper", "infaas-accuracy", "sommelier", "clipper-ha", "clipper-ht")
KINDS = ("flat", "diurnal", "bursty", "Gamma")
MARK_DIGITS = 4  # runs that are alike in all digits that are shown are alike


class Figures(Value, frozen=True):
    """One run in numbers, as its report has them; ``cpu_s`` is that of the run, planning included.

    ``worst_window_violations``: queries that missed their SLO in the window of the report with the most of them.
    """

    policy: str
    trace: str
    requests: int
    dropped: int
    rejected: int
    slo_violation_ratio: float
    relative_accuracy: float | None
    max_accuracy_drop: float | None
    throughput_qps: float
    mean_batch: float | None
    duration_s: float
    replans: int
    swaps: int
    cpu_s: float
    worst_window_violations: int = 0

    @classmethod
    def of(cls, report: Report, cpu_s: float) -> Self:
        """The figures of a report."""
        same = {name: getattr(report, name) for name in set(cls.__struct_fields__) & set(report.__struct_fields__)}
        return cls(
            **same
            | {
                "replans": len(report.replans),
                "swaps": sum(replan.swaps for replan in report.replans),
                "cpu_s": cpu_s,
                "worst_window_violations": max((window.violations for window in report.windows), default=0),
            }
        )

    @property
    def accuracy_on_time(self) -> float:
        """Relative accuracy per request, where one that missed its SLO counts as 0."""
        return (1 - self.slo_violation_ratio) * (self.relative_accuracy or 0.0)


@dataclass(frozen=True, slots=True)
class Case:
    """One run. ``slo``: one for all families, None for those of the cluster.

    ``planned_for``: the demand that the first plan is made for, None for that of `proteus replay`.
    ``slowdown``: how many times as long as profiled batches take, which only the oracle knows. ``resident``:
    for how many variants each device has memory; 1: none stands by.
    """

    policy: Policy
    trace: Trace
    load_time_s: float = 0.0
    slo: str | None = None
    planned_for: tuple[tuple[str, float], ...] | None = None
    slowdown: float = 1.0
    resident: int = 1


@dataclass
class Lab:
    """Runs cases and remembers them, so that no two experiments pay for the same run."""

    directory: Path
    is_quick: bool
    seed: int = SEED
    clusters: dict[str | None, Cluster] = field(default_factory=dict)
    done: dict[Case, Figures] = field(default_factory=dict)

    @property
    def policies(self) -> tuple[str, ...]:
        """Those that are compared where not all are; ours first."""
        return MAIN[:3] if self.is_quick else MAIN

    @cached_property
    def shared(self) -> Trace:
        """The paper's trace."""
        return shared_trace((100.0, 120.0) if self.is_quick else None)

    @cached_property
    def made_up(self) -> tuple[Trace, ...]:
        """Synthetic traces."""
        kinds, loads, lasts_s = (KINDS[1:3], (0.4,), 15.0) if self.is_quick else (KINDS, (0.2, 0.4, 0.7), 45.0)
        return made_up(self.cluster(), kinds, loads, lasts_s, self.seed)

    def cluster(self, slo: str | None = None) -> Cluster:
        """The cluster with one SLO for all families, or with its own."""
        if slo not in self.clusters:
            self.clusters[slo] = cluster_at(self.directory / (slo or "own"), is_paper=PAPER.is_dir(), slo=slo)
        return self.clusters[slo]

    def named(self, policy: str, trace: Trace, *, load_time_s: float = 0.0, slo: str | None = None) -> Figures:
        """The figures of one of `POLICIES`."""
        return self.run(Case(policy_named(policy), trace, load_time_s, slo))

    def run(self, case: Case) -> Figures:
        """The figures of a case."""
        if _never_loads(case.policy):
            case = replace(case, load_time_s=0.0)
        if case not in self.done:
            self.done[case] = play(case, self.cluster(case.slo))
        return self.done[case]


def play(case: Case, cluster: Cluster) -> Figures:
    """Simulate a case on a cluster, whatever its ``slo``. Every query must have ended exactly once."""
    if case.policy.plans == "oracle" and case.slowdown != 1:
        cluster = cluster.with_fleet(cluster.fleet.slowed(case.slowdown))
    given = None
    if case.planned_for is not None:
        given = cluster.planner(case.policy, options.HEADROOM)(dict(case.planned_for))
    memory_bytes = {}
    if case.resident > 1:
        cluster = cluster.with_fleet(cluster.fleet.with_memory_for(case.resident))
        memory_bytes = {device: profile.device.memory_bytes for device, profile in cluster.profiles.items()}
    load_time_s = 0.0 if _never_loads(case.policy) else case.load_time_s
    slow = SlowSpan(case.slowdown)
    conditions = Conditions(load_time_s=load_time_s, slow=slow, memory_bytes=memory_bytes)
    scenario = Scenario(cluster.place, cluster.profiles, case.trace, given, options.HEADROOM, conditions, seed=0)
    start_s = time.process_time()
    [report] = simulated(scenario, [case.policy])
    cpu_s = time.process_time() - start_s
    check(report, case.trace)
    return Figures.of(report, cpu_s)


def _never_loads(policy: Policy) -> bool:
    return policy.replanning is None or policy.plans == "oracle"


def check(report: Report, trace: Trace) -> None:
    """Every request of the trace ended, and none twice: in each family, and in each stretch of the run."""
    found = {name: summary.requests for name, summary in report.families.items() if summary.requests}
    wanted = {name: count for name, count in trace.counts(0.0, np.inf).items() if count}
    assert found == wanted, f"{report.policy} on {trace.name}: {found} requests ended of {wanted}"
    ends = (report.served, report.late, report.dropped, report.rejected, report.failed)
    assert sum(ends) == report.requests == len(trace), f"{report.policy} on {trace.name}: {ends} of {len(trace)}"
    for window in report.windows[:-1]:  # the last one also has the rest of a rounded end
        arrived = sum(trace.counts(window.start_s, window.start_s + window.length_s).values())
        ended = round(window.demand_qps * window.length_s)
        assert ended == arrived, f"{report.policy} on {trace.name}: {ended} of {arrived} from {window.start_s:g} s"
    assert report.failed == 0, "nothing fails in simulation"


# --- cells


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash where it isn't known."""
    return UNKNOWN if value is None else f"{value:,.{digits}f}"


def short(run: Figures) -> str:
    """Violations and relative accuracy in one cell, both in percent."""
    accuracy = UNKNOWN if run.relative_accuracy is None else f"{100 * run.relative_accuracy:.1f}"
    return f"{100 * run.slo_violation_ratio:.2f} / {accuracy}"


SHORT_NOTE = "Violations / relative accuracy, in percent; `*` is the row's best relative accuracy on time."


def beside(names: tuple[str, ...], runs: Sequence[Figures]) -> tuple[str, ...]:
    """A row of runs beside each other, the one that is most accurate on time marked."""
    best = max(round(run.accuracy_on_time, MARK_DIGITS) for run in runs)
    return *names, *(short(run) + " *" * (round(run.accuracy_on_time, MARK_DIGITS) == best) for run in runs)


MEASURES = ("violations", "relative accuracy", "max drop", "on time", "throughput", "mean batch", "re-plans", "swaps")
MEASURES_NOTE = (
    "Violations: late, dropped, refused or failed, over all queries, counted at the SLO. Max drop: in points, over "
    "windows of 10 s. On time: relative accuracy where a query that missed its SLO counts as 0. Throughput: answers "
    "per second. Swaps: variants loaded."
)


def measures(name: str, run: Figures) -> tuple[str, ...]:
    """A row with everything that is measured of a run."""
    rates = (percent(run.slo_violation_ratio), percent(run.relative_accuracy), number(run.max_accuracy_drop))
    loads = (number(run.throughput_qps, 1), number(run.mean_batch), str(run.replans), str(run.swaps))
    return name, *rates, percent(run.accuracy_on_time), *loads
