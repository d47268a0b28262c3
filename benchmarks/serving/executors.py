"""What a process for each device costs: `proteus serve --set executor=thread` beside `executor=process`, in one run.

`python -m benchmarks.serving.executors` (2 minutes): CPU per request of all processes of the server, and requests per
second, at saturation; latency at half of what threads take. The two take turns, so that both run
on the same machine; the ratio of each round counts. Needs Linux and wrk, as `python -m benchmarks.serving` does.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from benchmarks.serving import load
from benchmarks.serving.lab import laboratory
from benchmarks.serving.peers import PEERS, Command, Peer, Site
from benchmarks.serving.results import Workload
from benchmarks.serving.server import Lab, serving

EXECUTORS = ("thread", "process")
WORKLOADS = {f"{family}-binary": Workload(f"{family}-binary", family, "binary") for family in ("tiny", "cnn", "image")}
MEASURES = ("CPU per answer, µs", "answers, /s", "p50 at half load, ms", "p99 at half load, ms")
Figures = tuple[float, float, float, float]
"""Of one round, in the order of the measures."""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving.executors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="5, each in the other order than the one before")
    parser.add_argument("--seconds", type=float, default=1.3, help="for each load: 1.3")
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150)
    with laboratory(1) as lab:
        table = Table("workload", "", "thread", "process", "process / thread", title=f"{machine()}; median (range)")
        for name in options.workloads:
            found = _measured(lab, WORKLOADS[name], options.rounds, options.seconds)
            for place, measure in enumerate(MEASURES):
                table.add_row("" if place else name, measure, *_cells(found, place))
    console.print(table)


def _measured(lab: Lab, workload: Workload, rounds: int, load_s: float) -> dict[str, list[Figures]]:
    """The rounds of both, in the same order."""
    found: dict[str, list[Figures]] = defaultdict(list)
    half_qps = 0.0
    for number in range(rounds):
        for executor in EXECUTORS if number % 2 == 0 else reversed(EXECUTORS):
            with serving(_peer(executor), [workload.route], lab) as server:
                server.require_right(workload.route)
                target = server.target(workload.route)
                load.saturate(target, server.peer.warm_up_s)
                full = load.saturate(target, load_s)
                half_qps = half_qps or full.rps / 2
                replies = load.play(target, half_qps, load_s, seed=number)
            if replies.wrong:
                raise SystemExit(f"error: {executor}, {workload.name}: {replies.wrong[0]}")
            if full.failed:
                print(f"{executor}, {workload.name}: {full.failed} of {full.requests + full.failed} were refused")
            found[executor].append((full.cpu_us, full.rps, replies.percentile_ms(50), replies.percentile_ms(99)))
    return found


def _peer(executor: str) -> Peer:
    ours = next(peer for peer in PEERS if peer.name == "proteus")
    return replace(ours, name=f"proteus-{executor}", command=_with(ours.command, f"--set=executor={executor}"))


def _with(command: Callable[[Site], Command], *options: str) -> Callable[[Site], Command]:
    def longer(site: Site) -> Command:
        line, variables = command(site)
        return [*line, *options], variables

    return longer


def _cells(found: dict[str, list[Figures]], place: int) -> list[str]:
    rounds = [[figures[place] for figures in found[executor]] for executor in EXECUTORS]
    ratios = [process / thread for thread, process in zip(*rounds, strict=True)]
    return [*map(_cell, rounds), _cell(ratios)]


def _cell(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g}–{max(values):.3g})"


if __name__ == "__main__":
    main()
