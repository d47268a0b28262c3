"""Attacks on a server or an agent, and a well-behaved client beside them.

`python -m attacking NAME PORT SECONDS` is the attacker, in a process of its own. One thread sends the pieces of all its
connections as fast as the server reads them. It writes the number of connections, and how many the server ended.
"""

import resource
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Literal

import attack_http1 as http1
import attack_http2 as http2
import msgspec
from attack_bounds import MESSAGE_BYTES, MIB, MODELS_BYTES, VALUES

from proteus_cli import __version__
from proteus_cli.serving.devices.remote.channel.frames import pieces_of
from proteus_cli.serving.devices.remote.channel.messages import PROTOCOL, Hello, Inquiry, ModelPiece, OfferModel, Ping

FEW, SOME, CROWD = 4, 20, 1000
IDLE = 4200  # more than a server takes
GIVEN_UP_S = 0.5  # after a request was sent, before it can be answered
DECODED_BYTES = 400 * MIB  # to decode a large image
PAUSE_S, LOOKS_S, ANSWERED_WITHIN_S = 0.002, 0.01, 60.0
ADDRESS = ("127.0.0.2", 0)  # not that of the attacker: each may have a share of the connections

Traffic = Callable[[], Iterator[bytes]]
"""The pieces that one connection sends; once there are no more, it stays open."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request, and how a right answer begins. ``ends_connection``: the answer is the last one."""

    request: bytes
    answer: bytes = b"HTTP/1.1 200 "
    ends_connection: bool = False


LIVE = Question(http1.get(b"/v2/health/live"))
PROBE = Question(LIVE.request, ends_connection=True)
"""Like that of an orchestrator, over a connection of its own."""


@dataclass(frozen=True, slots=True)
class Attack:
    """``connections`` that send ``traffic`` as fast as the server reads it.

    With ``wave_s`` they act together: at each wave all that are open send their next piece, those that have none close,
    and those that were closed open again. ``is_closed``: the server must close them. ``more_bytes``: the memory that it
    may take on the target, beside that of any attack. A client beside it asks ``questions`` meanwhile.
    """

    name: str
    traffic: Traffic
    connections: int = FEW
    is_grpc: bool = False
    wave_s: float = 0.0
    is_closed: bool = False
    more_bytes: int = 0
    target: Literal["server", "crowded", "agent"] = "server"
    questions: tuple[Question, ...] = (LIVE,)


# --- on an agent

_DIGEST = "a" * 64


def _message(message: msgspec.Struct, behind: bytes = b"") -> bytes:
    return b"".join(pieces_of(msgspec.msgpack.encode(message), [behind]))


INQUIRY = Question(_message(Inquiry(PROTOCOL, __version__)), answer=b"\0\0", ends_connection=True)
_HELLO = _message(Hello(PROTOCOL, __version__, "attacker", 1))


