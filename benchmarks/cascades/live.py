"""What cascades of the sample zoo are worth on one core, served live: rows of the eval splits, judged by their labels.

A server has one core, client and front end have another. First the most accurate variant alone gets more than it
carries: what it answers in time is its throughput. Then demands in multiples of that are served with plans of variants
alone and with cascades. Plans are those of `proteus plan`, with headroom, and do not change during a run. Each plan is
simulated with the same arrivals, too: what the simulator's answers are worth is what the profile says.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.adaptation.lab import Lab, replayed, until_warm
from benchmarks.cascades.simulated import never
from benchmarks.tables import UNKNOWN, Aim, Table
from proteus_cli.arrays import Floats
from proteus_cli.backends.affinity import pinned
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.attainment import DEFAULT_ATTAINMENT
from proteus_cli.domain.intervals import wilson
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import best_accuracy
from proteus_cli.domain.report import FamilySummary
from proteus_cli.domain.rules import Rules
from proteus_cli.domain.trace import Trace
from proteus_cli.planning.analysis.explain import max_multiple
from proteus_cli.replay.local_server import local_server
from proteus_cli.replay.synthesis import make_trace
from proteus_cli.reporting.measures import RequestColumns, family_summary
from proteus_cli.simulation.run import simulate
from proteus_cli.store import write_json

MULTIPLES = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)
SPEED_UPS = {"digits": 3.0, "signals": 2.2}
"""By family, what cascades are to carry, in multiples of the most accurate variant's throughput."""
WITHIN_POINTS = 0.3  # of accuracy, which cascades may lose there
MAX_VIOLATIONS_PERCENT = 1.0  # there
OVERLOAD = 1.5  # of what the plan says that the most accurate variant carries
HEADROOM = 1.2
POLICY = replace(policy_named("proteus"), replanning=None)
SEED = 2026
BUDGET = "90s"  # for profiling
LASTS_S, QUICK_S = 12.0, 4.0


@dataclass(frozen=True, slots=True)
class PoissonOfCount:
    """Poisson arrivals, given that there are just as many as that rate brings in the mean."""

    def arrivals(self, rate_qps: float, duration_s: float, rng: np.random.Generator) -> Floats:
        return np.sort(rng.uniform(0.0, duration_s, round(rate_qps * duration_s)))


@dataclass(frozen=True)
class Both:
    """What a plan answered live, and simulated."""

    live: FamilySummary
    simulated: FamilySummary


@dataclass(frozen=True)
class LiveRun:
    """A family at one demand, ``multiple`` of the most accurate variant's throughput: variants alone, and cascades."""

    multiple: float
    rate_qps: float
    alone: Both
    cascades: Both


@dataclass(frozen=True)
class LiveFamily:
    """``best``: what the most accurate variant answered when it got more than it carries.

    ``best_accuracy`` is what it gets right of the whole eval split.
    """

    name: str
    best: FamilySummary
    best_accuracy: float
    runs: tuple[LiveRun, ...]


def served_live(lab: Lab, lasts_s: float) -> Iterator[LiveFamily]:
    """Each family of the zoo by itself; each run takes so many seconds."""
    for name, speed_up in SPEED_UPS.items():
        most_accurate = policy_named("most-accurate")
        planner = lab.planner(most_accurate, 1.0)
        carried_qps = max_multiple(planner, {name: 1.0})
        plan, too_many = planner({name: carried_qps}), _poisson(name, OVERLOAD * carried_qps, lasts_s)
        best = _live(lab, name, plan, too_many)
        multiples = sorted({*MULTIPLES, speed_up})
        runs = tuple(_run(lab, name, best, multiple, lasts_s) for multiple in multiples)
        yield LiveFamily(name, best, best_accuracy(lab.profiles.values())[name], runs)


