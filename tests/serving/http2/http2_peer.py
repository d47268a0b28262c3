"""A peer of `Http2Connection` in memory: feeds it bytes, and keeps what it answers, frame by frame."""

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hpack import Encoder

from proteus_cli.buffers import Buffer
from proteus_cli.serving.http2 import frames
from proteus_cli.serving.http2.connection import Http2Connection
from proteus_cli.serving.http2.frames import FRAME_HEADER, PREFACE, ErrorCode
from proteus_cli.serving.http2.header_blocks import Fields
from proteus_cli.serving.http2.limits import Http2Limits
from proteus_cli.serving.http2.stream import Http2Stream
from proteus_cli.serving.transport.connections import Connections, Turns

T = TypeVar("T")
SETTINGS = frames.settings({})
START = PREFACE + SETTINGS
FIELDS = [(":method", "POST"), (":scheme", "http"), (":path", "/echo"), (":authority", "here")]


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes


def frames_in(data: bytes) -> list[Frame]:
    """All frames of what a server sent; it must be whole frames."""
    found, at = [], 0
    while at < len(data):
        upper, lower, kind, flags, stream = FRAME_HEADER.unpack_from(data, at)
        stop = at + FRAME_HEADER.size + (upper << 8 | lower)
        assert stop <= len(data), "a frame is cut off"
        found.append(Frame(kind, flags, stream, data[at + FRAME_HEADER.size : stop]))
        at = stop
    return found


class EchoCall:
    """Answers with the body it got, once that is complete, or when it is told to."""

    def __init__(self, application: "Echo", request: Fields, stream: Http2Stream) -> None:
        self.application, self.request, self.stream = application, request, stream
        self.body = bytearray()
        self.is_gone = self.is_answered = False

    def received(self, content: Buffer, *, ended: bool) -> None:
        self.body += content
        if ended and not self.application.waits:
            self.answer()

    def answer(self) -> None:
        assert not self.is_gone
        self.is_answered = True
        self.stream.send(b"\x88", bytes(self.body), frames.literal_field(b"done", b"yes"))

    def sent(self) -> None:
        """It waits for nothing."""

    def drain(self) -> None:
        """It ends by itself."""

    def cancelled(self) -> None:
        assert not self.is_gone
        self.is_gone = True


@dataclass
class Echo:
    """Answers each request with its body: at once, or, where it ``waits``, when the test says so."""

    waits: bool = False
    calls: list[EchoCall] = field(default_factory=list)

    def request(self, fields: Fields) -> Fields:
        return fields

    def open(self, request: Any, stream: Http2Stream) -> EchoCall:
        self.calls.append(EchoCall(self, request, stream))
        return self.calls[-1]


class Transport(asyncio.Transport):
    """Keeps what is written. ``is_full``: like a socket whose peer doesn't read."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.is_closed = self.is_reading_paused = self.is_full = False
        self.protocol: Http2Connection

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closed
        self.sent += data
        if self.is_full:
            self.protocol.pause_writing()

    def is_closing(self) -> bool:
        return self.is_closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.protocol.connection_lost(None)

    abort = close


class Peer:
    """A client's end, and the turns of the server's. Only within a running loop."""

    def __init__(
        self, application: Any, limits: Http2Limits | None = None, connections: Connections | None = None
    ) -> None:
        self.application = application
        self.connections = Connections(max_connections=10, max_body_bytes=2**24) if connections is None else connections
        self.turns = deque[Callable[[], None]]()
        self.connections.turns = Turns(self.turns.append)
        self.connection = Http2Connection(application, self.connections, limits or Http2Limits())
        self.transport = Transport()
        self.transport.protocol = self.connection
        self.connection.connection_made(self.transport)
        self.encoder = Encoder()

    def feed(self, *pieces: bytes) -> None:
        """The server receives these, each in a read of its own, as long as it reads, and takes all turns they need."""
        for piece in pieces:
            if not self.transport.is_closed:
                self.connection.data_received(piece)
            self.take_turns()

    def take_turns(self) -> None:
        while self.turns:
            self.turns.popleft()()

    def request(self, stream: int = 1, *, ended: bool = False, fields: Iterable[tuple[str, str]] = FIELDS) -> bytes:
        flags, fields = frames.END_HEADERS | (frames.END_STREAM if ended else 0), list(fields)
        is_short = all(len(value) < 1000 for _, value in fields)  # Huffman's code takes quadratic time to write
        return frames.frame(frames.HEADERS, flags, stream, self.encoder.encode(fields, huffman=is_short))

    def pass_time(self, after_s: float) -> None:
        """So much time has passed."""
        self.connections.now_s += after_s
        if not self.transport.is_closed:
            self.connection.check_timeouts(self.connections.now_s)

    @property
    def got(self) -> list[Frame]:
        """All that the server has sent."""
        if not self.transport.is_closed:
            self.connection.send_queue.flush()
        return frames_in(bytes(self.transport.sent))

    def of_kind(self, kind: int) -> list[Frame]:
        return [frame for frame in self.got if frame.kind == kind]

    @property
    def goaway(self) -> ErrorCode | None:
        """Why the server ended the connection, if it has."""
        found = self.of_kind(frames.GOAWAY)
        return ErrorCode(struct.unpack_from(">L", found[-1].payload, 4)[0]) if found else None

    @property
    def resets(self) -> dict[int, ErrorCode]:
        return {f.stream: ErrorCode(int.from_bytes(f.payload, "big")) for f in self.of_kind(frames.RST_STREAM)}

    def body(self, stream: int = 1) -> bytes:
        return b"".join(frame.payload for frame in self.of_kind(frames.DATA) if frame.stream == stream)

    def is_answered(self, stream: int = 1) -> bool:
        return any(f.stream == stream and f.flags & frames.END_STREAM for f in self.of_kind(frames.HEADERS))


def data(stream: int, content: bytes, *, ended: bool = False) -> bytes:
    return frames.frame(frames.DATA, frames.END_STREAM if ended else 0, stream, content)


_runner = asyncio.Runner()


def in_loop(scene: Callable[[], T]) -> T:
    """Run a scene on an event loop."""

    async def play() -> T:
        return scene()

    return _runner.run(play())


def play(*pieces: bytes, limits: Http2Limits | None = None, waits: bool = False) -> Peer:
    """A peer that has sent these pieces."""

    def scene() -> Peer:
        peer = Peer(Echo(waits), limits)
        peer.feed(*pieces)
        assert peer.got
        return peer

    return in_loop(scene)
