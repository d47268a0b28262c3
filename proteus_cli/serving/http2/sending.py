"""The sending side of an HTTP/2 connection: windows, and what waits for them (RFC 9113 §5.2, §6.9)."""

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from proteus_cli.domain.buffer import Buffer
from proteus_cli.serving.http2.frames import (
    DATA,
    DEFAULT_FRAME,
    DEFAULT_WINDOW,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    HEAD,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    LARGEST_FRAME,
    LARGEST_WINDOW,
    MAX_FRAME_SIZE,
    Code,
    ConnectionFault,
    StreamFault,
)
from proteus_cli.serving.http2.limits import KIB

if TYPE_CHECKING:
    from proteus_cli.serving.http2.connection import Http2Connection

_TABLE_OF_SIZE_0 = b"\x20"
_MAX_UNSENT = 64 * KIB
_UPDATES_PER_FRAME = 4
_DRIBBLE_BYTES = 256


class Call(Protocol):
    """Who handles a request."""

    def received(self, content: Buffer, *, ended: bool) -> None:
        """The next bytes of the request's body; ``ended``: there are no more."""
        ...

    def cancelled(self) -> None:
        """Nobody waits for the answer any more; nothing may be sent."""
        ...

    def drain(self) -> None:
        """The server stops. What would not end by itself is to end now."""
        ...


class Http2Stream:
    """One request and its answer. ``sendable`` and ``receivable`` are what its two windows have left, in bytes."""

    __slots__ = (
        "call", "connection", "has_ended", "id", "is_held", "queue", "receivable", "sendable", "trailers",
        "waits_since_s",
    )  # fmt: skip

    def __init__(self, connection: "Http2Connection", stream_id: int, sendable: int, receivable: int) -> None:
        self.connection, self.id = connection, stream_id
        self.sendable, self.receivable = sendable, receivable
        self.call: Call
        self.has_ended = False  # by the client
        self.is_held = False
        self.queue: bytearray | None = None
        self.trailers = b""
        self.waits_since_s: float | None = (
            connection.connections.now_s
        )  # for the client, to send the rest or take what waits

    @property
    def backlog(self) -> int:
        """Bytes that wait for the client to take more."""
        return 0 if self.queue is None else len(self.queue)

    def send(self, head: bytes, body: bytes, trailers: bytes) -> None:
        """Header block, data, and a header block that ends the stream; what is empty is left out."""
        self.connection.outlet.send(self, head, body, trailers)

    def hold(self, *, is_held: bool) -> None:
        """Give the client no more room to send, or as much again as before."""
        if self.is_held and not is_held:
            self.is_held = False
            self.connection.give_room(self)
        self.is_held = is_held


