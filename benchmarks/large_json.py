"""How long one large JSON request holds up the event loop, and with it all others.

`python -m benchmarks.large_json` (8 s): requests and answers of half a million values, as many as JSON may have, over
a socket, with the REST front end and a plane that gives the inputs back. A turn of the loop is what others wait for;
what counts is its CPU time, which other programs do not change. Exit 1 where a turn takes longer than it may.
"""

import asyncio
import gc
import gzip
import json
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import uvloop

from benchmarks.machine import machine
from benchmarks.tables import Aim, aim_line
from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.serving.http1.connection import HttpConnection
from proteus_cli.serving.http1.request_parser import KnownHeads
from proteus_cli.serving.http1.states import HttpLimits
from proteus_cli.serving.requests.families import ServedFamily
from proteus_cli.serving.requests.in_flight import Answered, AnsweredBatch, ResultCallback
from proteus_cli.serving.requests.query import Query, ReadInputs
from proteus_cli.serving.rest.access import Access, KnownHosts
from proteus_cli.serving.rest.handler import RestHandler
from proteus_cli.serving.transport.connections import Connections
from proteus_cli.serving.transport.listening import accepting

VALUES = 500_000
HELD_MS = 100.0  # of docs/security.md
ROUNDS = 3
BODY_BYTES = 256 * 2**20
FLOAT = np.dtype(np.float32)
SIGNATURE = Signature((TensorSpec("x", FLOAT, (VALUES,)),), (TensorSpec("y", FLOAT, (VALUES,)),))


class Echo:
    """A data plane that admits every request, and answers with its inputs."""

    def __init__(self) -> None:
        self.by_name = {"echo": ServedFamily("echo", SIGNATURE, 60.0, 1, 1.0)}
        self.hosted = cast("Any", SimpleNamespace(variant="echo", accuracy=1.0, device="none"))

    @property
    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def probe(self, _query: Query, _arrival_s: float) -> None:
        """All are admitted."""

    def deadline_s(self, _query: Query, arrival_s: float) -> float:
        return arrival_s + 60.0

    def submit(self, query: Query, read_inputs: ReadInputs, done: ResultCallback, _arrival_s: float) -> asyncio.Handle:
        (content,) = read_inputs()
        outputs = (np.frombuffer(content, FLOAT).reshape(1, VALUES),)
        answered = Answered(AnsweredBatch(self.hosted, query.rows, outputs, 0.0), 0, query.rows, 0.0)
        return asyncio.get_running_loop().call_soon(done, answered)


class Turns:
    """The longest turn of the event loop so far, in seconds of the CPU."""

    def __init__(self) -> None:
        self.longest_s, self._since_s = 0.0, time.thread_time()
        self._handle = asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        now_s = time.thread_time()
        self.longest_s, self._since_s = max(self.longest_s, now_s - self._since_s), now_s
        self._handle = asyncio.get_running_loop().call_soon(self._turn)

    def stop(self) -> None:
        self._handle.cancel()


@contextmanager
def measured() -> Iterator[Turns]:
    turns = Turns()
    try:
        yield turns
    finally:
        turns.stop()


def request(data: npt.NDArray[Any], *, as_binary: bool = False) -> bytes:
    tensor = {"name": "x", "shape": [1, VALUES], "datatype": "FP32", "data": data.tolist()}
    document = {"inputs": [tensor], "parameters": {"binary_data_output": as_binary}}
    return json.dumps(document, separators=(",", ":")).encode()


def exchange(port: int, body: bytes, headers: str) -> bytes:
    """Send a request and read the whole answer; all but the connections is left to the kernel."""
    head = f"POST /v2/models/echo/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n{headers}"
    head += "connection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head.encode())
        client.sendall(body)
        pieces = []
        while piece := client.recv(2**20):
            pieces.append(piece)
    return b"".join(pieces)


async def measure(cases: dict[str, tuple[bytes, str]]) -> list[Aim]:
    connections = Connections(max_connections=8, max_body_bytes=BODY_BYTES)
    plane = cast("Any", Echo())
    access = Access(None, KnownHosts(frozenset()))
    handler = RestHandler(plane, plane, cast("Any", None), access=access, max_body_bytes=BODY_BYTES)
    heads, limits = KnownHeads(), HttpLimits(body_bytes=BODY_BYTES)
    listener, aims = socket.create_server(("127.0.0.1", 0)), []
    async with accepting(listener, lambda: HttpConnection(handler, connections, heads, limits), None):
        for name, (body, headers) in cases.items():
            longest_s = []
            for _ in range(ROUNDS):
                with measured() as turns:
                    answer = await asyncio.to_thread(exchange, listener.getsockname()[1], body, headers)
                assert answer.startswith(b"HTTP/1.1 200 "), answer[:300]
                longest_s.append(turns.longest_s)
            aims.append(Aim(name, 1000 * sorted(longest_s)[ROUNDS // 2], HELD_MS, "ms", is_most=True))
    return aims


def main() -> int:
    values = np.random.default_rng(0).standard_normal(VALUES).round(12)  # as many bytes as JSON may have
    flat = request(values, as_binary=True)
    cases = {
        "decode, flat": (flat, ""),
        "decode, nested": (request(values.reshape(1, 500, 1000), as_binary=True), ""),
        "decode, lists of eight": (request(values.reshape(VALUES // 8, 8), as_binary=True), ""),
        "decode, one digit each": (request(np.ones(VALUES, int), as_binary=True), ""),
        "unpack and decode": (gzip.compress(flat, 1), "content-encoding: gzip\r\n"),
        "decode and encode": (request(values), ""),
    }
    gc.freeze()  # as the server does when it starts
    aims = uvloop.run(measure(cases))
    print(f"{machine()}: the longest turn of the event loop with {VALUES:,} values, CPU time, median of {ROUNDS}")
    print(*map(aim_line, aims), sep="\n")
    return 0 if all(aim.is_reached for aim in aims) else 1


if __name__ == "__main__":
    sys.exit(main())
