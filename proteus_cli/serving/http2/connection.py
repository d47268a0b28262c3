"""One HTTP/2 connection: what each frame does to it, and how it ends. The package's docstring has the theory.

The module is long because each kind of frame may change the streams, the windows and the end of the connection, which
are one state. Reading frames, header blocks, sending and the flood budget have modules of their own.
"""

import asyncio
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

from proteus_cli.buffers import Buffer
from proteus_cli.serving.http2 import frames
from proteus_cli.serving.http2.frame_reader import FrameReader
from proteus_cli.serving.http2.frames import ACK, END_STREAM, PADDED, SETTINGS, ConnectionFault, ErrorCode, StreamFault
from proteus_cli.serving.http2.header_blocks import Fields, HeaderBlocks, MalformedRequest
from proteus_cli.serving.http2.limits import KIB, FloodBudget, Http2Limits, Http2Timeouts
from proteus_cli.serving.http2.send_queue import SendQueue
from proteus_cli.serving.http2.stream import (
    AFTER_RESET,
    AFTER_RESPONSE,
    CONNECTION_TRANSITIONS,
    OPEN,
    Call,
    ConnectionEvent,
    ConnectionState,
    Http2Stream,
)
from proteus_cli.serving.transport.connections import WORK_PER_TURN, Connections, Turn, client_of

if TYPE_CHECKING:
    import ssl

ALPN = "h2"
_SIZES = {frames.PRIORITY: 5, frames.RST_STREAM: 4, frames.PING: 8, frames.WINDOW_UPDATE: 4}
_CONNECTION_KINDS = {SETTINGS, frames.PING, frames.GOAWAY}
_SETTING_BYTES, _MIN_GOAWAY_BYTES = 6, 8
_MAX_SETTINGS = 100
_MAX_REMEMBERED_RESETS = 256
_CALL_UNITS = 2  # of work: the frames of a unary call
_LONG_READ_BYTES = 64 * KIB  # behind a read from here on, another one may follow in the same turn of the loop
_IS_CLOSING = {ConnectionState.CLOSING, ConnectionState.CLOSED}
_DEFAULT_LIMITS, _DEFAULT_TIMEOUTS = Http2Limits(), Http2Timeouts()


class Application(Protocol):
    """An application on HTTP/2."""

    def request(self, fields: Fields) -> Any:
        """The request of these header fields alone; it is kept for later requests with the same fields."""

    def open(self, request: Any, stream: Http2Stream) -> Call:
        """Open a call for a new stream, before any of its data."""


