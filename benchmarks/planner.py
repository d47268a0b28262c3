"""How fast the planner is, and how good: each row beside its aim; 5 minutes.

A time is that of one whole call of a `Planner`, from demand to checked plan, once the model is compiled. In each row a
sample of the plans is compared with an independent exact solve that shares no code with the planner's model. A wrong
plan or a missed aim ends in exit code 1. Rows of the paper's cluster need `../shared/data/proteus-asplos24` beside the
repository, and are left out without it.
"""

import gc
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Any

import msgspec
import numpy as np
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, milp

from benchmarks.frame import Aim, Found, Run, Table, benchmark
from benchmarks.worlds import (
    PAPER,
    SEED,
    Choices,
    Fleet,
    max_multiple_of,
    paper_fleet,
    paper_rates,
    quantiles,
    scaled,
    synthetic_fleet,
    synthetic_mix,
)
from proteus_cli.arrays import Floats
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.catalog import Family
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import VariantProfile
from proteus_cli.domain.rules import Rules
from proteus_cli.domain.stages.cascade import CascadePoint, CascadeProfile
from proteus_cli.errors import NoFeasiblePlan
from proteus_cli.planning.from_workspace import TIME_LIMIT_S
from proteus_cli.planning.planner import Planner

HEADROOM = 1.2
DEVICES = (20, 40, 80, 120, 160)  # the paper's figure 9
LOADS = (0.02, 0.1, 0.3, 0.6, 0.9, 1.1, 1.5)  # of what the synthetic fleet could serve if devices could be divided
LOADS_BEYOND = (1.05, 1.2, 1.5, 2.5)
GIGABYTE = 10**9
MIN_BYTES, MAX_BYTES = 0.1 * GIGABYTE, 4 * GIGABYTE
MEMORY_BYTES = {"cpu": 16 * GIGABYTE, "v100": 16 * GIGABYTE, "gtx1080ti": 11 * GIGABYTE}
LESS_ACCURATE = 1e-4  # parts of the whole demand: the planner proves no more
LESS_SERVED, ROUNDING, EXACT_GAP = 1e-5, 1e-6, 1e-6


@dataclass(frozen=True, slots=True)
class Task:
    """One row: a fleet and the demands to plan for, each from the plan before it where that is ``chained``.

    Aims are in seconds, and a part for the ``gap``. ``checks``: how many plans are compared with an independent solve.
    """

    name: str
    fleet: Fleet
    demands: tuple[Demand, ...]
    median_s: float | None = None
    worst_s: float | None = None
    gap: float | None = None
    rules: Rules = field(default_factory=Rules)
    time_limit_s: float = TIME_LIMIT_S
    chained: bool = False
    checks: int = 4


def planner(run: Run) -> Found:
    """All rows."""
    rows, aims, remarks = list[tuple[str, ...]](), list[Aim](), list[str]()
    for task in _tasks(is_quick=run.is_quick):
        run.say(task.name)
        cells, found, wrong = _measured(task, run)
        rows.append(cells)
        aims += found
        remarks += [f"WRONG: {task.name}, {text}" for text in wrong]
    if not PAPER.is_dir():
        remarks.append(f"Skipped all rows of the paper's cluster: there is no {PAPER}.")
    columns = ("instance", "demands", "first", "median", "worst", "its CPU", "gap", "late")
    note = (
        "First: with the compilation of the model. Late: plans that ran into the time limit. 10,000 devices: 8 types, "
        "100 families × 10 variants, a limit of 1 s; load: of what could be served if devices could be divided."
    )
    table = Table(f"The planner: milliseconds per call, headroom {HEADROOM:g}", columns, tuple(rows), note)
    return Found((table,), tuple(aims), tuple(remarks))


# --- the rows


def _tasks(*, is_quick: bool) -> Iterator[Task]:
    if PAPER.is_dir():
        yield from _paper_tasks(is_quick=is_quick)
    rng = np.random.default_rng(SEED)
    fleet = synthetic_fleet(families=100, variants=10, types=8, devices=10_000, rng=rng)
    choices, mixes = Choices.of(fleet), [synthetic_mix(fleet, rng) for _ in range(1 if is_quick else 3)]
    for load in LOADS[1::3] if is_quick else LOADS:
        demands = tuple(scaled(mix, load / HEADROOM * max_multiple_of(choices, mix)) for mix in mixes)
        yield Task(f"10,000 devices, load {load:g}", fleet, demands, worst_s=1.0, time_limit_s=1.0, checks=1)


