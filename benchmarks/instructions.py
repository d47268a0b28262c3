"""Instructions per request of the server's own code, of this tree or others: they repeat, however busy the machine is.

Connections are fed in memory by a loop with a clock of its own: neither the kernel nor uvloop nor a model counts. Two
runs of different lengths under valgrind differ by what the requests between them took. A turn of the loop brings 32
requests of `tiny`, which make one batch: from 32 connections over HTTP, from two over gRPC.

    python -m benchmarks.instructions [TREE …]

Needs valgrind; minutes for each tree.
"""

import asyncio
import gc
import heapq
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count, cycle, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.control.controller import Controller
from proteus_cli.control.policies import live_policy_named
from proteus_cli.serving.devices.cpu import CpuEngine
from proteus_cli.serving.devices.executor import BatchResult
from proteus_cli.serving.fleet.worker import DISPATCH_AHEAD_S
from proteus_cli.serving.http2 import frames
from proteus_cli.serving.lifecycle import LifecycleEvent
from proteus_cli.serving.requests.data_plane import make_data_plane
from proteus_cli.serving.requests.families import ServedFamily
from proteus_cli.serving.server.front_ends import make_protocols
from proteus_cli.serving.server.server import GARBAGE_OBJECTS
from proteus_cli.serving.transport.connections import Connections

KINDS = ("json", "binary", "grpc")
TURNS = 20, 220  # far apart, as imports differ by some 2 million from run to run
WARM_UP_TURNS, PER_TURN, STREAMS = 40, 32, 16
PATH = "/v2/models/tiny/infer"
LATENCY_S = {rows: 1e-5 + 1e-6 * rows for rows in (1, 2, 4, 8, 16, 32)}  # so short that batches run on the loop
CAPACITY_QPS, SLO_S = 7e5, 1.0


def main() -> None:
    trees = [Path(tree).resolve() for tree in sys.argv[1:]] or [Path(__file__).parent.parent]
    for kind in KINDS:
        for tree in trees:
            played(tree, kind, 1)  # modules are compiled when they are first imported
            few, many = (counted(tree, kind, turns) for turns in TURNS)
            each = (many - few) / (TURNS[1] - TURNS[0]) / PER_TURN
            print(f"{kind:6} {each:8,.0f} instructions a request  {tree}", flush=True)


def counted(tree: Path, kind: str, turns: int) -> int:
    """The instructions of a process of that tree, from its start to its end."""
    said = played(tree, kind, turns, "valgrind", "--tool=cachegrind", "--cachegrind-out-file=/dev/null")
    found = re.search(r"I +refs: +([\d,]+)", said)
    if found is None:
        raise SystemExit(said)
    return int(found[1].replace(",", ""))


def played(tree: Path, kind: str, turns: int, *tool: str) -> str:
    """What a process of that tree says on stderr, run by ``tool`` where one is given."""
    done = subprocess.run(
        (*tool, sys.executable, __file__, "--play", kind, str(turns)),
        # OpenBLAS' threads would wait in loops, longer on a busy machine.
        env=os.environ
        | {"OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "PYTHONPATH": f"{tree}:{tree / 'tests'}"}
        | {"PYTHONDONTWRITEBYTECODE": ""},
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stderr


# --- below valgrind


class Loop:
    """What the server asks of a running loop. Each look at its clock takes 0.1 µs, each turn 1 ms."""

    def __init__(self) -> None:
        self._ready: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._timers: list[tuple[float, int, SimpleNamespace, Callable[..., object], tuple[object, ...]]] = []
        self._numbers, self._now_s = count(), 1000.0

    def time(self) -> float:
        self._now_s += 1e-7
        return self._now_s

    def call_soon(self, call: Callable[..., object], *arguments: object) -> None:
        self._ready.append((call, arguments))

    def call_later(self, delay_s: float, call: Callable[..., object], *arguments: object) -> SimpleNamespace:
        timer = SimpleNamespace(is_cancelled=False)
        timer.cancel = lambda: setattr(timer, "is_cancelled", True)
        heapq.heappush(self._timers, (self._now_s + delay_s, next(self._numbers), timer, call, arguments))
        return timer

    def turn(self) -> None:
        self._now_s += 1e-3
        while self._timers and self._timers[0][0] <= self._now_s:
            _, _, timer, call, arguments = heapq.heappop(self._timers)
            if not timer.is_cancelled:
                call(*arguments)
        for _ in range(len(self._ready)):
            call, arguments = self._ready.popleft()
            call(*arguments)


class Wire:
    """A transport that forgets what is written."""

    def __init__(self) -> None:
        self.write = deque[bytes](maxlen=1).append
        self.is_closing = bool

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, _name: str) -> None: ...


class Executor:
    """Gathers batches as a CPU does; the model has run by then."""

    runs_inline, can_give_way, pid = True, False, None

    def __init__(self, signature: Any) -> None:
        scores = np.arange(32 * 10, dtype=np.float32).reshape(32, 10) / 7
        runner: Any = SimpleNamespace(signature=signature, infer=lambda inputs: {"y": scores[: len(inputs["x"])]})
        self._signature, self._engine, self.rows = signature, CpuEngine(runner, ExitStack(), 32), 0

    async def send_ahead(self, _model: object) -> None: ...

    async def load(self, *_: object) -> Any:
        return self._signature

    def run(self, batch: Any) -> Any:
        self.rows += batch.rows
        return BatchResult(self._engine._run(batch.parts), LATENCY_S[1])  # noqa: SLF001 - without its clock


def play(kind: str, turns: int) -> None:
    """Answer the requests of so many turns."""

    loop: Any = Loop()
    rows = np.random.default_rng(0).standard_normal((16, 64), np.float32)
    requests = cycle([request(kind, row) for row in rows])
    executor, protocols = served(loop)
    answer = (over_grpc if kind == "grpc" else over_http)(protocols, requests)
    for _ in range(WARM_UP_TURNS):
        next(answer)
        loop.turn()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS, 10, 10)
    for _ in range(turns):
        next(answer)
        loop.turn()
    for _ in range(PER_TURN):
        loop.turn()  # for connections that wait for their turn
    assert executor.rows == PER_TURN * (WARM_UP_TURNS + turns)


