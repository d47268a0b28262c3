"""How many queries per second the simulator plays, and whether dispatch keeps a plan's capacity in overload; 6 minutes.

speed: queries per second of CPU time, without planning. It is left out by running twice: the first run plans and keeps
its plans, the second, which is timed, is handed them one after another. It must end each request once, and each as in
the first. A synthetic trace on devices and a plan that are written down here needs no planner, and its outcomes are
known. Steps of one family on 60 alike workers have the longest queue. The paper's trace is left out where
`../shared/data/proteus-asplos24` is missing.

overload: `benchmarks.dispatch`. Exits with 1 where an aim is missed.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.dispatch import overload
from benchmarks.frame import Aim, Found, Run, Table, benchmark
from benchmarks.paper import traces
from benchmarks.worlds import FAMILY, PAPER, Fleet, alike, measured, never, paper_fleet, plan_by_hand, profile
from proteus_cli.control.policies import POLICIES, Policy, policies_named, policy_named
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.catalog import Catalog, Family, Variant
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.trace import Trace
from proteus_cli.planning.planner import Planner
from proteus_cli.replay.synthesis import Burst, make_trace
from proteus_cli.simulation.fleet import SimulationResult
from proteus_cli.simulation.run import simulate

HEADROOM = 1.2
MIN_CPU_QPS = 100_000.0  # queries per second of CPU time, without planning
WORKERS, STEPS_QPS, STEP_S = 60, (1600, 2300, 3100, 3900, 3000, 2000), 10.0
TIMES_S = {"small": (0.9, 0.004, 0.001), "large": (1.0, 0.010, 0.005)}  # accuracy, seconds per batch and per row
SIMPLY_PLANNED = ",".join(policy.name for policy in POLICIES.values() if policy.plans == "optimal")
SYNTHETIC = {  # outcomes of the synthetic trace, by policy
    "proteus": {"served": 100411},
    "proteus-paper": {"served": 97830, "dropped": 2581},
}

Next = Callable[..., Plan]


@dataclass(frozen=True, slots=True)
class World:
    """A trace and the fleet that it is simulated on."""

    trace: Trace
    fleet: Fleet

    def simulated(self, policy: Policy, plan: Plan, replan: Next = never) -> SimulationResult:
        """Each request ended, and once."""
        run = simulate(self.trace, plan, self.fleet.catalog, self.fleet.profiles(), policy, replan)
        names = map(self.trace.families.__getitem__, self.trace.family)
        arrived = Counter(zip(self.trace.arrival_s.tolist(), names, strict=True))
        assert Counter((ended.arrival_s, ended.family) for ended in run.ended) == arrived, "each request must end once"
        return run

    def planner(self, policy: Policy) -> Planner:
        headroom = policy.headroom or HEADROOM
        return Planner(
            self.fleet.catalog, self.fleet.profiles(), policy, headroom=headroom, inputs={}, spares=policy.spares
        )


def speed(run: Run) -> Found:
    """Queries per second of CPU time."""
    rows, aims = list[tuple[str, ...]](), list[Aim]()
    world, plan = made_up()
    for name, expected in SYNTHETIC.items():
        policy = replace(policy_named(name), replanning=None)
        first = world.simulated(policy, plan)
        outcomes = Counter(ended.outcome.value for ended in first.ended)
        assert outcomes == expected, f"{name} ended {dict(outcomes)}, not {expected}"
        _time(run, world, policy, first, lambda: (plan, never), rows, aims)
    fleet, shape = alike(WORKERS), traces.steps(STEPS_QPS)
    steps = shape({FAMILY: 1.0}, STEP_S * len(STEPS_QPS), np.random.default_rng(2024))
    _planned(run, World(replace(steps, name=f"{WORKERS} alike workers"), fleet), policy_named("proteus"), rows, aims)
    if PAPER.is_dir():
        paper = World(
            replace(traces.shared_trace((0.0, 30.0) if run.is_quick else None), name="the paper's"), paper_fleet()
        )
        for policy in policies_named(run.options.policies):
            _planned(run, paper, policy, rows, aims)
    columns = ("trace", "policy", "queries", "CPU s", "per CPU s")
    return Found((Table("The simulator, without planning", columns, tuple(rows)),), tuple(aims))


def _planned(run: Run, world: World, policy: Policy, rows: list[tuple[str, ...]], aims: list[Aim]) -> None:
    """Time a policy with the plans that it makes."""
    planner, plans = world.planner(policy), list[Plan]()
    start = planner(world.trace.demand(0.0, 10.0))

    def plan_anew(*asked: object) -> Plan:
        plans.append(planner(*asked))  # type: ignore[arg-type] # as a simulation asks
        return plans[-1]

    def known() -> tuple[Plan, Next]:
        left = iter(plans)
        return start, lambda *_asked: next(left)

    _time(run, world, policy, world.simulated(policy, start, plan_anew), known, rows, aims)


def _time(
    run: Run,
    world: World,
    policy: Policy,
    first: SimulationResult,
    planned: Callable[[], tuple[Plan, Next]],
    rows: list[tuple[str, ...]],
    aims: list[Aim],
) -> None:
    """The fastest of the rounds counts."""
    times_s = []
    for _ in range(run.rounds):
        plan, replan = planned()
        cpu_s = time.process_time()
        again = simulate(world.trace, plan, world.fleet.catalog, world.fleet.profiles(), policy, replan)
        times_s.append(time.process_time() - cpu_s)
        assert again.ended == first.ended, "the same plans must give the same run"
    count, cpu_s = len(world.trace), min(times_s)
    rows.append((world.trace.name, policy.name, f"{count:,}", f"{cpu_s:.2f}", f"{count / cpu_s:,.0f}"))
    what = f"{world.trace.name} with {policy.name}"
    aims.append(Aim(what, count / cpu_s, MIN_CPU_QPS, "queries per second of CPU time", is_most=False))


def made_up() -> tuple[World, Plan]:
    """Two families on eight devices: a fast variant on five, an accurate one on three, a burst beyond both."""
    catalog = Catalog(FORMAT, tuple(
        Family(name, "100ms", tuple(Variant(size, of[0], f"{size}.onnx") for size, of in TIMES_S.items()))
        for name in "ab"
    ))  # fmt: skip
    variants = [
        measured(name, size, accuracy, {rows: batch_s + row_s * rows for rows in (1, 2, 4, 8)})
        for name in "ab"
        for size, (accuracy, batch_s, row_s) in TIMES_S.items()
    ]
    qps = {size: 8 / (batch_s + 8 * row_s) for size, (_, batch_s, row_s) in TIMES_S.items()}  # in batches of eight
    hosted = [(f"cpu-{number}", "ab"[number % 2], "large" if number < 3 else "small") for number in range(8)]
    placements = [Placement(*each, 8, qps[each[2]], 0.25, qps[each[2]]) for each in hosted]
    trace = make_trace(
        "synthetic", Burst(peak_qps=3000.0), rate_qps=900.0, duration_s=60.0, shares={"a": 0.5, "b": 0.5},
        rng=np.random.default_rng(2024),
    )  # fmt: skip
    fleet = Fleet(catalog, {"cpu": profile("cpu", variants)}, {"cpu": 8})
    return World(trace, fleet), plan_by_hand(placements, "cpu", [each[0] for each in hosted])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulator")
    parser.add_argument("--policies", default=SIMPLY_PLANNED, help="those to time on the paper's trace")
    sys.exit(benchmark(__doc__, {"speed": speed, "overload": overload}, rounds=5, parser=parser))
