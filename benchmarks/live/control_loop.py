"""Latency of requests while plans are solved.

The same trace goes to a server that keeps its plan and to one that solves ten times a second, as often as it can, in
turns. Devices are emulated, so that servers are compared. The machine must have nothing else to do.
"""

import re
import statistics
import time
from pathlib import Path
from urllib.request import urlopen

from benchmarks.frame import Aim, Found, Run, Table, proteus, spread
from benchmarks.live.lab import until_warm
from benchmarks.worlds import Cluster, cluster_at
from proteus_cli.domain.report import Report
from proteus_cli.replay.local_server import local_server
from proteus_cli.store import read_json

SLO, RATE_QPS, LASTS_S, QUICK_S = "300ms", 300, 20, 6
KEEPS, SOLVES = "keeps its plan", "solves"
WAYS = {KEEPS: "--replan=off", SOLVES: "--replan=period=100ms"}
MAX_P99_RATIO = 1.05  # of a server that solves, over one that keeps its plan
MIN_BUSY_FRAC = 0.003  # of the time in the solver: p99 would hardly show less


def control_loop(run: Run) -> Found:
    """Rounds with both servers."""
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
    violations = {way: [100 * each[way].slo_violation_ratio for each in reports] for way in WAYS}
    rows = (
        *((f"{way}: p99, ms / violations, %", f"{spread(p99_ms[way])} / {spread(violations[way])}") for way in WAYS),
        ("p99, times that without solving", spread(ratios, ".3f")),
        ("of the time in the solver, %", spread(busy, ".0f")),
    )
    title = f"{reports[0][KEEPS].requests:,} requests a run, {run.rounds} rounds"
    return Found(
        (Table(title, ("measure", "median (range)"), rows),),
        (Aim("p99 while plans are solved", statistics.median(ratios), MAX_P99_RATIO, "times that without", True),),
    )


def _plan(root: Path) -> Path:
    return root / "plans" / "plan.json"


def _p99_ms(report: Report) -> float:
    assert report.latency_s is not None, "something must be answered"
    return 1000 * report.latency_s.p99


def _solved_s(url: str) -> float:
    """Seconds that the server has spent on solving."""
    with urlopen(f"{url}/metrics") as reply:  # noqa: S310 - of our own server
        return float(re.findall(r"^proteus_plan_solve_seconds_total (\S+)$", reply.read().decode(), re.MULTILINE)[0])


def _replayed(cluster: Cluster, trace: Path, way: str, busy: list[float]) -> Report:
    """A trace against a server; ``busy`` gets the percentage of the time in the solver."""
    output = cluster.place.root / "report.json"
    options = (WAYS[way], "--set=resume=false")
    with local_server(_plan(cluster.place.root), cluster.place.root, emulate=True, options=options) as url:
        if way == SOLVES:
            until_warm(url)
        before_s, start_s = _solved_s(url), time.monotonic()
        proteus("replay", str(trace), "--url", url, "-o", str(output), "--workspace", str(cluster.place.root))
        solving_frac = (_solved_s(url) - before_s) / (time.monotonic() - start_s)
    report = read_json(output, Report, hint="the benchmark wrote it")
    assert report.failed == 0, "no request may fail"
    assert (solving_frac > MIN_BUSY_FRAC) == (way == SOLVES), f"{solving_frac:.1%} of the time in the solver"
    busy += [100 * solving_frac] if way == SOLVES else []
    return report
