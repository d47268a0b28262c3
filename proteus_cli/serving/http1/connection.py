"""A connection of HTTP/1.1: one request at a time, and its response.

**Reading.** `RequestParser` reads requests and hands each complete one to `HttpConnection.on_request`. `states.py` is
the table of what the connection does with its input. After the last request (one that closes the connection, or a
refusal) input is discarded, and what is owed is answered. After the last response the connection lingers until the
client closes it: closing a socket whose input was not read would reset it, and could destroy that response.

**Turns.** A request goes to the `Handler` once the one before it is answered, the client reads, and the connection's
turn is not over (`transport/turns.py`). Until then complete requests of the same slice wait in ``_queued``, a refusal
behind them, and what was read further behind in the parser; reading pauses. `_go_on` takes them up again.

**Time.** ``_activity_since_s`` is when the client's current activity began: to send a request, to read responses that
fill the transport, to idle, or to linger. `check_timeouts` compares it with `HttpTimeouts`. There is no timer, task or
future per request, and one write per response.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

from proteus_cli.buffers import Buffer
from proteus_cli.serving.http1 import states
from proteus_cli.serving.http1.exchange import JSON, NO_HEAD, Answer, Exchange, Handler, Refusal
from proteus_cli.serving.http1.request_parser import KnownHeads, RequestParser
from proteus_cli.serving.http1.states import (
    DISCARDS_INPUT,
    READ_BYTES,
    READING,
    TRANSITIONS,
    HttpEvent,
    HttpLimits,
    HttpTimeouts,
)
from proteus_cli.serving.transport.connections import MIN_BYTES_PER_S, WORK_PER_TURN, Connections, Turn, client_of

ALPN = "http/1.1"
_UNAVAILABLE = 503
_REQUEST_UNITS = 2  # of work
_BYTES_PER_UNIT = 2 * 1024  # of a body that is decoded at once; larger ones are counted as they are read
_RETRY = b"retry-after: 1\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_DEFAULT_TIMEOUTS = HttpTimeouts()


class HttpConnection(asyncio.BufferedProtocol):
    """One client. ``state`` moves along `TRANSITIONS`; a move that isn't there is a bug and raises `KeyError`.

    ``_may_have_unread_input``: the client has sent, or may still
    send, input that is discarded.
    """

    def __init__(
        self,
        handler: Handler,
        connections: Connections,
        known_heads: KnownHeads,
        limits: HttpLimits,
        timeouts: HttpTimeouts = _DEFAULT_TIMEOUTS,
    ) -> None:
        self.handler, self.connections, self._limits, self._timeouts = handler, connections, limits, timeouts
        self.state = states.IDLE
        self._transport: asyncio.Transport | None = None
        self._parser = RequestParser(self, known_heads, limits)
        self._current: Exchange | None = None  # is being answered
        self._queued: deque[Exchange] = deque()
        self._refusal: Refusal | None = None  # of what follows those
        self._activity_since_s = 0.0
        self._max_unsent_bytes = 0  # since the activity began, for a client that reads slowly
        self._may_have_unread_input = False
        self._is_writing_paused = self._is_reading_paused = self._is_going_on = self._waits_for_turn = False
        self.is_admitted = False  # within the limit on connections
        self.turn = Turn()
        self.reads_long = asyncio.Lock()  # held while a long request is read

    def on(self, event: HttpEvent) -> None:
        """Move along `TRANSITIONS`."""
        self.state = TRANSITIONS[self.state][event]

    @property
    def has_rest(self) -> bool:
        """Whether anything was read and is not handled yet."""
        return bool(self._queued) or self._refusal is not None or self._parser.has_rest

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._activity_since_s = self.connections.now_s
        self.is_admitted = self.connections.admit(self, ALPN, client_of(transport))

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the parser knows better
        return self._parser.buffer

    def buffer_updated(self, nbytes: int) -> None:
        exchange: Exchange | None = None
        if self.state is states.IDLE and self.is_admitted and not self._is_reading_paused:
            exchange = self._parser.known_request(nbytes)
        if exchange is not None:
            self._activity_since_s = self.connections.now_s
            if self._current is not None or self._is_writing_paused:
                self._queued.append(exchange)
                self._pause_or_resume_reading()
            else:
                self._current = exchange
                exchange.head.answer(exchange)
        elif self.state in DISCARDS_INPUT:
            self._may_have_unread_input = True
            self.turn.end()
        else:
            if self.connections.loop_turn.is_crowded:
                self.turn.shorten()
            self._parse(nbytes)
            if self.has_rest:
                self._go_on()
        if self.turn.left <= 0:
            self._go_on()

    def _parse(self, nbytes: int) -> None:
        """Parse a read of ``nbytes``; 0: the rest of the last read."""
        try:
            self._parser.read(nbytes) if nbytes else self._parser.read_on()
        except Refusal as refusal:
            self._refuse(refusal)
        except MemoryError:
            self._refuse(Refusal(503, "there is too little memory for this request"))

    def eof_received(self) -> None:
        """The client sends no more, so it is taken to be gone. The transport closes itself."""
        self._linger(states.INPUT_ENDED)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how makes no difference
        self.on(states.LOST)
        self._transport = None
        self.connections.remove(self)
        self._parser.drop_request()
        current, self._current = self._current, None
        for exchange in self._queued if current is None else (current, *self._queued):
            self.connections.free(exchange.reserved_bytes)
        if current is not None and not current.is_answered:
            self.handler.abandoned(current)
        self._queued.clear()
        self._parser.close()
        del self._parser

    def pause_writing(self) -> None:
        self._is_writing_paused, self._activity_since_s, self._max_unsent_bytes = True, self.connections.now_s, 0
        self._pause_or_resume_reading()

    def resume_writing(self) -> None:
        self._is_writing_paused, self._activity_since_s = False, self.connections.now_s
        self._go_on()

    # Connection

    def check_timeouts(self, now_s: float) -> None:
        transport, timeouts, elapsed_s = self._transport, self._timeouts, now_s - self._activity_since_s
        if transport is None:
            return
        unsent_bytes, is_lingering = transport.get_write_buffer_size(), self.state is states.LINGERING
        if self._is_writing_paused or (is_lingering and unsent_bytes):
            self._max_unsent_bytes = max(self._max_unsent_bytes, unsent_bytes)
            if elapsed_s > timeouts.request_s + self._max_unsent_bytes / MIN_BYTES_PER_S:
                transport.abort()
        elif is_lingering:
            if elapsed_s > timeouts.linger_s:
                transport.abort()
        elif self.state in READING and not self._is_reading_paused:
            if elapsed_s > timeouts.request_s + self._parser.body_bytes / MIN_BYTES_PER_S:
                self._refuse(Refusal(408, "the request took too long to come in"))
        elif self._current is None and elapsed_s > timeouts.keep_alive_s:
            self._linger(states.IDLED)
            transport.close()

    def drain(self) -> None:
        if self.state is states.IDLE and self._transport is not None and self._current is None and not self.has_rest:
            self._finish()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # Requests

    def on_request_began(self) -> None:
        """The parser has seen the first byte of a request. Raises `Refusal` where none may follow."""
        if self.state in DISCARDS_INPUT:
            raise Refusal(400, "something follows the last request")
        self.on(states.REQUEST_BEGAN)
        self._activity_since_s = self.connections.now_s

    def route(self, method: bytes, target: bytes, headers: Mapping[bytes, bytes]) -> Answer:
        """How requests with this head are answered. Raises `Refusal` where they must not be read."""
        if not self.is_admitted and target.partition(b"?")[0] not in self._limits.open_paths:
            raise Refusal(503, "too many connections")
        return self.handler.route(method, target, headers)

    def on_request(self, exchange: Exchange) -> None:
        """Handle a complete request, or queue it."""
        self.on(states.REQUEST_COMPLETE if exchange.keep_alive else states.LAST_REQUEST_COMPLETE)
        if self._is_full or self._queued or self._is_reading_paused or self.turn.left <= 0:
            self._queued.append(exchange)
            self._pause_or_resume_reading()
        else:
            self._handle(exchange)

    def send_continue(self) -> None:
        """Tell a client that waits with its body to send it, unless responses before it are owed."""
        if self._current is None and self._transport is not None:
            self._transport.write(_CONTINUE)

    def _handle(self, exchange: Exchange) -> None:
        self._current, body_bytes = exchange, len(exchange.body)
        self.turn.left -= _REQUEST_UNITS + (body_bytes // _BYTES_PER_UNIT if body_bytes < READ_BYTES else 0)
        exchange.head.answer(exchange)

    # Turns

    @property
    def takes_requests(self) -> bool:
        """Whether requests are handled as they are parsed, or refused as nothing may follow the last one."""
        return self.state in DISCARDS_INPUT or (self.turn.left > 0 and not self._queued and not self._is_full)

    @property
    def _is_full(self) -> bool:
        return self._current is not None or self._is_writing_paused

    def _go_on(self) -> None:
        """Handle what was read as far as this turn goes, and the client reads its responses; then read on."""
        if self._is_going_on or self._transport is None:
            return
        self._is_going_on = True
        try:
            while self.turn.left > 0 and not self._is_full and self._transport is not None:
                if self._queued:
                    self._handle(self._queued.popleft())
                elif self._refusal is not None:
                    self._answer_refusal(self._refusal)
                elif self._parser.has_rest:
                    self._parse(0)
                else:
                    break
        finally:
            self._is_going_on = False
        self._pause_or_resume_reading()

    def _take_turn(self) -> None:
        self._waits_for_turn, self.turn.left = False, WORK_PER_TURN
        self._go_on()

    def _pause_or_resume_reading(self) -> None:
        """Read only while all that was read is handled, and this turn is not over; else wait for the next one."""
        if self._transport is None:
            return
        is_over, is_full = self.turn.left <= 0, self._is_full
        pause = is_over or (self.state not in DISCARDS_INPUT and self.has_rest)
        if pause and not self._is_reading_paused:
            self._transport.pause_reading()
        elif self._is_reading_paused and not pause:
            self._transport.resume_reading()
            self._activity_since_s = self.connections.now_s
        self._is_reading_paused = pause
        if is_over and not is_full and not self._waits_for_turn:
            self._waits_for_turn = True
            self.connections.loop_turn.spend(WORK_PER_TURN)
            self.connections.turns.wait(self._take_turn)

    # Responses

    def send(self, exchange: Exchange, response: Sequence[Buffer]) -> None:
        """Send the response to the current request. No effect where the client is gone."""
        transport = self._transport
        if transport is None:
            return
        self._current = None
        if exchange.reserved_bytes:
            self.connections.free(exchange.reserved_bytes)
        if self.state is states.LINGERING or transport.is_closing():
            return
        if len(response) == 1:
            transport.write(response[0])
        else:
            transport.writelines(response)
        if not exchange.keep_alive:
            self._finish()
            return
        if self.state not in READING:
            self._activity_since_s = self.connections.now_s
        if self._is_reading_paused or self._queued or self._refusal is not None:
            self._go_on()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what can't be read, after the responses that are owed, and close."""
        self._may_have_unread_input = True
        if self.state in DISCARDS_INPUT:  # the client has said, or was told, that no request follows
            return
        self._parser.drop_request()
        self.on(states.REFUSED)
        self._refusal = refusal
        self._go_on()

    def _answer_refusal(self, refusal: Refusal) -> None:
        self._refusal = None
        self._current = exchange = Exchange(self, NO_HEAD, b"", keep_alive=False)
        headers = _RETRY if refusal.status == _UNAVAILABLE else refusal.headers
        exchange.respond(refusal.status, JSON, msgspec.json.encode({"error": refusal.text}), headers=headers)

    def _finish(self) -> None:
        """The last response is sent: close, but let the client read it first."""
        assert self._transport is not None  # noqa: S101 - it was just written to
        self._linger(states.RESPONSES_SENT)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        elif not self._may_have_unread_input:  # TLS, where only a client that is at fault may go on sending
            self._transport.close()
            return
        if self._is_reading_paused:
            self._transport.resume_reading()
            self._is_reading_paused = False

    def _linger(self, event: HttpEvent) -> None:
        self.on(event)
        self._activity_since_s, self._max_unsent_bytes = self.connections.now_s, 0
