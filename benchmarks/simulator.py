"""How fast the simulator is: queries per second of wall time and of CPU time, without planning.

It exits with 1 where it plays fewer than `MIN_CPU_QPS` of any trace, or where the report of the synthetic one takes
more than `MAX_REPORT_S`.

Planning is left out by running twice: the first run plans and keeps its plans, the second, which is timed, is handed
them one after another. It must end each request once, and each as in the first. A synthetic trace on devices and a plan
written down here needs no planner at all, and its outcomes are known. Steps of one family on 60 alike workers have the
longest queue, and the most workers that take from it. At last the whole paper trace with a plan made
anew every second, solves included.

The paper's trace is in `../shared/data/proteus-asplos24` beside the repository, and left out without it.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the module beside this one, however it is started

from benchmarks.arrivals import kinds
from benchmarks.arrivals.workers import FAMILY, alike
from benchmarks.planner_instances import NOBODY, PAPER, paper_fleet
from benchmarks.tables import Aim, conclude
from proteus_cli.control.policies import POLICIES, Policy, policies_named, policy_named
from proteus_cli.control.replanning.replan_rules import ReplanContext, ReplanRequest
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.catalog import Catalog, Family, Variant
from proteus_cli.domain.device import Device
from proteus_cli.domain.plan import PLAN_FORMAT, Placement, Plan, Solver
from proteus_cli.domain.profile import BackendInfo, Point, Profile, VariantProfile
from proteus_cli.domain.rules import Rules
from proteus_cli.domain.trace import Trace
from proteus_cli.planning.planner import Planner
from proteus_cli.replay.synthesis import Burst, make_trace
from proteus_cli.replay.trace import read_trace
from proteus_cli.reporting.measures import report
from proteus_cli.simulation.fleet import SimulationResult
from proteus_cli.simulation.run import simulate

HEADROOM = 1.2
MAX_S = 15.0  # the whole paper trace, a plan every second
MIN_CPU_QPS = 100_000.0  # queries per second of CPU time, without planning
MAX_REPORT_S = 1.0  # of CPU time, for the synthetic trace of 100,411 queries
WORKERS, STEPS_QPS, STEP_S = 60, (1600, 2300, 3100, 3900, 3000, 2000), 10.0
SIMPLY_PLANNED = ",".join(policy.name for policy in POLICIES.values() if policy.plans == "optimal")
SYNTHETIC = {  # outcomes of the synthetic trace, by policy
    "proteus": {"served": 100411},
    "proteus-paper": {"served": 97830, "dropped": 2581},
}


@dataclass(frozen=True, slots=True)
class World:
    """What a trace is simulated on."""

    trace: Trace
    catalog: Catalog
    profiles: Mapping[str, Profile]


@dataclass(frozen=True, slots=True)
class EverySecond:
    """Re-plans each second, whatever happened, for what the last one asked for."""

    every_s: float = 1.0
    min_demand_qps: float = 1.0

    def decide(self, context: ReplanContext) -> ReplanRequest:
        return ReplanRequest(self.target_demand(context), "a second has passed")

    def overload(self, context: ReplanContext) -> str | None:  # noqa: ARG002 - a second is all that it waits for
        return None

    def target_demand(self, context: ReplanContext) -> dict[str, float]:
        demand = context.demand
        return {f: max(demand.rate_qps(f, self.every_s, context.now_s), self.min_demand_qps) for f in demand.families}

    def initial_demand(self, demand_qps: Mapping[str, float], slo_s: Mapping[str, float]) -> dict[str, float]:
        return {f: max(demand_qps.get(f, 0.0), self.min_demand_qps) for f in slo_s}


def main() -> int:
    """Run the benchmark, and print its tables and aims; 1 where an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", default=SIMPLY_PLANNED, help="those to time on the paper's trace")
    parser.add_argument("--rounds", type=int, default=5, help="of which the fastest counts")
    options = parser.parse_args()
    table = Table("trace", "policy", "queries", "wall s", "per wall s", "CPU s", "per CPU s", box=box.SIMPLE)
    aims = [_synthetic(table, name, expected, options.rounds) for name, expected in SYNTHETIC.items()]
    aims.append(_reported())
    aims.append(_planned(table, _alike_workers(), policy_named("proteus"), options.rounds))
    paper = _paper()
    if paper is not None:
        aims += [_planned(table, paper, policy, options.rounds) for policy in policies_named(options.policies)]
    Console().print(table)
    if paper is None:
        print(f"no {PAPER}: the paper's trace is left out")
    else:
        aims.append(_every_second(paper))
    return conclude(aims)


