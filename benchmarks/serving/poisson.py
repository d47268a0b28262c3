"""A client that asks when it is time, answered or not: Poisson arrivals, latency from when each was due.

A process of its own, so that nothing else keeps it from being on time: a `Job` on stdin, a `Played` on stdout.
"""

import ctypes
import gc
import random
import select
import socket
import sys
from array import array
from collections import deque
from contextlib import suppress
from time import perf_counter, process_time, sleep

import msgspec

from benchmarks.serving.connections import Broken, Connection, Grpc, Http1, Reply

UNANSWERED, LOST = -1, 0
GRACE_S = 5.0  # for answers after the last request
_RECEIVE_BYTES = 2**16
_CLOCK_MONOTONIC, _ABSOLUTE, _NONBLOCKING = 1, 1, 0o4000


class Job(msgspec.Struct, frozen=True):
    """Requests in turn at ``rate_qps`` for ``duration_s``; every ``keep``-th answer comes back whole.

    ``grpc_path`` is empty for HTTP/1.1. The client looks up every ``tick_s`` seconds: it sends what has come due, and
    reads what has been answered. 0: at once, which takes a wake-up for each request and each answer.
    """

    port: int
    grpc_path: str
    requests: tuple[bytes, ...]
    rate_qps: float
    duration_s: float
    connections: int
    keep: int
    seed: int
    tick_s: float = 0.0


class Played(msgspec.Struct, frozen=True):
    """Arrays by request: ``status`` (HTTP's, or `UNANSWERED` or `LOST`), seconds from the start until due, from due to
    answered, and from due to sent.

    ``replies``: (request, head, body) of those that were kept. ``cpu_s``: of the client, for all of them.
    """

    status: bytes
    due_s: bytes
    latency_s: bytes
    lag_s: bytes
    replies: list[tuple[int, bytes, bytes]]
    cpu_s: float