class SendQueue:
    """Sends frames as far as the peer's windows and the socket take them; the rest waits, stream by stream in turn.

    ``finished`` is told of each stream whose answer is sent. What waits is at most what calls have handed over.
    """

    def __init__(self, transport: asyncio.Transport, finished: Callable[[Http2Stream], None]) -> None:
        self._transport, self._finished = transport, finished
        self.sendable = DEFAULT_WINDOW
        self.stream_window = DEFAULT_WINDOW
        self.frame_bytes = DEFAULT_FRAME
        self.is_paused = False
        self.waiting: dict[int, Http2Stream] = {}
        self._table_update = b""
        self.updates_due = 0  # window updates that the peer may send for what it got; a few bytes aren't worth any
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0

    def control(self, content: bytes) -> None:
        """Send frames that no window holds back.

        What is sent in one turn of the loop leaves together: a system call costs more than the rest of an answer.
        """
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self.flush)
        self._unsent.append(content)
        self._unsent_bytes += len(content)
        if self._unsent_bytes > _MAX_UNSENT:
            self.flush()

    def flush(self) -> None:
        if self._unsent:
            content, self._unsent, self._unsent_bytes = b"".join(self._unsent), [], 0
            if not self._transport.is_closing():
                self._transport.write(content)

    def send(self, stream: Http2Stream, head: bytes, body: bytes, trailers: bytes) -> None:
        size = len(body)
        if (
            size > self.sendable
            or size > stream.sendable
            or size > self.frame_bytes
            or self.is_paused
            or stream.queue is not None
            or self._table_update
        ):
            self._send_later(stream, head, body, trailers)
            return
        self.sendable -= size
        stream.sendable -= size
        stream_id, pack, parts = stream.id, HEAD.pack, list[bytes]()
        if head:
            parts += (pack(0, len(head), HEADERS, END_HEADERS, stream_id), head)
        if size:
            self.updates_due += _UPDATES_PER_FRAME
            parts += (pack(size >> 8, size & 0xFF, DATA, 0, stream_id), body)
        if trailers:
            parts += (_headers(len(trailers), stream_id, END_HEADERS | END_STREAM), trailers)
        self.control(b"".join(parts))
        if trailers:
            self._finished(stream)

    def _send_later(self, stream: Http2Stream, head: bytes, body: bytes, trailers: bytes) -> None:
        if head:
            self._send_headers(stream.id, head, END_HEADERS)
        if stream.queue is None:
            stream.queue = bytearray()
            stream.waits_since_s = stream.connection.connections.now_s
        stream.queue += body
        stream.trailers = trailers
        self.waiting[stream.id] = stream
        self._push_all(stream)

    def _send_headers(self, stream_id: int, block: bytes, flags: int) -> None:
        """Our compression table is always empty; if the peer wants it smaller than usual, it is told so once."""
        block, self._table_update = self._table_update + block, b""
        self.control(_headers(len(block), stream_id, flags) + block)

    def pump(self) -> None:
        """Send what waits: a frame of each stream in turn, until nothing more may be sent."""
        progresses = True
        while progresses and self.waiting and not self.is_paused:
            progresses = False
            for stream in tuple(self.waiting.values()):
                progresses |= self._push(stream)

    def _push_all(self, stream: Http2Stream) -> None:
        while stream.queue is not None and self._push(stream):
            pass

    def _push(self, stream: Http2Stream) -> bool:
        """Send a frame of what the stream has waiting; False where it may not send any."""
        queue = stream.queue
        if queue is None or self.is_paused:
            return False
        size = min(len(queue), stream.sendable, self.sendable, self.frame_bytes)
        if size > 0:
            self.sendable -= size
            stream.sendable -= size
            self.control(HEAD.pack(size >> 8, size & 0xFF, DATA, 0, stream.id) + queue[:size])
            del queue[:size]
            if size >= _DRIBBLE_BYTES or not queue:
                self.updates_due += _UPDATES_PER_FRAME
            stream.waits_since_s = stream.connection.connections.now_s
        if queue:
            return size > 0
        del self.waiting[stream.id]
        stream.queue = stream.waits_since_s = None
        if stream.trailers:
            self._send_headers(stream.id, stream.trailers, END_HEADERS | END_STREAM)
            self._finished(stream)
        return True

    def forget(self, stream: Http2Stream) -> None:
        self.waiting.pop(stream.id, None)
        stream.queue = None

    def widen(self, increment: int, stream: Http2Stream | None) -> None:
        """The peer takes so many bytes more: on the connection, or on a stream. Raises where that is too many."""
        if stream is None:
            was_shut = self.sendable <= 0
            self.sendable += increment
            if self.sendable > LARGEST_WINDOW:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a window past 2^31-1")
            if was_shut:
                self.pump()
            return
        stream.sendable += increment
        if stream.sendable > LARGEST_WINDOW:
            raise StreamFault(stream.id, Code.FLOW_CONTROL_ERROR)
        self._push_all(stream)

    def set(self, name: int, value: int, streams: Iterable[Http2Stream]) -> None:
        """The peer wants a setting (RFC 9113 §6.5.2); a change of the window is one of all its streams."""
        if name == INITIAL_WINDOW_SIZE:
            change, self.stream_window = value - self.stream_window, value
            for stream in streams:
                stream.sendable += change
            if value > LARGEST_WINDOW or any(stream.sendable > LARGEST_WINDOW for stream in streams):
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a window past 2^31-1")
        elif name == MAX_FRAME_SIZE:
            if not DEFAULT_FRAME <= value <= LARGEST_FRAME:
                raise ConnectionFault(Code.PROTOCOL_ERROR, f"a maximum frame size of {value}")
            self.frame_bytes = value
        elif name == HEADER_TABLE_SIZE:
            self._table_update = _TABLE_OF_SIZE_0
        elif name == ENABLE_PUSH and value > 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")


def _headers(size: int, stream_id: int, flags: int) -> bytes:
    return HEAD.pack(size >> 8, size & 0xFF, HEADERS, flags, stream_id)
