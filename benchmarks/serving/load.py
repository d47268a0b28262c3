"""Loads on a server: as much as it takes (wrk, h2load), and Poisson arrivals. Answers are compared all along."""

import math
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.serving.connections import MAX_CALLS, OK, Broken, Connection, Grpc, Http1, Reply
from benchmarks.serving.models import Samples
from benchmarks.serving.poisson import Job, Played
from benchmarks.serving.processes import Tree
from benchmarks.serving.wire import GRPC_INFER, Dialect, objection

LUA = Path(__file__).with_name("saturation.lua")
CHECKS_QPS = 20.0  # requests that are compared while the server is saturated
KEEP = 16  # of Poisson arrivals, every so many answers are compared
CONNECTIONS = {"tiny": 128, "cnn": 64, "image": 32, "wide": 32}
GRPC_CONNECTIONS, GRPC_STREAMS = 8, 16
OPEN_CONNECTIONS = 128
FIRST_WITHIN_S = 30.0
_SLACK_S = 30.0


class LoadFailed(Exception):
    """A load that couldn't be put on the server."""


class WrongAnswer(LoadFailed):
    """Scores that aren't those of ONNX Runtime: no speed makes up for it."""

    def __init__(self, when: str, objection: str) -> None:
        super().__init__(f"an answer {when} {objection}")


@dataclass(frozen=True)
class Target:
    """One family on one server in one dialect, and what is to be sent and expected. ``tree`` is the server."""

    tree: Tree
    port: int
    family: str
    dialect: Dialect
    path: str
    samples: Samples
    directory: Path

    @cached_property
    def requests(self) -> tuple[bytes, ...]:
        return tuple(self.dialect.encode(self.family, self.path, row) for row in self.samples.rows)

    @property
    def largest_bytes(self) -> int:
        """Of the largest request."""
        return max(map(len, self.requests))


@dataclass(frozen=True, slots=True)
class Saturated:
    """Requests per second, and CPU in microseconds per request of the server and of the client."""

    rps: float
    cpu_us: float
    client_cpu_us: float
    requests: int
    failed: int


@dataclass(frozen=True, slots=True, eq=False)
class LoadReplies:
    """Of each request of a load: its status; seconds from the start until due, from due to answered, and to sent.

    ``client_cpu_s``: what the client took for all of them.
    """

    duration_s: float
    status: npt.NDArray[np.int16]
    due_s: npt.NDArray[np.float64]
    latency_s: npt.NDArray[np.float64]
    lag_s: npt.NDArray[np.float64]
    wrong: tuple[str, ...]
    client_cpu_s: float

    @property
    def answered(self) -> npt.NDArray[np.bool_]:
        """Which were."""
        return np.equal(self.status, OK)

    def percentile_ms(self, part: float) -> float:
        """Of the latency of those that were answered; NaN where none was."""
        answered = self.latency_s[self.answered]
        return 1000 * float(np.percentile(answered, part)) if len(answered) else float("nan")


def play(
    target: Target,
    rate_qps: float,
    duration_s: float,
    *,
    seed: int,
    connections: int = OPEN_CONNECTIONS,
    tick_s: float = 0.0,
) -> LoadReplies:
    """Poisson arrivals at that rate; the client looks up every ``tick_s``, or at once."""
    with _playing(
        target, rate_qps, duration_s, seed=seed, connections=connections, keep=KEEP, tick_s=tick_s
    ) as process:
        return _load_replies(target, process, duration_s)


def saturate(target: Target, duration_s: float, *, connections: int | None = None) -> Saturated:
    """All that it takes, for about ``duration_s``, while some answers are compared. Raises `LoadFailed`."""
    with _playing(target, CHECKS_QPS, duration_s, seed=0, connections=4, keep=1) as checks:
        cpu_s, client_s = target.tree.cpu_s(), children_cpu_s()
        if target.dialect.over_http2:
            requests, seconds, failed = _h2load(target, duration_s)
        else:
            requests, seconds, failed = _wrk(target, duration_s, connections or CONNECTIONS[target.family])
        cpu_s, client_s = target.tree.cpu_s() - cpu_s, children_cpu_s() - client_s
        replies = _load_replies(target, checks, duration_s)
    if replies.wrong:
        raise WrongAnswer("at saturation", replies.wrong[0])
    failed += int(np.sum(~replies.answered))
    requests += int(np.sum(replies.answered))
    if not requests:
        raise LoadFailed("no request was answered under load")
    return Saturated(requests / seconds, 1e6 * cpu_s / requests, 1e6 * client_s / requests, requests, failed)


def flood(target: Target, duration_s: float, at_once: int) -> None:
    """So many requests in flight all the time, answered or refused. Raises `LoadFailed`."""
    if target.dialect.over_http2:
        _h2load(target, duration_s, math.ceil(at_once / GRPC_CONNECTIONS), may_fail=True)
    else:
        _wrk(target, duration_s, at_once)


