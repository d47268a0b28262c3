"""Live proteus beside static plans on one day of this machine, and how fast it follows steps in demand.

The peak of the day is 3 times what the most accurate variants of the sample zoo carry. The same server with emulated
devices, which take the profiled times, tells what is due to the machine. Simulated on the same traces: proteus, and the
oracle, which knows the demand.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from msgspec.structs import replace

from benchmarks.frame import UNKNOWN, Aim, Found, Run, Table, spread
from benchmarks.live.lab import SHARED, Lab, laboratory, replayed
from proteus_cli.backends.free_memory import free_bytes
from proteus_cli.cli.simulating import Scenario, first_demand, simulated, starting_plan
from proteus_cli.control.policies import PROTEUS, policy_named
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_record import PlanRecord
from proteus_cli.domain.profile_changes import best_accuracy
from proteus_cli.domain.report import Replan, Report
from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.domain.trace import Trace
from proteus_cli.replay.loadgen import ReplayResult
from proteus_cli.replay.synthesis import Diurnal, Poisson, make_trace
from proteus_cli.reporting.measures import report
from proteus_cli.serving.adaptation.plan_journal import records
from proteus_cli.serving.workspace.memory import memory_limits
from proteus_cli.simulation.conditions import Conditions

BUDGET = "40s"
LOWEST, HIGHEST = 0.3, 3.0  # of what the most accurate variants carry, on the day
LOW, HIGH = 0.5, 2.5  # of the same, in steps
LOW_S, HIGH_S = 8.0, 4.0  # long enough for the plan to follow down, and up
STEPS = 5
HEADROOM = 1.2  # of static plans, as `proteus plan` has it; proteus keeps room by itself
MAX_VIOLATIONS, MAX_STATIC_VIOLATIONS = 0.003, 0.01
FASTEST_S, MAX_LOST_PERCENT = 1.0, 5.0
OURS, ORACLE, PEAK = "proteus", "oracle", "static, peak demand"
STATIC = ("most accurate", "least accurate", "static, mean demand", PEAK)
ONCE = STATIC[:2]  # far off, whatever the round

Reports = dict[tuple[str, str], list[Report]]
"""By name and kind: measured, emulated or simulated."""
Read = Callable[[Report], float]
READ: dict[str, Read] = {
    "SLO violations, %": lambda report: 100 * report.slo_violation_ratio,
    "relative accuracy, %": lambda report: 100 * (report.relative_accuracy or 0.0),
    "mean batch, rows": lambda report: report.mean_batch or 1.0,
    "p99, ms": lambda report: 1000 * report.latency_s.p99 if report.latency_s else 0.0,
    "changes": lambda report: len(report.replans),
    "client late, ms": lambda report: 1000 * (report.generator_lag_s or 0.0),
}
VIOLATIONS, ACCURACY, BATCH, *_ = READ


def day(run: Run) -> Found:
    """A day of traffic: proteus and static plans, live; some of them emulated and simulated."""
    lab, found = laboratory(run.directory / "ws", BUDGET), Reports()
    for number in range(run.rounds):
        trace = _day(lab, 10.0 if run.is_quick else 60.0, number)
        plans = _plans(lab, trace)
        names = [name for name in plans if number == 0 or name not in ONCE]
        names = names[number % len(names) :] + names[: number % len(names)]  # in turns
        for name, kind in [*((name, "measured") for name in names), (OURS, "emulated"), (PEAK, "emulated")]:
            run.say(f"round {number + 1}: {name}, {kind}")
            served = live(lab, name, plans[name], trace, *(["--emulate"] if kind == "emulated" else []))[0]
            assert served.failed == 0, "no request may fail"
            found.setdefault((name, kind), []).append(served)
        for name in (OURS, ORACLE):
            found.setdefault((name, "simulated"), []).append(_simulated(lab, name, plans[OURS], trace))
    rows = tuple(
        (*key, *(spread([read(each) for each in runs]) for read in READ.values())) for key, runs in found.items()
    )
    note = f"Medians over rounds (lowest–highest). The most accurate variants carry {lab.most_accurate_qps:.0f} qps."
    title = "One day, from far less than the most accurate variants carry to three times that"
    return Found((Table(title, ("", "what", *READ), rows, note),), tuple(_day_aims(found)))


def _day(lab: Lab, lasts_s: float, seed: int) -> Trace:
    shape, rng = Diurnal(HIGHEST * lab.most_accurate_qps), np.random.default_rng(seed)
    low_qps = LOWEST * lab.most_accurate_qps
    return make_trace("day", shape, rate_qps=low_qps, duration_s=lasts_s, shares=lab.shares, rng=rng)


def _plans(lab: Lab, trace: Trace) -> dict[str, Plan]:
    """The plan that each server starts with."""
    static, plans = lab.planner(PROTEUS, HEADROOM), {OURS: _first_plan(lab, trace)}
    for name in ("most accurate", "least accurate"):
        policy = policy_named(name.replace(" ", "-"))
        plans[name] = starting_plan(lab.planner(policy, HEADROOM), policy, None, trace)
    return plans | {STATIC[2]: static(trace.demand(0.0, trace.duration_s)), PEAK: static(trace.peak_demand())}


def _first_plan(lab: Lab, trace: Trace, residency: int | str = "memory") -> Plan:
    rule = PROTEUS.replanning
    assert rule is not None
    demand = rule.initial_demand(first_demand(trace), lab.place.catalog().slo_s())
    return lab.planner(PROTEUS, 1.0, replace(SHARED, residency=residency))(demand)


def live(lab: Lab, name: str, plan: Plan, trace: Trace, *options: str) -> tuple[Report, ReplayResult]:
    """The trace against a server with that plan, which only proteus may change."""
    with lab.served(plan, "--set=plan-history=1000", f"--replan={'auto' if name == OURS else 'off'}", *options) as url:
        load, status = replayed(url, trace)
    changes = [(change.unix_s - load.started_unix_s, change) for change in status.changes]
    return report(
        load.records,
        policy=name,
        mode="emulated" if status.emulated else "live",
        trace=trace.name,
        duration_s=trace.duration_s,
        slo_s=status.slo_s,
        best_accuracy=best_accuracy(lab.profiles.values()),
        devices=list(status.pace),
        replans=[Replan(at_s, c.reason, c.solve_s, c.swaps, c.activated, c.what) for at_s, c in changes if at_s >= 0],
        generator_lag_s=load.lag_p99_s,
    ), load


def _simulated(lab: Lab, name: str, plan: Plan, trace: Trace) -> Report:
    devices = {device: profile.device for device, profile in lab.profiles.items()}
    conditions = Conditions(memory_bytes=memory_limits(None, devices, free_bytes()))  # as of the live server
    scenario = Scenario(lab.place, lab.profiles, trace, plan, plan.headroom, conditions, 0)
    (found,) = simulated(scenario, [policy_named(name)])
    return found


def _day_aims(found: Reports) -> Iterator[Aim]:
    def median(name: str, kind: str, what: str) -> float:
        return statistics.median(map(READ[what], found[name, kind]))

    def way_to_oracle(static: str, kind: str) -> float:
        """How far proteus gets in accuracy from a static plan to the oracle, in percent."""
        low, high = median(static, kind, ACCURACY), median(ORACLE, "simulated", ACCURACY)
        return 100 * (median(OURS, kind, ACCURACY) - low) / (high - low)

    yield Aim("proteus, SLO violations", median(OURS, "measured", VIOLATIONS), 100 * MAX_VIOLATIONS, "%", True)
    kept = [name for name in STATIC if median(name, "measured", VIOLATIONS) <= 100 * MAX_STATIC_VIOLATIONS]
    pairs = [("measured", max(kept, key=lambda name: median(name, "measured", ACCURACY)))] if kept else []
    for kind, static in (*pairs, ("emulated", PEAK)):
        what = (
            f"{kind} proteus, accuracy on the way from the best static plan that keeps its SLO ({static}) to the oracle"
        )
        yield Aim(what, way_to_oracle(static, kind), 50.0, "%", False)
    for kind in ("measured", "emulated"):
        for what, limit in ((ACCURACY, 0.5), (VIOLATIONS, 1.0), (BATCH, 10.0)):
            served, expected = (median(OURS, each, what) for each in (kind, "simulated"))
            gap = abs(served - expected) * (100 / served if what == BATCH else 1.0)
            yield Aim(f"{kind} and simulated proteus, {what.partition(',')[0]} apart", gap, limit, "%", True)


# --- steps


@dataclass(frozen=True, slots=True)
class Step:
    """One step up, from its first arrival: seconds to the next plan, and to one that carries it all.

    None: no such plan came before the step was over. ``loads``: variants loaded until then; ``lost``: the percentage
    of the queries of the first second that missed their SLO.
    """

    has_standbys: bool
    next_s: float | None
    carried_s: float | None
    loads: int
    lost: float


def steps(run: Run) -> Found:
    """Steps to five times the demand: with standbys, and with variants that are loaded when needed."""
    lab = laboratory(run.directory / "ws", BUDGET)
    found = [
        each
        for has_standbys in (True, False)
        for each in _stairs(lab, 1 if run.is_quick else STEPS, run.rounds, has_standbys=has_standbys)
    ]
    rows = tuple(
        (
            "stand by" if each.has_standbys else "loaded when needed",
            *(UNKNOWN if value is None else f"{value:.2f}" for value in (each.next_s, each.carried_s)),
            str(each.loads),
            f"{each.lost:.1f}",
        )
        for each in found
    )
    columns = (
        "variants",
        "next plan in force, s",
        "plan that carries it all, s",
        "loads",
        "lost in its first second, %",
    )
    low_qps, high_qps = LOW * lab.most_accurate_qps, HIGH * lab.most_accurate_qps
    note = f"From {low_qps:.0f} to {high_qps:.0f} queries per second. 0: the plan in force carried it all already."
    return Found((Table("Steps in demand, live", columns, rows, note),), tuple(_step_aims(found)))


def _stairs(lab: Lab, count: int, seed: int, *, has_standbys: bool) -> list[Step]:
    """Low, high, low, high, … on one server, whose devices host one variant of each family."""
    high_qps, rng, parts, starts_s = (
        HIGH * lab.most_accurate_qps,
        np.random.default_rng(seed),
        list[Trace](),
        list[float](),
    )
    now_s = 0.0
    for qps, lasts_s in [(LOW * lab.most_accurate_qps, LOW_S), (high_qps, HIGH_S)] * count:
        part = make_trace("steps", Poisson(), rate_qps=qps, duration_s=lasts_s, shares=lab.shares, rng=rng)
        starts_s.append(now_s + float(part.arrival_s[0]))
        parts.append(_moved(part, now_s))
        now_s += lasts_s
    family = np.concatenate([part.family for part in parts])
    arrival_s = np.concatenate([part.arrival_s for part in parts])
    trace = Trace("steps", parts[0].families, arrival_s, family, np.full(len(family), np.nan))
    plan = _first_plan(lab, trace, residency=len(lab.shares))
    _, load = live(lab, OURS, plan, trace, *(() if has_standbys else ("--set=memory=0B",)))
    journal = [
        (datetime.fromisoformat(each.began).timestamp() - load.started_unix_s, each)
        for each in records(lab.place.history_dir)
    ]
    journal.sort(key=lambda pair: pair[0])
    return [_step(lab, journal, load.records, at_s, high_qps, has_standbys=has_standbys) for at_s in starts_s[1::2]]


def _moved(part: Trace, by_s: float) -> Trace:
    """The trace, that much later."""
    return Trace(part.name, part.families, part.arrival_s + by_s, part.family, part.slo_s)


def _step(
    lab: Lab,
    journal: Sequence[tuple[float, PlanRecord]],
    requests: Sequence[RequestRecord],
    at_s: float,
    high_qps: float,
    *,
    has_standbys: bool,
) -> Step:
    ended = [each.outcome for each in requests if at_s <= each.arrival_s < at_s + 1.0]
    lost = 100 * sum(outcome is not Outcome.SERVED for outcome in ended) / len(ended)
    before = [record for then_s, record in journal if then_s < at_s]
    if _carries(lab, before[-1], high_qps):
        return Step(has_standbys, None, 0.0, 0, lost)
    mine = [(then_s - at_s, record) for then_s, record in journal if at_s <= then_s < at_s + HIGH_S]
    loads, next_s = 0, mine[0][0] if mine else None
    for after_s, record in mine:
        loads += record.swaps
        if _carries(lab, record, high_qps):
            return Step(has_standbys, next_s, after_s, loads, lost)
    return Step(has_standbys, next_s, None, loads, lost)


def _carries(lab: Lab, record: PlanRecord, qps: float) -> bool:
    """Whether the variants that a plan hosts can serve so much, each family its share."""
    hosted = lab.place.plan(lab.place.history_dir / record.plan).hosted()
    profiles = {
        device: replace(profile, variants=tuple(each for each in profile.variants if each.key in hosted[device]))
        for device, profile in lab.profiles.items()
        if device in hosted
    }
    demand_qps = {family: share * qps for family, share in lab.shares.items()}
    return lab.planner(PROTEUS, 1.0, profiles=profiles).serves_all(demand_qps) is True


def _step_aims(found: Sequence[Step]) -> Iterator[Aim]:
    """A step that wasn't followed has no time."""
    warm = [each for each in found if each.has_standbys]
    followed = [each.carried_s for each in warm if each.carried_s is not None]
    yield Aim(f"steps with standbys that were followed, of {len(warm)}", len(followed), len(warm), "", False)
    if followed:
        yield Aim("plan that carries it all, with standbys, median", statistics.median(followed), FASTEST_S, "s", True)
        yield Aim("plan that carries it all, with standbys, longest", max(followed), FASTEST_S, "s", True)
    lost = statistics.median(each.lost for each in warm)
    yield Aim("lost in the first second of a step, with standbys, median", lost, MAX_LOST_PERCENT, "%", True)
