"""One of two devices is lost at 60 % load: what goes wrong, and when all is as it was.

`python -m benchmarks.adaptation.failover` (40 s a round): the process of a device is killed, then stopped, so that
it hangs, while it has work; then the server itself is killed and started again. The cluster and the client are those of
`tests/live/test_faults.py`: emulated devices in processes of their own, so the times of batches are emulated, and those
of what breaks and comes back are measured.
"""

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from benchmarks.tables import Aim, conclude
from proteus_cli.control.devices.breaker import MIN_HANG_TIMEOUT_S

_TESTS = Path(__file__).parents[2] / "tests"
sys.path[:0] = [str(_TESTS / "live"), str(_TESTS / "cli")]

from injecting import kill_at_work, metric, pid_of  # noqa: E402 - tests are no package
from live_server import LiveServer, serving  # noqa: E402
from small_cluster import EMULATED, LOAD_S, RATES_QPS, SLO, make_small_cluster, one_row  # noqa: E402
from steady import asking, violations  # noqa: E402

DEVICE, FAMILY = "a-0", "shapes"
WATCHED_S = 10.0
CALM_S = 2.0

Figures = Mapping[str, float]

LIMITS: dict[str, float | None] = {  # what the median of each measure may be at most; None: it has no aim
    "violations in the 10 s after, %": 2.0,
    "requests run again": None,
    "noticed after, s": MIN_HANG_TIMEOUT_S + 2.0,
    "new plan in force after, s": None,
    "device back after, s": None,
    "ready again, without loading, s": 3.0,
}


def main() -> int:
    """Run the benchmark, and print its table and aims; 1 where an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[Figures]] = {"killed": [], "hangs": [], "server killed": []}
    with tempfile.TemporaryDirectory() as directory:
        root = make_small_cluster(Path(directory) / "ws").root
        for _ in range(options.rounds):
            with _started(root) as live:
                found["killed"].append(_lost(live, kill_at_work))
                found["hangs"].append(_lost(live, lambda pid: os.kill(pid, signal.SIGSTOP)))
                live.process.kill()
                live.process.wait()
            found["server killed"].append(_restarted(root))
    console = Console()
    console.print(machine())
    console.print(f"emulated devices, SLO {SLO}, {RATES_QPS[FAMILY]:g} qps; median (range) of {options.rounds} rounds")
    console.print(_table(found))
    return conclude(list(_aims(found)))


@contextmanager
def _started(root: Path) -> Iterator[LiveServer]:
    with serving(root, Path("plan"), *EMULATED, "--set=resume=false") as live:
        yield live


def _lost(live: LiveServer, fault: Callable[[int], None]) -> Figures:
    """What the loss of a device cost, in which every request was counted on both sides."""
    before = live.status()
    losses, changes = before["devices"][DEVICE]["losses"], len(before["changes"])
    series = f'proteus_retried_requests_total{{family="{FAMILY}"}}'
    retried = metric(live, series)
    with asking(live, RATES_QPS, one_row) as steady:
        time.sleep(CALM_S)
        pid = pid_of(live, DEVICE)
        lost_s = time.monotonic()
        fault(pid)
        noticed_s = _until(live, lambda status: status["devices"][DEVICE]["losses"] > losses) - lost_s
        planned_s = _until(live, lambda status: len(status["changes"]) > changes) - lost_s
        back_s = _until(live, lambda status: status["devices"][DEVICE]["breaker"] == "closed") - lost_s
        time.sleep(max(0.0, lost_s + WATCHED_S - time.monotonic()))
    after = steady.ended(FAMILY, lost_s, lost_s + WATCHED_S)
    return {
        "violations in the 10 s after, %": 100 * violations(after),
        "requests run again": metric(live, series) - retried,
        "noticed after, s": noticed_s,
        "new plan in force after, s": planned_s,
        "device back after, s": back_s,
    }


def _until(live: LiveServer, holds: Callable[[Any], bool]) -> float:
    live.until(holds)
    return time.monotonic()


def _restarted(root: Path) -> Figures:
    start_s = time.monotonic()
    with serving(root, Path("plan"), *EMULATED) as live:
        ready_s = time.monotonic() - start_s
        assert live.status()["plan"]["origin"] == "resumed"
        assert live.stop() == 0
    return {"ready again, without loading, s": ready_s - LOAD_S}


def _table(found: Mapping[str, Sequence[Figures]]) -> Table:
    table = Table("", *found)
    for measure in LIMITS:
        cells = []
        for rounds in found.values():
            values = [figures[measure] for figures in rounds if measure in figures]
            cells.append(f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})" if values else "")
        table.add_row(measure, *cells)
    return table


def _aims(found: Mapping[str, Sequence[Figures]]) -> Iterator[Aim]:
    for what, rounds in found.items():
        for measure, limit in LIMITS.items():
            values = [figures[measure] for figures in rounds if measure in figures]
            if limit is not None and values:
                name, _, unit = measure.rpartition(", ")
                yield Aim(f"{what}: {name}", statistics.median(values), limit, unit, is_most=True)


if __name__ == "__main__":
    sys.exit(main())