class _Timer:
    """Wakes epoll at a time of `perf_counter`, to the microsecond; epoll's own time-out knows only milliseconds."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCKING)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def wake_at(self, when_s: float) -> None:
        seconds = int(when_s)
        spec = (ctypes.c_long * 4)(0, 0, seconds, max(1, int((when_s - seconds) * 1e9)))
        self._libc.timerfd_settime(self.fd, _ABSOLUTE, spec, None)


class _Line:
    """One socket with the connection on it, and bytes that it wouldn't take yet."""

    __slots__ = ("connection", "socket", "unsent")

    def __init__(self, job: Job) -> None:
        self.connection: Connection = Grpc(job.grpc_path, max(map(len, job.requests))) if job.grpc_path else Http1()
        self.socket = socket.create_connection(("127.0.0.1", job.port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.unsent: memoryview | None = None

    @property
    def has_room(self) -> bool:
        return self.unsent is None and self.connection.in_flight < self.connection.most


class Player:
    """Plays one job on one epoll loop."""

    def __init__(self, job: Job) -> None:
        self._job = job
        rng = random.Random(job.seed)  # noqa: S311 - a load, not a secret
        self._due_s = _arrivals(job, rng)
        count = len(self._due_s)
        self._status = array("h", [UNANSWERED]) * count
        self._latency_s, self._lag_s = array("d", bytes(8 * count)), array("d", bytes(8 * count))
        self._replies: list[tuple[int, bytes, bytes]] = []
        self._ended = self._next = 0
        self._backlog: deque[int] = deque()  # due, but all connections are busy
        self._epoll, self._timer = select.epoll(), _Timer()
        self._lines: dict[int, _Line] = {}
        self._free: list[_Line] = []

    def play(self) -> Played:
        """Ask all, wait for the answers, and say how it went."""
        self._epoll.register(self._timer.fd, select.EPOLLIN | select.EPOLLET)
        for _ in range(self._job.connections):
            self._open()
        start_s, cpu_s = perf_counter() + 0.02, process_time()
        due_s = self._due_s.tobytes()
        for index in range(len(self._due_s)):
            self._due_s[index] += start_s
        end_s = start_s + self._job.duration_s + GRACE_S
        while self._ended < len(self._due_s) and perf_counter() < end_s:
            self._ask_what_is_due()
            for fd, events in self._ready():
                if fd in self._lines:
                    self._serve(self._lines[fd], events)
        for line in list(self._lines.values()):
            line.socket.close()
        cpu_s = process_time() - cpu_s
        return Played(
            self._status.tobytes(), due_s, self._latency_s.tobytes(), self._lag_s.tobytes(), self._replies, cpu_s
        )

    def _ready(self) -> list[tuple[int, int]]:
        """The sockets that have something, once there are any, or it is time to look."""
        tick_s = self._job.tick_s
        if not tick_s:
            if self._next < len(self._due_s):
                self._timer.wake_at(self._due_s[self._next])
            return self._epoll.poll(0.1)
        sleep(tick_s - perf_counter() % tick_s)
        return self._epoll.poll(0)

    def _open(self) -> None:
        line = _Line(self._job)
        self._lines[line.socket.fileno()] = line
        self._epoll.register(line.socket, select.EPOLLIN)
        if line.connection.greeting:
            self._send(line, line.connection.greeting)
        self._free.append(line)

    def _ask_what_is_due(self) -> None:
        now_s, due_s = perf_counter(), self._due_s
        while self._next < len(due_s) and due_s[self._next] <= now_s:
            self._backlog.append(self._next)
            self._next += 1
        while self._backlog and self._free:
            self._ask(self._free.pop(), self._backlog.popleft())

    def _ask(self, line: _Line, index: int) -> None:
        requests = self._job.requests
        self._lag_s[index] = perf_counter() - self._due_s[index]
        self._send(line, line.connection.ask(index, requests[index % len(requests)]))
        if line.has_room:
            self._free.append(line)

    def _send(self, line: _Line, data: bytes | memoryview) -> None:
        """Send what the socket takes, keep the rest."""
        try:
            sent = line.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the end of the connection is an event of its own
        if sent < len(data):
            line.unsent = memoryview(data)[sent:]
            self._epoll.modify(line.socket, select.EPOLLIN | select.EPOLLOUT)

    def _serve(self, line: _Line, events: int) -> None:
        if events & select.EPOLLOUT and line.unsent is not None:
            rest, line.unsent = line.unsent, None
            self._epoll.modify(line.socket, select.EPOLLIN)
            self._send(line, rest)
        if events & ~select.EPOLLOUT:
            self._receive(line)

    def _receive(self, line: _Line) -> None:
        had_room = line.has_room
        try:
            data = line.socket.recv(_RECEIVE_BYTES)
            replies = line.connection.receive(data) if data else None
        except BlockingIOError:
            return
        except (Broken, OSError):
            replies = None
        if replies is None:
            self._lose(line)
            return
        now_s = perf_counter()
        for reply in replies:
            self._note(reply, now_s)
        if line.connection.echo:
            echo, line.connection.echo = line.connection.echo, b""
            self._send(line, echo)
        if line.has_room and not had_room:
            self._free.append(line)

    def _note(self, reply: Reply, now_s: float) -> None:
        index = reply.number
        self._status[index], self._latency_s[index] = reply.status, now_s - self._due_s[index]
        self._ended += 1
        if index % self._job.keep == 0:
            self._replies.append((index, reply.head, reply.body))

    def _lose(self, line: _Line) -> None:
        """The server ended the connection: what was in flight is lost, and another takes its place."""
        for index in line.connection.unanswered():
            self._status[index] = LOST
            self._ended += 1
        del self._lines[line.socket.fileno()]
        line.socket.close()
        with suppress(ValueError):
            self._free.remove(line)
        with suppress(OSError):
            self._open()


def _arrivals(job: Job, rng: random.Random) -> "array[float]":
    """Seconds after the start."""
    due_s, at_s = array("d"), rng.expovariate(job.rate_qps)
    while at_s < job.duration_s:
        due_s.append(at_s)
        at_s += rng.expovariate(job.rate_qps)
    return due_s


def main() -> None:
    job = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Job)
    gc.disable()
    played = Player(job).play()
    sys.stdout.buffer.write(msgspec.msgpack.encode(played))


if __name__ == "__main__":
    main()
