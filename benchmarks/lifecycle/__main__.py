"""Models that are trained anew, tasks, accuracy that is lost or guarded, and data that shift; 50 minutes.

``swap``: a new version of the model that serves is put in place under load, live, in rounds with and without.
``noticing``: how many labelled rows it takes until a loss of accuracy is noticed, and how often one is that there is
not. ``guard``: whether version roll-outs are rolled back and promoted as they should be, simulated. ``canaries``: some
of these live. ``drift``: how many rows without labels it takes until it is noticed that they are no longer like the
eval split. ``retraining``: what of the accuracy that is lost as inputs shift comes back by `proteus task retrain`.
``tasks``: five tasks on two cores beside the best single model for each, simulated, and by servers with emulated
devices. A line for each aim; exits with 1 where one is missed.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.adaptation.lab import laboratory
from benchmarks.lifecycle import canaries, guard, noticing, retraining, shifting, swap, tasks
from benchmarks.machine import machine
from benchmarks.tables import Aim, Table, aim_line, rich_table
from proteus_cli.store import Workspace

ROUNDS, QUICK_ROUNDS = 3, 1
QUICK_SEEDS = 10
BUDGET = "30s"

Found = tuple[Sequence[Table], Sequence[Aim]]
"""Of a part: what to show, and what was to be reached."""


def _swap(directory: Path, *, quick: bool) -> Found:
    lab = laboratory(directory, BUDGET)
    swap.prepare(lab)
    found = [swap.compared(lab, seed) for seed in range(QUICK_ROUNDS if quick else ROUNDS)]
    return [swap.table(found)], swap.aims(found)


def _noticing(directory: Path, *, quick: bool) -> Found:
    shifts, quiet = noticing.measured(_zoo(directory), QUICK_SEEDS if quick else noticing.SEEDS)
    return noticing.tables(shifts, quiet), noticing.aims(shifts, quiet)


def _guard(_directory: Path, *, quick: bool) -> Found:
    seeds = QUICK_SEEDS if quick else guard.SEEDS
    found, fails = guard.measured(seeds), [guard.fails_at_the_bound(seed) for seed in range(seeds)]
    return guard.tables(found), guard.aims(found, fails)


def _canaries(directory: Path, *, quick: bool) -> Found:
    lab = laboratory(directory, BUDGET)
    swap.prepare(lab)
    cases = canaries.measured(lab, 1 if quick else canaries.SEEDS)
    return [canaries.table(cases)], canaries.aims(cases)


def _drift(directory: Path, *, quick: bool) -> Found:
    noticed, calm = shifting.measured(_zoo(directory), QUICK_SEEDS if quick else shifting.SEEDS)
    return shifting.tables(noticed, calm), shifting.aims(noticed, calm)


def _retraining(directory: Path, *, quick: bool) -> Found:
    shifts = retraining.measured_all(directory, 1 if quick else retraining.SEEDS)
    return [retraining.table(shifts)], retraining.aims(shifts)


def _tasks(directory: Path, *, quick: bool) -> Found:  # noqa: ARG001 - with fewer queries, it is another case
    found = tasks.measured(directory)
    return [tasks.table(each) for each in found], [aim for each in found for aim in tasks.aims(each)]


def _zoo(directory: Path) -> Workspace:
    subprocess.run((sys.executable, "-m", "proteus_cli", "-q", "init", str(directory)), check=True)
    return Workspace(directory)


PARTS = {
    "swap": _swap, "noticing": _noticing, "guard": _guard, "canaries": _canaries, "drift": _drift,
    "retraining": _retraining, "tasks": _tasks,
}  # fmt: skip


def main() -> int:
    """Measure, print tables and aims; 1 where an aim is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lifecycle", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few rounds and seeds, to see that it works")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    options = parser.parse_args()
    console, wanted, aims = Console(width=None if sys.stdout.isatty() else 130), options.parts.split(","), list[Aim]()
    console.print(machine())
    with tempfile.TemporaryDirectory() as directory:
        for name, measure in PARTS.items():
            if name in wanted:
                found, reached = measure(Path(directory) / name, quick=options.quick)
                for table in found:
                    console.print(rich_table(table))
                aims += reached
    for aim in aims:
        console.print(aim_line(aim))
    return 0 if all(aim.is_reached for aim in aims) else 1


if __name__ == "__main__":
    sys.exit(main())