def request(kind: str, row: Any) -> bytes:
    """A whole HTTP request, or a gRPC message with its prefix."""
    tensor: dict[str, Any] = {"name": "x", "shape": [1, 64], "datatype": "FP32"}
    if kind == "grpc":
        inputs = [service_pb2.ModelInferRequest.InferInputTensor(**tensor)]
        message = service_pb2.ModelInferRequest(model_name="tiny", inputs=inputs, raw_input_contents=[row.tobytes()])
        content = bytes(message.SerializeToString())
        return b"\0" + len(content).to_bytes(4, "big") + content
    body: bytes
    head, lines = "", ""
    if kind == "binary":
        tensor["parameters"] = {"binary_data_size": row.nbytes}
        outputs = [{"name": "y", "parameters": {"binary_data": True}}]
        head, body = json.dumps({"inputs": [tensor], "outputs": outputs}, separators=(",", ":")), row.tobytes()
        lines = f"Inference-Header-Content-Length: {len(head)}\r\n"
    else:
        numbers = ",".join(map(str, row))  # the shortest decimals that are these 32-bit floats
        body = (
            json.dumps({"inputs": [tensor | {"data": []}]}, separators=(",", ":"))
            .replace("[]", f"[{numbers}]")
            .encode()
        )
    start = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(head) + len(body)}\r\n{lines}\r\n{head}"
    return start.encode() + body


def served(loop: Any) -> tuple[Executor, Any]:
    """A server of one family, and its protocols; the loop runs from here on."""
    made = importlib.import_module("builders")  # of the tree's tests

    floats = np.dtype(np.float32)
    signature = Signature((TensorSpec("x", floats, (64,)),), (TensorSpec("y", floats, (10,)),))
    executor: Any = Executor(signature)
    measured = made.make_measured("tiny", "v", 0.9, LATENCY_S)
    profile = made.make_profile("cpu0", measured)
    placement = made.make_placement("cpu0", "tiny", "v", max_batch=32, rate_qps=1e4, capacity_qps=CAPACITY_QPS)
    plane = make_data_plane(
        Controller({"tiny": SLO_S}, {"cpu0": 1}, live_policy_named("proteus"), dispatch_ahead_s=DISPATCH_AHEAD_S),
        [ServedFamily("tiny", signature, SLO_S, 32, 0.9)], ["cpu0"], lambda _device, _on_lost: executor, loop.time,
        models={measured.key: Path()}, profiles={"cpu0": profile},
    )  # fmt: skip
    asyncio.run(plane.fleet.deploy(made.make_plan(placement)))
    plane.lifecycle.on(LifecycleEvent.WARMED_UP)
    asyncio._set_running_loop(loop)  # noqa: SLF001 - nothing else stands in for a running loop
    connections = Connections(max_connections=2 * PER_TURN, max_body_bytes=2**24)
    options: Any = SimpleNamespace(max_body_bytes=2**20, tokens=None, allowed_hosts=(), host="127.0.0.1")
    options.settings = options  # where protocols take a deployment; other trees take its options
    models: Any = SimpleNamespace(is_server_ready=True, load=None, unload=None)
    make: Any = make_protocols
    local = {"is_local": True} if "is_local" in inspect.signature(make).parameters else {}  # other trees may lack it
    return executor, make(plane, models, None, options, connections, None, **local)


def over_http(protocols: Any, requests: Iterator[bytes]) -> Iterator[None]:
    connections = [protocols["http"]() for _ in range(PER_TURN)]
    for connection in connections:
        connection.connection_made(Wire())
    while True:
        for connection, request in zip(connections, requests, strict=False):
            connection.get_buffer(-1)[: len(request)] = request
            connection.buffer_updated(len(request))
        yield


def over_grpc(protocols: Any, requests: Iterator[bytes]) -> Iterator[None]:
    fields = [
        (b":path", b"/inference.GRPCInferenceService/ModelInfer"), (b":authority", b"127.0.0.1"),
        (b"content-type", b"application/grpc"), (b"te", b"trailers"),
    ]  # fmt: skip
    head = b"\x83\x86" + b"".join(frames.literal_field(name, value) for name, value in fields)  # POST, http
    connections = [protocols["grpc"]() for _ in range(PER_TURN // STREAMS)]
    for connection in connections:
        connection.connection_made(Wire())
        connection.data_received(frames.PREFACE + frames.settings({}) + frames.window_update(0, 2**30))
    for first in count(1, 2 * STREAMS):
        calls = zip(range(first, first + 2 * STREAMS, 2), islice(requests, STREAMS), strict=True)
        read = b"".join(
            frames.frame(frames.HEADERS, frames.END_HEADERS, stream, head)
            + frames.frame(frames.DATA, frames.END_STREAM, stream, request)
            for stream, request in calls
        )
        for connection in connections:
            connection.data_received(read)
        yield


if __name__ == "__main__":
    if sys.argv[1:2] == ["--play"]:
        play(sys.argv[2], int(sys.argv[3]))
    else:
        main()
