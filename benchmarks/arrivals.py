"""The controller on many kinds of arrivals, beside its oracle, the paper's rules, and a plan that never changes.

Simulated, on defaults; half an hour for all rows. Constants of the controller may be chosen on `TUNING` seeds. The
table is made on `VALIDATION` seeds, and has `UNSEEN` rows besides, which no tuning run can show. Rows that need the
paper's data are left out without it. Prints one table and a line per aim, and exits with 1 where one is missed.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks.frame import Aim, Found, Run, Table, benchmark, percent
from benchmarks.paper import traces
from benchmarks.paper.figures import ahead, compared, others
from benchmarks.paper.lab import Case, Figures, Lab, number, play
from benchmarks.worlds import FAMILY, PAPER, SEED, Cluster, alike, cluster_of
from proteus_cli.cli.console import loudness
from proteus_cli.control.policies import PROTEUS, Policy, policy_named
from proteus_cli.domain.base import Value
from proteus_cli.domain.trace import Trace

TUNING = (SEED, 2025)
VALIDATION = (2026, 2027)
SEEDS = {"tuning": TUNING, "validation": VALIDATION}
QUICK_PART = 1 / 4  # of the duration
OURS, ORACLE, PUBLISHED, STATIC = "proteus", "oracle", "proteus-paper", "never re-plans"
PLANNED = "oracle that leaves time to wait"  # it plans by the rules of `proteus`, not with batches of all of the SLO
BOUNDS = (ORACLE, PLANNED)
POLICIES = (OURS, *BOUNDS, PUBLISHED, STATIC)


class Runs(Value, frozen=True):
    """One policy on the traces of a row: violations and accuracies of all queries, the largest drop of any run."""

    policy: str
    runs: tuple[Figures, ...]

    @property
    def violations(self) -> float:
        """As a fraction of all queries."""
        return self._per_query(lambda run: run.slo_violation_ratio)

    @property
    def accuracy_on_time(self) -> float:
        """Per query, where one that missed its SLO counts as 0."""
        return self._per_query(lambda run: run.accuracy_on_time)

    @property
    def relative_accuracy(self) -> float:
        """Over the queries that were answered."""
        answered = [run.requests - run.dropped - run.rejected for run in self.runs]
        accurate = sum((run.relative_accuracy or 0.0) * count for run, count in zip(self.runs, answered, strict=True))
        return accurate / max(sum(answered), 1)

    @property
    def max_drop(self) -> float:
        """In points."""
        return max(run.max_accuracy_drop or 0.0 for run in self.runs)

    @property
    def worst_window(self) -> float:
        """Of all queries, those that missed their SLO in the one window of each run with the most of them."""
        return self._per_query(lambda run: run.worst_window_violations / run.requests)

    @property
    def changes_per_minute(self) -> float:
        """Changes of plan that are told."""
        return 60 * sum(run.replans for run in self.runs) / max(sum(run.duration_s for run in self.runs), 1.0)

    def mean(self, read: Callable[[Figures], float]) -> float:
        """Over the runs."""
        return sum(map(read, self.runs)) / len(self.runs)

    def _per_query(self, read: Callable[[Figures], float]) -> float:
        return sum(read(run) * run.requests for run in self.runs) / sum(run.requests for run in self.runs)


class Limits(Value, frozen=True):
    """The aims of `proteus` on a row: percent, percent, points, variants loaded, changes of plan per minute."""

    violations: float
    accuracy: float | None = None
    drop: float | None = None
    loads: float | None = None
    changes: float | None = None

    def aims(self, name: str, ours: Runs) -> Iterator[Aim]:
        """One for each limit that is set."""
        for what, measured, limit, unit in (
            ("violations", 100 * ours.violations, self.violations, "%"),
            ("relative accuracy", 100 * ours.relative_accuracy, self.accuracy, "%"),
            ("largest drop", ours.max_drop, self.drop, "points"),
            ("loads", ours.mean(lambda run: run.swaps), self.loads, "variants"),
            ("plan changes", ours.changes_per_minute, self.changes, "per minute"),
        ):
            if limit is not None:
                yield Aim(f"{name}: {what}", measured, limit, unit, is_most=what != "relative accuracy")


class Outcome(Value, frozen=True):
    """A row: our policy first, then the others."""

    title: str
    policies: tuple[Runs, ...]
    aims: tuple[Aim, ...]
    remark: str


@dataclass
class Site:
    """Where rows are measured; clusters are made once. ``seeds``: a trace of each kind for each.

    ``policies``: some of `POLICIES`, ours first.
    """

    directory: Path
    seeds: tuple[int, ...]
    policies: tuple[str, ...]
    is_quick: bool
    workers: dict[int, Cluster] = field(default_factory=dict)

    @cached_property
    def lab(self) -> Lab:
        """Of the paper's experiments, with the first seed for its synthetic traces."""
        return Lab(self.directory / "paper", self.is_quick, seed=self.seeds[0])

    @cached_property
    def mix(self) -> traces.Mix:
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
    kind: traces.Kind | None
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

    def measure(self, site: Site, name: str) -> Outcome:
        """Each policy on each trace."""
        cluster = site.lab.cluster() if self.workers is None else site.alike(self.workers)
        arrivals = self.traces(site)
        policies = tuple(
            Runs(policy, tuple(self._run(cluster, policy, trace) for trace in arrivals)) for policy in site.policies
        )
        ours, *rest = policies
        aims = self.limits.aims(name, ours) if self.limits else _ahead(name, ours, rest)
        worst = f"{100 * ours.worst_window:.2f} points are in the one window of 10 s with the most."
        return Outcome(self.title, policies, tuple(aims), f"{name}: of {percent(ours.violations)} violations, {worst}")

    def _run(self, cluster: Cluster, name: str, trace: Trace) -> Figures:
        policy, planned_for = _policy(name), None
        if name == STATIC:
            rule = PROTEUS.replanning
            assert rule is not None, "proteus re-plans"
            demand = rule.initial_demand(trace.peak_demand(), cluster.fleet.catalog.slo_s())
            policy, planned_for = replace(PROTEUS, replanning=None), tuple(demand.items())
        case = Case(policy, trace, self.load_time_s, None, planned_for, self.slowdown, self.resident)
        return play(case, cluster)


