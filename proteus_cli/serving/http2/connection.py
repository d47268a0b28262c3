"""The server's side of an HTTP/2 connection (RFC 9113), with prior knowledge or after ALPN.

It takes bytes as they come, in any pieces, and calls an `Application`. Whatever the peer sends ends in an answer, a
`RST_STREAM` or a `GOAWAY` with the code that the RFC names, in bounded memory; no task, timer or lock per request.

Longer than other modules: frames, header blocks, calls and sending are modules of their own, and what is left is one
state that every kind of frame reads and changes. Cut in two, each half would need all of the other's fields.
"""

import asyncio
import struct
from typing import TYPE_CHECKING, Any, Protocol, cast

from proteus_cli.domain.buffer import Buffer
from proteus_cli.serving.http2 import frames
from proteus_cli.serving.http2.frames import (
    ACK,
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    HAS_PRIORITY,
    PADDED,
    SETTINGS,
    Code,
    ConnectionFault,
    StreamFault,
)
from proteus_cli.serving.http2.headers import Fields, HeaderBlocks, MalformedRequest
from proteus_cli.serving.http2.limits import Http2Limits
from proteus_cli.serving.http2.reading import FrameReader
from proteus_cli.serving.http2.sending import Call, Http2Stream, SendQueue
from proteus_cli.serving.transport.connections import Connections

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

ALPN = "h2"
_SIZES = {frames.PRIORITY: 5, frames.RST_STREAM: 4, frames.PING: 8, frames.WINDOW_UPDATE: 4}
_OF_CONNECTION = {SETTINGS, frames.PING, frames.GOAWAY}
_SETTING_BYTES, _PRIORITY_BYTES, _GOAWAY_BYTES = 6, 5, 8
_MAX_SETTINGS = 100
_MAX_UPDATES_DUE = 10_000
_REMEMBERED_RESETS = 256


class Application(Protocol):
    """What runs on top. ``request`` may depend on nothing but the fields: what it says is kept for the same fields."""

    def request(self, fields: Fields) -> Any: ...

    def open(self, request: Any, stream: Http2Stream) -> Call:
        """A call for a new stream; called for each, before any of its data."""
        ...


