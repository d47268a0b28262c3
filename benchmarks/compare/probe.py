"""One tree's simulator or planner, asked for one measurement at a time.

``PYTHONPATH=TREE python probe.py simulator|planner DATA`` prints ``ready``, then for each line on stdin the CPU seconds
of one measurement. It calls `benchmarks.simulator` and `benchmarks.planner` of whichever tree is on the path, so it
uses only what both trees have under one name. DATA is the directory with the paper's cluster and trace; without it, the
planner is measured on a synthetic fleet.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import planner, planner_instances, simulator
from proteus_cli.control.policies import policy_named

DEMANDS = 16
SEED = 2024


def simulator_probe() -> Callable[[], float]:
    """CPU seconds per query of the simulator on the synthetic trace, with one plan."""
    world, plan = simulator._made_up()  # noqa: SLF001 - a sibling, in any tree
    policy = replace(policy_named("proteus"), replanning=None)

    def measure() -> float:
        start_s = time.process_time()
        simulator._simulated(world, policy, plan, None)  # noqa: SLF001
        return (time.process_time() - start_s) / len(world.trace)

    return measure


def planner_probe(data: Path) -> Callable[[], float]:
    """The median CPU seconds of a call of the planner, over some demands."""
    if data.is_dir():
        planner_instances.PAPER = data
        fleet = planner_instances.paper_fleet()
        demands = planner_instances.spread(planner_instances.paper_rates(), DEMANDS)
    else:
        rng = np.random.default_rng(SEED)
        fleet = planner_instances.synthetic_fleet(families=20, variants=5, types=3, devices=300, rng=rng)
        demands = tuple(
            planner_instances.scaled(planner_instances.synthetic_mix(fleet, rng), 500.0) for _ in range(DEMANDS)
        )
    plan = planner._planner(fleet, planner.HEADROOM)  # noqa: SLF001
    return lambda: statistics.median(planner._call(plan, demand, None).cpu_s for demand in demands)  # noqa: SLF001


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
