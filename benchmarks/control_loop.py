"""What the control loop costs requests, and how soon a killed server serves again.

`python -m benchmarks.control_loop` (6 minutes): the same trace against a server that keeps its plan and against one
that solves as often as a server can, in turns; and the time from the start of a process until it takes requests by the
plan of one that was killed, while its solver gets ready beside. Devices are emulated, so that what is compared is the
server. The machine must have nothing else to do.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from benchmarks.paper.cluster import Cluster, cluster_at
from benchmarks.tables import Aim, conclude
from proteus_cli.domain.report import Report
from proteus_cli.store import read_json

SLO = "300ms"
KEEPS, SOLVES = "keeps its plan", "solves"
WAYS = {KEEPS: ("--replan=off",), SOLVES: ("--replan=period=200ms",)}
MAX_P99_RATIO = 1.05  # of a server that solves, over one that keeps its plan
MAX_READY_S = 3.0  # after a crash; emulated devices load in no time
MIN_BUSY_FRAC = 0.01  # of the time in the solver: p99 would hardly show less


def main() -> int:
    """Run the benchmark, and print its tables and aims; 1 where an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=20, help="length of a run")
    parser.add_argument("--rate", type=int, default=300, help="queries per second")
    options = parser.parse_args()
    console = Console()
    console.print(machine())
    with tempfile.TemporaryDirectory() as directory:
        cluster = cluster_at(Path(directory) / "ws", is_paper=False, slo=SLO)
        _plan(cluster, options.rate)
        traces = [_trace(cluster, options.rate, options.seconds, seed) for seed in range(options.rounds)]
        rounds = [{way: _run(cluster, trace, way) for way in WAYS} for trace in traces]
        console.print(_compared(rounds))
        restarts = [_restart(cluster) for _ in range(options.rounds)]
        console.print(_restarts(restarts))
    return conclude(aims(rounds, restarts))


@dataclass(frozen=True, slots=True)
class Run:
    """A trace against a server: its report, and what part of the time the solver worked."""

    report: Report
    solving_frac: float


@dataclass(frozen=True, slots=True)
class Restart:
    """Seconds from the start of a process until it takes requests, and until its solver is ready."""

    ready_s: float
    solver_s: float
    origin: str


@contextmanager
def _server(cluster: Cluster, *options: str) -> Iterator["tuple[subprocess.Popen[bytes], str]"]:
    arguments = ("serve", "plan", "--emulate", "--port", "0", "--workspace", str(cluster.place.root), *options)
    command = [sys.executable, "-m", "proteus_cli", *arguments]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL)
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().decode().split()[1]
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()


def _status(url: str) -> Any:
    with urlopen(f"{url}/v2/proteus/status") as reply:  # noqa: S310 - of our own server
        return json.load(reply)


def _run(cluster: Cluster, trace: Path, way: str) -> Run:
    output = cluster.place.root / "report.json"
    with _server(cluster, *WAYS[way], "--set=resume=false") as (_, url):
        if way == SOLVES:
            _wait_for_solver(url)
        before = len(_status(url)["changes"])
        start_s = time.monotonic()
        _proteus(cluster, "replay", str(trace), "--url", url, "-o", str(output))
        lasted_s, changes = time.monotonic() - start_s, _status(url)["changes"][before:]
    report = read_json(output, Report, hint="the benchmark wrote it")
    assert report.failed == 0, "no request may fail"
    solving_frac = sum(change["solve_s"] for change in changes) / lasted_s
    assert (solving_frac > MIN_BUSY_FRAC) == (way == SOLVES), f"{solving_frac:.1%} of the time in the solver"
    return Run(report, solving_frac)


def _wait_for_solver(url: str) -> None:
    while not _status(url)["solver"]["is_warm"]:
        time.sleep(0.01)


def _compared(rounds: list[dict[str, Run]]) -> Table:
    table = Table(
        "server", "p50", "p99: median (range)", "violations", "in the solver",
        title=f"{rounds[0][KEEPS].report.requests:,} requests a run, {len(rounds)} rounds",
    )  # fmt: skip
    for way in WAYS:
        runs = [each[way] for each in rounds]
        p50_ms, p99_ms = ([1000 * _latency_s(run, part) for run in runs] for part in ("p50", "p99"))
        table.add_row(
            way,
            f"{statistics.median(p50_ms):.2f} ms",
            f"{statistics.median(p99_ms):.2f} ms ({min(p99_ms):.2f}–{max(p99_ms):.2f})",
            f"{100 * statistics.median(run.report.slo_violation_ratio for run in runs):.2f} %",
            f"{100 * statistics.median(run.solving_frac for run in runs):.0f} % of the time",
        )
    ratios = _p99_ratios(rounds)
    spread = f"{min(ratios):.3f}–{max(ratios):.3f}"
    table.caption = f"p99 {statistics.median(ratios):.3f} times ({spread}) that without solving"
    return table


def _latency_s(run: Run, part: str) -> float:
    assert run.report.latency_s is not None, "something must be answered"
    return float(getattr(run.report.latency_s, part))


# --- after a crash


def _restart(cluster: Cluster) -> Restart:
    with _server(cluster) as (process, url):
        while not _status(url)["history"]["written"]:  # what isn't on the disk can't be gone on from
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    start_s = time.monotonic()
    with _server(cluster) as (_, url):
        ready_s = time.monotonic() - start_s
        origin = _status(url)["plan"]["origin"]
        _wait_for_solver(url)
        restart = Restart(ready_s, time.monotonic() - start_s, origin)
    assert restart.origin == "resumed", "it must go on from the last plan"
    return restart


def _restarts(found: list[Restart]) -> Table:
    table = Table("after a crash", "seconds: median (range)", title=f"{len(found)} times")
    for name, seconds in (
        ("until requests are taken, by the last plan", [each.ready_s for each in found]),
        ("until the solver is ready", [each.solver_s for each in found]),
    ):
        table.add_row(name, f"{statistics.median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f})")
    return table


def _p99_ratios(rounds: Sequence[Mapping[str, Run]]) -> list[float]:
    return [_latency_s(each[SOLVES], "p99") / _latency_s(each[KEEPS], "p99") for each in rounds]


def aims(rounds: Sequence[Mapping[str, Run]], restarts: Sequence[Restart]) -> list[Aim]:
    """What was to be reached, in the median of all rounds."""
    ratio, ready_s = statistics.median(_p99_ratios(rounds)), statistics.median(each.ready_s for each in restarts)
    return [
        Aim("p99 while plans are solved", ratio, MAX_P99_RATIO, "times that without", is_most=True),
        Aim("after a crash, until requests are taken", ready_s, MAX_READY_S, "s", is_most=True),
    ]


# --- commands


def _plan(cluster: Cluster, demand_qps: int) -> None:
    fleet = ",".join(f"{kind}:{count}" for kind, count in cluster.fleet.counts.items())
    path = cluster.place.plans_dir / "plan.json"
    _proteus(cluster, "plan", "--demand", f"{demand_qps}qps", "--fleet", fleet, "-o", str(path))


def _trace(cluster: Cluster, rate_qps: int, seconds: int, seed: int) -> Path:
    path = cluster.place.root / f"trace-{seed}.csv"
    how = ("--rate", f"{rate_qps}qps", "--duration", f"{seconds}s", "--seed", str(seed))
    _proteus(cluster, "trace", "make", "poisson", *how, "-o", str(path))
    return path


def _proteus(cluster: Cluster, *arguments: str) -> None:
    command = (sys.executable, "-m", "proteus_cli", "-q", *arguments, "--workspace", str(cluster.place.root))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
