"""What cascades of the sample zoo are worth on one core, served live: rows of the eval splits, judged by their labels.

A server has one core, client and front end have another. A round begins with the most accurate variant alone, which
gets more than it carries: what it answers in time is its throughput. Then a multiple of that is served with plans of
variants alone and with cascades. A virtual core may be far slower for some seconds than it was when it was profiled, as
others use the machine: so there is a throughput for each round, and its plans are for a core that is just so slow. They
are those of `proteus plan`, with headroom, and do not change during a run. Each plan is simulated with the same
arrivals and the same slowdown, too: what the simulator's answers are worth is what the profile says. The multiples that
aims are about have several rounds, whose medians count.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import msgspec
import numpy as np

from benchmarks.adaptation.lab import Lab, replayed, until_warm
from benchmarks.cascades.simulated import never
from benchmarks.tables import UNKNOWN, Aim, Table
from proteus_cli.arrays import Floats
from proteus_cli.backends.affinity import pinned
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.attainment import DEFAULT_ATTAINMENT
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Point, Profile
from proteus_cli.domain.profile_changes import best_accuracy
from proteus_cli.domain.report import FamilySummary
from proteus_cli.domain.rules import Rules
from proteus_cli.domain.trace import Trace
from proteus_cli.intervals import wilson
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
BEST_LASTS_FRAC = 1 / 3  # of that, for the most accurate variant's throughput
ROUNDS = 5  # of multiples that aims are about


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
class Round:
    """A family at one demand, right after the most accurate variant got more than it carries: what ``best`` answered.

    That was ``slowdown`` times less than the profile says.
    """

    best: FamilySummary
    slowdown: float
    alone: Both
    cascades: Both


@dataclass(frozen=True)
class LiveRun:
    """A family at a demand of ``multiple`` times the most accurate variant's throughput, in one round or several."""

    multiple: float
    rounds: tuple[Round, ...]

    @property
    def alone(self) -> tuple[Both, ...]:
        return tuple(each.alone for each in self.rounds)

    @property
    def cascades(self) -> tuple[Both, ...]:
        return tuple(each.cascades for each in self.rounds)

    @property
    def rate_qps(self) -> float:
        return median(self.multiple * each.best.goodput_qps for each in self.rounds)

    @property
    def carried(self) -> float:
        """What cascades answered in time, in multiples of the most accurate variant's throughput."""
        return median(each.cascades.live.goodput_qps / each.best.goodput_qps for each in self.rounds)


@dataclass(frozen=True)
class LiveFamily:
    """``best_accuracy`` is what the most accurate variant gets right of the whole eval split."""

    name: str
    best_accuracy: float
    runs: tuple[LiveRun, ...]


def served_live(lab: Lab, lasts_s: float) -> Iterator[LiveFamily]:
    """Each family of the zoo by itself; each run takes so many seconds."""
    for name, speed_up in SPEED_UPS.items():
        multiples = sorted({*MULTIPLES, speed_up})
        runs = tuple(
            LiveRun(
                multiple,
                tuple(_round(lab, name, multiple, lasts_s) for _ in range(ROUNDS if multiple == speed_up else 1)),
            )
            for multiple in multiples
        )
        yield LiveFamily(name, best_accuracy(lab.profiles.values())[name], runs)


def _round(lab: Lab, name: str, multiple: float, lasts_s: float) -> Round:
    planner = lab.planner(policy_named("most-accurate"), 1.0)
    carried_qps = max_multiple(planner, {name: 1.0})
    too_many = _poisson(name, OVERLOAD * carried_qps, BEST_LASTS_FRAC * lasts_s)
    best = _live(lab, name, planner({name: carried_qps}), too_many)
    slowdown = max(carried_qps / best.goodput_qps, 1.0)
    profiles = {device: slowed(profile, slowdown) for device, profile in lab.profiles.items()}
    rate_qps = multiple * best.goodput_qps
    trace, found = _poisson(name, rate_qps, lasts_s), []
    for rules in (Rules(residency="memory"), Rules(residency="memory", cascades=True)):
        plan = lab.planner(POLICY, HEADROOM, rules, profiles=profiles)({name: rate_qps})
        found.append(Both(_live(lab, name, plan, trace), _simulated(lab, name, plan, trace, profiles)))
    return Round(best, slowdown, *found)


def slowed(profile: Profile, slowdown: float) -> Profile:
    """The profile of a device on which batches take so many times as long."""

    def slower(point: Point) -> Point:
        times_s = {name: slowdown * getattr(point, name) for name in ("mean_s", "p50_s", "p90_s", "p95_s", "p99_s")}
        return msgspec.structs.replace(point, qps=point.qps / slowdown, **times_s)

    variants = tuple(msgspec.structs.replace(each, points=tuple(map(slower, each.points))) for each in profile.variants)
    return msgspec.structs.replace(profile, variants=variants)


