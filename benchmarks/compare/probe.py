"""One tree's simulator or planner, asked for one measurement at a time.

``PYTHONPATH=TREE python probe.py simulator|planner DATA`` prints ``ready``, then for each line on stdin the CPU seconds
of one measurement. Instances are those of the tree on the path, under the names of this tree or of those before it.
DATA is the directory with the paper's cluster and trace; without it, the planner is measured on a synthetic fleet.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from proteus_cli.control.policies import policy_named
from proteus_cli.planning.planner import Planner
from proteus_cli.simulation.run import simulate

DEMANDS, SEED, HEADROOM = 16, 2024, 1.2


def simulator_probe() -> Callable[[], float]:
    """CPU seconds per query of the simulator on the synthetic trace, with one plan."""
    module = import_module("benchmarks.simulator")
    world, plan = (getattr(module, "made_up", None) or module._made_up)()  # noqa: SLF001
    policy, fleet = replace(policy_named("proteus"), replanning=None), getattr(world, "fleet", None)
    catalog, profiles = (fleet.catalog, fleet.profiles()) if fleet else (world.catalog, world.profiles)

    def measure() -> float:
        start_s = time.process_time()
        simulate(world.trace, plan, catalog, profiles, policy, lambda *_asked: plan)
        return (time.process_time() - start_s) / len(world.trace)

    return measure


def planner_probe(data: Path) -> Callable[[], float]:
    """The median CPU seconds of a call of the planner, over some demands."""
    is_known = Path("benchmarks", "worlds.py").is_file()  # in the tree, where this runs
    worlds: Any = import_module("benchmarks.worlds" if is_known else "benchmarks.planner_instances")
    if data.is_dir():
        worlds.PAPER = data
        fleet, pick = worlds.paper_fleet(), getattr(worlds, "quantiles", None) or worlds.spread
        demands = pick(worlds.paper_rates(), DEMANDS)
    else:
        rng = np.random.default_rng(SEED)
        fleet = worlds.synthetic_fleet(families=20, variants=5, types=3, devices=300, rng=rng)
        demands = [worlds.scaled(worlds.synthetic_mix(fleet, rng), 500.0) for _ in range(DEMANDS)]
    plan = Planner(fleet.catalog, fleet.profiles(), policy_named("proteus"), headroom=HEADROOM, inputs={})

    def measure() -> float:
        times_s = []
        for demand in demands:
            start_s = time.process_time()
            plan(demand, None)
            times_s.append(time.process_time() - start_s)
        return statistics.median(times_s)

    return measure


def main() -> None:
    """Warm up, then answer each line with one measurement."""
    what, data = sys.argv[1:]
    measure = simulator_probe() if what == "simulator" else planner_probe(Path(data))
    measure()
    print("ready", flush=True)
    for _line in sys.stdin:
        gc.collect()
        print(measure(), flush=True)


if __name__ == "__main__":
    main()
