"""The demo's burst, simulated, by how long it takes to find a plan: devices with one variant each, and shared ones.

`python -m benchmarks.burst` goes by the profiles in the repository, and gives the same figures everywhere (half a
minute on a quiet machine). With `--workspace DIR` of a profiled workspace that knows cascades, such as that of
`proteus demo DIR`, there are plans with cascades, too.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.tables import Table, rich_table
from proteus_cli.cli import demo
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.profile_changes import best_accuracy
from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.from_workspace import planner_settings
from proteus_cli.replay.scaling import scaled_to
from proteus_cli.replay.trace import read_trace
from proteus_cli.simulation.conditions import Conditions
from proteus_cli.simulation.run import simulate
from proteus_cli.store import Workspace

SEEDS = (11, 12)  # rules were chosen on others, but seed 12 showed the need of one: not fully held out
SOLVE_S = (0.05, 0.3, 1.0)
MEMORY_BYTES = 1 << 30  # of each device: for all variants
BURST_S = 13.0, 27.0  # of the bundled trace
RULES = {
    "one variant on each device": Rules(),
    "shared devices": Rules(residency="memory"),
    "shared devices, cascades": Rules(residency="memory", cascades=True),
}


@dataclass(frozen=True)
class Burst:
    """What became of the queries of the burst; fractions."""

    violations: float
    relative_accuracy: float


def simulated(workspace: Workspace, rules: Rules, solve_s: float, seed: int) -> Burst:
    """The demo with plans of these rules, of which each takes so long to find."""
    policy, catalog, profiles = policy_named("proteus"), workspace.catalog(), workspace.profiles()
    settings = planner_settings(workspace, policy, float(demo.HEADROOM), profiles=profiles, rules=rules)
    planner, burst_qps = settings.make(), demo.burst_qps(workspace)
    to_expand, to_scale = np.random.default_rng(seed).spawn(2)
    trace = scaled_to(read_trace(workspace.root / "traces" / "burst.csv", rng=to_expand), burst_qps, to_scale)
    weights = sum(family.weight for family in catalog.families)
    base_qps = demo.BASE_FRAC * burst_qps
    plan = planner({family.name: base_qps * family.weight / weights for family in catalog.families})
    run = simulate(
        trace, plan, catalog, profiles, policy, planner,
        conditions=Conditions(solve_s=solve_s, memory_bytes=dict.fromkeys(profiles, MEMORY_BYTES)),
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return _of(run.ended, best_accuracy(profiles.values()))


def _of(ended: Sequence[RequestRecord], best: Mapping[str, float]) -> Burst:
    mine = [each for each in ended if BURST_S[0] <= each.arrival_s < BURST_S[1]]
    relative = [each.accuracy / best[each.family] for each in mine if each.accuracy is not None]
    return Burst(sum(each.outcome is not Outcome.SERVED for each in mine) / len(mine), float(np.mean(relative)))


def rows(workspace: Workspace, seeds: Sequence[int], solve_s: Sequence[float]) -> Iterator[tuple[str, ...]]:
    knows_cascades = any(profile.cascades for profile in workspace.profiles().values())
    for name, rules in RULES.items():
        if rules.cascades and not knows_cascades:
            continue
        for seconds in solve_s:
            runs = [simulated(workspace, rules, seconds, seed) for seed in seeds]
            violations = 100 * np.mean([run.violations for run in runs])
            accuracy = 100 * np.mean([run.relative_accuracy for run in runs])
            yield name, f"{seconds:g}", f"{violations:.2f}", f"{accuracy:.2f}"


def table(workspace: Workspace, seeds: Sequence[int] = SEEDS, solve_s: Sequence[float] = SOLVE_S) -> Table:
    return Table(
        f"The demo's burst of {demo.burst_qps(workspace):,.0f} qps, simulated; means of {len(seeds)} seeds",
        ("plans", "seconds to find one", "SLO violations in the burst, %", "relative accuracy, %"),
        tuple(rows(workspace, seeds, solve_s)),
    )


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=Path())
    Console().print(rich_table(table(Workspace(parser.parse_args().workspace))))


if __name__ == "__main__":
    main()
