"""Where experiments run: each case once, through the functions of ``proteus replay``."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks.paper.cluster import SEED, Cluster, cluster_at
from benchmarks.paper.results import Figures
from benchmarks.paper.traces import made_up, shared_trace
from benchmarks.planner_instances import PAPER
from proteus_cli.cli import replay as options
from proteus_cli.cli.simulating import Scenario, simulated
from proteus_cli.control.policies import Policy, policy_named
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.report import Report
from proteus_cli.domain.trace import Trace
from proteus_cli.simulation.conditions import Conditions, SlowSpan

MAIN = ("proteus", "proteus-paper", "infaas-accuracy", "sommelier", "clipper-ha", "clipper-ht")


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything is run; ``window_s``: which part of the paper's trace, None for all.

    ``policies`` are compared where not all are, the first with each of the others.
    """

    policies: tuple[str, ...]
    window_s: tuple[float, float] | None
    multiples: tuple[float, ...]
    kinds: tuple[str, ...]
    loads: tuple[float, ...]
    made_up_s: float
    bursts_s: float
    batching_s: float


KINDS = ("flat", "diurnal", "bursty", "Gamma")
FULL = Size(MAIN, None, (1.0, 1.5, 2.0, 2.5, 3.5), KINDS, (0.2, 0.4, 0.7), 45.0, 96.0, 20.0)
QUICK = Size(MAIN[:3], (100.0, 120.0), (1.0, 2.0), KINDS[1:3], (0.4,), 15.0, 24.0, 3.0)


@dataclass(frozen=True, slots=True)
class Case:
    """One run. ``slo``: one for all families, None for those of the cluster.

    ``planned_for``: the demand that the first plan is made for, None for what `proteus replay` does.
    ``slowdown``: how many times as long as profiled batches take, which only the oracle knows. ``jitter`` as in
    `Conditions`. ``resident``: for how many variants each device has memory; 1: none stands by.
    """

    policy: Policy
    trace: Trace
    load_time_s: float = 0.0
    slo: str | None = None
    planned_for: tuple[tuple[str, float], ...] | None = None
    slowdown: float = 1.0
    jitter: float | None = None
    resident: int = 1


@dataclass
class Lab:
    """Runs cases and remembers them, so that no two experiments pay for the same run."""

    directory: Path
    size: Size
    progress: Callable[[str], None]
    has_paper: bool = field(default_factory=PAPER.is_dir)
    clusters: dict[str | None, Cluster] = field(default_factory=dict)
    traces: dict[str, Trace] = field(default_factory=dict)
    done: dict[Case, tuple[Report, Figures]] = field(default_factory=dict)
    seed: int = SEED

    @cached_property
    def shared(self) -> Trace:
        """The paper's trace."""
        return shared_trace(self.size.window_s)

    @cached_property
    def made_up(self) -> tuple[Trace, ...]:
        """Synthetic traces."""
        return made_up(self.cluster(), self.size.kinds, self.size.loads, self.size.made_up_s, self.seed)

    def cluster(self, slo: str | None = None) -> Cluster:
        """The cluster with one SLO for all families, or with its own."""
        if slo not in self.clusters:
            self.clusters[slo] = cluster_at(self.directory / (slo or "own"), is_paper=self.has_paper, slo=slo)
        return self.clusters[slo]

    def named(self, policy: str, trace: Trace, *, load_time_s: float = 0.0, slo: str | None = None) -> Figures:
        """The figures of one of `POLICIES`."""
        return self.run(Case(policy_named(policy), trace, load_time_s, slo))

    def run(self, case: Case) -> Figures:
        """The figures of a case."""
        return self._done(case)[1]

    def report(self, case: Case) -> Report:
        """The report of a case."""
        return self._done(case)[0]

    def _done(self, case: Case) -> tuple[Report, Figures]:
        if _never_loads(case.policy):
            case = replace(case, load_time_s=0.0)
        if case not in self.done:
            self.progress(f"{case.trace.name}: {case.policy.name}")
            self.done[case] = play(case, self.cluster(case.slo))
        return self.done[case]


def play(case: Case, cluster: Cluster) -> tuple[Report, Figures]:
    """Simulate a case on a cluster, whatever its ``slo``. Every query must have ended exactly once."""
    if case.policy.plans == "oracle":
        cluster = cluster if case.slowdown == 1 else cluster.slowed(case.slowdown)
    given = None if case.planned_for is None else _given(cluster, case.policy, dict(case.planned_for))
    load_time_s = 0.0 if _never_loads(case.policy) else case.load_time_s
    memory_bytes = {}
    if case.resident > 1:
        cluster = cluster.with_memory_for(case.resident)
        memory_bytes = {device: profile.device.memory_bytes for device, profile in cluster.profiles.items()}
    conditions = Conditions(
        load_time_s=load_time_s, jitter=case.jitter, slow=SlowSpan(case.slowdown), memory_bytes=memory_bytes
    )
    scenario = Scenario(cluster.place, cluster.profiles, case.trace, given, options.HEADROOM, conditions, seed=0)
    start_s = time.process_time()
    [report] = simulated(scenario, [case.policy])
    cpu_s = time.process_time() - start_s
    check(report, case.trace)
    return report, Figures.of(report, load_time_s=load_time_s, cpu_s=cpu_s)


def _never_loads(policy: Policy) -> bool:
    return policy.replanning is None or policy.plans == "oracle"


def _given(cluster: Cluster, policy: Policy, demand_qps: Mapping[str, float]) -> Plan:
    return cluster.planner(policy, options.HEADROOM)(demand_qps)


def check(report: Report, trace: Trace) -> None:
    """Every request of the trace ended, and none twice: in each family, and in each stretch of the run."""
    found = {name: summary.requests for name, summary in report.families.items() if summary.requests}
    wanted = {name: count for name, count in trace.counts(0.0, np.inf).items() if count}
    assert found == wanted, f"{report.policy} on {trace.name}: {found} requests ended of {wanted}"
    ends = (report.served, report.late, report.dropped, report.rejected, report.failed)
    assert sum(ends) == report.requests == len(trace), f"{report.policy} on {trace.name}: {ends} of {len(trace)}"
    for window in report.windows[:-1]:  # the last one also has what a rounded end leaves over
        arrived = sum(trace.counts(window.start_s, window.start_s + window.length_s).values())
        ended = round(window.demand_qps * window.length_s)
        assert ended == arrived, f"{report.policy} on {trace.name}: {ended} of {arrived} from {window.start_s:g} s"
    assert report.failed == 0, "nothing fails in simulation"
