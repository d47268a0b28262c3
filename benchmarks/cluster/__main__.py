"""A server and its agents, which are processes of their own on loopback: the channel, losses, and many of them.

`python -m benchmarks.cluster` (9 minutes; `--quick`: 3): all parts, or some with `--parts`.

* channel: encrypted round trips of 16 KB and 602 KB, one at a time, beside those of pyzmq with CURVE where that is
  installed (`pip install pyzmq`), and with latency, by `tc netem` where that is permitted;
* executors: CPU per batch beside an executor in a process of this machine, and beside a bare round trip;
* gaps: how long an agent is silent while other programs use all cores;
* losses: one of three hosts is lost at 60 % load, and the server;
* scale: one server with 100 agents of 8 devices each. Needs wrk;
* front-ends: one server and two of the same agents. Needs wrk.

Devices of the last three are emulated. A line for each aim; exits with 1 where one is missed. Loopback has no network
in it: what a network adds is its own latency and bandwidth.
"""

import argparse
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.cluster import channels, delays, executors, front_ends, losses, scale
from benchmarks.machine import machine
from benchmarks.tables import Aim, Table, aim_line, rich_table
from proteus_cli.domain.cluster import BEAT_S, MAX_SILENT

MODEL = Path(__file__).parents[2] / "engines" / "models" / "signals" / "signals-xs.onnx"

Part = tuple[list[Table], list[Aim]]


@dataclass(frozen=True, slots=True)
class Runs:
    """How much of everything is measured."""

    round_trips: int = 3000
    slow_round_trips: int = 200
    batches: int = 1000
    rounds: int = 27
    losses: int = 3
    seconds: float = 10.0

    @classmethod
    def quick(cls) -> "Runs":
        return cls(round_trips=300, slow_round_trips=30, batches=300, rounds=5, losses=1, seconds=2.0)


def main() -> int:
    """Measure, print tables and aims; 1 where an aim is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of all runs, one round of losses")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    options = parser.parse_args()
    names = options.parts.split(",")
    if unknown := set(names) - set(PARTS):
        parser.error(f"no part `{min(unknown)}`: there are {', '.join(PARTS)}")
    if {"scale", "front-ends"} & set(names) and shutil.which("wrk") is None:
        raise SystemExit("error: no `wrk` here\n\nhint: apt-get install wrk, or name other `--parts`")
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(machine())
    aims = list[Aim]()
    for name in names:
        tables, wanted = PARTS[name](Runs.quick() if options.quick else Runs())
        for table in tables:
            console.print(rich_table(table))
        aims += wanted
    for aim in aims:
        console.print(aim_line(aim))
    return 0 if all(aim.is_reached for aim in aims) else 1


def _channel(runs: Runs) -> Part:
    found = channels.measure(runs.round_trips)
    small, large = found[:2]
    rows = tuple(
        (f"{each.channel}, {each.size / 1000:.0f} KB", f"{1e3 * each.p50_s:.3f}", f"{1e3 * each.p99_s:.3f}",
         f"{each.gb_per_s:.2f}", f"{1e6 * each.client_cpu_s:.0f}")
        for each in found
    )  # fmt: skip
    columns = ("channel", "p50, ms", "p99, ms", "GB/s", "client's CPU, µs")
    tables = [Table("Round trips, one at a time", columns, rows), delays.table(delays.measure(runs.slow_round_trips))]
    return tables, [
        Aim("round trip of 16 KB, encrypted, p50", 1e3 * small.p50_s, 0.3, "ms", is_most=True),
        Aim("602 KB, encrypted, on one connection", large.gb_per_s, 0.5, "GB/s", is_most=False),
    ]


def _executors(runs: Runs) -> Part:
    found = executors.measure(MODEL, runs.batches, runs.rounds)
    rows = []
    for each in found:
        size = f"{each.size / 1000:.1f} KB"
        rows += [
            (f"{size}, {name}", f"{1e6 * figures.server_s:.0f}", f"{1e6 * figures.all_s:.0f}")
            for name, figures in (("in a process here", each.local), ("behind an agent", each.remote))
        ]
        spread = f"{each.ratio:.2f} ({min(each.ratios):.2f}–{max(each.ratios):.2f})"
        rows.append((f"{size}, ratio", spread, f"{each.remote.all_s / each.local.all_s:.2f}"))
        rows.append((f"{size}, encrypted round trip without a batch", f"{1e6 * each.round_trip_s:.0f}", "–"))
        rows.append((f"{size}, ratio, were remote = here + such a round trip", f"{each.bound:.2f}", "–"))
    columns = ("device", "server", "server, agent and device")
    note = "medians over rounds, in turns; the range is that of rounds; one row takes the model some 20 µs"
    aim = Aim("CPU of the server per batch of 16 KB, remote / process", found[-1].ratio, 1.5, "×", is_most=True)
    return [Table("CPU per batch, µs", columns, tuple(rows), note)], [aim]


def _gaps(runs: Runs) -> Part:
    found = executors.gaps(2 * runs.seconds)
    rows = tuple((f"{hogs} busy processes", f"{1e3 * gap_s:.0f}") for hogs, gap_s in found.items())
    note = f"sent each {1e3 * BEAT_S:.0f} ms; a host is dead after {1e3 * MAX_SILENT * BEAT_S:.0f} ms"
    return [Table("The longest time without anything from an agent", ("beside", "ms"), rows, note)], []


def _losses(runs: Runs) -> Part:
    found = losses.measure(runs.losses)
    return [losses.table(found)], losses.aims(found)


def _scale(runs: Runs) -> Part:
    found = scale.measure(runs.seconds, runs.seconds)
    return [scale.table(found)], scale.aims(found)


def _front_ends(runs: Runs) -> Part:
    return [front_ends.table(front_ends.measure(runs.seconds))], []


PARTS: dict[str, Callable[[Runs], Part]] = {
    "channel": _channel,
    "executors": _executors,
    "gaps": _gaps,
    "losses": _losses,
    "scale": _scale,
    "front-ends": _front_ends,
}

if __name__ == "__main__":
    sys.exit(main())