def first_objection(target: Target) -> str:
    """Ask each sample once, in turn, on one connection: nothing where all is right, else why it isn't served (yet).

    Raises `WrongAnswer`.
    """
    connection: Connection = Grpc(GRPC_INFER, target.largest_bytes) if target.dialect.over_http2 else Http1()
    try:
        with socket.create_connection(("127.0.0.1", target.port), timeout=FIRST_WITHIN_S) as line:
            line.sendall(connection.greeting)
            for request, scores in zip(target.requests, target.samples.scores, strict=True):
                line.sendall(connection.ask(0, request))
                reply = _reply(line, connection)
                if reply.status != OK:
                    return f"status {reply.status}: {reply.body[:300].decode(errors='replace')}"
                if wrong := objection(target.dialect, reply.head, reply.body, scores):
                    raise WrongAnswer("without load", wrong)
    except (OSError, Broken) as error:
        return f"no answer: {error}"
    return ""


def _reply(line: socket.socket, connection: Connection) -> Reply:
    while True:
        data = line.recv(2**16)
        if not data:
            raise Broken("the server closed the connection")
        replies = connection.receive(data)
        line.sendall(connection.echo)
        connection.echo = b""
        if replies:
            return replies[0]


@contextmanager
def _playing(
    target: Target,
    rate_qps: float,
    duration_s: float,
    *,
    seed: int,
    connections: int,
    keep: int,
    tick_s: float = 0.0,
) -> Iterator["subprocess.Popen[bytes]"]:
    path = GRPC_INFER if target.dialect.over_http2 else ""
    lines = math.ceil(connections / MAX_CALLS) if path else connections
    job = Job(target.port, path, target.requests, rate_qps, duration_s, lines, keep, seed, tick_s)
    command = (sys.executable, "-m", "benchmarks.serving.poisson")
    with _ended(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(msgspec.msgpack.encode(job))
        process.stdin.close()
        process.stdin = None
        yield process


def _load_replies(target: Target, process: "subprocess.Popen[bytes]", duration_s: float) -> LoadReplies:
    output, said = _output(process, duration_s + _SLACK_S)
    if process.returncode:
        raise LoadFailed(f"the Poisson client failed: {said.decode(errors='replace')[-500:]}")
    played = msgspec.msgpack.decode(output, type=Played)
    status = np.frombuffer(played.status, np.int16)
    scores = target.samples.scores
    objections = (
        objection(target.dialect, head, body, scores[index % len(scores)])
        for index, head, body in played.replies
        if status[index] == OK
    )
    return LoadReplies(
        duration_s,
        status,
        np.frombuffer(played.due_s, np.float64),
        np.frombuffer(played.latency_s, np.float64),
        np.frombuffer(played.lag_s, np.float64),
        tuple(text for text in objections if text),
        played.cpu_s,
    )


def _wrk(target: Target, duration_s: float, connections: int) -> tuple[int, float, int]:
    """Requests, seconds and failures. wrk counts in whole seconds, so it is told to end."""
    file = target.directory / f"{target.family}.requests"
    file.write_bytes(b"".join(b"%d\n" % len(request) + request for request in target.requests))
    longest_s = int(duration_s + _SLACK_S)
    command = ("wrk", "-t1", f"-c{connections}", f"-d{longest_s}s", "--timeout", "10s", "-s", str(LUA))
    arguments = (f"http://127.0.0.1:{target.port}", "--", str(file))
    with _ended((*command, *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        time.sleep(duration_s)
        process.send_signal(signal.SIGINT)
        said = _output(process, _SLACK_S)[0].decode(errors="replace")
    try:
        done = msgspec.json.decode(said.strip().splitlines()[-1])
        failed = sum(done[what] for what in ("status", "connect", "read", "write", "timeout"))
        return done["requests"] - done["status"], done["duration_us"] / 1e6, failed
    except (IndexError, msgspec.DecodeError, KeyError):
        raise LoadFailed(f"wrk said: {said.strip()[-500:]}") from None


def _h2load(
    target: Target, duration_s: float, streams: int = GRPC_STREAMS, *, may_fail: bool = False
) -> tuple[int, float, int]:
    """Requests, seconds and failures: it sees no gRPC status, but calls that fail come without a message."""
    file = target.directory / f"{target.family}.message"
    file.write_bytes(target.requests[0])
    command = ("h2load", "-t1", f"-c{GRPC_CONNECTIONS}", f"-m{streams}", "-D", f"{round(1000 * duration_s)}ms")
    headers = ("-H", "content-type: application/grpc", "-H", "te: trailers")
    arguments = (*headers, "-d", str(file), f"http://127.0.0.1:{target.port}{GRPC_INFER}")
    with _ended((*command, *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        said = _output(process, duration_s + _SLACK_S)[0].decode(errors="replace")
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", said)
    data = re.search(r"traffic: .*\((\d+)\) data", said)
    if counts is None or data is None:
        raise LoadFailed(f"h2load said: {said.strip()[-500:]}")
    succeeded, failed, errored = (int(group) for group in counts.groups())
    min_bytes = 4 * target.samples.scores.shape[1]
    if not may_fail and int(data[1]) < succeeded * min_bytes:
        raise LoadFailed(f"calls without a message under load: {data[1]} bytes of {succeeded} calls")
    return succeeded, duration_s, failed + errored


@contextmanager
def _ended(command: Sequence[str], **streams: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """A client that is gone on the way out."""
    with subprocess.Popen(command, start_new_session=True, **streams) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _output(process: "subprocess.Popen[bytes]", within_s: float) -> tuple[bytes, bytes]:
    """Standard output and error of a client that comes to its end."""
    try:
        return process.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        raise LoadFailed(f"a client didn't end within {within_s:.0f} s") from None


def children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
