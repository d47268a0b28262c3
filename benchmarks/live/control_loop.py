"""The cost of the control loop for requests, and the time until a killed server serves again.

The same trace goes to a server that keeps its plan and to one that solves ten times a second, as often as it can, in
turns. Devices are emulated, so that servers are compared. The machine must have nothing else to do.
"""

import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from benchmarks.frame import Aim, Found, Run, Table, proteus, spread
from benchmarks.worlds import Cluster, cluster_at
from proteus_cli.domain.report import Report
from proteus_cli.store import read_json

SLO, RATE_QPS, LASTS_S, QUICK_S = "300ms", 300, 20, 6
KEEPS, SOLVES = "keeps its plan", "solves"
WAYS = {KEEPS: "--replan=off", SOLVES: "--replan=period=100ms"}
MAX_P99_RATIO = 1.05  # of a server that solves, over one that keeps its plan
MAX_READY_S = 3.0  # after a crash; emulated devices load in no time
MIN_BUSY_FRAC = 0.003  # of the time in the solver: p99 would hardly show less


def control_loop(run: Run) -> Found:
    """Latency while plans are solved, and restarts."""
    cluster, reports, busy = cluster_at(run.directory / "cluster", is_paper=False, slo=SLO), [], list[float]()
    root, fleet = cluster.place.root, ",".join(f"{kind}:{count}" for kind, count in cluster.fleet.counts.items())
    proteus("plan", "--demand", f"{RATE_QPS}qps", "--fleet", fleet, "-o", str(_plan(root)), "-w", str(root))
    for seed in range(run.rounds):
        trace, lasts_s = root / f"trace-{seed}.csv", QUICK_S if run.is_quick else LASTS_S
        shape = ("--rate", f"{RATE_QPS}qps", "--duration", f"{lasts_s}s", "--seed", str(seed))
        proteus("trace", "make", "poisson", *shape, "-o", str(trace), "-w", str(root))
        reports.append({way: _replayed(cluster, trace, way, busy) for way in WAYS})
    p99_ms = {way: [_p99_ms(each[way]) for each in reports] for way in WAYS}
    ratios = [solves / keeps for keeps, solves in zip(*p99_ms.values(), strict=True)]
    restarts = [_restarted(cluster) for _ in range(run.rounds)]
    ready_s, solver_s = ([each[place] for each in restarts] for place in (0, 1))
    violations = {way: [100 * each[way].slo_violation_ratio for each in reports] for way in WAYS}
    rows = (
        *((f"{way}: p99, ms / violations, %", f"{spread(p99_ms[way])} / {spread(violations[way])}") for way in WAYS),
        ("p99, times that without solving", spread(ratios, ".3f")),
        ("of the time in the solver, %", spread(busy, ".0f")),
        ("after a crash: until requests are taken, s", spread(ready_s)),
        ("after a crash: until the solver is ready, s", spread(solver_s)),
    )
    title = f"{reports[0][KEEPS].requests:,} requests a run, {run.rounds} rounds"
    return Found(
        (Table(title, ("measure", "median (range)"), rows),),
        (
            Aim("p99 while plans are solved", statistics.median(ratios), MAX_P99_RATIO, "times that without", True),
            Aim("after a crash, until requests are taken", statistics.median(ready_s), MAX_READY_S, "s", True),
        ),
    )


def _plan(root: Path) -> Path:
    return root / "plans" / "plan.json"


def _p99_ms(report: Report) -> float:
    assert report.latency_s is not None, "something must be answered"
    return 1000 * report.latency_s.p99


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


def _solved_s(url: str) -> float:
    """Seconds that the server has spent on solving."""
    with urlopen(f"{url}/metrics") as reply:  # noqa: S310 - of our own server
        return float(re.findall(r"^proteus_plan_solve_seconds_total (\S+)$", reply.read().decode(), re.MULTILINE)[0])


def _wait_for_solver(url: str) -> None:
    while not _status(url)["solver"]["is_warm"]:
        time.sleep(0.01)


def _replayed(cluster: Cluster, trace: Path, way: str, busy: list[float]) -> Report:
    """A trace against a server; ``busy`` gets the percentage of the time in the solver."""
    output = cluster.place.root / "report.json"
    with _server(cluster, WAYS[way], "--set=resume=false") as (_, url):
        if way == SOLVES:
            _wait_for_solver(url)
        before_s, start_s = _solved_s(url), time.monotonic()
        proteus("replay", str(trace), "--url", url, "-o", str(output), "--workspace", str(cluster.place.root))
        solving_frac = (_solved_s(url) - before_s) / (time.monotonic() - start_s)
    report = read_json(output, Report, hint="the benchmark wrote it")
    assert report.failed == 0, "no request may fail"
    assert (solving_frac > MIN_BUSY_FRAC) == (way == SOLVES), f"{solving_frac:.1%} of the time in the solver"
    busy += [100 * solving_frac] if way == SOLVES else []
    return report


def _restarted(cluster: Cluster) -> tuple[float, float]:
    """Seconds from the start of a process until it takes requests by the last plan, and until its solver is ready."""
    with _server(cluster) as (process, url):
        while not _status(url)["history"]["written"]:  # the new process goes on from the disk
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    start_s = time.monotonic()
    with _server(cluster) as (_, url):
        ready_s = time.monotonic() - start_s
        assert _status(url)["plan"]["origin"] == "resumed", "it must go on from the last plan"
        _wait_for_solver(url)
        return ready_s, time.monotonic() - start_s