def _policy(name: str) -> Policy:
    if name == PLANNED:
        return replace(policy_named(ORACLE), rules=PROTEUS.rules)
    return policy_named(OURS if name == STATIC else name)


def _ahead(name: str, ours: Runs, rest: list[Runs]) -> Iterator[Aim]:
    for other in rest:
        if other.policy not in BOUNDS:
            points = 100 * (ours.accuracy_on_time - other.accuracy_on_time)
            yield Aim(f"{name}: ahead of {other.policy}, on time", points, 0.0, "points", is_most=False)


@dataclass(frozen=True, slots=True)
class MadeUp:
    """The synthetic traces of the paper's experiments, where `proteus` is to be ahead of each other policy on all."""

    title: str
    load_time_s: float = 0.0
    needs_paper: bool = False

    def measure(self, site: Site, name: str) -> Outcome:
        """All main policies on all traces."""
        runs = compared(site.lab, self.load_time_s)
        policies = tuple(Runs(policy, tuple(of[policy] for of in runs.values())) for policy in site.lab.policies)
        first = ahead(runs, *others(runs))
        aim = Aim(f"{name}: ahead of every other policy", first, len(runs), "traces", is_most=False)
        counts = ", ".join(f"{other} on {ahead(runs, other)}" for other in others(runs))
        return Outcome(self.title, policies, (aim,), f"{name}: ahead of {counts}.")


Row = Replayed | MadeUp
_STEPS = traces.steps((1600, 1900, 2300, 2700, 3100, 3500, 3900, 3500, 3000, 2500, 2000, 1600))
ROWS: dict[str, Row] = {
    "shared": Replayed("the paper's trace", None, limits=Limits(0.05, 99.65, 0.6)),
    "shared-1s": Replayed("the paper's trace, 1 s to load", None, limits=Limits(0.25, 99.5, 0.9), load_time_s=1.0),
    "shared-1s-warm": Replayed(
        "the same, memory for 3 variants", None, limits=Limits(0.08, 99.6), load_time_s=1.0, resident=3
    ),
    "square-1s": Replayed("square wave, 1 s to load", traces.square, limits=Limits(0.4, 99.3), load_time_s=1.0),
    "clumps": Replayed("clumps", traces.clumps, 240.0, Limits(1.0, 99.2, 1.5, 400)),
    "larger-clumps": Replayed("larger clumps", traces.larger_clumps, 240.0, Limits(1.7, 98.3, 4.4, 460)),
    "family-clumps-warm": Replayed(
        "clumps of one family, memory for 9 variants", traces.family_clumps, 240.0, load_time_s=1.0, resident=9
    ),
    "steps-60": Replayed("steps, 60 alike workers", _STEPS, limits=Limits(0.2, 83.0), workers=60),
    "steps-80": Replayed("steps, 80 alike workers", _STEPS, limits=Limits(0.2, 88.0), workers=80),
    "steps-slow": Replayed("steps, 60 workers 15 % slow", _STEPS, limits=Limits(2.0), workers=60, slowdown=1.15),
    "steady": Replayed(
        "Poisson, 60 alike workers", traces.steps((2300,)), 240.0, Limits(0.2, changes=1.0), workers=60, resident=3
    ),
    "made-up": MadeUp("synthetic traces"),
    "made-up-1s": MadeUp("synthetic traces, 1 s to load", load_time_s=1.0),
}
UNSEEN: dict[str, Row] = {
    "sawtooth": Replayed("sawtooth", traces.sawtooth, load_time_s=1.0),
    "on-off": Replayed("families on and off", traces.on_and_off),
    "family-clumps": Replayed("clumps of one family", traces.family_clumps, 240.0),
    "gamma-clumps": Replayed("Gamma clumps", traces.gamma_clumps, 240.0),
}

