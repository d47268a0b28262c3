"""How long each attack on a server delays others, how much memory it takes, and whether the server ends it.

`python -m benchmarks.attacks` (4 minutes; with ``--quick`` 1.5): each attack against a server of its own on 127.0.0.1,
with a well-behaved client beside it. Prints a line for each bound of docs/security.md; exit 1 where one does not hold.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.attacks.attacker import Done
from benchmarks.attacks.attacks import ATTACKS, Attack
from benchmarks.attacks.bystander import ask_until
from benchmarks.attacks.target import COUNTED_BYTES, MIB, UNCOUNTED_BYTES, Server, make_workspace, server
from benchmarks.machine import machine
from benchmarks.serving.venvs import ROOT
from benchmarks.tables import Aim, aim_line

LASTS_S, QUICK_S = 5.0, 1.5
BASE_BYTES = 96 * MIB  # what a server takes for its first requests, whoever sends them, and to decode one at a time
SETTLES_S = 0.2


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attacks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_S:g} s of each attack instead of {LASTS_S:g}")
    parser.add_argument("--only", default="", metavar="TEXT", help="the attacks that have this in their name")
    options = parser.parse_args()
    chosen = [attack for attack in ATTACKS.values() if options.only in attack.name]
    print(machine(), flush=True)
    missed = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_workspace(root)
        for attack in chosen:
            for aim in attacked(root, attack, QUICK_S if options.quick else LASTS_S):
                print(aim_line(aim), flush=True)
                missed += not aim.is_reached
    print(f"{len(chosen)} attacks, {missed} bounds missed")
    return 1 if missed or not chosen else 0


def attacked(root: Path, attack: Attack, lasts_s: float) -> Iterator[Aim]:
    """What came of an attack against a server of that workspace, beside what may."""
    with server(root) as target:
        target.begin_peak()
        before_bytes = target.memory_bytes()
        done, waited_s = _run(attack, target, lasts_s)
        more_bytes = target.memory_bytes("VmHWM") - before_bytes
        assert "Traceback" not in target.log.read_text(encoding="utf-8"), target.process.log_end()
    sent = f"{done.opened} connections sent {done.sent_bytes / MIB:.1f} MiB"
    asked = f"{len(waited_s)} requests beside them waited {1000 * max(waited_s):.0f} ms at most"
    held_ms = 1000 * target.longest.s
    yield Aim(f"{attack.name} ({sent}, {asked}): others held", held_ms, attack.held_ms, "ms", is_most=True)
    most_bytes = BASE_BYTES + COUNTED_BYTES + attack.connections * UNCOUNTED_BYTES + attack.decoding_bytes
    yield Aim(f"{attack.name}: memory", more_bytes / MIB, most_bytes / MIB, "MiB more", is_most=True)
    if attack.is_closed:
        yield Aim(f"{attack.name}: closed", done.closed / done.opened, 1.0, "of the connections", is_most=False)


def _run(attack: Attack, target: Server, lasts_s: float) -> tuple[Done, list[float]]:
    """What the attacker says, and how long each request beside it waited, in seconds."""
    port, waited_s = target.grpc_port if attack.is_grpc else target.http_port, list[float]()
    command = [sys.executable, "-m", "benchmarks.attacks.attacker", attack.name, str(port), str(lasts_s)]
    waited_s += ask_until(time.monotonic() + SETTLES_S, target.http_port)
    target.longest.reset()
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as attacker:
        assert attacker.stdout is not None
        while attacker.poll() is None:
            waited_s += ask_until(time.monotonic() + SETTLES_S, target.http_port)
        return msgspec.json.decode(attacker.stdout.read(), type=Done), waited_s


if __name__ == "__main__":
    sys.exit(main())