def _large_pings() -> Iterator[bytes]:
    yield _HELLO
    message = msgspec.msgpack.encode(Ping(0.0))
    for _ in range(3):
        yield len(message).to_bytes(4, "big") + MESSAGE_BYTES.to_bytes(4, "big") + message
        yield from repeat(bytes(MIB), MESSAGE_BYTES // MIB)


def _offered(parts: Sequence[tuple[str, int]]) -> Iterator[bytes]:
    """A model of these parts, and a byte of each."""
    yield _HELLO + _message(OfferModel(_DIGEST, parts))
    for place in range(len(parts)):
        yield _message(ModelPiece(_DIGEST, place, 0), b"x")


# --- the table

_large = partial(Attack, traffic=http1.large_images, more_bytes=DECODED_BYTES)
_grpc = partial(Attack, is_grpc=True)
_agent = partial(Attack, connections=1, target="agent", questions=(INQUIRY,), more_bytes=MESSAGE_BYTES)
_idle = partial(Attack, traffic=http1.idle, connections=IDLE, wave_s=0.1, questions=(PROBE,))
_TABLE = (
    Attack("HTTP/1, health checks in a row", http1.health_checks),
    Attack("HTTP/1, the metrics in a row", http1.metrics),
    Attack("HTTP/1, the status in a row", http1.status),
    Attack("HTTP/1, unknown paths in a row", http1.unknown_paths),
    Attack("HTTP/1, heads of 120 lines in a row", http1.long_heads),
    Attack("HTTP/1, malformed requests in a row", http1.malformed_requests),
    Attack("HTTP/1, requests of ever new outlines in a row", http1.new_outlines),
    Attack("HTTP/1, chunks of one byte", http1.crumbs),
    Attack("HTTP/1, heads of 30 KB that wait", http1.large_heads, SOME * FEW),
    _idle("HTTP/1, idle connections"),
    Attack("HTTP/1, connections that open and close", http1.nothing, CROWD, wave_s=0.5),
    Attack("HTTP/1, connections that ask together", http1.one_check, CROWD, wave_s=0.5),
    Attack(f"JSON, {VALUES:,} values", http1.many_values),
    Attack(f"JSON, {VALUES:,} values, gzipped", http1.many_values_gzipped),
    Attack("JSON, a long string among numbers, gzipped", http1.string_among_numbers),
    Attack("JSON, bodies of `[]` from many", http1.empty_lists, SOME),
    Attack(f"JSON, {VALUES:,} values from many", http1.many_values, SOME),
    Attack(f"JSON, {VALUES:,} values, given up", http1.many_values_once, SOME, wave_s=GIVEN_UP_S),
    _large("images, PNG of 32 million pixels in 0.1 MB"),
    _large("images, PNG of 32 million pixels from many", connections=SOME),
    _large(
        "images, PNG of 32 million pixels, and small ones beside them",
        connections=16,
        questions=(LIVE, Question(http1.small_image())),
    ),
    Attack("images, PNG of 1 × 32 million pixels from two", http1.narrow_images, connections=2),
    Attack("images, PNG that claim 10 billion pixels", http1.huge_images),
    Attack("images, JPEG of 4 MiB of filling bytes", http1.filled_images),
    _idle("HTTP/2, idle connections", is_grpc=True),
    _grpc("HTTP/2, DATA of one byte", http2.crumbs, is_closed=True),
    _grpc("HTTP/2, streams that are reset", http2.resets, is_closed=True),
    _grpc("HTTP/2, pings", http2.pings, is_closed=True),
    _grpc("HTTP/2, settings", http2.settings, is_closed=True),
    _grpc("HTTP/2, header tables from many", http2.header_tables, SOME),
    _grpc("HTTP/2, streams that are never read", http2.unread_streams, SOME),
    _grpc("gRPC, health checks in a row", http2.health_checks),
    _grpc("gRPC, statistics in a row", http2.statistics),
    _grpc("gRPC, malformed requests in a row", http2.malformed_requests),
    _grpc("gRPC, empty messages in a stream", http2.empty_messages),
    _grpc(f"gRPC, {VALUES:,} typed values, gzipped", http2.typed_values_gzipped),
    _grpc(f"gRPC, {VALUES:,} typed values from many", http2.typed_values, SOME),
    Attack(
        "bounds in turn, 24 variants on 96 devices",
        http1.bounds,
        1,
        target="crowded",
        questions=(LIVE, Question(http1.one_row())),
    ),
    _agent("agent, pings of 1 GiB that are not read", _large_pings),
    _agent("agent, a model that is refused for its size", lambda: _offered([("model.onnx", MODELS_BYTES + 1)])),
    _agent("agent, a model with parts `a` and `a/b`", lambda: _offered([("model.onnx", 1), ("a", 1), ("a/b", 1)])),
)
ATTACKS = {attack.name: attack for attack in _TABLE}


# --- the client beside it


class Bystander:
    """Asks a process at its port. ``gap_s`` is the longest time without a right answer to one of the questions so far.

    Times in which the process was ready and waited for a core do not count: other programs of the machine had these.
    """

    def __init__(self, pid: int, port: int, questions: Iterable[Question]) -> None:
        self._port, self.gap_s = port, 0.0
        self._schedule = Path(f"/proc/{pid}/task/{pid}/schedstat")  # of its event loop
        self._answered_s = dict.fromkeys(questions, self._now_s())

    def ask_for(self, seconds: float) -> None:
        """Ask all of them. A connection that is refused is no end of a gap."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            try:
                with socket.create_connection(("127.0.0.1", self._port), ANSWERED_WITHIN_S, ADDRESS) as line:
                    self._ask_over(line, until_s)
            except (ConnectionError, TimeoutError):
                pass
            time.sleep(PAUSE_S)
        self._note()

    def _ask_over(self, line: socket.socket, until_s: float) -> None:
        while time.monotonic() < until_s:
            for question in self._answered_s:
                line.sendall(question.request)
                answer = line.recv(2**16)
                self._note()
                if answer.startswith(question.answer):
                    self._answered_s[question] = self._now_s()
                if not answer or question.ends_connection:
                    return
            time.sleep(PAUSE_S)

    def _note(self) -> None:
        self.gap_s = max(self.gap_s, self._now_s() - min(self._answered_s.values()))

    def _now_s(self) -> float:
        """A clock that stands while the process waits for a core."""
        _, waited_ns, _ = self._schedule.read_text(encoding="ascii").split()
        return time.monotonic() - int(waited_ns) / 1e9


# --- the attacker


class Done(msgspec.Struct, frozen=True):
    """``closed`` of ``opened`` connections were ended by the server."""

    opened: int
    closed: int


class _Line:
    """One connection of an attack."""

    def __init__(self, attack: Attack, port: int) -> None:
        self.pieces: Iterator[bytes] = attack.traffic()
        self.left = memoryview(next(self.pieces, b""))  # before anything is sent, as it may take a while to make
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(("127.0.0.1", port))


class _Attacker:
    def __init__(self, attack: Attack, port: int) -> None:
        self._attack, self._port = attack, port
        self._selector = selectors.DefaultSelector()
        self.opened = self.closed = 0

    def run(self, seconds: float) -> Done:
        wave_s = self._attack.wave_s
        for _ in range(self._attack.connections):
            self._open()
        next_wave_s = time.monotonic() + wave_s
        stop_s = time.monotonic() + seconds
        while (now_s := time.monotonic()) < stop_s:
            if wave_s and now_s >= next_wave_s:
                next_wave_s += wave_s
                self._wave()
            for key, events in self._selector.select(LOOKS_S):
                try:
                    if events & selectors.EVENT_READ and not key.data.socket.recv(2**18):
                        self._ended(key.data)
                    if events & selectors.EVENT_WRITE and key.data.socket.fileno() >= 0:
                        self._send(key.data)
                except OSError:
                    self._ended(key.data)
        return Done(self.opened, self.closed)

    def _open(self) -> None:
        line = _Line(self._attack, self._port)
        self._selector.register(line.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, line)
        self.opened += 1

    def _send(self, line: _Line) -> None:
        if not line.left:
            piece = None if self._attack.wave_s else next(line.pieces, None)
            if piece is None:
                self._selector.modify(line.socket, selectors.EVENT_READ, line)
                return
            line.left = memoryview(piece)
        line.left = line.left[line.socket.send(line.left) :]

    def _ended(self, line: _Line) -> None:
        self.closed += 1
        self._close(line)

    def _close(self, line: _Line) -> None:
        self._selector.unregister(line.socket)
        line.socket.close()

    def _wave(self) -> None:
        lines: list[_Line] = [key.data for key in self._selector.get_map().values()]
        for _ in range(self._attack.connections - len(lines)):
            self._open()
        for line in lines:
            piece = next(line.pieces, None)
            if piece is None:
                self._close(line)
            else:
                line.left = memoryview(piece)
                self._selector.modify(line.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, line)


def main(name: str, port: str, seconds: str) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2 * IDLE, hard), hard))
    sys.stdout.buffer.write(msgspec.json.encode(_Attacker(ATTACKS[name], int(port)).run(float(seconds))))


if __name__ == "__main__":
    main(*sys.argv[1:])