def _planned(table: Table, world: World, policy: Policy, rounds: int) -> Aim:
    """Time a policy with the plans that it makes."""
    planner = _planner(world, policy)
    start, plans = planner(world.trace.demand(0.0, 10.0)), list[Plan]()

    def plan_anew(*asked: object) -> Plan:
        plans.append(planner(*asked))  # type: ignore[arg-type] # as a simulation asks
        return plans[-1]

    first = _simulated(world, policy, start, plan_anew)
    return _time(table, world, policy, first, rounds, lambda: (start, iter(plans).__next__))


def _synthetic(table: Table, name: str, expected: Mapping[str, int], rounds: int) -> Aim:
    """Time how a policy assigns and batches, with one plan for good."""
    world, plan = _made_up()
    policy = replace(policy_named(name), replanning=None)
    first = _simulated(world, policy, plan, None)
    outcomes = Counter(ended.outcome.value for ended in first.ended)
    assert outcomes == expected, f"{name} ended {dict(outcomes)}, not {expected}"
    return _time(table, world, policy, first, rounds, lambda: (plan, None))


def _reported() -> Aim:
    """Time the report of a run."""
    world, plan = _made_up()
    policy = replace(policy_named("proteus"), replanning=None)
    ended = _simulated(world, policy, plan, None).ended
    slo_s = {family.name: family.slo_s for family in world.catalog.families}
    start_s = time.process_time()
    made = report(
        ended,
        policy=policy.name,
        mode="simulated",
        trace=world.trace.name,
        duration_s=world.trace.duration_s,
        slo_s=slo_s,
        best_accuracy=dict.fromkeys(slo_s, 1.0),
    )
    cpu_s = time.process_time() - start_s
    assert made.served == SYNTHETIC[policy.name]["served"]
    return Aim(f"report of {made.requests:,} queries", cpu_s, MAX_REPORT_S, "s of CPU time", is_most=True)


def _time(
    table: Table,
    world: World,
    policy: Policy,
    first: SimulationResult,
    rounds: int,
    planned: Callable[[], tuple[Plan, Callable[[], Plan] | None]],
) -> Aim:
    walls_s, cpus_s = [], []
    for _ in range(rounds):
        plan, next_plan = planned()
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        again = _simulated(world, policy, plan, next_plan and (lambda *_, give=next_plan: give()))
        walls_s.append(time.perf_counter() - wall_s)
        cpus_s.append(time.process_time() - cpu_s)
        _check(world, again)
        assert again.ended == first.ended, "the same plans must give the same run"
    count, wall_s, cpu_s = len(world.trace), min(walls_s), min(cpus_s)
    rates = (f"{wall_s:.2f}", f"{count / wall_s:,.0f}", f"{cpu_s:.2f}", f"{count / cpu_s:,.0f}")
    table.add_row(world.trace.name, policy.name, f"{count:,}", *rates)
    what = f"{world.trace.name} with {policy.name}"
    return Aim(what, count / cpu_s, MIN_CPU_QPS, "queries per second of CPU time", is_most=False)


def _every_second(world: World) -> Aim:
    policy = replace(policy_named("proteus"), replanning=EverySecond())
    planner = _planner(world, policy)
    start_s, solving_s = time.perf_counter(), 0.0

    def plan_anew(*asked: object) -> Plan:
        nonlocal solving_s
        before_s = time.perf_counter()
        plan = planner(*asked)  # type: ignore[arg-type] # as a simulation asks
        solving_s += time.perf_counter() - before_s
        return plan

    run = _simulated(world, policy, planner(world.trace.demand(0.0, 10.0)), plan_anew)
    wall_s = time.perf_counter() - start_s
    _check(world, run)
    assert len(run.replans) >= 0.9 * world.trace.duration_s / 1.05, "a plan every second, which takes 0.05 s to make"
    print(f"{world.trace.name} with {len(run.replans)} changes of plan, one every second: {solving_s:.1f} s planning")
    return Aim(f"{world.trace.name} with a change of plan every second", wall_s, MAX_S, "s", is_most=True)


