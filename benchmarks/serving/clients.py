"""What the clients themselves can do, against a server that reads nothing and answers at once."""

import sys
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.serving import load
from benchmarks.serving.load import LoadFailed, Target
from benchmarks.serving.models import Samples
from benchmarks.serving.peers import free_ports
from benchmarks.serving.processes import Process, running
from benchmarks.serving.results import Client, Workload
from benchmarks.serving.server import Lab
from benchmarks.serving.venvs import ROOT
from benchmarks.serving.wire import GRPC_INFER, TO_NULL

FLOOD = 2.0  # times what the server takes: more than the Poisson client can send
FLOOD_S = 0.4
_READY_WITHIN_S = 20.0


def measure(lab: Lab, workloads: Sequence[Workload], load_s: float) -> list[Client]:
    """One figure for each workload."""
    http_port, grpc_port, _ = free_ports()
    command = (sys.executable, "-m", "benchmarks.serving.null", str(http_port), str(grpc_port))
    found = []
    with running(command, {"PYTHONPATH": str(ROOT)}, log=lab.directory / "null.log", directory=ROOT) as process:
        for workload in workloads:
            samples = lab.samples[workload.family]
            target = Target(
                process.tree,
                grpc_port if workload.kind == "grpc" else http_port,
                workload.family,
                TO_NULL[workload.kind],
                GRPC_INFER if workload.kind == "grpc" else "/",
                Samples(samples.rows, np.ones_like(samples.scores)),
                lab.directory,
            )
            _wait(target, process)
            found.append(_client(target, workload, load_s))
    return found


def _wait(target: Target, process: Process) -> None:
    stop_s = time.monotonic() + _READY_WITHIN_S
    while objection := load.first_objection(target):
        if time.monotonic() > stop_s:
            raise LoadFailed(f"the null server: {objection}; {process.log_end()}")
        time.sleep(0.1)


def _client(target: Target, workload: Workload, load_s: float) -> Client:
    found = load.saturate(target, load_s)
    rate_qps = FLOOD * found.rps
    replies = load.play(target, rate_qps, FLOOD_S, seed=0)
    answered = replies.answered
    due_s = np.arange(len(answered)) / rate_qps
    last_s = float(np.max(due_s[answered] + replies.latency_s[answered]))
    return Client(workload.name, found.rps, found.client_cpu_us, int(answered.sum()) / last_s)