def _paper_tasks(*, is_quick: bool) -> Iterator[Task]:
    fleet, rates = paper_fleet(), paper_rates()
    peaks = tuple(scaled(rates[30 * k], 2.5) for k in range(8))
    demands = (*rates[:: 6 if is_quick else 1], *peaks[:: 4 if is_quick else 1])
    name = "the paper's cluster"
    yield Task(f"{name}, a new demand", fleet, demands, 0.015, 0.1, 1e-4, checks=12)
    yield Task(f"{name}, from the plan before", fleet, demands, 0.06, 0.5, chained=True, checks=12)
    choices, mixes = Choices.of(fleet), quantiles(rates, len(LOADS_BEYOND) if is_quick else 10 * len(LOADS_BEYOND))
    beyond = (
        scaled(mix, load / HEADROOM * max_multiple_of(choices, mix))
        for mix, load in zip(mixes, cycle(LOADS_BEYOND), strict=False)
    )
    yield Task(f"{name}, more than can be served", fleet, tuple(beyond), checks=8)
    cascading, rules = with_cascades(fleet), Rules(cascades=True)
    some = rates[:: 30 if is_quick else 5]
    yield Task("cascades, a new demand", cascading, some, 0.03, rules=rules)
    yield Task("cascades, from the plan before", cascading, some, 0.06, rules=rules, chained=True)
    few, rules = quantiles(rates, 8 if is_quick else 40), Rules(residency="memory")
    yield Task("several variants, as fit in memory", with_memory(fleet), few, 0.15, rules=rules)
    yield Task("several variants, in a quarter of it", with_memory(fleet, of_it=0.25), few, 0.15, rules=rules)
    for count in DEVICES[::4] if is_quick else DEVICES:
        whole = sum(fleet.counts.values())
        sized = replace(fleet, counts={kind: own * count // whole for kind, own in fleet.counts.items()})
        yield Task(f"{count} devices", sized, tuple(scaled(each, count / whole) for each in few), worst_s=0.1)


def with_memory(fleet: Fleet, of_it: float = 1.0) -> Fleet:
    """With memory, which the paper's data lack: CPUs and V100s have 16 GB, the GTX 1080 Ti 11 GB, or a part ``of_it``.

    A variant takes the same on all types. It rises with its batch-1 latency on the CPU, both on a logarithmic scale:
    from 0.1 GB for the fastest to 4 GB for the slowest.
    """
    on_cpu_s = {each.key: each.points[0].p50_s for each in fleet.types["cpu"].variants}
    fastest_s, slowest_s = min(on_cpu_s.values()), max(on_cpu_s.values())

    def sized(each: VariantProfile) -> VariantProfile:
        place = math.log(on_cpu_s[each.key] / fastest_s) / math.log(slowest_s / fastest_s)
        return msgspec.structs.replace(each, memory_bytes=round(MIN_BYTES * (MAX_BYTES / MIN_BYTES) ** place))

    types = {}
    for kind, profile in fleet.types.items():
        device = msgspec.structs.replace(profile.device, memory_bytes=round(of_it * MEMORY_BYTES[kind]))
        types[kind] = msgspec.structs.replace(profile, device=device, variants=tuple(map(sized, profile.variants)))
    return replace(fleet, types=types)


def with_cascades(fleet: Fleet) -> Fleet:
    """With up to three cascades of four thresholds for each family.

    From the least accurate and the middle variant to the most accurate, and from the second to the last but one. Where
    the first defers 10, 20, 35 and 50 %, the composition gains 0.5, 0.75, 0.92 and all of the difference.
    """
    found = tuple(cascade for family in fleet.catalog.families for cascade in _cascades(family))
    return replace(fleet, types={k: msgspec.structs.replace(p, cascades=found) for k, p in fleet.types.items()})


def _cascades(family: Family) -> Iterator[CascadeProfile]:
    rising = sorted(family.variants, key=lambda variant: variant.accuracy)
    last = len(rising) - 1
    places = [(0, last), *([(len(rising) // 2, last)] if last > 1 else []), *([(1, last - 1)] if last > 2 else [])]
    for first, second in ((rising[i], rising[j]) for i, j in dict.fromkeys(places)):
        points = tuple(
            CascadePoint(deferred, deferred, accuracy, accuracy, accuracy, accuracy, 0.0, accuracy)
            for deferred, part in ((0.1, 0.5), (0.2, 0.75), (0.35, 0.92), (0.5, 1.0))
            for accuracy in [first.accuracy + part * (second.accuracy - first.accuracy)]
        )
        if second.accuracy > first.accuracy:
            yield CascadeProfile(family.name, first.name, second.name, "", points)


# --- measuring


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a planner; ``plan`` is None where none was found in time."""

    seconds: float
    cpu_s: float
    plan: Plan | None


def make_planner(fleet: Fleet, rules: Rules | None = None, time_limit_s: float = TIME_LIMIT_S) -> Planner:
    """For a fleet, by `proteus`."""
    return Planner(
        fleet.catalog, fleet.profiles(), policy_named("proteus"), headroom=HEADROOM, inputs={}, rules=rules,
        time_limit_s=time_limit_s,
    )  # fmt: skip


def call(by: Planner, demand: Demand, current: Plan | None) -> Call:
    """A call that finds no plan in time counts, too; other errors are ours, and end the benchmark."""
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    try:
        plan = by(demand, current)
    except NoFeasiblePlan:
        plan = None
    return Call(time.perf_counter() - start_s, time.process_time() - start_cpu_s, plan)


def _measured(task: Task, run: Run) -> tuple[tuple[str, ...], Iterator[Aim], list[str]]:
    """Cells, aims, and objections. A demand's time is the best of all rounds."""
    by = make_planner(task.fleet, task.rules, task.time_limit_s)
    gc.collect()
    first = call(by, task.demands[0], None)
    rounds = [_all_demands(by, task) for _ in range(run.rounds)]
    calls = [min(same, key=lambda each: each.seconds) for same in zip(*rounds, strict=True)]
    made = [each.plan for each in calls if each.plan is not None]
    seconds, worst = [each.seconds for each in calls], max(calls, key=lambda each: each.seconds)
    median_s = float(np.median(seconds))
    gap = max((plan.solver.gap for plan in made), default=math.inf)
    wrong = _objections(by, task, [each.plan for each in calls], is_quick=run.is_quick)
    if len(made) < len(calls):
        wrong.append(f"{len(calls) - len(made)} calls found no plan within their time limit")
    late = sum(plan.solver.status != "optimal" for plan in made)
    times = (f"{1000 * value:,.1f}" for value in (first.seconds, median_s, worst.seconds, worst.cpu_s))
    cells = (task.name, str(len(calls)), *times, f"{gap:.0e}", str(late))
    return cells, _aims(task, median_s, worst.seconds, gap, len(wrong)), wrong


def _aims(task: Task, median_s: float, worst_s: float, gap: float, wrong: int) -> Iterator[Aim]:
    yield Aim(f"{task.name}: wrong plans", wrong, 0, "", is_most=True)
    for what, measured, limit in (("median", median_s, task.median_s), ("worst", worst_s, task.worst_s)):
        if limit is not None:
            yield Aim(f"{task.name}: {what}", 1000 * measured, 1000 * limit, "ms", is_most=True)
    if task.gap is not None:
        yield Aim(f"{task.name}: gap", 1e4 * gap, 1e4 * task.gap, "parts in 10,000", is_most=True)


def _all_demands(by: Planner, task: Task) -> list[Call]:
    calls: list[Call] = []
    for demand in task.demands:
        calls.append(call(by, demand, calls[-1].plan if calls and task.chained else None))
    return calls


# --- is a plan as good as can be?


def _objections(by: Planner, task: Task, plans: list[Plan | None], *, is_quick: bool) -> list[str]:
    """The objections of an independent solve to a sample of the plans.

    That solve has no cascades: plans with cascades must be no worse than those without, and tests compare them with
    brute force. Plans are made again without headroom, for a demand that is larger by it.
    """
    bare, wrong = by.with_changes(headroom=1.0), list[str]()
    for i in np.unique(np.linspace(0, len(plans) - 1, min(task.checks, 2 if is_quick else 99)).astype(int)).tolist():
        current = plans[i - 1] if task.chained and i > 0 else None
        plan = call(bare, scaled(task.demands[i], HEADROOM), current).plan
        if plan is None:
            continue
        if task.rules.cascades:
            plain = bare.with_changes(rules=msgspec.structs.replace(task.rules, cascades=False))(plan.demand_qps)
            found = _is_worse(plan, plain)
        else:
            found = objection(task.fleet, plan, shares_devices=task.rules.is_resident_set)
        wrong += [f"demand {i} of {len(plans)} {found}"] if found else []
    return wrong


def _is_worse(plan: Plan, plain: Plan) -> str:
    """How a plan with cascades is worse than one without; "" where it is not."""
    served, without = (sum(each.served_qps.values()) for each in (plan, plain))
    if served < without * (1 - LESS_SERVED):
        return f"serves {served:.3f} qps, and without cascades {without:.3f}"
    accuracy, other = (each.effective_accuracy or 0 for each in (plan, plain))
    if served <= without * (1 + LESS_SERVED) and accuracy < other - LESS_ACCURATE:
        return f"reaches {accuracy} of accuracy, and without cascades {other}"
    return ""


def objection(fleet: Fleet, plan: Plan, *, shares_devices: bool, time_limit_s: float = 3.0) -> str:
    """The objection of an independent solve to a plan without headroom, "" where they agree.

    Capacities depend on the hosts that a family has. So the plan may serve no more, and no more accurately, than is
    possible with the capacities of its own hosts; and it may be no worse than the best plan that counts on one host
    for each family, by more than its gap. Where a solve takes too long, its best solution and the bound stand for the
    optimum. Where devices hold several variants, the plan must lie between the optimum with one and that of devices
    that can be divided at will. A plan that ran into its time limit promises nothing, but can't be better than the
    bound either.
    """
    hosts = Counter(placement.family for placement in plan.placements)
    program, cautious = (
        _Program(choices, choices.array(plan.demand_qps), time_limit_s)
        for choices in (Choices.of(fleet, hosts), Choices.of(fleet, {}))
    )
    demand_qps = sum(plan.demand_qps.values())
    missed = 1 - sum(placement.rate_qps for placement in plan.placements) / demand_qps
    promises = plan.solver.status == "optimal"
    bound, best = (
        program.min_missed(is_divisible=shares_devices)[1],
        cautious.min_missed(is_divisible=shares_devices)[0],
    )
    if missed < bound - ROUNDING or (promises and missed > best + LESS_SERVED):
        return f"misses {missed:.6f} of the demand, where from {bound:.6f} to {best:.6f} is right"
    known = {(family.name, each.name): each.accuracy for family in fleet.catalog.families for each in family.variants}
    accuracy = sum(each.rate_qps * known[each.family, each.variant] for each in plan.placements) / demand_qps
    bound = program.most_accurate(missed, is_divisible=shares_devices)[1]
    best = cautious.most_accurate(missed, is_divisible=shares_devices)[0]
    less = max(plan.solver.gap, LESS_ACCURATE) + EXACT_GAP
    if accuracy > bound + ROUNDING or (promises and accuracy < best - less):
        return f"reaches {accuracy:.6f} of accuracy, where from {best:.6f} to {bound:.6f} is right"
    return ""


class _Program:
    """Hosts [C], rates [C] as parts of the whole demand, and the part of it that each family misses [F]."""

    def __init__(self, choices: Choices, demand_qps: Floats, time_limit_s: float) -> None:
        self._accuracy, self._time_limit_s = choices.accuracy, time_limit_s
        self._size, families = len(choices.qps), len(demand_qps)
        capacity_frac = choices.qps / demand_qps.sum()
        asked = demand_qps / demand_qps.sum()
        max_hosts = np.minimum(np.ceil(asked[choices.family] / capacity_frac), choices.device_count[choices.kind])
        self._within = sp.block_array(
            [
                [choices.of_kind, None, None],
                [sp.diags_array(-capacity_frac), sp.eye_array(self._size), None],
                [None, choices.of_family, sp.eye_array(families)],
            ]
        )
        self._least = np.concatenate([np.full(len(choices.device_count) + self._size, -np.inf), asked])
        self._most = np.concatenate([choices.device_count, np.zeros(self._size), asked])
        self._upper = np.concatenate([max_hosts, asked[choices.family], asked])
        self._missed = np.concatenate([np.zeros(2 * self._size), np.ones(families)])

    def min_missed(self, *, is_divisible: bool) -> tuple[float, float]:
        """The least part of the demand that must be missed: the best found, and a bound."""
        return self._minimised(self._missed, 1.0, is_divisible=is_divisible)

    def most_accurate(self, missed: float, *, is_divisible: bool) -> tuple[float, float]:
        """Accuracy summed over the demand where no more than that is missed: the best found, and a bound."""
        loss = np.concatenate([np.zeros(self._size), -self._accuracy, np.zeros(len(self._missed) - 2 * self._size)])
        best, bound = self._minimised(loss, missed + 1e-7, is_divisible=is_divisible)
        return -best, -bound

    def _minimised(self, objective: Floats, missed: float, *, is_divisible: bool) -> tuple[float, float]:
        whole = self._solved(objective, missed, is_whole=True)
        best = np.inf if whole.x is None else float(whole.fun)
        if is_divisible:
            divided = self._solved(objective, missed, is_whole=False)
            assert divided.status == 0, divided.message
            return best, float(divided.fun)
        bound = -np.inf if whole.mip_dual_bound is None else float(whole.mip_dual_bound)
        return best, min(bound, best)

    def _solved(self, objective: Floats, missed: float, *, is_whole: bool) -> Any:
        integrality = np.zeros(len(objective))
        integrality[: self._size] = is_whole
        return milp(
            objective,
            integrality=integrality,
            bounds=Bounds(0, self._upper),
            constraints=[
                LinearConstraint(self._within, self._least, self._most),
                LinearConstraint(self._missed[None, :], 0, missed),
            ],
            options={"mip_rel_gap": EXACT_GAP, "time_limit": self._time_limit_s},
        )


if __name__ == "__main__":
    sys.exit(benchmark(__doc__, {"planner": planner}, rounds=1))
