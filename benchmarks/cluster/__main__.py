"""The channel to agents, and what a device behind one costs; agents are processes of their own, on loopback.

`python -m benchmarks.cluster` (2 minutes; `--quick`: 20 s). Encrypted round trips of 16 KB and 602 KB, one at a time,
beside those of pyzmq with CURVE where that is installed (`pip install pyzmq`); CPU per batch beside an executor in a
process of this machine; and how long an agent is silent while other programs use all cores. A line for each aim; exits
with 1 where one is missed. Loopback has no network in it: what a network adds is its own latency and bandwidth.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.cluster import channels, executors
from benchmarks.machine import machine
from benchmarks.tables import Aim, Table, aim_line, rich_table
from proteus_cli.serving.devices.remote.link import BEAT_S, MAX_SILENT

MODEL = Path(__file__).parents[2] / "engines" / "models" / "signals" / "signals-xs.onnx"


def main() -> int:
    """Measure, print tables and aims; 1 where an aim is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of all runs")
    quick = parser.parse_args().quick
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(machine())
    found = channels.measure(300 if quick else 3000)
    console.print(rich_table(_channels(found)))
    local, remote = executors.measure(MODEL, 500 if quick else 3000, 3 if quick else 7)
    console.print(rich_table(_executors(local, remote)))
    gaps = executors.gaps(3.0 if quick else 20.0)
    console.print(rich_table(_gaps(gaps)))
    small, large = found[:2]
    aims = [
        Aim("round trip of 16 KB, encrypted, p50", 1e3 * small.p50_s, 0.3, "ms", is_most=True),
        Aim("602 KB, encrypted, on one connection", large.gb_per_s, 0.5, "GB/s", is_most=False),
        Aim("CPU of the server per batch, remote / process", remote.server_s / local.server_s, 1.5, "×", is_most=True),
    ]
    for aim in aims:
        console.print(aim_line(aim))
    return 0 if all(aim.is_reached for aim in aims) else 1


def _channels(found: list[channels.RoundTrips]) -> Table:
    rows = tuple(
        (f"{each.channel}, {each.size / 1000:.0f} KB", f"{1e3 * each.p50_s:.3f}", f"{1e3 * each.p99_s:.3f}",
         f"{each.gb_per_s:.2f}", f"{1e6 * each.client_cpu_s:.0f}")
        for each in found
    )  # fmt: skip
    return Table("Round trips, one at a time", ("channel", "p50, ms", "p99, ms", "GB/s", "client's CPU, µs"), rows)


def _executors(local: executors.Figures, remote: executors.Figures) -> Table:
    named = (("in a process here", local), ("behind an agent", remote))
    rows = [(name, f"{1e6 * each.server_s:.0f}", f"{1e6 * each.all_s:.0f}") for name, each in named]
    ratio = (f"{remote.server_s / local.server_s:.2f}", f"{remote.all_s / local.all_s:.2f}")
    columns = ("device", "server", "server, agent and device")
    return Table("CPU per batch of one row, µs", columns, (*rows, ("ratio", *ratio)), "the model takes some 20 µs")


def _gaps(gaps: dict[int, float]) -> Table:
    rows = tuple((f"{hogs} busy processes", f"{1e3 * gap_s:.0f}") for hogs, gap_s in gaps.items())
    note = f"sent each {1e3 * BEAT_S:.0f} ms; a host is dead after {1e3 * MAX_SILENT * BEAT_S:.0f} ms"
    return Table("The longest time without anything from an agent", ("beside", "ms"), rows, note)


if __name__ == "__main__":
    sys.exit(main())
