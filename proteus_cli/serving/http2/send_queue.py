"""Sends frames of an HTTP/2 connection as far as the peer's windows allow (RFC 9113 §5.2, §6.9)."""

import asyncio
from collections.abc import Iterable

from proteus_cli.serving.http2 import frames
from proteus_cli.serving.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    HEADERS,
    ConnectionFault,
    ErrorCode,
    StreamFault,
)
from proteus_cli.serving.http2.limits import KIB, FloodBudget
from proteus_cli.serving.http2.stream import Http2Stream

_TABLE_OF_SIZE_0 = b"\x20"
_MAX_UNSENT = 64 * KIB
_MIN_CREDITED_BYTES = 256  # a peer may not earn window updates by taking a few bytes at a time


class SendQueue:
    """Sends frames as far as the peer's windows and the socket take them; the rest waits, stream by stream in turn.

    A stream whose response is sent is reported to its connection. Waiting bytes count among the bodies in memory;
    without memory for them, the stream is reset.
    """

    def __init__(self, transport: asyncio.Transport, flood_budget: FloodBudget) -> None:
        self._transport, self._flood_budget = transport, flood_budget
        self.send_window = frames.DEFAULT_WINDOW
        self.initial_send_window = frames.DEFAULT_WINDOW
        self.frame_bytes = frames.DEFAULT_FRAME
        self.is_paused = False
        self.waiting: dict[int, Http2Stream] = {}
        self._table_update = b""
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0

    def write(self, content: bytes) -> None:
        """Send frames that no window holds back, all of one turn of the loop together.

        A system call costs more than the rest of a response.
        """
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self.flush)
        self._unsent.append(content)
        self._unsent_bytes += len(content)
        if self._unsent_bytes > _MAX_UNSENT:
            self.flush()

    def flush(self) -> None:
        """Send what was written in this turn of the loop."""
        if self._unsent:
            content, self._unsent, self._unsent_bytes = b"".join(self._unsent), [], 0
            if not self._transport.is_closing():
                self._transport.write(content)

    def send(self, stream: Http2Stream, head: bytes, body: bytes, trailers: bytes) -> None:
        """Send a header block, DATA, and trailers, as far as the windows allow; see `Http2Stream.send`."""
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
        stream_id = stream.id
        parts: list[bytes] = []  # `list[bytes]()` takes longer
        if head:
            parts += (_headers(len(head), stream_id, END_HEADERS), head)
        if size:
            self._flood_budget.sent_data()
            parts += (FRAME_HEADER.pack(size >> 8, size & 0xFF, DATA, 0, stream_id), body)
        if trailers:
            parts += (_headers(len(trailers), stream_id, END_HEADERS | END_STREAM), trailers)
        self.write(b"".join(parts))
        if trailers:
            stream.connection.on_response_sent(stream)

    def _enqueue(self, stream: Http2Stream, head: bytes, body: bytes, trailers: bytes) -> None:
        connections = stream.connection.connections
        if not connections.reserve(len(body)):
            stream.connection.reset(stream.id, ErrorCode.ENHANCE_YOUR_CALM)
            return
        if head:
            self._send_headers(stream.id, head, END_HEADERS)
        if stream.queue is None:
            stream.queue = bytearray()
            stream.waiting_since_s = connections.now_s
        stream.queue += body
        stream.trailers = trailers
        self.waiting[stream.id] = stream
        self._send_waiting_frames(stream)

    def _send_headers(self, stream_id: int, block: bytes, flags: int) -> None:
        """Send a header block. After the peer changed the size of our compression table, say that it is kept empty."""
        block, self._table_update = self._table_update + block, b""
        self.write(_headers(len(block), stream_id, flags) + block)

    def send_waiting(self) -> None:
        """Send what is queued: a frame of each stream in turn, as long as any may be sent."""
        progresses = True
        while progresses and self.waiting and not self.is_paused:
            progresses = False
            for stream in tuple(self.waiting.values()):
                progresses |= self._send_waiting_frame(stream)

    def _send_waiting_frames(self, stream: Http2Stream) -> None:
        while stream.queue is not None and self._send_waiting_frame(stream):
            pass

    def _send_waiting_frame(self, stream: Http2Stream) -> bool:
        """Send a frame of what the stream has queued. False: it may not send any."""
        queue = stream.queue
        if queue is None or self.is_paused:
            return False
        size = min(len(queue), stream.send_window, self.send_window, self.frame_bytes)
        if size > 0:
            self.send_window -= size
            stream.send_window -= size
            self.write(FRAME_HEADER.pack(size >> 8, size & 0xFF, DATA, 0, stream.id) + queue[:size])
            del queue[:size]
            stream.connection.connections.free(size)
            if size >= _MIN_CREDITED_BYTES or not queue:
                self._flood_budget.sent_data()
            stream.waiting_since_s = stream.connection.connections.now_s
        if queue:
            return size > 0
        del self.waiting[stream.id]
        stream.queue = stream.waiting_since_s = None
        if stream.trailers:
            self._send_headers(stream.id, stream.trailers, END_HEADERS | END_STREAM)
            stream.connection.on_response_sent(stream)
        else:
            stream.call.sent()
        return True

    def discard(self, stream: Http2Stream) -> None:
        """Send no more of a stream."""
        self.waiting.pop(stream.id, None)
        stream.connection.connections.free(stream.unsent_bytes)
        stream.queue = None

    def enlarge_window(self, increment: int, stream: Http2Stream | None) -> None:
        """Extend the send window of a stream, or of the connection. Raises a fault past 2^31-1."""
        if stream is None:
            was_shut = self.send_window <= 0
            self.send_window += increment
            if self.send_window > frames.LARGEST_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window past 2^31-1")
            if was_shut:
                self.send_waiting()
            return
        stream.send_window += increment
        if stream.send_window > frames.LARGEST_WINDOW:
            raise StreamFault(stream.id, ErrorCode.FLOW_CONTROL_ERROR)
        self._send_waiting_frames(stream)

    def apply_setting(self, name: int, value: int, streams: Iterable[Http2Stream]) -> None:
        """Apply a setting of the peer (RFC 9113 §6.5.2). Raises `ConnectionFault` if its value is not allowed."""
        if name == frames.INITIAL_WINDOW_SIZE:
            change, self.initial_send_window = value - self.initial_send_window, value
            for stream in streams:
                stream.send_window += change
            if value > frames.LARGEST_WINDOW or any(stream.send_window > frames.LARGEST_WINDOW for stream in streams):
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window past 2^31-1")
        elif name == frames.MAX_FRAME_SIZE:
            if not frames.DEFAULT_FRAME <= value <= frames.LARGEST_FRAME:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a maximum frame size of {value}")
            self.frame_bytes = value
        elif name == frames.HEADER_TABLE_SIZE:
            self._table_update = _TABLE_OF_SIZE_0
        elif name == frames.ENABLE_PUSH and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "frames.ENABLE_PUSH is neither 0 nor 1")


def _headers(size: int, stream_id: int, flags: int) -> bytes:
    return FRAME_HEADER.pack(size >> 8, size & 0xFF, HEADERS, flags, stream_id)
