"""Models that are trained anew, tasks, accuracy that is lost or guarded, and data that shift; 45 minutes.

``swap``: a new version of the model that serves is put in place under load, live, in rounds. ``noticing``: how many
labelled rows it takes until a loss of accuracy is noticed, and how often one is that there is not. ``guard``: whether
version roll-outs are rolled back and promoted as they should be, simulated. ``drift``: how many rows without labels it
takes until it is noticed that they are no longer like the eval split. ``retraining``: what of the accuracy that is lost
as inputs shift comes back by `proteus task retrain`. ``tasks``: five tasks on two cores beside the best single model
for each, simulated. A line for each aim; exits with 1 where one is missed.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks.adaptation.lab import laboratory
from benchmarks.lifecycle import guard, noticing, retraining, shifting, swap, tasks
from benchmarks.machine import machine
from benchmarks.tables import Aim, aim_line, rich_table
from proteus_cli.store import Workspace

PARTS = ("swap", "noticing", "guard", "drift", "retraining", "tasks")
ROUNDS, QUICK_ROUNDS = 3, 1
QUICK_SEEDS = 10
BUDGET = "30s"


def main() -> int:
    """Measure, print tables and aims; 1 where an aim is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lifecycle", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few rounds and seeds, to see that it works")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    options = parser.parse_args()
    console, parts, aims = Console(), options.parts.split(","), list[Aim]()
    console.print(machine())
    with tempfile.TemporaryDirectory() as directory:
        if "swap" in parts:
            lab = laboratory(Path(directory) / "swap", BUDGET)
            swap.prepare(lab)
            found = [swap.swapped(lab, seed) for seed in range(QUICK_ROUNDS if options.quick else ROUNDS)]
            console.print(rich_table(swap.table(found)))
            aims += swap.aims(found)
        if "noticing" in parts:
            root = Path(directory) / "noticing"
            subprocess.run((sys.executable, "-m", "proteus_cli", "-q", "init", str(root)), check=True)
            shifts, quiet = noticing.measured(Workspace(root), QUICK_SEEDS if options.quick else noticing.SEEDS)
            for table in noticing.tables(shifts, quiet):
                console.print(rich_table(table))
            aims += noticing.aims(shifts, quiet)
        if "drift" in parts:
            root = Path(directory) / "drift"
            subprocess.run((sys.executable, "-m", "proteus_cli", "-q", "init", str(root)), check=True)
            noticed, calm = shifting.measured(Workspace(root), QUICK_SEEDS if options.quick else shifting.SEEDS)
            for table in shifting.tables(noticed, calm):
                console.print(rich_table(table))
            aims += shifting.aims(noticed, calm)
        if "retraining" in parts:
            shifts_by_seed = retraining.measured_all(Path(directory), 1 if options.quick else retraining.SEEDS)
            console.print(rich_table(retraining.table(shifts_by_seed)))
            aims += retraining.aims(shifts_by_seed)
        if "tasks" in parts:
            comparison = tasks.measured(Path(directory) / "tasks")
            console.print(rich_table(tasks.table(comparison)))
            aims += tasks.aims(comparison)
    if "guard" in parts:
        seeds = QUICK_SEEDS if options.quick else guard.SEEDS
        found_by_guard, fails = guard.measured(seeds), [guard.fails_at_the_bound(seed) for seed in range(seeds)]
        for table in guard.tables(found_by_guard):
            console.print(rich_table(table))
        aims += guard.aims(found_by_guard, fails)
    for aim in aims:
        console.print(aim_line(aim))
    return 0 if all(aim.is_reached for aim in aims) else 1


if __name__ == "__main__":
    sys.exit(main())