COLUMNS = ("arrivals", "policy", "violations", "accuracy", "drop", "loads", "re-plans", "on time", "CPU s")
NOTE = (
    "Violations: late, dropped or refused, of all queries. Accuracy: relative to each family's most accurate variant. "
    "Drop: the largest in points, over windows of 10 s. On time: accuracy where a query that missed its SLO counts as "
    "0. Loads, re-plans and CPU are means over the traces of a row."
)


def arrivals(run: Run) -> Found:
    """The rows that ``--only`` names, or all."""
    loudness.quiet = True
    options = run.options
    rows = ROWS if options.seeds == "tuning" else ROWS | UNSEEN
    names = named(f"row with {options.seeds} seeds", options.only, list(rows))
    seeds = SEEDS[options.seeds][: 1 if run.is_quick else None]
    policies = (OURS,) if options.alone else POLICIES
    site = Site(run.directory / "arrivals", seeds, policies, run.is_quick)
    found = dict[str, Outcome]()
    for name in names:
        if PAPER.is_dir() or not rows[name].needs_paper:
            start_s = time.perf_counter()
            found[name] = rows[name].measure(site, name)
            run.say(f"{name}: {time.perf_counter() - start_s:.0f} s")
    lines = tuple(
        (of.title if not place else "", *_cells(runs))
        for of in found.values()
        for place, runs in enumerate(of.policies)
    )
    remarks = [of.remark for of in found.values()]
    remarks += [f"Skipped {name}: {PAPER} isn't there." for name in names if name not in found]
    if found:
        mean = sum(of.policies[0].accuracy_on_time for of in found.values()) / len(found)
        remarks.append(f"On time, the mean over {len(found)} rows: {percent(mean, 3)}")
    aims = tuple(aim for of in found.values() for aim in of.aims)
    return Found((Table(f"Arrivals, {options.seeds} seeds", COLUMNS, lines, NOTE),), aims, tuple(remarks))


def named(what: str, text: str | None, known: Sequence[str]) -> Sequence[str]:
    """Those that an option names, or all. Raises `SystemExit`."""
    names = text.split(",") if text else known
    for name in names:
        if name not in known:
            raise SystemExit(f"error: no {what} {name}; there are {', '.join(known)}")
    return names


def _cells(runs: Runs) -> tuple[str, ...]:
    rates = (percent(runs.violations), percent(runs.relative_accuracy), number(runs.max_drop))
    counts = (number(runs.mean(lambda run: run.swaps), 0), number(runs.mean(lambda run: run.replans), 0))
    return runs.policy, *rates, *counts, percent(runs.accuracy_on_time), number(runs.mean(lambda run: run.cpu_s), 1)


def add_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The options of the rows."""
    parser.add_argument("--seeds", choices=tuple(SEEDS), default="validation", help="choose rules on tuning ones alone")
    parser.add_argument(
        "--only", metavar="ROW,…", help=f"{', '.join(ROWS)}; with validation seeds: {', '.join(UNSEEN)}"
    )
    parser.add_argument("--alone", action="store_true", help=f"{OURS} without the others, but on synthetic traces")
    return parser


if __name__ == "__main__":
    parser = add_options(argparse.ArgumentParser(prog="python -m benchmarks.arrivals"))
    sys.exit(benchmark(__doc__, {"arrivals": arrivals}, rounds=1, parser=parser))
