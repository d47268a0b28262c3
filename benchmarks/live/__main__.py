"""Live servers on this machine while something changes; 45 minutes, in parts (`--parts`).

* day: one day of traffic, with proteus and with static plans (13 minutes).
* steps: how fast the server follows a step in demand (3 minutes).
* cascades: the worth of cascades, live (8 minutes). cascades-simulated: by the example profile (3 minutes).
* exits: random bounds on a multi-exit model, in virtual time (1 minute).
* swap: a new version of a model under load (9 minutes).
* control-loop: latency while plans are solved (5 minutes).

Needs two cores with nothing else to do. Exits with 1 where an aim is missed.
"""

import argparse
import sys

from benchmarks.frame import benchmark
from benchmarks.live.adaptation import day, steps
from benchmarks.live.cascades import cascades, cascades_simulated
from benchmarks.live.control_loop import control_loop
from benchmarks.live.exits import SEED, exits
from benchmarks.live.swap import swap

PARTS = {
    "day": day, "steps": steps, "cascades": cascades, "cascades-simulated": cascades_simulated, "exits": exits,
    "swap": swap, "control-loop": control_loop,
}  # fmt: skip

if __name__ == "__main__":
    options = argparse.ArgumentParser(prog="python -m benchmarks.live")
    options.add_argument("--seed", type=int, default=SEED, help="of rows, bounds and emulated times of exits")
    sys.exit(benchmark(__doc__, PARTS, parser=options))
