"""Whether a server keeps a plan's capacity in overload, and recovers from it: over HTTP, on emulated devices.

`python -m benchmarks.dispatch_emulated` (8 minutes). Plans, loads and aims are those of `benchmarks.dispatch`, which
simulates them. Here client, sockets, event loop and dispatch are the real ones, and share this machine; batches end
when they should (docs/emulation.md). Where they take longer than profiled, goodput is compared with that of a server
whose plan and profiles have the true times.
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from unittest import mock

from rich.console import Console

from benchmarks.dispatch import (
    FEW,
    LEARNED_S,
    LOADS,
    MIN_GOODPUT_FRAC,
    RECOVERED_S,
    SLOWER,
    SLOWER_LOADS,
    SURGE_S,
    WARM_UP_S,
    World,
    most_answered,
    world,
)
from benchmarks.machine import machine
from benchmarks.tables import Aim, Table, conclude, rich_table
from proteus_cli.domain.report import Report
from proteus_cli.domain.trace import Trace
from proteus_cli.replay import local_server
from proteus_cli.replay.local_server import PROTEUS
from proteus_cli.replay.trace import to_csv
from proteus_cli.store import Workspace, read_json, write_json
from proteus_cli.store.catalog_text import new_text

RUN_S = 8.0
AFTER_S = 4.0  # that the load of before a surge goes on after it
WORKERS = (*FEW, 60)
SURGE_LOADS = [(0.7, SURGE_S[0]), (2.0, SURGE_S[1] - SURGE_S[0]), (0.7, RECOVERED_S - SURGE_S[1] + AFTER_S)]
_SLOWER_SERVER = (sys.executable, "-m", "benchmarks.slower_server")


@dataclass(frozen=True, slots=True)
class Run:
    """A trace, and what the client saw."""

    trace: Trace
    report: Report

    def goodput(self, from_s: float) -> int:
        """How many of the requests that arrived from then on were answered in time."""
        windows = [window for window in self.report.seconds if window.start_s >= from_s]
        return round(sum(window.demand_qps * window.length_s for window in windows)) - sum(
            window.violations for window in windows
        )

    def violations_frac(self, from_s: float, to_s: float) -> float:
        """Of the requests that arrived then, the part that was not answered in time."""
        windows = [window for window in self.report.seconds if from_s <= window.start_s < to_s]
        return sum(each.violations for each in windows) / sum(each.demand_qps * each.length_s for each in windows)


def main() -> int:
    """Run the benchmark, and print its tables and aims; 1 where an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, action="append", help="so many; may be given again")
    parser.add_argument("--seed", type=int, default=1, help="of the arrivals")
    options = parser.parse_args()
    aims: list[Aim] = []
    rows: list[list[tuple[str, ...]]] = [[], [], []]
    console = Console()
    console.print(machine())
    for workers in options.workers or WORKERS:
        each = world(workers)
        with tempfile.TemporaryDirectory() as directory:
            place = _workspace(each, Path(directory) / "as-profiled")
            rows[0].append(_overload(each, place, options.seed, aims))
            rows[1].append(_slower(each, place, options.seed, aims))
            rows[2].append(_surge(each, place, options.seed, aims))
    slower = [f"{slower:g} × longer, {load:g} × capacity" for slower, load in product(SLOWER, SLOWER_LOADS)]
    for title, columns, found in (
        ("Goodput of what is possible", ["capacity, qps", *(f"{load:g} ×" for load in LOADS)], rows[0]),
        ("Goodput where batches take longer than profiled, of that of a server that knows it", slower, rows[1]),
        ("Violations around 2 s of twice the capacity, at 0.7 × else", ["before", "during", "2 s after"], rows[2]),
    ):
        console.print(rich_table(Table(title, ("workers", *columns), tuple(found))))
    return conclude(aims)


def _overload(each: World, place: Workspace, seed: int, aims: list[Aim]) -> tuple[str, ...]:
    cells = []
    for load in LOADS:
        run = _run(each, place, [(load, RUN_S)], seed)
        part = run.goodput(WARM_UP_S) / most_answered(run.trace.arrival_s.tolist(), each.rate_qps(1.0), WARM_UP_S)
        what = f"{each.workers} workers, {load:g} × capacity: goodput"
        aims.append(Aim(what, part, MIN_GOODPUT_FRAC, "of what is possible", is_most=False))
        cells.append(f"{part:.1%}")
    return (f"{each.workers}", f"{each.capacity_qps:,.0f}", *cells)


def _slower(each: World, place: Workspace, seed: int, aims: list[Aim]) -> tuple[str, ...]:
    cells = []
    for slower in SLOWER:
        informed = _workspace(each.informed(slower), place.root.parent / f"informed-{slower}")
        for load in SLOWER_LOADS:
            loads = [(load, RUN_S)]
            best = _run(each, informed, loads, seed).goodput(LEARNED_S)
            part = _run(each, place, loads, seed, slower=slower).goodput(LEARNED_S) / best
            what = f"{each.workers} workers, {slower:g} × longer, {load:g} × capacity: goodput"
            aims.append(Aim(what, part, MIN_GOODPUT_FRAC, "of a server that knows it", is_most=False))
            cells.append(f"{part:.1%}")
    return (f"{each.workers}", *cells)


def _surge(each: World, place: Workspace, seed: int, aims: list[Aim]) -> tuple[str, ...]:
    run = _run(each, place, SURGE_LOADS, seed)
    before, during = run.violations_frac(WARM_UP_S, SURGE_S[0]), run.violations_frac(*SURGE_S)
    after = run.violations_frac(RECOVERED_S, RECOVERED_S + AFTER_S)
    most = before + 0.005
    aims.append(Aim(f"{each.workers} workers, 2 s after a surge: violations", after, most, "of all", is_most=True))
    return (f"{each.workers}", f"{before:.2%}", f"{during:.2%}", f"{after:.2%}")


def _workspace(each: World, root: Path) -> Workspace:
    """The catalog, the plan and the profile of the workers, of which the first stands for all."""
    place = Workspace(root)
    place.catalog_path.parent.mkdir(parents=True)
    place.catalog_path.write_text(new_text(each.catalog, made_by="python -m benchmarks.dispatch_emulated"))
    write_json(place.profile_path("d0"), each.profiles["d0"])
    write_json(place.plans_dir / "plan.json", each.plan)
    return place


def _run(
    each: World, place: Workspace, loads: list[tuple[float, float]], seed: int, *, slower: float | None = None
) -> Run:
    """A server with the plan, which never changes, and the client of `proteus replay`."""
    trace, path, output = each.trace(loads, seed), place.root / "trace.csv", place.root / "report.json"
    path.write_text(to_csv(trace))
    program = PROTEUS if slower is None else (*_SLOWER_SERVER, f"{slower:g}")
    options, plan = ("--replan", "off", "--set=memory=0B"), place.plans_dir / "plan.json"
    with (
        mock.patch.object(local_server, "PROTEUS", program),
        local_server.local_server(plan, place.root, emulate=True, options=options) as url,
    ):
        command = ("replay", str(path), "--url", url, "-o", str(output), "--workspace", str(place.root))
        subprocess.run([*PROTEUS, "-q", *command], check=True, stdout=subprocess.DEVNULL)
    report = read_json(output, Report, hint="the benchmark wrote it")
    assert report.mode == "emulated"
    assert report.requests == len(trace)
    return Run(trace, report)


if __name__ == "__main__":
    sys.exit(main())
