"""Loads on a server: as much as it takes (wrk, h2load), and paced requests (h2load). Answers are compared meanwhile."""

import math
import re
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from shutil import which

import grpc
import msgspec
import numpy as np

from benchmarks.serving.models import Samples
from benchmarks.serving.processes import Tree
from benchmarks.serving.programs.models import SCORES
from benchmarks.serving.wire import GRPC_INFER, GRPC_PREFIX_BYTES, Dialect, Headers, whole_request
from proteus_cli.arrays import Floats

LUA = Path(__file__).with_name("saturation.lua")
CHECK_EVERY_S = 0.05
CONNECTIONS = {"tiny": 128, "cnn": 64, "image": 32, "wide": 32}
GRPC_CONNECTIONS = 8
PACED_CONNECTIONS = 128
WITHIN_S, SLACK_S = 30.0, 30.0


class LoadFailed(Exception):
    """A load that couldn't be put on the server."""


class WrongAnswer(LoadFailed):
    """Scores that aren't those of ONNX Runtime: no speed makes up for it."""


@dataclass(frozen=True)
class Target:
    """One family on one server in one dialect, with rows and their scores. ``tree`` is the server."""

    tree: Tree
    port: int
    family: str
    dialect: Dialect
    path: str
    samples: Samples
    directory: Path

    @cached_property
    def requests(self) -> tuple[tuple[Headers, bytes], ...]:
        return tuple(self.dialect.encode(self.family, row) for row in self.samples.rows)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"


@dataclass(frozen=True, slots=True)
class Saturated:
    """Requests per second, CPU of the server in microseconds per request, requests, and failures."""

    rps: float
    cpu_us: float
    requests: int
    failed: int


def require_tools() -> None:
    """Raises `SystemExit` with the packages that have them."""
    for tool, package in (("wrk", "wrk"), ("h2load", "nghttp2-client")):
        if which(tool) is None:
            raise SystemExit(f"error: no `{tool}` here\n\nhint: apt-get install {package}")


def saturate(target: Target, duration_s: float) -> Saturated:
    """All that it takes, while some answers are compared. Raises `LoadFailed`."""
    with _checking(target) as checked:
        cpu_s, start = target.tree.cpu_s(), len(checked)
        requests, seconds, failed = flood(target, duration_s, CONNECTIONS[target.family])
        cpu_s = target.tree.cpu_s() - cpu_s
        requests += len(checked) - start
    if not requests:
        raise LoadFailed("no request was answered under load")
    return Saturated(requests / seconds, 1e6 * cpu_s / requests, requests, failed)


def flood(target: Target, duration_s: float, at_once: int) -> tuple[int, float, int]:
    """So many requests in flight all the time: those answered, seconds, and failures. Raises `LoadFailed`."""
    if target.dialect.over_http2:
        return _h2load(target, duration_s, GRPC_CONNECTIONS, "-m", str(math.ceil(at_once / GRPC_CONNECTIONS)))
    return _wrk(target, duration_s, at_once)


