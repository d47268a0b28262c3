"""The rows of the table: which arrivals, on which devices, under which conditions, and what is to be reached.

Constants of the controller may be chosen on `TUNING` seeds. The table is made on `VALIDATION` seeds, and has `UNSEEN`
rows besides, which no tuning run can show. The paper's trace is what it is, whatever the seed. The first
tuning seed is that of the synthetic traces of the paper's experiments.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks.arrivals import kinds
from benchmarks.arrivals.ahead import told
from benchmarks.arrivals.results import Found, Limits, Runs
from benchmarks.arrivals.workers import FAMILY, alike
from benchmarks.paper import generality
from benchmarks.paper.cluster import SEED, Cluster, cluster_of
from benchmarks.paper.lab import FULL, QUICK, Case, Lab, play
from benchmarks.paper.results import Figures
from benchmarks.tables import Aim
from proteus_cli.control.policies import PROTEUS, Policy, policy_named
from proteus_cli.domain.trace import Trace

TUNING = (SEED, 2025)
VALIDATION = (2026, 2027)
QUICK_PART = 1 / 4  # of the duration
OURS, ORACLE, PUBLISHED, STATIC = "proteus", "oracle", "proteus-paper", "never re-plans"
PLANNED = "oracle that leaves time to wait"  # it plans by the rules of `proteus`, not with batches of all of the SLO
AHEAD_S = 1.0
TOLD = f"told {AHEAD_S:g} s ahead"
BOUNDS = (ORACLE, PLANNED, TOLD)
POLICIES = (OURS, *BOUNDS, PUBLISHED, STATIC)


@dataclass
class Site:
    """Where rows are measured; clusters are made once. ``seeds``: a trace of each kind for each.

    ``policies``: some of `POLICIES`, ours first. ``jitter`` of batch times as in `Conditions`: only the profiles of
    alike workers know any.
    """

    directory: Path
    seeds: tuple[int, ...]
    policies: tuple[str, ...]
    is_quick: bool
    progress: Callable[[str], None]
    jitter: float | None = None
    workers: dict[int, Cluster] = field(default_factory=dict)

    @cached_property
    def lab(self) -> Lab:
        """Of the paper's experiments, with the first seed for its synthetic traces."""
        return Lab(self.directory / "paper", QUICK if self.is_quick else FULL, self.progress, seed=self.seeds[0])

    @cached_property
    def mix(self) -> kinds.Mix:
        """The families' shares of the paper's trace."""
        counts = self.lab.shared.counts(0.0, np.inf)
        return {family: count / len(self.lab.shared) for family, count in counts.items()}

    def alike(self, count: int) -> Cluster:
        """So many alike workers."""
        if count not in self.workers:
            self.workers[count] = cluster_of(alike(count), self.directory / f"workers{count}", "alike workers")
        return self.workers[count]


@dataclass(frozen=True, slots=True)
class Replayed:
    """Arrivals of a kind, on the paper's cluster or on so many alike ``workers``; None: the paper's trace.

    Each device has memory for so many ``resident`` variants. Without ``limits``, `proteus` is to be ahead of what plans
    otherwise, or never again.
    """

    title: str
    kind: kinds.Kind | None
    duration_s: float = 120.0
    limits: Limits | None = None
    load_time_s: float = 0.0
    workers: int | None = None
    slowdown: float = 1.0
    resident: int = 1

    @property
    def needs_paper(self) -> bool:
        return self.workers is None

    def traces(self, site: Site) -> tuple[Trace, ...]:
        """One for each seed."""
        if self.kind is None:
            return (site.lab.shared,)
        mix = site.mix if self.workers is None else {FAMILY: 1.0}
        duration_s = self.duration_s * (QUICK_PART if site.is_quick else 1)
        return tuple(self.kind(mix, duration_s, np.random.default_rng(seed)) for seed in site.seeds)

    def measure(self, site: Site, name: str) -> Found:
        """Each policy on each trace."""
        cluster = site.lab.cluster() if self.workers is None else site.alike(self.workers)
        traces = self.traces(site)
        policies = tuple(
            Runs(policy, tuple(self._run(site, cluster, policy, trace) for trace in traces)) for policy in site.policies
        )
        ours = policies[0]
        aims = self.limits.aims(name, ours) if self.limits else _ahead(name, policies)
        worst = (
            f"{name}: of {100 * ours.violations:.2f} % violations, {100 * ours.worst_window:.2f} points are in the one "
            "window of 10 s with the most."
        )
        needed = self.limits.accuracy_on_time if self.limits else None
        return Found(name, self.title, policies, aims, needed, (worst, _scatter(name, traces)))

    def _run(self, site: Site, cluster: Cluster, policy: str, trace: Trace) -> Figures:
        site.progress(f"{self.title}: {policy}")
        case = Case(
            _policy(policy, trace, cluster),
            trace,
            self.load_time_s,
            slowdown=self.slowdown,
            jitter=site.jitter,
            resident=self.resident,
        )
        return play(_static(case, cluster) if policy == STATIC else case, cluster)[1]


