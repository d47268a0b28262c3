"""HTTP/1.1 on a socket: bytes in, requests out, answers back in order. Knows limits, and nothing of inference.

Written for few instructions per request: no task, no future, one write. Parsing is httptools' (llhttp).
"""

import asyncio
from collections import deque
from typing import cast

import httptools
import msgspec

from proteus_cli.serving.http1.exchange import JSON, Exchange, Handler
from proteus_cli.serving.http1.known_heads import END_OF_HEAD, KnownHead, KnownHeads
from proteus_cli.serving.http1.limits import (
    MAX_HEADERS,
    MAX_QUEUED,
    MAX_UNANSWERED,
    MAX_UNCOUNTED_BYTES,
    READ_BYTES,
    HttpLimits,
    Refusal,
)
from proteus_cli.serving.transport.connections import MIN_BYTES_PER_S, Connections

ALPN = "http/1.1"
_UNAVAILABLE = 503
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# Each read is handled before the next one, of whichever connection, so one buffer does for all of them.
_read = memoryview(bytearray(READ_BYTES))


class HttpConnection(asyncio.BufferedProtocol):
    """One client. Requests are handed on as they come; their answers leave in the same order."""

    def __init__(self, handler: Handler, limits: HttpLimits, connections: Connections, known_heads: KnownHeads) -> None:
        self._handler, self._limits, self.connections, self._known_heads = handler, limits, connections, known_heads
        self._uncounted_bytes = min(MAX_UNCOUNTED_BYTES, limits.body_bytes)
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._inside: deque[Exchange] = deque()  # handed on
        self._held: deque[Exchange] = deque()  # read with what came before, but not handed on yet
        self._since_s = 0.0  # when the client began what it is at: a request, reading an answer, or nothing
        self._is_deaf = False  # what still comes is not looked at …
        self._has_more = False  # … and there is more
        self._is_going_away = False  # the last answer is sent
        self._is_writing_paused = self._is_reading_paused = self._is_handing_on = False
        self._new_head = b""
        self._max_to_write = 0  # since then, for a client that takes its time
        self._expect_message()

    def _expect_message(self) -> None:
        self._target, self._headers = b"", dict[bytes, bytes]()
        self._header_bytes = self._body_bytes = self._reserved = 0
        self._has_begun = self._has_headers = self._wants_upgrade = False
        self._body: bytes | bytearray = b""
        self._large: bytearray | None = None  # a large body, read straight into its place

    @property
    def closes_after_response(self) -> bool:
        """The server drains, and nobody stands behind the request that is answered now."""
        return self.connections.is_draining and len(self._inside) == 1 and not self._held

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._since_s = self.connections.now_s
        if not self.connections.admit(self) and not transport.is_closing():
            self._fail(Refusal(503, "too many connections"))

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - we know better
        if self._large is not None and not self._is_deaf:
            return memoryview(self._large)[self._body_bytes :]
        return _read

    def buffer_updated(self, nbytes: int) -> None:
        if self._is_deaf:
            self._has_more = True
            return
        try:
            if self._large is not None:
                self._grow(self._large, nbytes)
            elif self._has_begun or not self._is_known(bytes(_read[:nbytes])):
                self._parse(_read[:nbytes])
        except Refusal as refusal:
            self._fail(refusal)
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, Refusal):
                raise
            self._fail(error.__context__)
        except httptools.HttpParserError as error:
            self._fail(Refusal(400, f"not HTTP: {error}"))

    def _is_known(self, message: bytes) -> bool:
        """Take a whole request whose head was seen before, to the byte: clients repeat themselves.

        What a head means depends on nothing else, so it need not be parsed again.
        """
        end = message.find(END_OF_HEAD) + len(END_OF_HEAD)
        head = message[:end]
        known = self._known_heads.get(head)
        if known is None:
            self._new_head = head
            return False
        if len(message) != end + known.body_bytes:
            return False
        self._since_s = self.connections.now_s
        if known.body_bytes > self._uncounted_bytes:
            self._count_body(known.body_bytes)
        reserved_bytes, self._reserved = self._reserved, 0
        self._take(Exchange(self, known.method, known.target, known.headers, message[end:], True, reserved_bytes))
        return True

    def _parse(self, data: memoryview) -> None:
        headers = self._headers
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._begin_without_upgrade()
            else:
                break
        if self._has_begun and self._headers is headers:  # all of this read belongs to one request
            self._header_bytes += len(data)
            if self._header_bytes > self._limits.header_bytes:
                raise Refusal(431, f"there are more than {self._limits.header_bytes} bytes around the body")

    def _begin_without_upgrade(self) -> None:
        """Begin a request again as if it asked for no other protocol: llhttp would take its body for that protocol."""
        closes = [] if self._keeps_alive else [b"connection: close"]
        kept = [b"%b: %b" % header for header in self._headers.items() if header[0] not in {b"upgrade", b"connection"}]
        head = b"\r\n".join([b"%b %b HTTP/1.1" % (self._method, self._target), *kept, *closes, b"", b""])
        self._expect_message()
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(head)

    def _grow(self, large: bytearray, nbytes: int) -> None:
        self._body_bytes += nbytes
        if self._body_bytes == len(large):
            self._parser = httptools.HttpRequestParser(self)  # the old one still waits for that body
            self._complete(large)

    def eof_received(self) -> None:
        """The client says no more: it is gone, as far as anyone can know. The transport closes itself."""
        self._leave()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how makes no difference
        self._transport, self._is_deaf = None, True
        self.connections.remove(self)
        self.connections.free(self._reserved)
        for exchange in (*self._inside, *self._held):
            self.connections.free(exchange.reserved_bytes)
        for exchange in self._inside:
            if exchange.answer is None:
                self._handler.abandoned(exchange)
        self._inside.clear()
        self._held.clear()
        self._parser = None  # which knows us: no work for the garbage collector

    def pause_writing(self) -> None:
        self._is_writing_paused, self._since_s, self._max_to_write = True, self.connections.now_s, 0
        self._throttle()

    def resume_writing(self) -> None:
        self._is_writing_paused, self._since_s = False, self.connections.now_s
        self._hand_on()

    # httptools.HttpRequestParser

    def on_message_begin(self) -> None:
        if self._is_deaf:
            raise Refusal(400, "something follows the last request")
        self._has_begun, self._since_s = True, self.connections.now_s

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._has_headers:  # a trailer
            return
        if len(self._headers) == MAX_HEADERS:
            raise Refusal(431, f"there are more than {MAX_HEADERS} headers")
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._has_headers = True
        parser, headers = self._parser, self._headers
        self._method, self._keeps_alive = parser.get_method(), parser.should_keep_alive()
        if not self._handler.admits(self._target, headers):
            raise Refusal(401, "a bearer token is needed", b"www-authenticate: Bearer\r\n")
        if not self._keeps_alive or b"connection" in headers or self._method == b"CONNECT":
            self._look_closer()
            if self._wants_upgrade:
                return
        if b"transfer-encoding" in headers and headers[b"transfer-encoding"].strip().lower() != b"chunked":
            raise Refusal(501, "bodies may be sent in chunks, and in no other transfer encoding")
        length = int(headers.get(b"content-length", 0))  # llhttp has checked it
        if length > self._uncounted_bytes:
            self._count_body(length)
            if length > READ_BYTES:
                self._large = bytearray(length)
        if b"expect" in headers:
            self._continue(headers[b"expect"])
        elif self._new_head and self._keeps_alive and length < READ_BYTES and b"transfer-encoding" not in headers:
            known = KnownHead(self._method, self._target, headers, length)
            self._known_heads.remember(self._new_head, known)
        self._new_head = b""

    def on_body(self, body: bytes) -> None:
        first, self._body_bytes = self._body_bytes, self._body_bytes + len(body)
        self._header_bytes = -READ_BYTES  # counted anew from the next read
        if self._large is not None:
            self._large[first : self._body_bytes] = body
            return
        if self._body_bytes > self._reserved and self._body_bytes > self._uncounted_bytes:  # in chunks
            self._count_body(self._body_bytes)
        if not first:
            self._body = body
        elif isinstance(self._body, bytearray):
            self._body += body
        else:
            self._body = bytearray(self._body) + body

    def on_message_complete(self) -> None:
        if not self._wants_upgrade:
            self._complete(self._body)

    # Connection

    def check_timeouts(self, now_s: float) -> None:
        transport, took_s = self._transport, now_s - self._since_s
        if transport is None:
            return
        to_write = transport.get_write_buffer_size()
        if self._is_writing_paused or (self._is_going_away and to_write):
            self._max_to_write = max(self._max_to_write, to_write)
            if took_s > self._patience_s(self._max_to_write):
                transport.abort()
        elif self._is_going_away:
            if took_s > self._limits.linger_s:
                transport.abort()
        elif self._has_begun:
            if took_s > self._patience_s(self._body_bytes):
                self._fail(Refusal(408, "the request took too long to come in"))
        elif not self._inside and took_s > self._limits.keep_alive_s:
            self._leave()
            transport.close()

    def _patience_s(self, moved_bytes: int) -> float:
        return self._limits.request_s + moved_bytes / MIN_BYTES_PER_S

    def drain(self) -> None:
        if self._transport is not None and not (self._inside or self._has_begun or self._is_going_away):
            self._last_answer_sent()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def response_ready(self, exchange: Exchange) -> None:
        """An exchange has its answer: send what is next in order."""
        inside, transport = self._inside, self._transport
        if transport is None or (inside and inside[0] is not exchange):
            return
        if self._is_going_away or transport.is_closing():
            return
        while inside and inside[0].answer is not None:
            done = inside.popleft()
            if done.reserved_bytes:
                self.connections.free(done.reserved_bytes)
            answer = done.answer
            assert answer is not None  # noqa: S101 - checked above
            if len(answer) == 1:
                transport.write(answer[0])
            else:
                transport.writelines(answer)
            if not done.keep_alive:
                self._last_answer_sent()
                return
        if not inside and not self._has_begun:
            self._since_s = self.connections.now_s
        if self._is_reading_paused:
            self._hand_on()

    def _complete(self, body: bytes | bytearray) -> None:
        """A whole request is here."""
        exchange = Exchange(self, self._method, self._target, self._headers, body, self._keeps_alive, self._reserved)
        self._expect_message()
        self._take(exchange)

    def _take(self, exchange: Exchange) -> None:
        if self._is_reading_paused and len(self._held) >= MAX_QUEUED:
            self.connections.free(exchange.reserved_bytes)
            raise Refusal(503, "too many requests at once on one connection")
        self._is_deaf = not exchange.keep_alive
        if not self._is_reading_paused:
            self._inside.append(exchange)
            if len(self._inside) >= MAX_UNANSWERED:
                self._throttle()
            self._handler.handle(exchange)
        else:
            self._held.append(exchange)

    def _hand_on(self) -> None:
        """Hand on what was held back, as far as the client takes its answers; then read on."""
        if self._is_handing_on:
            return
        self._is_handing_on = True
        while self._held and not self._is_full:
            exchange = self._held.popleft()
            self._inside.append(exchange)
            if exchange.answer is None:
                self._handler.handle(exchange)
            else:
                self.response_ready(exchange)
        self._is_handing_on = False
        self._throttle()

    @property
    def _is_full(self) -> bool:
        return self._is_writing_paused or len(self._inside) >= MAX_UNANSWERED

    def _throttle(self) -> None:
        """Read on only where the client takes its answers, and does not ask for too many at once."""
        if self._transport is None or self._is_deaf:
            return
        pause = self._is_full or bool(self._held)
        if pause and not self._is_reading_paused:
            self._transport.pause_reading()
        elif self._is_reading_paused and not pause:
            self._transport.resume_reading()
        self._is_reading_paused = pause

    def _look_closer(self) -> None:
        """At what most requests don't have: an old version, or a wish for the connection."""
        version, headers = self._parser.get_http_version(), self._headers
        if version not in {"1.0", "1.1"}:
            raise Refusal(505, "this is HTTP/1.1")
        if version == "1.0":
            self._keeps_alive = False
            if b"transfer-encoding" in headers:
                raise Refusal(400, "HTTP/1.0 has no transfer encodings")
        if self._parser.should_upgrade():
            if self._method == b"CONNECT":
                raise Refusal(405, "this is no proxy")
            self._wants_upgrade = True

    def _continue(self, expectation: bytes) -> None:
        if expectation.lower() != b"100-continue":
            raise Refusal(417, "this expectation can't be met")
        if not self._inside and self._transport is not None:
            self._transport.write(_CONTINUE)

    def _count_body(self, size: int) -> None:
        """A large body needs room in memory, of which there is an end."""
        if size > self._limits.body_bytes:
            raise Refusal(413, f"the body is larger than {self._limits.body_bytes} bytes")
        if not self.connections.reserve(size - self._reserved):
            raise Refusal(503, "too many large requests at once")
        self._reserved = size

    def _fail(self, refusal: Refusal) -> None:
        """What the client sends can't be read: say so behind the answers that it is owed, and close."""
        self._has_more = True
        if self._is_deaf:  # it was told, or has told us, that nothing comes behind
            return
        self.connections.free(self._reserved)
        self._expect_message()
        self._is_deaf = True
        exchange = Exchange(self, b"", b"", {}, b"", keep_alive=False)
        (self._held or self._inside).append(exchange)
        retry = b"retry-after: 1\r\n" if refusal.status == _UNAVAILABLE else refusal.headers
        exchange.respond(refusal.status, JSON, msgspec.json.encode({"error": refusal.text}), headers=retry)

    def _last_answer_sent(self) -> None:
        """Close; but data that nobody reads would take the answer with it, so the client is listened out."""
        assert self._transport is not None  # noqa: S101 - it was just written to
        self._leave()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        elif not self._has_more:  # TLS, where only a client that is at fault is listened out
            self._transport.close()
            return
        if self._is_reading_paused:
            self._transport.resume_reading()
            self._is_reading_paused = False

    def _leave(self) -> None:
        self._is_deaf = self._is_going_away = True
        self._since_s, self._max_to_write = self.connections.now_s, 0
