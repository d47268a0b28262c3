"""How long each attack on a server or an agent delays others, how much memory it takes, and whether it is ended.

`python -m benchmarks.attacks` (8 minutes; with ``--quick`` 5): each attack against a target of its own on 127.0.0.1,
with a well-behaved client beside it. Prints a line for each bound of docs/security.md; exit 1 where one does not hold.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from benchmarks.attacks import packed_trace
from benchmarks.attacks.attacker import Done
from benchmarks.attacks.attacks import ATTACKS, Attack
from benchmarks.attacks.bystander import Bystander
from benchmarks.attacks.target import COUNTED_BYTES, MIB, UNCOUNTED_BYTES, Target, make_workspaces
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
    lasts_s = QUICK_S if options.quick else LASTS_S
    rows = {attack.name: partial(attacked, attack=attack, lasts_s=lasts_s) for attack in ATTACKS.values()}
    all_rows: dict[str, Callable[[Path], Iterator[Aim]]] = rows | {packed_trace.NAME: packed_trace.read}
    chosen = [row for name, row in all_rows.items() if options.only in name]
    print(machine(), flush=True)
    missed = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_workspaces(root)
        for row in chosen:
            for aim in row(root):
                print(aim_line(aim), flush=True)
                missed += not aim.is_reached
    print(f"{len(chosen)} attacks, {missed} bounds missed")
    return 1 if missed or not chosen else 0


def attacked(root: Path, attack: Attack, lasts_s: float) -> Iterator[Aim]:
    """What came of an attack against a target in those workspaces, beside what may."""
    with attack.target(root) as target:
        beside = Bystander(target.http_port, attack.questions)
        beside.ask_until(time.monotonic() + SETTLES_S)
        target.begin_peak()
        before_bytes = target.memory_bytes()
        done = _run(attack, target, beside, lasts_s)
        more_bytes = target.memory_bytes("VmHWM") - before_bytes
        assert "Traceback" not in target.log.read_text(encoding="utf-8"), target.process.log_end()
        kept = target.models_kept()
    sent = f"{done.opened} connections sent {done.sent_bytes / MIB:.1f} MiB"
    yield Aim(f"{attack.name} ({sent}): others held", 1000 * target.longest.s, attack.held_ms, "ms", is_most=True)
    gap = f"{attack.name}: longest gap of {beside.asked} answers beside it"
    yield Aim(gap, 1000 * beside.gap_s, attack.gap_ms, "ms", is_most=True)
    most_bytes = BASE_BYTES + COUNTED_BYTES + attack.connections * UNCOUNTED_BYTES + attack.more_bytes
    yield Aim(f"{attack.name}: memory", more_bytes / MIB, most_bytes / MIB, "MiB more", is_most=True)
    if attack.is_closed:
        yield Aim(f"{attack.name}: closed", done.closed / done.opened, 1.0, "of the connections", is_most=False)
    if kept is not None:
        yield Aim(f"{attack.name}: models of others that are kept", kept, 1.0, "of 1", is_most=False)


def _run(attack: Attack, target: Target, beside: Bystander, lasts_s: float) -> Done:
    """What the attacker says, while the bystander asks."""
    port = target.grpc_port if attack.is_grpc else target.http_port
    command = [sys.executable, "-m", "benchmarks.attacks.attacker", attack.name, str(port), str(lasts_s)]
    target.longest.reset()
    beside.gap_s = 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as attacker:
        assert attacker.stdout is not None
        while attacker.poll() is None:
            beside.ask_until(time.monotonic() + SETTLES_S)
        return msgspec.json.decode(attacker.stdout.read(), type=Done)


if __name__ == "__main__":
    sys.exit(main())
