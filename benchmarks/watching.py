"""What it costs to be watched: memory and CPU time of the history, of its answers, and of frames in the terminal.

A server of synthetic families and devices whose counters move as if it served; nothing listens, and no model runs. Each
sample must tell just what was counted. Prints medians of CPU time; other load on the machine hardly changes them.
"""

import argparse
import io
import random
import statistics
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
from rich.console import Console
from rich.live import Live

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the module beside this one, however it is started

from benchmarks.machine import machine
from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.cli.live_view import frame
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Host
from proteus_cli.control.policies import live_policy_named
from proteus_cli.domain.base import FORMAT, MadeBy
from proteus_cli.domain.device import Device
from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.plan import PLAN_FORMAT, Placement, Plan, Solver
from proteus_cli.domain.profile import BackendInfo, Point, Profile, VariantProfile
from proteus_cli.domain.request import Outcome
from proteus_cli.domain.rules import Rules
from proteus_cli.serving.adaptation.control_loop import ControlLoop
from proteus_cli.serving.adaptation.plan_inputs import LivePlanner
from proteus_cli.serving.devices.executor import ExecutorBase
from proteus_cli.serving.requests.data_plane import make_data_plane
from proteus_cli.serving.requests.families import ServedFamily
from proteus_cli.serving.telemetry.recorder import SAMPLES
from proteus_cli.serving.telemetry.telemetry import Sources, Telemetry

SIZES = ((2, 2), (10, 40), (10, 100))  # families, devices
REPEATS = 100
ACCURACY = 0.75
SLO_S = 0.1
COLUMNS, LINES = 120, 50
VARIANTS = ("s", "m", "l", "xl", "xxl", "3xl")  # of each family; l is hosted
NOBODY = MadeBy(version="0", host="bench", time="")
X = TensorSpec("x", np.dtype(np.float32), (1,))


class World:
    """Counters that move by a second at a time."""

    def __init__(self, families: int, devices: int) -> None:
        self.now_s, self._random = 0.0, random.Random(7)  # noqa: S311 - no secret
        names = [f"family-{place}" for place in range(families)]
        self.hosted = {f"gpu{place}": names[place % families] for place in range(devices)}
        controller = Controller(
            dict.fromkeys(names, SLO_S), dict.fromkeys(self.hosted, 1), live_policy_named("proteus")
        )
        idle = cast("Any", ExecutorBase("none", print))
        keys = [(name, f"{name}-{variant}") for name in names for variant in VARIANTS]
        measured = tuple(VariantProfile(*key, ACCURACY, None, "", None, 0.0, 0.0, 0, ()) for key in keys)
        served = [
            ServedFamily(
                name, Signature((X,), (X,)), SLO_S, 8, ACCURACY,
                variants={f"{name}-{variant}": ACCURACY for variant in VARIANTS},
            )
            for name in names
        ]  # fmt: skip
        self.plane = make_data_plane(
            controller, served, self.hosted, lambda _device, _on_lost: idle, self.clock, models={},
            profiles={
                device: Profile(
                    FORMAT, NOBODY, Device(device, "gpu", "gpu", "", 0), "gpu0", BackendInfo("", {}), measured
                )
                for device in self.hosted
            },
        )  # fmt: skip
        controller.adopt(self._plan(names), [self._host(device) for device in self.hosted], 0.0)

    def clock(self) -> float:
        return self.now_s

    def second(self) -> None:
        """A second's worth of answers."""
        self.now_s += 1.0
        for device, family in self.hosted.items():
            counts, worker = self.plane.counts.by_family[family], self.plane.fleet.workers[device]
            requests = self._random.randrange(20, 200)
            counts.ended(Outcome.SERVED, f"{family}-l", device, requests)
            counts.ended(Outcome.LATE, f"{family}-l", device, 1)
            counts.accuracy += ACCURACY * requests
            counts.rows += requests
            worker.busy_s += 0.5
            worker.batches += 10
            worker.rows += requests
            for _ in range(5):
                counts.latency.add(self._random.uniform(0, 0.12))

    def _host(self, device: str) -> Host:
        family, s = self.hosted[device], 0.01
        points = tuple(Point(batch, 10, s, s, s, s, s, batch / s) for batch in (1, 8))
        table = LatencyTable(points, of=lambda point: point.p95_s)
        return Host(device, family, f"{family}-l", ACCURACY, 8, 100.0, 800.0, table, table)

    def _plan(self, names: list[str]) -> Plan:
        placements = tuple(
            Placement(device, family, f"{family}-l", 8, 100.0, 1.0, 800.0) for device, family in self.hosted.items()
        )
        nothing = dict.fromkeys(names, 0.0)
        return Plan(
            format=PLAN_FORMAT, made_by=NOBODY, policy="proteus", objective="",
            rules=Rules(), headroom=1.0, demand_qps=nothing, served_qps=nothing, unserved_qps=nothing,
            effective_accuracy=None, relative_accuracy=None, solver=Solver("", "", 0.0, 0.0),
            fleet={"gpu": tuple(self.hosted)}, placements=placements, inputs={},
        )  # fmt: skip


def cpu_ms(work: Callable[[], Any]) -> float:
    """Median CPU time of this thread."""
    took = []
    for _ in range(REPEATS):
        start_s = time.thread_time()
        work()
        took.append((time.thread_time() - start_s) * 1e3)
    return statistics.median(took)


def measure(families: int, devices: int) -> dict[str, float]:
    """What it costs with so many."""
    tracemalloc.start()
    world = World(families, devices)
    before = tracemalloc.get_traced_memory()[0]
    nothing: Any = None
    loop = ControlLoop(world.plane, LivePlanner(nothing, nothing, None))
    telemetry = Telemetry(Sources(world.plane, loop), world.clock)
    for _ in range(SAMPLES + 1):
        world.second()
        telemetry.sample()
    memory = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    check(telemetry)
    last = f"{telemetry.history().server}-{SAMPLES}"
    one, most = (msgspec.json.encode(telemetry.history(since)) for since in (last, None))
    return {
        "in all, bytes": memory,
        "a sample, ms": cpu_ms(telemetry.sample),
        "an answer of one sample, ms": cpu_ms(lambda: msgspec.json.encode(telemetry.history(last))),
        "its bytes": len(one),
        "the largest answer, ms": cpu_ms(lambda: msgspec.json.encode(telemetry.history())),
        "bytes": len(most),
        "gzip, ms": cpu_ms(lambda: zlib.compress(most, 1)),
        "a frame, ms": frame_ms(telemetry),
    }


def check(telemetry: Telemetry) -> None:
    """All that was served is told, none of it twice."""
    told, cursor = 0, None
    while True:
        feed = telemetry.history(cursor)
        told += len(feed.samples.at_s)
        for family in feed.samples.families.values():
            assert all(value is not None and abs(value - ACCURACY) < 1e-5 for value in family["accuracy"])
        cursor = feed.cursor
        if feed.complete:
            break
    assert told == SAMPLES


def frame_ms(telemetry: Telemetry) -> float:
    """What a frame in the terminal costs."""
    now = telemetry.shown()
    console = Console(file=io.StringIO(), width=COLUMNS, height=LINES, force_terminal=True, highlight=False)
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        return cpu_ms(lambda: live.update(frame(now(), COLUMNS, LINES), refresh=True))


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(machine())
    for families, devices in SIZES:
        print(f"\n{families} families, {devices} devices")
        for what, value in measure(families, devices).items():
            print(f"  {what:<30}{value:>12,.2f}" if what.endswith("ms") else f"  {what:<30}{value:>12,.0f}")


if __name__ == "__main__":
    main()