def _simulated(world: World, policy: Policy, plan: Plan, replan: Callable[..., Plan] | None) -> SimulationResult:
    return simulate(world.trace, plan, world.catalog, world.profiles, policy, replan or _never)


def _check(world: World, run: SimulationResult) -> None:
    """Each request ended, and once."""
    names = world.trace.families
    arrived = Counter(zip(world.trace.arrival_s.tolist(), map(names.__getitem__, world.trace.family), strict=True))
    assert Counter((ended.arrival_s, ended.family) for ended in run.ended) == arrived, "each request must end once"


def _never(*_asked: object) -> Plan:
    raise AssertionError("a policy without a rule must not re-plan")


def _planner(world: World, policy: Policy) -> Planner:
    headroom = policy.headroom or HEADROOM
    return Planner(world.catalog, world.profiles, policy, headroom=headroom, inputs={}, spares=policy.spares)


def _paper() -> World | None:
    if not PAPER.exists():
        return None
    fleet = paper_fleet()
    trace = replace(read_trace(PAPER / "medium-normal_load.csv.gz"), name="the paper's")
    return World(trace, fleet.catalog, fleet.profiles())


def _alike_workers() -> World:
    """Up and down in steps, as far as `WORKERS` carry with the fastest variants."""
    fleet = alike(WORKERS)
    trace = kinds.steps(STEPS_QPS)({FAMILY: 1.0}, STEP_S * len(STEPS_QPS), np.random.default_rng(2024))
    return World(replace(trace, name=f"{WORKERS} alike workers"), fleet.catalog, fleet.profiles())


def _made_up() -> tuple[World, Plan]:
    """Two families on eight devices: a fast variant on five, an accurate one on three, a burst beyond both."""
    latencies = {"small": (0.9, 0.004, 0.001), "large": (1.0, 0.010, 0.005)}  # accuracy, seconds per batch and per row
    families = tuple(
        Family(name, "100ms", tuple(Variant(size, latencies[size][0], f"{size}.onnx") for size in latencies))
        for name in ("a", "b")
    )
    measured = tuple(
        VariantProfile(name, size, accuracy, None, "", None, 0.0, 0.0, 0, _points(batch_s, row_s))
        for name in ("a", "b")
        for size, (accuracy, batch_s, row_s) in latencies.items()
    )
    devices = tuple(f"cpu{number}" for number in range(8))
    profiles = {
        device: Profile(
            FORMAT, NOBODY, Device(device, "cpu", "cpu", "", 0, (0,)), "cpu0", BackendInfo("", {}), measured
        )
        for device in devices
    }
    hosted = [(device, "ab"[index % 2], "large" if index < 3 else "small") for index, device in enumerate(devices)]
    trace = make_trace(
        "synthetic",
        Burst(peak_qps=3000.0),
        rate_qps=900.0,
        duration_s=60.0,
        shares={"a": 0.5, "b": 0.5},
        rng=np.random.default_rng(2024),
    )
    return World(trace, Catalog(FORMAT, families), profiles), _plan(hosted, devices)


def _points(batch_s: float, row_s: float) -> tuple[Point, ...]:
    times_s = {batch: batch_s + row_s * batch for batch in (1, 2, 4, 8)}
    return tuple(Point(batch, 1, s, s, s, s, s, batch / s) for batch, s in times_s.items())


def _plan(hosted: list[tuple[str, str, str]], devices: tuple[str, ...]) -> Plan:
    """Each hosted variant takes what it can in batches of eight."""
    capacity_qps = {"small": 8 / 0.012, "large": 8 / 0.050}
    placements = tuple(
        Placement(device, family, size, 8, capacity_qps[size], 0.25, capacity_qps[size])
        for device, family, size in hosted
    )
    served = {name: sum(p.rate_qps for p in placements if p.family == name) for name in ("a", "b")}
    return Plan(
        format=PLAN_FORMAT,
        made_by=NOBODY,
        policy="proteus",
        objective="by hand",
        rules=Rules(),
        headroom=1.0,
        demand_qps=served,
        served_qps=served,
        unserved_qps=dict.fromkeys(served, 0.0),
        effective_accuracy=None,
        relative_accuracy=None,
        solver=Solver("by hand", "optimal", 0.0, 0.0),
        fleet={"cpu": devices},
        placements=placements,
        inputs={},
    )


if __name__ == "__main__":
    sys.exit(main())