def _run(lab: Lab, name: str, best: FamilySummary, multiple: float, lasts_s: float) -> LiveRun:
    rate_qps = multiple * best.goodput_qps
    trace, found = _poisson(name, rate_qps, lasts_s), []
    for rules in (Rules(residency="memory"), Rules(residency="memory", cascades=True)):
        plan = lab.planner(POLICY, HEADROOM, rules)({name: rate_qps})
        found.append(Both(_live(lab, name, plan, trace), _simulated(lab, name, plan, trace)))
    return LiveRun(multiple, rate_qps, *found)


def _poisson(name: str, rate_qps: float, lasts_s: float) -> Trace:
    rng = np.random.default_rng(SEED)
    return make_trace("poisson", PoissonOfCount(), rate_qps=rate_qps, duration_s=lasts_s, shares={name: 1.0}, rng=rng)


def _simulated(lab: Lab, name: str, plan: Plan, trace: Trace) -> FamilySummary:
    rng = np.random.default_rng(SEED)
    run = simulate(trace, plan, lab.place.catalog(), lab.profiles, POLICY, never, rng=rng)
    return family_summary(RequestColumns.of(run.ended, {}, families=(name,)), trace.duration_s, DEFAULT_ATTAINMENT)


def _live(lab: Lab, name: str, plan: Plan, trace: Trace) -> FamilySummary:
    path = lab.place.plans_dir / "cascades.json"
    write_json(path, plan)
    split = lab.place.eval_path(lab.place.catalog().family(name))
    assert split is not None
    with local_server(path, lab.root, options=("--replan=off",)) as url, pinned((lab.client_core,)):
        until_warm(url)
        load, status = replayed(url, trace, {name: split})
    columns = RequestColumns.of(load.records, status.best_accuracy, families=(name,))
    return family_summary(columns, trace.duration_s, status.attainment_target[name])


def table(of: LiveFamily) -> Table:
    best, rows = of.best, []
    for run in of.runs:
        each, own = (run.alone.live, run.cascades.live), run.cascades.live
        low, high = wilson(round((own.measured_accuracy or 0.0) * own.judged), own.judged) if own.judged else (0.0, 1.0)
        rows.append(
            (
                f"{run.multiple:g} ×",
                f"{run.rate_qps:,.0f}",
                *(_percent(one.measured_accuracy) for one in each),
                f"{100 * low:.2f} to {100 * high:.2f}",
                _percent(run.cascades.simulated.effective_accuracy),
                *(f"{100 * one.slo_violation_ratio:.2f}" for one in each),
                _part(own.deferred, own.judged),
                _part(own.fallbacks, own.deferred),
            )
        )
    columns = (
        "demand", "qps", "accuracy %, alone", "with cascades", "95 % interval", "simulated", "SLO violations %, alone",
        "with cascades", "deferred %", "fallbacks %",
    )  # fmt: skip
    note = (
        f"The most accurate variant alone answers {best.goodput_qps:,.0f} qps in time; it is right on "
        f"{_percent(of.best_accuracy)} % of the eval split."
    )
    return Table(f"{of.name} on one core, live", columns, tuple(rows), note)


def aims(of: LiveFamily) -> Iterator[Aim]:
    speed_up = SPEED_UPS[of.name]
    own = next(run.cascades.live for run in of.runs if run.multiple == speed_up)
    lost = 100 * (of.best_accuracy - (own.measured_accuracy or 0.0))
    name, at = of.name, f"at {speed_up:g} × the most accurate variant's throughput"
    carried = own.goodput_qps / of.best.goodput_qps
    yield Aim(f"{name}, live: answers in time {at}", carried, 0.99 * speed_up, "×", is_most=False)
    yield Aim(f"{name}, live: accuracy that cascades lose {at}", lost, WITHIN_POINTS, "points", is_most=True)
    violations = 100 * own.slo_violation_ratio
    yield Aim(f"{name}, live: SLO violations {at}", violations, MAX_VIOLATIONS_PERCENT, "%", is_most=True)


def _percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{100 * value:.2f}"


def _part(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else UNKNOWN
