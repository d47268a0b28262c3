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
    FRAME_HEADER,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    LARGEST_FRAME,
    LARGEST_WINDOW,
    MAX_FRAME_SIZE,
    ConnectionFault,
    ErrorCode,
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
    """One request and its answer; ``send_window`` and ``receive_window`` are what its windows have left, in bytes."""

    __slots__ = (
        "call",
        "connection",
        "id",
        "is_half_closed",
        "is_throttled",
        "queue",
        "receive_window",
        "send_window",
        "trailers",
        "waiting_since_s",
    )  # fmt: skip

    def __init__(self, connection: "Http2Connection", stream_id: int, send_window: int, receive_window: int) -> None:
        self.connection, self.id = connection, stream_id
        self.send_window, self.receive_window = send_window, receive_window
        self.call: Call
        self.is_half_closed = False  # by the client
        self.is_throttled = False
        self.queue: bytearray | None = None
        self.trailers = b""
        self.waiting_since_s: float | None = connection.connections.now_s
        """Since when the server waits for the client, to send the rest of a message or to take what is unsent."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait for the client to take more."""
        return 0 if self.queue is None else len(self.queue)

    def send(self, head: bytes, body: bytes, trailers: bytes) -> None:
        """Header block, data, and a header block that ends the stream; what is empty is left out."""
        self.connection.send_queue.send(self, head, body, trailers)

    def throttle(self, *, is_throttled: bool) -> None:
        """Give the client no more room to send, or as much again as before."""
        if self.is_throttled and not is_throttled:
            self.is_throttled = False
            self.connection.extend_window(self)
        self.is_throttled = is_throttled


class SendQueue:
    """Sends frames as far as the peer's windows and the socket take them; the rest waits, stream by stream in turn.

    ``on_sent`` is told of each stream whose answer is sent. What waits is at most what calls have handed over.
    """

    def __init__(self, transport: asyncio.Transport, on_sent: Callable[[Http2Stream], None]) -> None:
        self._transport, self._on_sent = transport, on_sent
        self.send_window = DEFAULT_WINDOW
        self.initial_send_window = DEFAULT_WINDOW
        self.frame_bytes = DEFAULT_FRAME
        self.is_paused = False
        self.waiting: dict[int, Http2Stream] = {}
        self._table_update = b""
        self.window_updates_due = 0  # updates that the peer may send for what it got; a few bytes aren't worth any
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0

    def write(self, content: bytes) -> None:
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
            size > self.send_window
            or size > stream.send_window
            or size > self.frame_bytes
            or self.is_paused
            or stream.queue is not None
            or self._table_update
        ):
            self._enqueue(stream, head, body, trailers)
            return
        self.send_window -= size
        stream.send_window -= size
        stream_id, pack, parts = stream.id, FRAME_HEADER.pack, list[bytes]()
        if head:
            parts += (pack(0, len(head), HEADERS, END_HEADERS, stream_id), head)
        if size:
            self.window_updates_due += _UPDATES_PER_FRAME
            parts += (pack(size >> 8, size & 0xFF, DATA, 0, stream_id), body)
        if trailers:
            parts += (_headers(len(trailers), stream_id, END_HEADERS | END_STREAM), trailers)
        self.write(b"".join(parts))
        if trailers:
            self._on_sent(stream)

    def _enqueue(self, stream: Http2Stream, head: bytes, body: bytes, trailers: bytes) -> None:
        if head:
            self._send_headers(stream.id, head, END_HEADERS)
        if stream.queue is None:
            stream.queue = bytearray()
            stream.waiting_since_s = stream.connection.connections.now_s
        stream.queue += body
        stream.trailers = trailers
        self.waiting[stream.id] = stream
        self._send_waiting_frames(stream)

    def _send_headers(self, stream_id: int, block: bytes, flags: int) -> None:
        """Our compression table is always empty; if the peer wants it smaller than usual, it is told so once."""
        block, self._table_update = self._table_update + block, b""
        self.write(_headers(len(block), stream_id, flags) + block)

    def send_waiting(self) -> None:
        """Send what waits: a frame of each stream in turn, until nothing more may be sent."""
        progresses = True
        while progresses and self.waiting and not self.is_paused:
            progresses = False
            for stream in tuple(self.waiting.values()):
                progresses |= self._send_waiting_frame(stream)

    def _send_waiting_frames(self, stream: Http2Stream) -> None:
        while stream.queue is not None and self._send_waiting_frame(stream):
            pass

    def _send_waiting_frame(self, stream: Http2Stream) -> bool:
        """Send a frame of what the stream has waiting; False where it may not send any."""
        queue = stream.queue
        if queue is None or self.is_paused:
            return False
        size = min(len(queue), stream.send_window, self.send_window, self.frame_bytes)
        if size > 0:
            self.send_window -= size
            stream.send_window -= size
            self.write(FRAME_HEADER.pack(size >> 8, size & 0xFF, DATA, 0, stream.id) + queue[:size])
            del queue[:size]
            if size >= _DRIBBLE_BYTES or not queue:
                self.window_updates_due += _UPDATES_PER_FRAME
            stream.waiting_since_s = stream.connection.connections.now_s
        if queue:
            return size > 0
        del self.waiting[stream.id]
        stream.queue = stream.waiting_since_s = None
        if stream.trailers:
            self._send_headers(stream.id, stream.trailers, END_HEADERS | END_STREAM)
            self._on_sent(stream)
        return True

    def discard(self, stream: Http2Stream) -> None:
        self.waiting.pop(stream.id, None)
        stream.queue = None

    def enlarge_window(self, increment: int, stream: Http2Stream | None) -> None:
        """The peer takes so many bytes more: on the connection, or on a stream. Raises where that is too many."""
        if stream is None:
            was_shut = self.send_window <= 0
            self.send_window += increment
            if self.send_window > LARGEST_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window past 2^31-1")
            if was_shut:
                self.send_waiting()
            return
        stream.send_window += increment
        if stream.send_window > LARGEST_WINDOW:
            raise StreamFault(stream.id, ErrorCode.FLOW_CONTROL_ERROR)
        self._send_waiting_frames(stream)

    def apply_setting(self, name: int, value: int, streams: Iterable[Http2Stream]) -> None:
        """The peer wants a setting (RFC 9113 §6.5.2); a change of the window is one of all its streams."""
        if name == INITIAL_WINDOW_SIZE:
            change, self.initial_send_window = value - self.initial_send_window, value
            for stream in streams:
                stream.send_window += change
            if value > LARGEST_WINDOW or any(stream.send_window > LARGEST_WINDOW for stream in streams):
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window past 2^31-1")
        elif name == MAX_FRAME_SIZE:
            if not DEFAULT_FRAME <= value <= LARGEST_FRAME:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a maximum frame size of {value}")
            self.frame_bytes = value
        elif name == HEADER_TABLE_SIZE:
            self._table_update = _TABLE_OF_SIZE_0
        elif name == ENABLE_PUSH and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")


def _headers(size: int, stream_id: int, flags: int) -> bytes:
    return FRAME_HEADER.pack(size >> 8, size & 0xFF, HEADERS, flags, stream_id)
