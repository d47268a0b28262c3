"""How exact emulated devices are, what they cost, and how near an emulated cluster is to the simulated one.

`python -m benchmarks.emulation` (4 minutes): when batches end, by the alarm of emulated devices and by uvloop's own
timers; what a server of 40 emulated devices costs while it does nothing; and one trace against that server and in
simulation. The cluster is the paper's with `--paper`, where its data is there, else one that is made up.
"""

import argparse
import asyncio
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import msgspec
import numpy as np
import numpy.typing as npt
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from benchmarks.paper.cluster import Cluster, cluster_at
from proteus_cli.domain.profile import Point
from proteus_cli.domain.report import Report
from proteus_cli.replay.local_server import local_server
from proteus_cli.serving.devices.emulated import TimerThread
from proteus_cli.store import read_json, write_json

SLO = "300ms"
SLOWER, LOAD_S = 10.0, 0.5  # synthetic devices are slow, so that a laptop can ask for more than the best carry
CASES = ((1, 0.0005), (1, 0.0014), (1, 0.02), (40, 0.02), (40, 0.1))  # devices, seconds of a batch
FOR_S = 4.0
IDLE_S = 5.0

At = Callable[[float, Callable[[], None]], object]

MEASURES: dict[str, tuple[str, Callable[[Report], float]]] = {  # unit, and how to read it off a report
    "relative accuracy": ("points", lambda report: 100 * (report.relative_accuracy or 0.0)),
    "SLO violation ratio": ("points", lambda report: 100 * report.slo_violation_ratio),
    "mean batch size": ("%", lambda report: report.mean_batch or 0.0),
    "latency p50": ("ms", lambda report: 1000 * report.latency_s.p50 if report.latency_s else 0.0),
    "latency p99": ("ms", lambda report: 1000 * report.latency_s.p99 if report.latency_s else 0.0),
    "changes of plan": ("", lambda report: len(report.replans)),
}


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paper", action="store_true", help="the paper's cluster")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calm", type=int, default=150, help="queries per second outside the burst")
    parser.add_argument("--peak", type=int, default=600, help="queries per second in the burst")
    options = parser.parse_args()
    console = Console()
    console.print(machine())
    console.print(_lateness())
    with tempfile.TemporaryDirectory() as directory:
        cluster = cluster_at(Path(directory) / "ws", is_paper=options.paper, slo=SLO)
        if not options.paper:
            _slow_down(cluster)
        _plan(cluster, options.calm)
        console.print(f"{cluster.name}: {100 * _idle_frac(cluster):.1f} % of a core while it does nothing")
        rounds = [_round(cluster, options.calm, options.peak, seed) for seed in range(options.rounds)]
    console.print(_compared(cluster, rounds))


# --- when batches end


@dataclass(frozen=True, slots=True)
class Ends:
    """How late batches ended, in seconds, and the part of a core that it took."""

    late_s: npt.NDArray[np.float64]
    cpu_frac: float


def _lateness() -> Table:
    table = Table("devices", "batch", "timers", "late: mean", "p50", "p99", "CPU", title="ends of batches, in µs")
    for devices, batch_s in CASES:
        for name, by in (("alarm", _by_alarm), ("uvloop", _by_loop)):
            ends = by(devices, batch_s)
            late_us = 1e6 * ends.late_s
            assert len(late_us) > FOR_S / batch_s / 4, "batches must end"
            row = (np.mean(late_us), np.median(late_us), np.percentile(late_us, 99))
            figures = (f"{figure:.0f}" for figure in row)
            table.add_row(str(devices), f"{1000 * batch_s:g} ms", name, *figures, f"{100 * ends.cpu_frac:.1f} %")
    return table


def _by_alarm(devices: int, batch_s: float) -> Ends:
    async def run() -> Ends:
        with TimerThread() as alarm:
            return await _ends(devices, batch_s, alarm.at)

    return _in_uvloop(run)


def _by_loop(devices: int, batch_s: float) -> Ends:
    async def run() -> Ends:
        later = asyncio.get_running_loop().call_later
        return await _ends(devices, batch_s, lambda due_s, call: later(due_s - time.monotonic(), call))

    return _in_uvloop(run)


def _in_uvloop(run: Callable[[], object]) -> Ends:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found: Ends = runner.run(run())  # type: ignore[arg-type]
    return found


