"""A connection of HTTP/1.1: requests in, their responses out in the same order.

**Reading.** `RequestParser` reads requests and hands each complete one to `HttpConnection.on_request`. `states.py` is
the table of what the connection does with its input. After the last request (one that closes the connection, or a
refusal) input is discarded, and what is owed is answered. After the last response the connection lingers until the
client closes it: closing a socket whose input was not read would reset it, and could destroy that response.

**Responses.** A request goes to the `Handler` at once and waits in ``_unanswered``; its response is sent once all
before it are, and the client reads.

**Turns.** Nothing more is handled, parsed or read while `HttpLimits.unanswered` requests wait, their responses fill
`HttpLimits.unsent_bytes`, the client does not read, or the connection's turn is over (`transport/turns.py`). Requests
of the same slice wait in ``_queued`` until then, what was read behind them in the parser; `_go_on` takes them up again.

**Time.** ``_activity_since_s`` is when the client's current activity began: to send a request, to read responses that
fill the transport, to idle, or to linger. `check_timeouts` compares it with `HttpTimeouts`. There is no timer, task or
future per request, and one write per response.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import cast

import msgspec

from proteus_cli.serving.http1 import states
from proteus_cli.serving.http1.exchange import JSON, NO_HEAD, Answer, Exchange, Handler, Refusal
from proteus_cli.serving.http1.known_heads import KnownHeads
from proteus_cli.serving.http1.limits import READ_BYTES, HttpLimits, HttpTimeouts
from proteus_cli.serving.http1.request_parser import RequestParser
from proteus_cli.serving.http1.states import DISCARDS_INPUT, READING, TRANSITIONS, HttpEvent
from proteus_cli.serving.transport.connections import MIN_BYTES_PER_S, Connections, client_of
from proteus_cli.serving.transport.turns import WORK_PER_TURN, Turn

ALPN = "http/1.1"
_UNAVAILABLE = 503
_REQUEST_UNITS = 2  # of work
_BYTES_PER_UNIT = 2 * 1024  # of a body that is decoded at once; larger ones are counted as they are read
_RETRY = b"retry-after: 1\r\n"
_NO_MEMORY = b'{"error":"too many large responses at once"}'
_SMALL_RESPONSE_BYTES = 1024
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
        self._unanswered: deque[Exchange] = deque()
        self._queued: deque[Exchange] = deque()
        self._activity_since_s = 0.0
        self._max_unsent_bytes = 0  # since the activity began, for a client that reads slowly
        self._may_have_unread_input = False
        self._is_writing_paused = self._is_reading_paused = self._is_going_on = self._waits_for_turn = False
        self.is_admitted = False  # within the limit on connections
        self.turn = Turn()
        self.reads_long = asyncio.Lock()  # held while a long request is read
        self._unsent_bytes = 0  # of responses that wait for those before them

    def on(self, event: HttpEvent) -> None:
        """Move along `TRANSITIONS`."""
        self.state = TRANSITIONS[self.state][event]

    @property
    def closes_after_response(self) -> bool:
        """Whether no request is behind the one that is answered now, when the server drains."""
        return len(self._unanswered) == 1 and not self._has_rest

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._activity_since_s = self.connections.now_s
        self.is_admitted = self.connections.admit(self, ALPN, client_of(transport))

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the parser knows better
        return self._parser.buffer

    def buffer_updated(self, nbytes: int) -> None:
        exchange = self._parser.known_request(nbytes) if self.state is states.IDLE and self.is_admitted else None
        if exchange is not None:
            self._activity_since_s = self.connections.now_s
            if self._is_reading_paused:
                self._queued.append(exchange)
            else:
                self._unanswered.append(exchange)
                exchange.head.answer(exchange)
                if len(self._unanswered) >= self._limits.unanswered:
                    self._pause_or_resume_reading()
        elif self.state in DISCARDS_INPUT:
            self._may_have_unread_input = True
            self.turn.end()
        else:
            if self.connections.loop_turn.is_crowded:
                self.turn.shorten()
            self._parse(nbytes)
        if self.turn.left <= 0:
            self._go_on()

    def _parse(self, nbytes: int) -> None:
        """Parse a read of so many bytes, or, if it has none, what was left of the last one."""
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
        for exchange in (*self._unanswered, *self._queued):
            self.connections.free(exchange.reserved_bytes)
        for exchange in self._unanswered:
            if exchange.response is None:
                self.handler.abandoned(exchange)
        self._unanswered.clear()
        self._queued.clear()
        self._parser.close()
        del self._parser

    def pause_writing(self) -> None:
        self._is_writing_paused, self._activity_since_s, self._max_unsent_bytes = True, self.connections.now_s, 0
        self._pause_or_resume_reading()

    def resume_writing(self) -> None:
        self._is_writing_paused, self._activity_since_s = False, self.connections.now_s
        self._send_ready()
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
        elif not self._unanswered and elapsed_s > timeouts.keep_alive_s:
            self._linger(states.IDLED)
            transport.close()

    def drain(self) -> None:
        if self.state is states.IDLE and self._transport is not None and not self._unanswered and not self._has_rest:
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
        if self._is_reading_paused or self.turn.left <= 0:
            self._queued.append(exchange)
        else:
            self._handle(exchange)
            if len(self._unanswered) >= self._limits.unanswered:
                self._pause_or_resume_reading()

    def send_continue(self) -> None:
        """Tell a client that waits with its body to send it, unless responses before it are owed."""
        if not self._unanswered and self._transport is not None:
            self._transport.write(_CONTINUE)

    def _handle(self, exchange: Exchange) -> None:
        self._unanswered.append(exchange)
        if exchange.response is None:
            body_bytes = len(exchange.body)
            self.turn.left -= _REQUEST_UNITS + (body_bytes // _BYTES_PER_UNIT if body_bytes < READ_BYTES else 0)
            exchange.head.answer(exchange)
        else:  # a refusal, which counts as memory by now if it has to wait
            self._send_ready()

    # Turns

    @property
    def takes_requests(self) -> bool:
        """Whether requests are handled as they are parsed, or refused as nothing may follow the last one."""
        return self.state in DISCARDS_INPUT or (self.turn.left > 0 and not self._queued and not self._is_full)

    @property
    def _is_full(self) -> bool:
        limits = self._limits
        return (
            self._is_writing_paused
            or len(self._unanswered) >= limits.unanswered
            or self._unsent_bytes >= limits.unsent_bytes
        )

    @property
    def _has_rest(self) -> bool:
        """Whether anything was read and is not handled yet."""
        return bool(self._queued) or self._parser.has_rest

    def _go_on(self) -> None:
        """Handle what was read as far as this turn goes, and the client reads its responses; then read on."""
        if self._is_going_on or self._transport is None:
            return
        self._is_going_on = True
        try:
            while self.turn.left > 0 and not self._is_full and self._transport is not None:
                if self._queued:
                    self._handle(self._queued.popleft())
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
        pause = is_over or (self.state not in DISCARDS_INPUT and (is_full or self._has_rest))
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

    def response_ready(self, exchange: Exchange) -> None:
        """An exchange has its response: send all that are next in order, while the client reads."""
        unanswered, transport = self._unanswered, self._transport
        if transport is None:
            return
        has_to_wait = self._is_writing_paused or (unanswered and unanswered[0] is not exchange)
        if has_to_wait:
            self._keep_response(exchange)
            return
        if self.state is states.LINGERING or transport.is_closing():
            return
        while unanswered and not self._is_writing_paused and (response := unanswered[0].response) is not None:
            answered = unanswered.popleft()
            if answered.reserved_bytes:
                self.connections.free(answered.reserved_bytes)
                self._unsent_bytes -= answered.unsent_bytes
            if len(response) == 1:
                transport.write(response[0])
            else:
                transport.writelines(response)
            if not answered.keep_alive:
                self._finish()
                return
        if not unanswered and self.state not in READING:
            self._activity_since_s = self.connections.now_s
        if self._is_reading_paused or self._queued:  # input that is discarded is read on
            self._go_on()

    def _keep_response(self, exchange: Exchange) -> None:
        """Count a response that can't be sent yet as memory. Without memory for it, 503 is sent in its place.

        A small one is kept uncounted then: 503 would take as much, and `HttpLimits.unanswered` bounds their number.
        """
        assert exchange.response is not None  # noqa: S101 - it is ready
        size = sum(map(len, exchange.response))
        if exchange.reserve(size):
            exchange.unsent_bytes = size
            self._unsent_bytes += size
            if self._unsent_bytes >= self._limits.unsent_bytes:
                self._pause_or_resume_reading()
        elif size > _SMALL_RESPONSE_BYTES:
            exchange.respond(_UNAVAILABLE, JSON, _NO_MEMORY, headers=_RETRY)

    def _send_ready(self) -> None:
        """Send the responses that had to wait, if the first of them is ready."""
        if self._unanswered and self._unanswered[0].response is not None:
            self.response_ready(self._unanswered[0])

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what can't be read, after the responses that are owed, and close."""
        self._may_have_unread_input = True
        if self.state in DISCARDS_INPUT:  # the client has said, or was told, that no request follows
            return
        self._parser.drop_request()
        self.on(states.REFUSED)
        exchange = Exchange(self, NO_HEAD, b"", keep_alive=False)
        if self._queued:  # behind what is queued, so that responses keep their order
            self._queued.append(exchange)
        else:
            self._unanswered.append(exchange)
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