def _poisson(name: str, rate_qps: float, lasts_s: float) -> Trace:
    rng = np.random.default_rng(SEED)
    return make_trace("poisson", PoissonOfCount(), rate_qps=rate_qps, duration_s=lasts_s, shares={name: 1.0}, rng=rng)


def _simulated(lab: Lab, name: str, plan: Plan, trace: Trace, profiles: Mapping[str, Profile]) -> FamilySummary:
    rng = np.random.default_rng(SEED)
    run = simulate(trace, plan, lab.place.catalog(), profiles, POLICY, never, rng=rng)
    return family_summary(RequestColumns.of(run.ended, {}, families=(name,)), trace.duration_s, DEFAULT_ATTAINMENT)


def _live(lab: Lab, name: str, plan: Plan, trace: Trace) -> FamilySummary:
    path = lab.place.plans_dir / "cascades.json"
    write_json(path, plan)
    split = lab.place.eval_path(lab.place.catalog().family(name))
    assert split is not None
    with local_server(path, lab.root, options=("--replan=off",)) as url, pinned(lab.client_cores):
        until_warm(url)
        load, status = replayed(url, trace, {name: split})
    columns = RequestColumns.of(load.records, status.best_accuracy, families=(name,))
    return family_summary(columns, trace.duration_s, status.attainment_target[name])


def table(of: LiveFamily) -> Table:
    rows = []
    for run in of.runs:
        own = [each.live for each in run.cascades]
        right, judged = _judged(own)
        low, high = wilson(right, judged) if judged else (0.0, 1.0)
        rows.append(
            (
                f"{run.multiple:g} ×",
                f"{run.rate_qps:,.0f}",
                _span([each.slowdown for each in run.rounds]),
                *(_percent(accuracy([each.live for each in both])) for both in (run.alone, run.cascades)),
                f"± {50 * (high - low):.2f}",
                _percent(mean([each.simulated.effective_accuracy or 0.0 for each in run.cascades])),
                *(f"{_violations(both):.2f}" for both in (run.alone, run.cascades)),
                _part(sum(each.deferred for each in own), judged),
                _part(sum(each.fallbacks for each in own), sum(each.deferred for each in own)),
            )
        )
    columns = (
        "demand", "qps", "slowdown", "accuracy %, alone", "with cascades", "95 % interval", "simulated",
        "SLO violations %, alone", "with cascades", "deferred %", "fallbacks %",
    )  # fmt: skip
    note = (
        f"The most accurate variant is right on {_percent(of.best_accuracy)} % of the eval split. Slowdown: how many "
        f"times less it answered right before than profiled, in {ROUNDS} rounds where there are several. Violations "
        "are the median of the rounds, accuracies those of all their answers."
    )
    return Table(f"{of.name} on one core, live", columns, tuple(rows), note)


def aims(of: LiveFamily) -> Iterator[Aim]:
    speed_up = SPEED_UPS[of.name]
    run = next(run for run in of.runs if run.multiple == speed_up)
    lost = 100 * (of.best_accuracy - (accuracy([each.live for each in run.cascades]) or 0.0))
    name, at = of.name, f"at {speed_up:g} × the most accurate variant's throughput"
    yield Aim(f"{name}, live: answers in time {at}", run.carried, 0.99 * speed_up, "×", is_most=False)
    yield Aim(f"{name}, live: accuracy that cascades lose {at}", lost, WITHIN_POINTS, "points", is_most=True)
    violations = _violations(run.cascades)
    yield Aim(f"{name}, live: SLO violations {at}", violations, MAX_VIOLATIONS_PERCENT, "%", is_most=True)


def accuracy(of: Sequence[FamilySummary]) -> float | None:
    """The fraction of all answers that were right; None where none was judged."""
    right, judged = _judged(of)
    return right / judged if judged else None


def _judged(of: Sequence[FamilySummary]) -> tuple[int, int]:
    """How many answers were right, of how many that were judged."""
    return sum(round((each.measured_accuracy or 0.0) * each.judged) for each in of), sum(each.judged for each in of)


def _violations(both: Sequence[Both]) -> float:
    """The median of the rounds, in percent."""
    return median(100 * each.live.slo_violation_ratio for each in both)


def mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return sum(values) / len(values)


def _span(values: Sequence[float]) -> str:
    lowest, highest = min(values), max(values)
    return f"{lowest:.2f}" if len(values) == 1 else f"{lowest:.2f} to {highest:.2f}"


def _percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{100 * value:.2f}"


def _part(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else UNKNOWN
