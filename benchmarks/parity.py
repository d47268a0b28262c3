"""How close the simulator is to the live server: one trace both ways on this machine, and the differences.

parity: it profiles the sample zoo, and replays the bundled burst trace against a live server and in simulation, for
several rounds, with one variant on each device and with cascades on shared ones (6 minutes). burst: the demo's burst,
simulated, by the profiles in the repository, by how long it takes to find a plan (half a minute). With `--workspace
DIR` of a profiled workspace that knows cascades, there are plans with cascades, too. Exits with 1 where an aim is
missed.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.frame import ROOT, Aim, Found, Run, Table, benchmark, proteus, spread
from proteus_cli.cli import demo
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.profile_changes import best_accuracy
from proteus_cli.domain.report import Report
from proteus_cli.domain.request import Outcome
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.from_workspace import planner_settings
from proteus_cli.replay.scaling import scaled_to
from proteus_cli.replay.trace import read_trace
from proteus_cli.simulation.conditions import Conditions
from proteus_cli.simulation.run import simulate
from proteus_cli.store import Workspace, read_json

AIMS: dict[str, tuple[float, str, Callable[[Report], float]]] = {  # measure → (largest difference, unit, value)
    "relative accuracy": (0.5, "points", lambda report: 100 * (report.relative_accuracy or 0.0)),
    "SLO violation ratio": (1.0, "points", lambda report: 100 * report.slo_violation_ratio),
    "mean batch size": (10.0, "% of live", lambda report: report.mean_batch or 0.0),
}
RULES: dict[str, tuple[str, ...]] = {
    "one variant on each device": ("--residency", "1", "--no-cascades"),
    "cascades, several variants on each device": (),
}


def parity(run: Run) -> Found:
    """Live against simulated."""
    workspace, tables, aims = run.options.workspace, list[Table](), list[Aim]()
    if workspace is None:
        workspace = run.directory / "ws"
        proteus("init", str(workspace))
        proteus("profile", "--budget", run.options.budget, "--workspace", str(workspace))
    for name, rules in RULES.items():
        pairs, rows = [_round(workspace, run.options.rate, seed, rules) for seed in range(run.rounds)], []
        for measure, (aim, unit, read) in AIMS.items():
            values = [(read(live), read(simulated)) for live, simulated in pairs]
            gaps = [abs(a - b) * (100 / a if unit == "% of live" else 1.0) for a, b in values]
            medians = (f"{statistics.median(side):.2f}" for side in zip(*values, strict=True))
            rows.append((measure, *medians, f"{spread(gaps)} {unit}"))
            aims.append(Aim(f"{name}: {measure}, live and simulated apart", statistics.median(gaps), aim, unit, True))
        note = f"{len(pairs)} rounds of {pairs[0][0].requests:,} requests"
        tables.append(Table(name, ("measure", "live", "simulated", "difference: median (range)"), tuple(rows), note))
    return Found(tuple(tables), tuple(aims))


def _round(workspace: Path, rate: str, seed: int, rules: tuple[str, ...]) -> tuple[Report, Report]:
    """The same scaled trace, from the same plan, live and simulated."""
    trace, plan = str(workspace / "traces" / "burst.csv"), str(workspace / "plans" / "parity.json")
    there, calm = ("--workspace", str(workspace)), f"{float(rate.removesuffix('qps')) * 0.16:.0f}qps"
    proteus("plan", "--demand", calm, *rules, "-o", plan, *there)
    reports = []
    for mode in ("--serve", "--plan"):
        output = workspace / f"report{mode}.json"
        proteus("replay", trace, "--scale-to", rate, "--seed", str(seed), mode, plan, "-o", str(output), *there)
        reports.append(read_json(output, Report, hint="the benchmark wrote it"))
    live, simulated = reports
    assert live.requests == simulated.requests, "both must replay the same trace"
    assert live.failed == 0, "no request may fail"
    return live, simulated


# --- the demo's burst

SEEDS = (11, 12)  # rules were chosen on others, but seed 12 showed the need of one: not fully held out
SOLVE_S = (0.05, 0.3, 1.0)
MEMORY_BYTES = 1 << 30  # of each device: for all variants
BURST_S = 13.0, 27.0  # of the bundled trace
BURST_RULES = {
    "one variant on each device": Rules(),
    "shared devices": Rules(residency="memory"),
    "shared devices, cascades": Rules(residency="memory", cascades=True),
}


def burst(run: Run) -> Found:
    """Violations and relative accuracy of the queries in the burst, by rules of plans and the time to find one."""
    workspace, rows = Workspace(run.options.workspace or ROOT), list[tuple[str, ...]]()
    knows_cascades = any(profile.cascades for profile in workspace.profiles().values())
    for name, rules in BURST_RULES.items():
        for solve_s in () if rules.cascades and not knows_cascades else SOLVE_S[: 1 if run.is_quick else None]:
            runs = [burst_of(workspace, rules, solve_s, seed) for seed in SEEDS]
            violations, accuracy = (100 * float(np.mean(side)) for side in zip(*runs, strict=True))
            rows.append((name, f"{solve_s:g}", f"{violations:.2f}", f"{accuracy:.2f}"))
    title = f"The demo's burst of {demo.burst_qps(workspace):,.0f} qps, simulated; means of {len(SEEDS)} seeds"
    columns = ("plans", "seconds to find one", "SLO violations in the burst, %", "relative accuracy, %")
    return Found((Table(title, columns, tuple(rows)),))


def burst_of(workspace: Workspace, rules: Rules, solve_s: float, seed: int) -> tuple[float, float]:
    """Violations and relative accuracy in the demo's burst, as fractions."""
    policy, catalog, profiles = policy_named("proteus"), workspace.catalog(), workspace.profiles()
    planner = planner_settings(workspace, policy, float(demo.HEADROOM), profiles=profiles, rules=rules).make()
    burst_qps = demo.burst_qps(workspace)
    to_expand, to_scale = np.random.default_rng(seed).spawn(2)
    trace = scaled_to(read_trace(workspace.root / "traces" / "burst.csv", rng=to_expand), burst_qps, to_scale)
    weights = sum(family.weight for family in catalog.families)
    base_qps = demo.BASE_FRAC * burst_qps
    plan = planner({family.name: base_qps * family.weight / weights for family in catalog.families})
    conditions = Conditions(solve_s=solve_s, memory_bytes=dict.fromkeys(profiles, MEMORY_BYTES))
    rng = np.random.default_rng(seed)
    ended = simulate(trace, plan, catalog, profiles, policy, planner, conditions=conditions, rng=rng).ended
    mine = [each for each in ended if BURST_S[0] <= each.arrival_s < BURST_S[1]]
    best = best_accuracy(profiles.values())
    relative = [each.accuracy / best[each.family] for each in mine if each.accuracy is not None]
    return sum(each.outcome is not Outcome.SERVED for each in mine) / len(mine), float(np.mean(relative))


if __name__ == "__main__":
    options = argparse.ArgumentParser(prog="python -m benchmarks.parity")
    options.add_argument("--rate", default="500qps", help="the busiest 10 s of the trace")
    options.add_argument("--budget", default="60s", help="for profiling")
    options.add_argument("--workspace", type=Path, help="use this one, profiled as it is")
    sys.exit(benchmark(__doc__, {"parity": parity, "burst": burst}, parser=options))