def paced(
    target: Target, rate_qps: float, duration_s: float, connections: int = PACED_CONNECTIONS
) -> dict[int, Floats]:
    """Latencies in milliseconds by status, of requests at a steady rate. Raises `LoadFailed`."""
    lines = min(connections, max(1, int(rate_qps // 10)))
    log = target.directory / "paced.tsv"
    log.unlink(missing_ok=True)
    rps = f"{rate_qps / lines:.3f}"
    with _checking(target):
        _h2load(target, duration_s, lines, "-m", "1", "--rps", rps, f"--log-file={log}")
    rows = np.loadtxt(log, dtype=np.int64, ndmin=2)
    return {int(status): rows[rows[:, 1] == status, 2] / 1000 for status in np.unique(rows[:, 1])}


def _wrk(target: Target, duration_s: float, connections: int) -> tuple[int, float, int]:
    """wrk counts in whole seconds, so it is told to end."""
    file = target.directory / f"{target.family}.requests"
    requests = [whole_request(target.path, headers, body) for headers, body in target.requests]
    file.write_bytes(b"".join(b"%d\n" % len(request) + request for request in requests))
    command = ("wrk", "-t1", f"-c{connections}", f"-d{int(duration_s + SLACK_S)}s", "--timeout", "10s", "-s", str(LUA))
    said = _said((*command, target.url, "--", str(file)), duration_s, is_told_to_end=True)
    try:
        done = msgspec.json.decode(said.strip().splitlines()[-1])
        failed = sum(done[what] for what in ("status", "connect", "read", "write", "timeout"))
        return done["requests"] - done["status"], done["duration_us"] / 1e6, failed
    except (IndexError, msgspec.DecodeError, KeyError):
        raise LoadFailed(f"wrk said: {said.strip()[-500:]}") from None


def _h2load(target: Target, duration_s: float, clients: int, *more: str) -> tuple[int, float, int]:
    headers, body = target.requests[0]
    file = target.directory / f"{target.family}.body"
    file.write_bytes(body)
    lines = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    protocol = () if target.dialect.over_http2 else ("--h1",)
    timed = ("-t1", f"-c{clients}", "-D", f"{round(1000 * duration_s)}ms", "-d", str(file))
    said = _said(("h2load", *protocol, *timed, *more, *lines, target.url), duration_s)
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", said)
    if counts is None:
        raise LoadFailed(f"h2load said: {said.strip()[-500:]}")
    succeeded, failed, errored = (int(group) for group in counts.groups())
    return succeeded, duration_s, failed + errored


def _said(command: Sequence[str], duration_s: float, *, is_told_to_end: bool = False) -> str:
    """The output of a client that comes to its end."""
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            if is_told_to_end:
                time.sleep(duration_s)
                process.send_signal(signal.SIGINT)
            return process.communicate(timeout=duration_s + SLACK_S)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            raise LoadFailed(f"{command[0]} didn't end within {SLACK_S:.0f} s") from None
        finally:
            if process.poll() is None:
                process.kill()


def children_cpu_s() -> float:
    """CPU of the processes of this one that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


# --- answers


@contextmanager
def _checking(target: Target) -> Iterator[list[str]]:
    """Meanwhile samples are asked in turn; the list grows by objections or "". Raises `WrongAnswer` at the end."""
    checked, ends = list[str](), threading.Event()

    def check() -> None:
        place = 0
        while not ends.wait(CHECK_EVERY_S):
            checked.append(_objection(target, place % len(target.requests)))
            place += 1

    thread = threading.Thread(target=check)
    thread.start()
    try:
        yield checked
    finally:
        ends.set()
        thread.join()
    if wrong := [text for text in checked if text.startswith("is wrong")]:
        raise WrongAnswer(f"an answer under load {wrong[0]}")


def first_objection(target: Target) -> str:
    """Why not each sample is answered rightly, "" where all are. Raises `WrongAnswer`."""
    for place in range(len(target.requests)):
        if objection := _objection(target, place):
            if objection.startswith("is wrong"):
                raise WrongAnswer(f"an answer {objection}")
            return objection
    return ""


def _objection(target: Target, place: int) -> str:
    """The difference to the scores of ONNX Runtime beyond a tolerance, or why there was no answer."""
    headers, body = target.requests[place]
    expected = target.samples.scores[place]
    try:
        answer, content = _asked_grpc(target.port, body) if target.dialect.over_http2 else _asked(target, headers, body)
    except (OSError, HTTPException, grpc.RpcError) as error:
        return f"no answer: {error!r}"
    if answer.get(":status", "200") != "200":
        return f"status {answer[':status']}: {content[:300].decode(errors='replace')}"
    try:
        scores = target.dialect.decode(answer, content)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        return f"is wrong, as it can't be read ({error!r}): {content[:200]!r}"
    if scores.shape != (SCORES,) or not np.allclose(scores, expected, rtol=1e-3, atol=1e-3):
        return f"is wrong: {scores.round(3).tolist()} instead of {expected.round(3).tolist()}"
    return ""


def _asked(target: Target, headers: Headers, body: bytes) -> tuple[Headers, bytes]:
    with socket.create_connection(("127.0.0.1", target.port), timeout=WITHIN_S) as line:
        line.sendall(whole_request(target.path, headers, body))
        response = HTTPResponse(line)
        response.begin()
        found = {name.lower(): value for name, value in response.getheaders()}
        return found | {":status": str(response.status)}, response.read()


def _asked_grpc(port: int, body: bytes) -> tuple[Headers, bytes]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = channel.unary_unary(GRPC_INFER)(body[GRPC_PREFIX_BYTES:], timeout=WITHIN_S)
    return {}, bytes(GRPC_PREFIX_BYTES) + answer