class Http2Connection(asyncio.Protocol):
    """One client. ``state`` moves along `CONNECTION_TRANSITIONS`; a move that is not there raises `KeyError`: a bug.

    ``is_closing`` and ``_is_going_away`` say what it is as flags, as each frame and response asks. A stream of
    ``_streams`` is open or half-closed; those up to ``_last_stream`` that aren't are closed.
    ``is_admitted``: within the limit on connections; of others the application takes few calls.
    ``_resets`` are the last streams that this side has reset: frames for them may still be on their way.
    """

    def __init__(
        self,
        application: Application,
        connections: Connections,
        limits: Http2Limits = _DEFAULT_LIMITS,
        timeouts: Http2Timeouts = _DEFAULT_TIMEOUTS,
    ) -> None:
        self.connections, self._application, self._limits, self._timeouts = connections, application, limits, timeouts
        self.state = ConnectionState.OPEN
        self.is_closing = self._is_going_away = False
        self._streams: dict[int, Http2Stream] = {}
        self._last_stream = 0
        self._resets: dict[int, None] = {}
        self.flood_budget = FloodBudget(limits.flood_budget, limits.flood_budget_per_s)
        self.turn, self._waits_for_turn = Turn(), False
        self.reads_long = asyncio.Lock()  # held while a long request is read
        self._later: dict[Callable[[], None], None] = {}  # what calls have left for the next turn, in order
        self._reader = FrameReader(self, limits, self.flood_budget, self.turn)
        self._blocks = HeaderBlocks(limits, application.request, self.turn)
        self._receive_window = limits.connection_window_bytes
        self._last_check_s = self._last_read_s = self._complete_s = self._paused_s = self._closing_s = connections.now_s
        self._handlers: dict[int, Callable[[int, int, Any], None]] = {
            frames.DATA: self._on_data,
            frames.HEADERS: self._on_header_block,
            frames.RST_STREAM: self._on_rst_stream,
            SETTINGS: self._on_settings,
            frames.PUSH_PROMISE: self._on_push_promise,
            frames.PING: self._on_ping,
            frames.GOAWAY: self._on_goaway,
            frames.WINDOW_UPDATE: self._on_window_update,
        }  # other kinds mean nothing here

    def _on(self, event: ConnectionEvent) -> None:
        self.state = CONNECTION_TRANSITIONS[self.state][event]
        self._is_going_away = self.state is ConnectionState.GOING_AWAY
        self.is_closing = self.state in _IS_CLOSING
        if self.state is ConnectionState.CLOSING:
            self._closing_s = self.connections.now_s

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.send_queue = SendQueue(self._transport, self.flood_budget)
        limits = self._limits
        offered = {
            frames.MAX_CONCURRENT_STREAMS: limits.streams,
            frames.INITIAL_WINDOW_SIZE: limits.window_bytes,
            frames.MAX_FRAME_SIZE: limits.frame_bytes,
            frames.MAX_HEADER_LIST_SIZE: limits.header_list_bytes,
        }
        extension = limits.connection_window_bytes - frames.DEFAULT_WINDOW
        self.send_queue.write(frames.settings(offered) + frames.window_update(0, extension))
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        self.is_admitted = self.connections.admit(self, ALPN, client_of(transport))
        if tls is not None and tls.selected_alpn_protocol() != ALPN:
            self._fail(ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"ALPN did not choose {ALPN}"))
        elif self.connections.is_draining:
            self.drain()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how makes no difference
        self._on(ConnectionEvent.LOST)
        self._cancel_all()
        self.connections.remove(self)

    def pause_writing(self) -> None:
        """Read nothing from a client that does not read, so that no more waits for it."""
        self.send_queue.is_paused, self._paused_s = True, self.connections.now_s
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.send_queue.is_paused = False
        self.send_queue.send_waiting()
        self._go_on()

    def data_received(self, data: bytes) -> None:
        if self.connections.loop_turn.is_crowded:
            self.turn.shorten()
        if self.is_closing:  # and discarding what the peer still sends
            self.turn.end()
        else:
            self._last_read_s, left = self.connections.now_s, self.turn.left
            try:
                self._reader.read(data)
            except ConnectionFault as fault:
                self._fail(fault)
            if 0 < self.turn.left >= left - _CALL_UNITS and len(data) < _LONG_READ_BYTES:
                self.turn.left = left
        if self.turn.left <= 0:
            self._go_on()

    # Turns

    def later(self, go_on: Callable[[], None]) -> None:
        """Have a call go on in the next turn, before anything more is read. It may have ended by then."""
        self._later[go_on] = None
        self._go_on()

    def _go_on(self) -> None:
        """Read on: now, if this turn is not over, else in the next one. Read nothing while the client does not read."""
        if self._waits_for_turn or self.send_queue.is_paused:
            return
        has_rest = not self.is_closing and (self._later or self._reader.has_rest)
        if self.turn.left > 0 and not has_rest:
            self._transport.resume_reading()
            return
        self._waits_for_turn = True
        self._transport.pause_reading()
        self.connections.loop_turn.spend(WORK_PER_TURN)
        self.connections.turns.wait(self._take_turn)

    def _take_turn(self) -> None:
        self._waits_for_turn, self.turn.left = False, WORK_PER_TURN
        if self.send_queue.is_paused:
            return
        while self._later and self.turn.left > 0:
            go_on = next(iter(self._later))
            del self._later[go_on]
            go_on()
        if not self._later and not self.is_closing:
            try:
                self._reader.go_on()
            except ConnectionFault as fault:
                self._fail(fault)
        self._go_on()

    # Connection

    def check_timeouts(self, now_s: float) -> None:
        timeouts, reader = self._timeouts, self._reader
        self.flood_budget.refill(now_s - self._last_check_s)
        self._last_check_s = now_s
        if not reader.is_incomplete:
            self._complete_s = now_s
        if self.is_closing:
            if now_s - self._closing_s > timeouts.linger_s:
                self.abort()
        elif self.send_queue.is_paused:
            if now_s - self._paused_s > timeouts.request_s:
                self.abort()
        elif now_s - self._complete_s > timeouts.request_s:
            code = ErrorCode.SETTINGS_TIMEOUT if reader.required_kind == SETTINGS else ErrorCode.ENHANCE_YOUR_CALM
            self._fail(ConnectionFault(code, "a frame or header block took too long to come in"))
        elif not self._streams and now_s - self._last_read_s > timeouts.idle_s:
            self.drain()
        else:
            for stream in tuple(self._streams.values()):
                if stream.waiting_since_s is not None and now_s - stream.waiting_since_s > timeouts.request_s:
                    self.reset(stream.id, ErrorCode.CANCEL)

    def drain(self) -> None:
        if self.is_closing:
            return
        if not self._is_going_away:
            self._on(ConnectionEvent.DRAINED)
            self.send_queue.write(frames.goaway(self._last_stream, ErrorCode.NO_ERROR, ""))
        if self.connections.is_draining:
            for stream in list(self._streams.values()):
                stream.call.drain()
        self._close_if_done()

    def abort(self) -> None:
        self._transport.abort()

    # Frames

    def on_frame(self, kind: int, flags: int, stream_id: int, payload: Buffer) -> None:
        """Check and handle a frame. Raises `ConnectionFault`; a `StreamFault` resets its stream."""
        try:
            if kind > frames.HEADERS:
                self._check(kind, stream_id, len(payload))
            handler = self._handlers.get(kind)
            if handler is not None:
                handler(flags, stream_id, payload)
        except StreamFault as fault:
            self.flood_budget.charge()
            self.reset(fault.stream_id, fault.code)

    def _check(self, kind: int, stream_id: int, size: int) -> None:
        """Check the size and the stream of a frame that is neither DATA nor HEADERS, and charge the flood budget."""
        if kind != frames.WINDOW_UPDATE:
            self.flood_budget.charge()
        if (kind in _CONNECTION_KINDS) != (stream_id == 0) and kind < frames.WINDOW_UPDATE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a frame of kind {kind} on stream {stream_id}")
        if size != _SIZES.get(kind, size):
            if kind == frames.PRIORITY and stream_id <= self._last_stream:  # a reset is no answer where none is open
                raise StreamFault(stream_id, ErrorCode.FRAME_SIZE_ERROR)
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of kind {kind} and {size} bytes")

    def _on_header_block(self, flags: int, stream_id: int, block: bytes) -> None:
        if not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a request on a stream that isn't the client's")
        if len(block) > self._limits.header_block_bytes:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too large a header block")
        if stream_id <= self._last_stream:
            self._on_trailers(flags, stream_id, block)
            return
        if self._is_going_away:  # GOAWAY has said that it will not be handled
            self._blocks.decode(block)
            return
        self._last_stream = stream_id
        try:
            request, due_bytes = self._blocks.request(block)
        except MalformedRequest:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR) from None
        if len(self._streams) >= self._limits.streams:
            raise StreamFault(stream_id, ErrorCode.REFUSED_STREAM)
        send_window = self.send_queue.initial_send_window
        stream = Http2Stream(self, stream_id, send_window, self._limits.window_bytes, due_bytes)
        self._streams[stream_id] = stream
        stream.call = self._application.open(request, stream)
        if flags & END_STREAM and stream.state is OPEN:  # it may be over by now, where its call was refused
            stream.half_close(b"")

    def _on_trailers(self, flags: int, stream_id: int, block: bytes) -> None:
        """Decode trailers, which have no meaning here but may change the compression table, and end the request."""
        self._blocks.decode(block)
        stream = self._receiving_stream(stream_id)
        if stream is None:
            self.flood_budget.charge()
        elif not flags & END_STREAM:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR)
        else:
            stream.half_close(b"")

    def _on_data(self, flags: int, stream_id: int, payload: Buffer) -> None:
        size = len(payload)
        self._receive_window -= size
        if self._receive_window < self._limits.connection_window_bytes >> 1:
            self._extend_connection_window()
        stream = self._streams.get(stream_id)
        if stream is None or stream.state is not OPEN:
            stream = self._receiving_stream(stream_id)
            if stream is None:
                return
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise StreamFault(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
        if flags & PADDED:
            payload = frames.without_padding(payload)
        if stream.due_bytes is not None:
            stream.expect_less(len(payload))
        if flags & END_STREAM:
            stream.half_close(payload)
            return
        if not payload:
            self.flood_budget.charge()
        stream.call.received(payload, ended=False)
        if not stream.is_throttled:
            self.extend_window(stream)

    def _receiving_stream(self, stream_id: int) -> Http2Stream | None:
        """The stream that takes a frame; None if it is over on this side, and the frame came too late to matter."""
        self._require_known_stream(stream_id)
        stream = self._streams.get(stream_id)
        if stream is None and (stream_id in self._resets or stream_id > self._last_stream):
            return None
        if stream is None or stream.state is not OPEN:
            raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED)
        return stream

    def _require_known_stream(self, stream_id: int) -> None:
        """Raise `ConnectionFault` if the client never opened the stream. While going away, new ones are ignored."""
        if stream_id == 0 or (stream_id > self._last_stream and not self._is_going_away):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a frame on stream {stream_id}, which is not open")

    def _on_rst_stream(self, _: int, stream_id: int, __: bytes) -> None:
        self._require_known_stream(stream_id)
        self._remove(stream_id)

    def _on_settings(self, flags: int, _: int, payload: bytes) -> None:
        if len(payload) % _SETTING_BYTES or (flags & ACK and payload):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"settings of {len(payload)} bytes")
        if len(payload) > _MAX_SETTINGS * _SETTING_BYTES:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many settings")
        if flags & ACK:
            return
        for name, value in dict(struct.iter_unpack(">HL", payload)).items():  # of several values the last counts
            self.send_queue.apply_setting(name, value, self._streams.values())
        self.send_queue.write(frames.frame(SETTINGS, ACK, 0, b""))
        self.send_queue.send_waiting()

    def _on_ping(self, flags: int, _: int, payload: bytes) -> None:
        if not flags & ACK:
            self.send_queue.write(frames.frame(frames.PING, ACK, 0, payload))

    def _on_goaway(self, _: int, __: int, payload: bytes) -> None:
        """The client opens no more streams."""
        if len(payload) < _MIN_GOAWAY_BYTES:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a goaway that is cut off")
        self.drain()

    def _on_window_update(self, _: int, stream_id: int, payload: bytes) -> None:
        increment = int.from_bytes(payload, "big") & frames.LARGEST_WINDOW
        self.flood_budget.charge_window_update()
        if stream_id == 0:
            if increment == 0:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a window that grows by nothing")
            self.send_queue.enlarge_window(increment, None)
            return
        self._require_known_stream(stream_id)
        stream = self._streams.get(stream_id)
        if stream is not None:
            if increment == 0:
                raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR)
            self.send_queue.enlarge_window(increment, stream)

    def _on_push_promise(self, *_: object) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client can't push")

    # Windows and endings

    def _extend_connection_window(self) -> None:
        """Extend the connection's window. The kept part of the input is bounded elsewhere."""
        if self._receive_window < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")
        window = self._limits.connection_window_bytes
        self.send_queue.write(frames.window_update(0, window - self._receive_window))
        self._receive_window = window

    def extend_window(self, stream: Http2Stream) -> None:
        """Extend the window of a stream if half of it is used."""
        window = self._limits.window_bytes
        if stream.receive_window < window >> 1 and stream.state is OPEN:
            self.send_queue.write(frames.window_update(stream.id, window - stream.receive_window))
            stream.receive_window = window

    def on_response_sent(self, stream: Http2Stream) -> None:
        """The last frame of a response is sent, and the stream closed with it."""
        before = stream.state
        stream.state = AFTER_RESPONSE[before]
        del self._streams[stream.id]
        self.flood_budget.left += 1.0
        if before is OPEN:  # the response does not need the rest of the request
            self._send_reset(stream.id, ErrorCode.NO_ERROR)
        if self._is_going_away:
            self._close_if_done()

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """End a stream, and cancel its call."""
        self._send_reset(stream_id, code)
        self._remove(stream_id)

    def _send_reset(self, stream_id: int, code: ErrorCode) -> None:
        self._resets[stream_id] = None
        if len(self._resets) > _MAX_REMEMBERED_RESETS:
            del self._resets[next(iter(self._resets))]
        self.send_queue.write(frames.rst_stream(stream_id, code))

    def _remove(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._cancel(stream)
        if self._is_going_away:
            self._close_if_done()

    def _close_if_done(self) -> None:
        if not self._streams and not self.is_closing:
            self._on(ConnectionEvent.EMPTIED)
            self.send_queue.flush()
            self._transport.close()

    def _fail(self, fault: ConnectionFault) -> None:
        """Send GOAWAY and let the peer read it: closing the socket while it still sends could destroy that."""
        if self.is_closing:
            return
        self._on(ConnectionEvent.FAILED)
        self._cancel_all()
        self.send_queue.write(frames.goaway(self._last_stream, fault.code, fault.message))
        self.send_queue.flush()
        self._go_on()  # to see the peer's end
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _cancel_all(self) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            self._cancel(stream)

    def _cancel(self, stream: Http2Stream) -> None:
        stream.state = AFTER_RESET[stream.state]
        self.send_queue.discard(stream)
        stream.call.cancelled()