async def _ends(devices: int, batch_s: float, at: At) -> Ends:
    """Each device begins its next batch when it hears that one has ended."""
    late_s: list[float] = []
    stop_s, cpu_s = time.monotonic() + FOR_S, time.process_time()
    running = devices

    def begin() -> None:
        due_s = time.monotonic() + batch_s
        at(due_s, lambda: end(due_s))

    def end(due_s: float) -> None:
        nonlocal running
        now_s = time.monotonic()
        late_s.append(now_s - due_s)
        if now_s < stop_s:
            begin()
        else:
            running -= 1

    for device in range(devices):
        asyncio.get_running_loop().call_later(device * batch_s / devices, begin)
    while running:
        await asyncio.sleep(0.05)
    return Ends(np.array(late_s), (time.process_time() - cpu_s) / FOR_S)


# --- a cluster


def _slow_down(cluster: Cluster) -> None:
    for kind, profile in cluster.fleet.types.items():
        variants = (
            msgspec.structs.replace(variant, load_s=LOAD_S, points=tuple(map(_slower, variant.points)))
            for variant in profile.variants
        )
        write_json(cluster.place.profile_path(kind), msgspec.structs.replace(profile, variants=tuple(variants)))


def _slower(point: Point) -> Point:
    times = {name: getattr(point, name) * SLOWER for name in ("mean_s", "p50_s", "p90_s", "p95_s", "p99_s")}
    return msgspec.structs.replace(point, qps=point.qps / SLOWER, **times)


def _plan(cluster: Cluster, demand_qps: int) -> Path:
    path = cluster.place.plans_dir / "plan.json"
    fleet = ",".join(f"{kind}:{count}" for kind, count in cluster.fleet.counts.items())
    _proteus(cluster, "plan", "--demand", f"{demand_qps}qps", "--fleet", fleet, "-o", str(path))
    return path


def _idle_frac(cluster: Cluster) -> float:
    """The part of a core that the server takes while nobody asks it anything."""
    with local_server(cluster.place.plans_dir / "plan.json", cluster.place.root, emulate=True) as url:
        before_s = _cpu_s(url)
        time.sleep(IDLE_S)
        return (_cpu_s(url) - before_s) / IDLE_S


def _cpu_s(url: str) -> float:
    with urlopen(f"{url}/metrics") as reply:  # noqa: S310 - of our own server
        found = re.search(r"^process_cpu_seconds_total (\S+)$", reply.read().decode(), re.MULTILINE)
    assert found is not None
    return float(found[1])


def _round(cluster: Cluster, calm_qps: int, peak_qps: int, seed: int) -> tuple[Report, Report]:
    """A burst from the same plan, against emulated devices and in simulation."""
    trace = cluster.place.root / f"burst-{seed}.csv"
    burst = ("--rate", f"{calm_qps}qps", "--peak", f"{peak_qps}qps", "--duration", "40s", "--seed", str(seed))
    _proteus(cluster, "trace", "make", "burst", *burst, "-o", str(trace))
    plan = str(_plan(cluster, calm_qps))
    reports = []
    for mode in (("--serve", plan, "--emulate"), ("--plan", plan)):
        output = cluster.place.root / "report.json"
        _proteus(cluster, "replay", str(trace), *mode, "-o", str(output))
        reports.append(read_json(output, Report, hint="the benchmark wrote it"))
    emulated, simulated = reports
    assert (emulated.mode, simulated.mode) == ("emulated", "simulated")
    assert emulated.requests == simulated.requests, "both must replay the same trace"
    assert emulated.failed == 0, "no request may fail"
    return emulated, simulated


def _proteus(cluster: Cluster, *arguments: str) -> None:
    command = (sys.executable, "-m", "proteus_cli", "-q", *arguments, "--workspace", str(cluster.place.root))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _compared(cluster: Cluster, rounds: list[tuple[Report, Report]]) -> Table:
    lag_ms = 1000 * max(emulated.generator_lag_s or 0.0 for emulated, _ in rounds)
    table = Table(
        "measure", "emulated", "simulated", "difference: median (range)",
        title=f"{cluster.name}, {rounds[0][0].requests:,} requests a round, generator lag p99 at most {lag_ms:.1f} ms",
    )  # fmt: skip
    for measure, (unit, read) in MEASURES.items():
        pairs = [(read(emulated), read(simulated)) for emulated, simulated in rounds]
        gaps = [abs(one - other) * (100 / one if unit.startswith("%") else 1.0) for one, other in pairs]
        table.add_row(
            measure,
            f"{statistics.median(emulated for emulated, _ in pairs):.2f}",
            f"{statistics.median(simulated for _, simulated in pairs):.2f}",
            f"{statistics.median(gaps):.2f} ({min(gaps):.2f}–{max(gaps):.2f}) {unit}",
        )
    return table


if __name__ == "__main__":
    main()
