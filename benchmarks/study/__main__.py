"""What `proteus study` promises: a line for each aim; exits with 1 where one is missed.

``--parts`` names some parts only. ``--quick`` measures a little of each, to see that it works; its figures mean
nothing.
"""

import argparse
import sys
from collections.abc import Mapping

from benchmarks.machine import machine
from benchmarks.study import concurrency, cost, drift, peak, peers, server_peak, share, telemetry
from benchmarks.study.parts import Part
from benchmarks.tables import aim_line

PARTS: Mapping[str, Part] = {
    "concurrency": concurrency.measure,
    "cost": cost.measure,
    "drift": drift.measure,
    "peak": peak.measure,
    "peers": peers.measure,
    "share": share.measure,
    "server-peak": server_peak.measure,
    "telemetry": telemetry.measure,
}
"""A new part is one line."""


def main() -> int:
    """Measure, print figures and aims; 1 where an aim is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), metavar="PART,…", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="measure a little of each, to see that it works")
    options = parser.parse_args()
    chosen = [name.strip() for name in options.parts.split(",")]
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"no part `{unknown[0]}`; there are {', '.join(PARTS)}")
    print(machine())
    is_reached = True
    for name in chosen:
        found = PARTS[name](options.quick)
        print(f"\n{name}", *found.lines, *map(aim_line, found.aims), sep="\n")
        is_reached &= all(aim.is_reached for aim in found.aims)
    return 0 if is_reached else 1


if __name__ == "__main__":
    sys.exit(main())
