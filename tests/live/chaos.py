"""Bad clients of every kind, all at once, and a tally of how each of their requests ended."""

import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, parse_headers
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

HOST = "127.0.0.1"
FAMILY = "shapes"
POISON = 99.0
PATIENCE_S = 30.0
MAX_BODY = 2**20
OUTCOME = "proteus-outcome"
OF_STATUS = {200: "served", 429: "rejected", 500: "failed"}

Kind = Callable[[random.Random], None]


@dataclass
class Tally:
    """How requests ended, as their clients saw it.

    ``ended`` by outcome; ``unknown`` went unanswered, as their clients, or connections, were gone; ``other`` by status,
    of what never came in.
    """

    ended: Counter[str] = field(default_factory=Counter)
    other: Counter[int] = field(default_factory=Counter)
    unknown: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self, status: int, outcome: str | None) -> None:
        outcome = outcome or OF_STATUS.get(status)
        with self.lock:
            if outcome is None:
                self.other[status] += 1
            else:
                self.ended[outcome] += 1

    def lost(self, requests: int = 1) -> None:
        with self.lock:
            self.unknown += requests


def body(value: float = 1.0, **more: Any) -> bytes:
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [value] * 4}
    return msgspec.json.encode({"inputs": [tensor], **more})


def padded(size: int) -> bytes:
    """A body of about so many bytes, with spaces between its values."""
    content = body()
    return content.replace(b",1.0", b"," + b" " * ((size - len(content)) // 3 + 1) + b"1.0")


def path_of(family: str) -> str:
    return f"/v2/models/{family}/infer"


def request(content: bytes, family: str = FAMILY) -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b" % (
        path_of(family).encode(), len(content), content,
    )  # fmt: skip


class Chaos:
    """Clients in threads, each of which does one kind of thing until it is told to stop.

    They ask for ``family``; ``pause`` times as long passes between what they do.
    """

    def __init__(self, port: int, seed: int = 0, *, family: str = FAMILY, pause: float = 1.0) -> None:
        self.port, self.tally = port, Tally()
        self._family, self._pause = family, pause
        self.latencies_s: list[float] = []
        self.well_behaved_lost = 0
        self._seed, self._stop = seed, threading.Event()
        self._threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []

    @property
    def all_kinds(self) -> list[Kind]:
        return [
            self._well_behaved, self._well_behaved, self._poisons, self._asks_wrongly, self._sends_garbage,
            self._leaves_early, self._closes_half, self._stalls, self._floods, self._sends_large_bodies,
            self._has_no_time, self._pipelines,
        ]  # fmt: skip

    @property
    def rude_kinds(self) -> list[Kind]:
        """Those that ask for little, and none of it properly."""
        return [
            self._asks_wrongly,
            self._sends_garbage,
            self._leaves_early,
            self._closes_half,
            self._stalls,
            self._floods,
        ]

    @contextmanager
    def raging(self, kinds: Sequence[Kind] | None = None) -> Iterator[None]:
        """These kinds of clients, all by default, for the length of the block."""
        for number, kind in enumerate(self.all_kinds if kinds is None else kinds):
            rng = random.Random(self._seed * 100 + number)
            self._threads.append(threading.Thread(target=self._run, args=(kind, rng), name=kind.__name__))
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(2 * PATIENCE_S)
            assert not any(thread.is_alive() for thread in self._threads), self._threads
        if self.errors:
            raise self.errors[0]

    def _run(self, kind: Kind, rng: random.Random) -> None:
        try:
            kind(rng)
        except BaseException as error:  # noqa: BLE001 - it is told where the threads are joined
            self.errors.append(error)

    def _rounds(self, every_s: float) -> Iterator[int]:
        number = 0
        while not self._stop.wait(every_s * self._pause):
            yield number
            number += 1

    def _connected(self) -> socket.socket:
        return socket.create_connection((HOST, self.port), PATIENCE_S)

    def _ask(self, content: bytes, connection: HTTPConnection) -> int:
        """One request, counted; the connection may be used again. 0: it was lost."""
        try:
            connection.request("POST", path_of(self._family), content)
            response = connection.getresponse()
            response.read()
        except (OSError, HTTPException):
            connection.close()
            self.tally.lost()
            return 0
        self.tally.answered(response.status, response.getheader(OUTCOME))
        return response.status

    def _keeps_asking(self, every_s: float, content: Callable[[], bytes], told: Callable[[int, float], None]) -> None:
        connection = HTTPConnection(HOST, self.port, timeout=PATIENCE_S)
        with closing(connection):
            for _ in self._rounds(every_s):
                start_s = time.perf_counter()
                told(self._ask(content(), connection), time.perf_counter() - start_s)

    # kinds of clients

    def _well_behaved(self, rng: random.Random) -> None:
        def told(status: int, took_s: float) -> None:
            self.latencies_s.append(took_s)
            self.well_behaved_lost += status == 0

        self._keeps_asking(0.01, lambda: body(rng.choice([1.0, 2.0])), told)

    def _poisons(self, rng: random.Random) -> None:
        def told(status: int, took_s: float) -> None:
            assert status in {0, 429, 500, 503, 504}

        self._keeps_asking(0.02, lambda: body(POISON), told)

    def _asks_wrongly(self, rng: random.Random) -> None:
        wrong = [
            b"",
            b"{",
            b"[]",
            b"\xff" * 50,
            b"[" * 5000,
            b'{"inputs":[]}',
            body()[:-3],
            body(parameters={"timeout": -1}),
        ]

        def told(status: int, took_s: float) -> None:
            assert status in {0, 400, 503}

        self._keeps_asking(0.01, lambda: rng.choice(wrong), told)

    def _has_no_time(self, rng: random.Random) -> None:
        def told(status: int, took_s: float) -> None:
            assert status in {0, 200, 400, 429, 503, 504}

        self._keeps_asking(0.02, lambda: body(parameters={"timeout": rng.choice([1, 1000, 6000])}), told)

    def _sends_large_bodies(self, rng: random.Random) -> None:
        def told(status: int, took_s: float) -> None:
            assert status in {0, 200, 413, 429, 503, 504}

        self._keeps_asking(0.05, lambda: padded(rng.choice([66_000, 400_000, MAX_BODY + 1])), told)

    def _sends_garbage(self, rng: random.Random) -> None:
        good = request(body(), self._family)
        for _ in self._rounds(0.02):
            broken = bytearray(good[: rng.randrange(len(good))])
            for _ in range(rng.randrange(1, 4)):
                at = rng.randrange(len(broken) + 1)
                broken[at:at] = rng.randbytes(rng.randrange(1, 9))
            self._send_and_go(bytes(broken), rng, may_come_in=1)

    def _leaves_early(self, rng: random.Random) -> None:
        for _ in self._rounds(0.01):
            self._send_and_go(request(body(rng.choice([1.0, POISON])), self._family), rng, may_come_in=1)

    def _closes_half(self, rng: random.Random) -> None:
        for _ in self._rounds(0.02):
            try:
                with self._connected() as client:
                    client.sendall(request(body(), self._family))
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(2**16):
                        pass
            except OSError:
                pass  # turned away
            self.tally.lost()

    def _send_and_go(self, content: bytes, rng: random.Random, may_come_in: int) -> None:
        try:
            with self._connected() as client:
                client.sendall(content)
                if rng.random() < 0.5:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset
        except OSError:
            pass  # turned away
        self.tally.lost(may_come_in)

    def _stalls(self, rng: random.Random) -> None:
        """Up to twenty connections that stop somewhere, the oldest let go for each new one."""
        stalled: list[socket.socket] = []
        good = request(body(), self._family)
        try:
            for _ in self._rounds(0.05):
                try:
                    client = self._connected()
                    stalled.append(client)
                    client.sendall(good[: rng.randrange(len(good) - 1)])
                except OSError:
                    pass  # turned away
                if len(stalled) > 20:
                    stalled.pop(0).close()
        finally:
            for client in stalled:
                client.close()

    def _floods(self, rng: random.Random) -> None:
        """More connections at once than there may be."""
        for _ in self._rounds(1.0):
            flood = []
            try:
                for _ in range(200):
                    flood.append(self._connected())  # noqa: PERF401 - those made before an error are closed, too
            except OSError:
                pass  # turned away
            for client in flood:
                client.close()

    def _pipelines(self, rng: random.Random) -> None:
        """Forty requests in one write."""
        for _ in self._rounds(0.2):
            answered = 0
            try:
                with self._connected() as client, client.makefile("rb") as answers:
                    client.sendall(request(body(), self._family) * 40)
                    while answered < 40 and (answer := next_answer(answers)) is not None:
                        self.tally.answered(*answer)
                        answered += answer[0] != 503
            except (OSError, HTTPException):
                pass  # turned away
            self.tally.lost(40 - answered)


def next_answer(answers: BinaryIO) -> tuple[int, str | None] | None:
    """Status and outcome of the next answer; None where there is none."""
    line = answers.readline()
    if not line:
        return None
    headers = parse_headers(answers)
    answers.read(int(headers["content-length"]))
    return int(line.split()[1]), headers.get(OUTCOME)


@dataclass(frozen=True)
class Sample:
    """What a process holds: bytes in memory, open files."""

    resident_bytes: int
    files: int


def sample(process: int) -> Sample:
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return Sample(pages * os.sysconf("SC_PAGE_SIZE"), len(list(Path(f"/proc/{process}/fd").iterdir())))


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]