class Http2Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, application: Application, limits: Http2Limits, connections: Connections) -> None:
        self.connections, self._application, self._limits = connections, application, limits
        self.is_closing = self._is_leaving = False
        self._streams: dict[int, Http2Stream] = {}
        self._reader = FrameReader(self, limits.frame_bytes)
        self._blocks = HeaderBlocks(limits, application.request)
        self._block = bytearray()
        self._block_of = self._block_flags = self._continuations = 0
        self._last_stream = 0
        self._resets: dict[int, None] = {}  # the last streams that ended from this side
        self._receivable = limits.connection_window_bytes
        self._goodwill = float(limits.goodwill)
        self._looked_s = self._seen_s = self._whole_s = self._paused_s = self._closing_s = connections.now_s
        self._handlers: tuple[Callable[[int, int, Any], None], ...] = (
            self._on_data, self._on_headers, self._on_priority, self._on_rst_stream, self._on_settings,
            self._on_push_promise, self._on_ping, self._on_goaway, self._on_window_update, self._on_continuation,
        )  # fmt: skip

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.outlet = SendQueue(self._transport, self._answered)
        limits = self._limits
        offered = {
            frames.MAX_CONCURRENT_STREAMS: limits.streams,
            frames.INITIAL_WINDOW_SIZE: limits.window_bytes,
            frames.MAX_FRAME_SIZE: limits.frame_bytes,
            frames.MAX_HEADER_LIST_SIZE: limits.header_list_bytes,
        }
        widened = limits.connection_window_bytes - frames.DEFAULT_WINDOW
        self.outlet.control(frames.settings(offered) + frames.window_update(0, widened))
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if not self.connections.take(self):
            self._fail(ConnectionFault(Code.NO_ERROR, "too many connections"))
        elif tls is not None and tls.selected_alpn_protocol() != ALPN:
            self._fail(ConnectionFault(Code.PROTOCOL_ERROR, f"ALPN did not choose {ALPN}"))
        elif self.connections.is_draining:
            self.drain()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how makes no difference
        self.is_closing = True
        self._cancel_all()
        self.connections.release(self)

    def pause_writing(self) -> None:
        """Who doesn't read is not read from either, so that what waits for it stays as it is."""
        self.outlet.is_paused, self._paused_s = True, self.connections.now_s
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.outlet.is_paused = False
        self._transport.resume_reading()
        self.outlet.pump()

    def data_received(self, data: bytes) -> None:
        if self.is_closing:  # what still comes is not looked at
            return
        self._seen_s = self.connections.now_s
        try:
            self._reader.read(data)
        except ConnectionFault as fault:
            self._fail(fault)

    # Connection

    def look(self, now_s: float) -> None:
        limits, reader = self._limits, self._reader
        gained = (now_s - self._looked_s) * limits.goodwill_per_s
        self._goodwill, self._looked_s = min(self._goodwill + gained, limits.goodwill), now_s
        self.outlet.updates_due = max(0, min(self.outlet.updates_due, _MAX_UPDATES_DUE))
        if not reader.waits:
            self._whole_s = now_s
        if self.is_closing:
            if now_s - self._closing_s > limits.linger_s:
                self.abort()
        elif self.outlet.is_paused:
            if now_s - self._paused_s > limits.request_s:
                self.abort()
        elif now_s - self._whole_s > limits.request_s:
            code = Code.SETTINGS_TIMEOUT if reader.only == SETTINGS else Code.ENHANCE_YOUR_CALM
            self._fail(ConnectionFault(code, "a frame or header block took too long to come in"))
        elif not self._streams and now_s - self._seen_s > limits.idle_s:
            self.drain()
        else:
            for stream in tuple(self._streams.values()):
                if stream.waits_since_s is not None and now_s - stream.waits_since_s > limits.request_s:
                    self._reset(stream.id, Code.CANCEL)

    def drain(self) -> None:
        if self.is_closing:
            return
        if not self._is_leaving:
            self._is_leaving = True
            self.outlet.control(frames.goaway(self._last_stream, Code.NO_ERROR, ""))
        if self.connections.is_draining:
            for stream in list(self._streams.values()):
                stream.call.drain()
        self._close_if_done()

    def abort(self) -> None:
        self._transport.abort()

    # Frames

    def took(self, kind: int, flags: int, stream_id: int, payload: Buffer) -> None:
        try:
            if kind > frames.HEADERS:
                self._check(kind, stream_id, len(payload))
            if kind <= CONTINUATION:
                self._handlers[kind](flags, stream_id, payload)
        except StreamFault as fault:
            self._spend()
            self._reset(fault.stream_id, fault.code)

    def _check(self, kind: int, stream_id: int, size: int) -> None:
        """What holds for all frames of a kind. Most of those that are no request ask for nothing."""
        if kind not in {frames.WINDOW_UPDATE, CONTINUATION}:
            self._spend()
        if (kind in _OF_CONNECTION) != (stream_id == 0) and kind <= CONTINUATION and kind != frames.WINDOW_UPDATE:
            raise ConnectionFault(Code.PROTOCOL_ERROR, f"a frame of kind {kind} on stream {stream_id}")
        if size != _SIZES.get(kind, size):
            if kind == frames.PRIORITY:
                raise StreamFault(stream_id, Code.FRAME_SIZE_ERROR)
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"a frame of kind {kind} and {size} bytes")

    def _spend(self) -> None:
        """The peer sent a frame that asks for nothing."""
        self._goodwill -= 1.0
        if self._goodwill < 0.0:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id & 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a request on a stream that isn't the client's")
        if flags & PADDED:
            payload = bytes(frames.unpadded(payload))
        if flags & HAS_PRIORITY:
            if len(payload) < _PRIORITY_BYTES:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a priority that is cut off")
            payload = payload[_PRIORITY_BYTES:]
        if flags & END_HEADERS:
            self._take_block(flags, stream_id, payload)
            return
        self._reader.only, self._continuations = CONTINUATION, 0
        self._block_of, self._block_flags, self._block = stream_id, flags, bytearray(payload)

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self._reader.only is None or stream_id != self._block_of:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a continuation of nothing")
        self._continuations += 1
        self._block += payload
        if self._continuations > self._limits.continuations or len(self._block) > self._limits.header_block_bytes:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "a header block that doesn't end")
        if flags & END_HEADERS:
            self._reader.only = None
            self._take_block(self._block_flags, stream_id, bytes(self._block))

    def _take_block(self, flags: int, stream_id: int, block: bytes) -> None:
        if len(block) > self._limits.header_block_bytes:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too large a header block")
        if stream_id <= self._last_stream:
            self._take_trailers(flags, stream_id, block)
            return
        if self._is_leaving:  # the client was told that it won't be handled
            self._blocks.decode(block)
            return
        self._last_stream = stream_id
        try:
            request = self._blocks.request(block)
        except MalformedRequest:
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR) from None
        if len(self._streams) >= self._limits.streams:
            raise StreamFault(stream_id, Code.REFUSED_STREAM)
        stream = Http2Stream(self, stream_id, self.outlet.stream_window, self._limits.window_bytes)
        self._streams[stream_id] = stream
        stream.call = self._application.open(request, stream)
        if flags & END_STREAM:
            _end(stream, b"")

    def _take_trailers(self, flags: int, stream_id: int, block: bytes) -> None:
        """Fields after the body mean nothing to us, but may change the compression table."""
        self._blocks.decode(block)
        stream = self._open_stream(stream_id)
        if stream is not None:
            if not flags & END_STREAM:
                raise StreamFault(stream_id, Code.PROTOCOL_ERROR)
            _end(stream, b"")

    def _on_data(self, flags: int, stream_id: int, payload: Buffer) -> None:
        size = len(payload)
        self._receivable -= size
        if self._receivable < self._limits.connection_window_bytes >> 1:
            self._give_connection_room()
        stream = self._streams.get(stream_id)
        if stream is None or stream.has_ended:
            stream = self._open_stream(stream_id)
            if stream is None:
                return
        stream.receivable -= size
        if stream.receivable < 0:
            raise StreamFault(stream_id, Code.FLOW_CONTROL_ERROR)
        if flags & PADDED:
            payload = frames.unpadded(payload)
        if flags & END_STREAM:
            _end(stream, payload)
            return
        if not payload:
            self._spend()
        stream.call.received(payload, ended=False)
        if not stream.is_held:
            self.give_room(stream)

    def _open_stream(self, stream_id: int) -> Http2Stream | None:
        """The stream that may still get something; None where what comes for it came too late to matter."""
        self._require_begun(stream_id)
        stream = self._streams.get(stream_id)
        if stream is None and (stream_id in self._resets or stream_id > self._last_stream):
            return None
        if stream is None or stream.has_ended:
            raise StreamFault(stream_id, Code.STREAM_CLOSED)
        return stream

    def _require_begun(self, stream_id: int) -> None:
        """The stream is one that the client has opened; of those that were not taken in any more, nothing is known."""
        if stream_id == 0 or (stream_id > self._last_stream and not self._is_leaving):
            raise ConnectionFault(Code.PROTOCOL_ERROR, f"a frame on stream {stream_id}, which is not open")

    def _on_rst_stream(self, _: int, stream_id: int, __: bytes) -> None:
        self._require_begun(stream_id)
        self._drop(stream_id)

    def _on_settings(self, flags: int, _: int, payload: bytes) -> None:
        if len(payload) % _SETTING_BYTES or (flags & ACK and payload):
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"settings of {len(payload)} bytes")
        if len(payload) > _MAX_SETTINGS * _SETTING_BYTES:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many settings")
        if flags & ACK:
            return
        for name, value in dict(struct.iter_unpack(">HL", payload)).items():  # of several values the last counts
            self.outlet.set(name, value, self._streams.values())
        self.outlet.control(frames.frame(SETTINGS, ACK, 0, b""))
        self._reader.only = None
        self.outlet.pump()

    def _on_ping(self, flags: int, _: int, payload: bytes) -> None:
        if not flags & ACK:
            self.outlet.control(frames.frame(frames.PING, ACK, 0, payload))

    def _on_goaway(self, _: int, __: int, payload: bytes) -> None:
        """The client opens no more streams."""
        if len(payload) < _GOAWAY_BYTES:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a goaway that is cut off")
        self.drain()

    def _on_window_update(self, _: int, stream_id: int, payload: bytes) -> None:
        increment = int.from_bytes(payload, "big") & frames.LARGEST_WINDOW
        self.outlet.updates_due -= 1
        if self.outlet.updates_due < 0:
            self._spend()
        if stream_id == 0:
            if increment == 0:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "a window that grows by nothing")
            self.outlet.widen(increment, None)
            return
        self._require_begun(stream_id)
        stream = self._streams.get(stream_id)
        if stream is not None:
            if increment == 0:
                raise StreamFault(stream_id, Code.PROTOCOL_ERROR)
            self.outlet.widen(increment, stream)

    def _on_priority(self, *_: object) -> None:
        """Deprecated, and ignored."""

    def _on_push_promise(self, *_: object) -> None:
        raise ConnectionFault(Code.PROTOCOL_ERROR, "a client can't push")

    # Windows and endings

    def _give_connection_room(self) -> None:
        """What comes in is taken up at once: what may be kept of it is limited by stream and by all bodies together."""
        if self._receivable < 0:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "more data than the connection's window")
        window = self._limits.connection_window_bytes
        self.outlet.control(frames.window_update(0, window - self._receivable))
        self._receivable = window

    def give_room(self, stream: Http2Stream) -> None:
        """Let the client send more on a stream, once it has used half of what it was let."""
        window = self._limits.window_bytes
        if stream.receivable < window >> 1 and not stream.has_ended and stream.id in self._streams:
            self.outlet.control(frames.window_update(stream.id, window - stream.receivable))
            stream.receivable = window

    def _answered(self, stream: Http2Stream) -> None:
        del self._streams[stream.id]
        self._goodwill += 1.0
        if not stream.has_ended:  # the answer doesn't need the rest of the request
            self._say_reset(stream.id, Code.NO_ERROR)
        if self._is_leaving:
            self._close_if_done()

    def _reset(self, stream_id: int, code: Code) -> None:
        self._say_reset(stream_id, code)
        self._drop(stream_id)

    def _say_reset(self, stream_id: int, code: Code) -> None:
        self._resets[stream_id] = None
        if len(self._resets) > _REMEMBERED_RESETS:
            del self._resets[next(iter(self._resets))]
        self.outlet.control(frames.rst_stream(stream_id, code))

    def _drop(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self.outlet.forget(stream)
            stream.call.cancelled()
        if self._is_leaving:
            self._close_if_done()

    def _close_if_done(self) -> None:
        if not self._streams and not self.is_closing:
            self.is_closing, self._closing_s = True, self.connections.now_s
            self.outlet.flush()
            self._transport.close()

    def _fail(self, fault: ConnectionFault) -> None:
        """Say why, and let the peer read it: to close while it still sends could destroy what it hasn't read."""
        if self.is_closing:
            return
        self.is_closing, self._closing_s = True, self.connections.now_s
        self._cancel_all()
        self.outlet.control(frames.goaway(self._last_stream, fault.code, fault.message))
        self.outlet.flush()
        if self._transport.is_closing():  # there were too many to tell
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _cancel_all(self) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            self.outlet.forget(stream)
            stream.call.cancelled()


def _end(stream: Http2Stream, payload: Buffer) -> None:
    """The client has sent all it has to send."""
    stream.has_ended, stream.waits_since_s = True, None
    stream.call.received(payload, ended=True)
