"""Devices in processes of their own, behind the real front end: `proteus serve --set executor=process`."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from injecting import is_gone, until
from live_server import serving
from tiny import INPUTS, Tiny, add_plan, add_profiles, make_workspace

from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.device import Device

pytestmark = [pytest.mark.live, pytest.mark.alone, pytest.mark.from_nothing]

OPTIONS = ("--set=executor=process", "--replan", "off", "--set=log-format=json")
REQUESTS = 60


@pytest.fixture
def made(tmp_path: Path) -> Tiny:
    tiny = make_workspace(tmp_path / "ws")
    add_profiles(tiny)
    add_plan(tiny, {"cpu0": "shapes-s", "cpu1": "tones-s"})
    return tiny


def children(parent: int) -> list[int]:
    """The processes that a process has started and that run devices."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
            ppid = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended meanwhile
        if ppid == parent and b"proteus_cli.serving.devices.process.child" in command:
            found.append(int(path.name))
    return found


def scores(made: Tiny, variant: str, x: list[float]) -> list[float]:
    with OnnxRuntime(Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,))).runner(made.model(variant)) as runner:
        found: list[float] = runner.infer({"x": np.array([x], np.float32)})["scores"][0].tolist()
        return found


def test_requests_are_answered_by_processes_that_end_with_the_server(made: Tiny) -> None:
    x = [0.5, -1.0, 0.25, 2.0]
    body: Any = {"inputs": [{"name": "x", "shape": [1, INPUTS], "datatype": "FP32", "data": x}]}
    with serving(made.root, Path("plan"), *OPTIONS) as live, ThreadPoolExecutor(8) as pool:
        pids = children(live.process.pid)
        assert len(pids) == 2
        for pid in pids:
            for number in (
                signal.SIGINT,
                signal.SIGTERM,
                signal.SIGHUP,
            ):  # as a terminal or a service sends them to all
                os.kill(pid, number)
        asked = [(family, pool.submit(live.infer, family, body)) for family in ("shapes", "tones") * (REQUESTS // 2)]
        for family, future in asked:
            answer = future.result().document()
            assert answer["outputs"][0]["data"] == pytest.approx(scores(made, f"{family}-s", x), abs=1e-5)
            assert answer["parameters"]["device"] == ("cpu0" if family == "shapes" else "cpu1")
        assert live.stop() == 0
        assert all(map(is_gone, pids))
        lines = [json.loads(line) for line in live.log.read_text(encoding="utf-8").splitlines()]
        assert {line["level"] for line in lines} == {"info"}


def test_a_server_that_is_killed_takes_its_processes_along_even_stopped_ones(made: Tiny) -> None:
    with serving(made.root, Path("plan"), *OPTIONS) as live:
        pids = children(live.process.pid)
        assert len(pids) == 2
        os.kill(pids[0], signal.SIGSTOP)
        live.process.kill()
        until(lambda: all(map(is_gone, pids)))