@dataclass(frozen=True, slots=True)
class MadeUp:
    """The synthetic traces of the paper's experiments, where `proteus` is to be ahead of each other policy on all."""

    title: str
    load_time_s: float = 0.0
    needs_paper: bool = False

    def measure(self, site: Site, name: str) -> Found:
        """All main policies on all traces."""
        runs = generality.runs(site.lab, self.load_time_s)
        policies = tuple(Runs(policy, tuple(of[policy] for of in runs.values())) for policy in site.lab.size.policies)
        others = generality.others(runs)
        ahead = generality.ahead(runs, *others)
        aim = Aim(f"{name}: ahead of every other policy", ahead, len(runs), "traces", is_most=False)
        counts = ", ".join(f"{other} on {generality.ahead(runs, other)}" for other in others)
        remarks = f"{name}: ahead of {counts}.", f"{name}: {generality.remark(runs, self.title)}"
        return Found(name, self.title, policies, (aim,), remarks=remarks)


Row = Replayed | MadeUp


def _policy(name: str, trace: Trace, cluster: Cluster) -> Policy:
    if name == TOLD:
        return told(trace, cluster.fleet.catalog.slo_s(), AHEAD_S)
    if name == PLANNED:
        return replace(policy_named(ORACLE), rules=PROTEUS.rules)
    return policy_named(OURS if name == STATIC else name)


def _static(case: Case, cluster: Cluster) -> Case:
    """With a plan for the trace's busiest 10 s, which stays for good."""
    rule, peak = PROTEUS.replanning, case.trace.peak_demand()
    assert rule is not None, "proteus re-plans"
    demand = rule.initial_demand(peak, cluster.fleet.catalog.slo_s())
    return replace(case, policy=replace(PROTEUS, replanning=None), planned_for=tuple(demand.items()))


def _ahead(name: str, policies: tuple[Runs, ...]) -> tuple[Aim, ...]:
    ours, *others = policies
    return tuple(
        Aim(f"{name}: ahead of {other.policy}, on time", points, 0.0, "points", is_most=False)
        for other in others
        if other.policy not in BOUNDS
        for points in [100 * (ours.accuracy_on_time - other.accuracy_on_time)]
    )


def _scatter(name: str, traces: tuple[Trace, ...]) -> str:
    median, p90, p99 = kinds.scatter(traces)
    queries, seconds = sum(map(len, traces)), sum(trace.duration_s for trace in traces)
    return (
        f"{name}: of all windows of 300 ms, half have at most {median:.0f} queries, one in ten has {p90:.0f} or more, "
        f"one in a hundred {p99:.0f}; {queries:,} queries in {seconds:.0f} s."
    )


STEPS = kinds.steps((1600, 1900, 2300, 2700, 3100, 3500, 3900, 3500, 3000, 2500, 2000, 1600))
ROWS: dict[str, Row] = {
    "shared": Replayed("the paper's trace", None, limits=Limits(0.05, 99.65, 0.6)),
    "shared-1s": Replayed("the paper's trace, 1 s to load", None, limits=Limits(0.25, 99.5, 0.9), load_time_s=1.0),
    "shared-1s-warm": Replayed(
        "the same, memory for 3 variants", None, limits=Limits(0.08, 99.6), load_time_s=1.0, resident=3
    ),
    "square-1s": Replayed("square wave, 1 s to load", kinds.square, limits=Limits(0.4, 99.3), load_time_s=1.0),
    "clumps": Replayed("clumps", kinds.clumps, 240.0, Limits(1.0, 99.2, 1.5, 400)),
    "larger-clumps": Replayed("larger clumps", kinds.larger_clumps, 240.0, Limits(1.7, 98.3, 4.4, 460)),
    "family-clumps-warm": Replayed(
        "clumps of one family, memory for 9 variants", kinds.family_clumps, 240.0, load_time_s=1.0, resident=9
    ),
    "steps-60": Replayed("steps, 60 alike workers", STEPS, limits=Limits(0.2, 83.0), workers=60),
    "steps-80": Replayed("steps, 80 alike workers", STEPS, limits=Limits(0.2, 88.0), workers=80),
    "steps-slow": Replayed("steps, 60 workers 15 % slow", STEPS, limits=Limits(2.0), workers=60, slowdown=1.15),
    "steady": Replayed(
        "Poisson, 60 alike workers", kinds.steps((2300,)), 240.0, Limits(0.2, changes=1.0), workers=60, resident=3
    ),
    "made-up": MadeUp("synthetic traces"),
    "made-up-1s": MadeUp("synthetic traces, 1 s to load", load_time_s=1.0),
}
UNSEEN: dict[str, Row] = {
    "sawtooth": Replayed("sawtooth", kinds.sawtooth, load_time_s=1.0),
    "on-off": Replayed("families on and off", kinds.on_and_off),
    "family-clumps": Replayed("clumps of one family", kinds.family_clumps, 240.0),
    "gamma-clumps": Replayed("Gamma clumps", kinds.gamma_clumps, 240.0),
}
