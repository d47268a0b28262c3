"""HTTP/1.1 on a socket: bytes in, requests out, answers back in order. Knows limits, and nothing of inference.

Written for few instructions per request: no task, no future, one write. Parsing is httptools' (llhttp).
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol, cast

import httptools
import msgspec

from proteus_cli.serving.connections import Connections
from proteus_cli.serving.oip import Buffer

JSON = b"application/json"
OCTETS = b"application/octet-stream"
CHUNK_BYTES = 64 * 1024
SLOWEST_BYTES_PER_S = 64 * 1024
LINGER_S = 2.0
KNOWN_HEADS = 1024
LONGEST_KNOWN_HEAD = 2048
PIPELINED = 32  # requests of one connection that may be inside; reading pauses beyond
JOINED_BYTES = 16 * 1024  # answers up to here are sent as one piece
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_STARTS = {
    (200, content_type): b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: " % content_type
    for content_type in (JSON, OCTETS)
}
_UNAVAILABLE = 503
_END_OF_HEAD = b"\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# Each read is handled before the next one, of whichever connection, so one buffer does for all of them.
_scratch = bytearray(CHUNK_BYTES)
_read = memoryview(_scratch)


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bytes of a body, and of all headers together; seconds for a request to come in, and between two.

    A body may take longer, at `SLOWEST_BYTES_PER_S`.
    """

    body_bytes: int
    header_bytes: int = CHUNK_BYTES  # what comes with one read is not counted
    request_s: float = 30.0
    keep_alive_s: float = 75.0


class KnownHead(msgspec.Struct, frozen=True):
    """The head of a request, as it was parsed; ``headers`` are shared by all requests that have it."""

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    body_bytes: int


class Exchange(msgspec.Struct, eq=False):
    """A request, and its answer once there is one. ``pending`` belongs to the handler."""

    connection: "HttpConnection"
    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    body: bytes | bytearray
    keeps_alive: bool
    reserved: int = 0
    answer: tuple[Buffer, ...] | None = None
    pending: Any = None

    def respond(
        self, status: int, content_type: bytes, body: bytes, blobs: Sequence[Buffer] = (), headers: bytes = b""
    ) -> None:
        """Answer with ``body`` and what follows it; ``headers`` are whole lines. In vain if the client is gone."""
        size = len(body)
        for blob in blobs:
            size += len(blob)
        start = _STARTS.get((status, content_type)) or _start(status, content_type)
        if not self.keeps_alive or self.connection.is_at_its_end:
            self.keeps_alive = False
            headers += b"connection: close\r\n"
        if self.method == b"HEAD":
            self.answer = (b"%b%d\r\n%b\r\n" % (start, size, headers),)
        elif size <= JOINED_BYTES:
            self.answer = (b"%b%d\r\n%b\r\n%b%b" % (start, size, headers, body, b"".join(blobs)),)
        else:
            self.answer = (b"%b%d\r\n%b\r\n" % (start, size, headers), body, *blobs)
        self.pending = None
        self.connection.answered(self)


def _start(status: int, content_type: bytes) -> bytes:
    return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: " % (status, _REASONS[status], content_type)


class Handler(Protocol):
    """Takes requests, and answers each through its `Exchange.respond`, at once or later."""

    def handle(self, exchange: Exchange) -> None: ...

    def abandoned(self, exchange: Exchange) -> None:
        """The client is gone before it was answered."""
        ...


class HttpConnection(asyncio.BufferedProtocol):
    """One client. Requests are handed on as they come; their answers leave in the same order."""

    def __init__(self, handler: Handler, limits: HttpLimits, connections: Connections) -> None:
        self._handler, self._limits, self._connections = handler, limits, connections
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._inside: deque[Exchange] = deque()
        self._since_s = 0.0  # when the client began what it is at: a request, reading an answer, or nothing
        self._is_closing = self._is_writing_paused = self._is_reading_paused = False
        self._new_head = b""
        self._expect_message()

    def _expect_message(self) -> None:
        self._target, self._headers = b"", dict[bytes, bytes]()
        self._header_bytes = self._body_bytes = self._reserved = 0
        self._has_begun = self._has_headers = False
        self._pieces: list[bytes] = []
        self._large: bytearray | None = None  # a large body, read straight into its place
        self._allowed_s = self._limits.request_s

    @property
    def is_at_its_end(self) -> bool:
        """The server drains, and nobody stands behind the request that is answered now."""
        return self._connections.is_draining and len(self._inside) == 1

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._since_s = self._connections.now_s
        if not self._connections.take(self):
            self._fail(_Refusal(503, "too many connections"))

    def get_buffer(self, sizehint: int) -> bytearray | memoryview:  # noqa: ARG002 - we know better
        if self._large is not None and not self._is_closing:
            return memoryview(self._large)[self._body_bytes :]
        return _scratch

    def buffer_updated(self, nbytes: int) -> None:
        if self._is_closing:  # what still comes is not looked at
            return
        if self._large is not None:
            self._body_bytes += nbytes
            if self._body_bytes == len(self._large):
                self._parser = httptools.HttpRequestParser(self)  # the old one still waits for that body
                self._complete(self._large)
            return
        if self._has_begun or not self._is_known(bytes(_read[:nbytes])):
            self._parse(_read[:nbytes])

    def _parse(self, content: memoryview) -> None:
        try:
            self._parser.feed_data(content)
            if self._has_begun and not self._has_headers:
                self._count_headers(len(content))
        except _Refusal as refusal:
            self._fail(refusal)
        except httptools.HttpParserUpgrade:
            self._fail(_Refusal(400, "upgrades are not supported"))
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, _Refusal):
                raise
            self._fail(error.__context__)
        except httptools.HttpParserError as error:
            self._fail(_Refusal(400, f"not HTTP: {error}"))

    def eof_received(self) -> None:
        """The client says no more: it is gone, as far as anyone can know. The transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how makes no difference
        self._transport, self._is_closing = None, True
        self._connections.release(self)
        self._connections.free(self._reserved)
        for exchange in self._inside:
            self._connections.free(exchange.reserved)
            if exchange.answer is None:
                self._handler.abandoned(exchange)
        self._inside.clear()

    def pause_writing(self) -> None:
        self._is_writing_paused, self._since_s = True, self._connections.now_s
        self._throttle()

    def resume_writing(self) -> None:
        self._is_writing_paused, self._since_s = False, self._connections.now_s
        self._throttle()

    def _is_known(self, message: bytes) -> bool:
        """Take a whole request whose head was seen before, to the byte: clients repeat themselves.

        What a head means depends on nothing else, so it need not be parsed again.
        """
        end = message.find(_END_OF_HEAD) + len(_END_OF_HEAD)
        head = message[:end]
        known = self._connections.heads.get(head)
        if known is None:
            self._new_head = head
            return False
        if len(message) != end + known.body_bytes:
            return False
        self._since_s = self._connections.now_s
        self._take(Exchange(self, known.method, known.target, known.headers, message[end:], keeps_alive=True))
        return True

    def _remember(self, head: bytes) -> None:
        """A head that has just been parsed stands for the same request when it comes again."""
        heads, length = self._connections.heads, int(self._headers.get(b"content-length", 0))
        is_plain = b"transfer-encoding" not in self._headers and b"expect" not in self._headers
        if self._keeps_alive and is_plain and length < CHUNK_BYTES and 0 < len(head) <= LONGEST_KNOWN_HEAD:
            if len(heads) >= KNOWN_HEADS:
                heads.clear()
            heads[head] = KnownHead(self._method, self._target, self._headers, length)

    # httptools.HttpRequestParser

    def on_message_begin(self) -> None:
        self._has_begun, self._since_s = True, self._connections.now_s

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._has_headers = True
        self._method, self._keeps_alive = self._parser.get_method(), self._parser.should_keep_alive()
        headers, head, self._new_head = self._headers, self._new_head, b""
        self._remember(head)
        if b"expect" in headers:
            self._continue(headers[b"expect"])
        length = int(headers.get(b"content-length", 0))  # llhttp has checked it
        if length > CHUNK_BYTES:
            self._count_body(length)
            self._large = bytearray(length)
            self._allowed_s += length / SLOWEST_BYTES_PER_S

    def on_body(self, body: bytes) -> None:
        first, self._body_bytes = self._body_bytes, self._body_bytes + len(body)
        if self._large is not None:
            self._large[first : self._body_bytes] = body
            return
        self._pieces.append(body)
        if self._body_bytes > CHUNK_BYTES:  # in chunks; one that says its length is not read here
            self._count_body(self._body_bytes)
            self._allowed_s = self._limits.request_s + self._body_bytes / SLOWEST_BYTES_PER_S

    def on_message_complete(self) -> None:
        pieces = self._pieces
        self._complete(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    # Connection

    def look(self, now_s: float) -> None:
        took_s = now_s - self._since_s
        if self._transport is None:
            return
        if self._is_closing:
            if took_s > LINGER_S:
                self.abort()
        elif self._is_writing_paused:
            if took_s > self._limits.request_s:
                self.abort()
        elif self._has_begun:
            if took_s > self._allowed_s:
                self._fail(_Refusal(408, "the request took too long to come in"))
        elif not self._inside and took_s > self._limits.keep_alive_s:
            self._transport.close()

    def drain(self) -> None:
        if not self._inside and not self._has_begun and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def answered(self, exchange: Exchange) -> None:
        """An exchange has its answer: send what is next in order."""
        inside, transport = self._inside, self._transport
        if transport is None or (inside and inside[0] is not exchange):
            return
        while inside and inside[0].answer is not None:
            done = inside.popleft()
            if done.reserved:
                self._connections.free(done.reserved)
            answer = done.answer
            assert answer is not None  # noqa: S101 - checked above
            if len(answer) == 1:
                transport.write(answer[0])
            else:
                transport.writelines(answer)
            if not done.keeps_alive:
                self._last_answer_sent()
                return
        if not inside:
            self._since_s = self._connections.now_s
        if self._is_reading_paused:
            self._throttle()

    def _complete(self, body: bytes | bytearray) -> None:
        """A whole request is here."""
        exchange = Exchange(self, self._method, self._target, self._headers, body, self._keeps_alive, self._reserved)
        self._expect_message()
        self._take(exchange)

    def _take(self, exchange: Exchange) -> None:
        self._inside.append(exchange)
        if len(self._inside) > PIPELINED:
            self._throttle()
        self._handler.handle(exchange)

    def _continue(self, expectation: bytes) -> None:
        if expectation.lower() != b"100-continue":
            raise _Refusal(417, "this expectation can't be met")
        length = int(self._headers.get(b"content-length", 0))
        if length <= self._limits.body_bytes and not self._inside and self._transport is not None:
            self._transport.write(_CONTINUE)

    def _count_headers(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > self._limits.header_bytes:
            raise _Refusal(431, f"the headers are larger than {self._limits.header_bytes} bytes")

    def _count_body(self, size: int) -> None:
        """A large body needs room in memory, of which there is an end."""
        if size > self._limits.body_bytes:
            raise _Refusal(413, f"the body is larger than {self._limits.body_bytes} bytes")
        if not self._connections.reserve(size - self._reserved):
            raise _Refusal(503, "too many large requests at once")
        self._reserved = size

    def _throttle(self) -> None:
        """Read on only where the client takes its answers, and does not ask for too many at once."""
        if self._transport is None or self._is_closing:
            return
        pause = self._is_writing_paused or len(self._inside) > PIPELINED
        if pause and not self._is_reading_paused:
            self._transport.pause_reading()
        elif self._is_reading_paused and not pause:
            self._transport.resume_reading()
        self._is_reading_paused = pause

    def _fail(self, refusal: "_Refusal") -> None:
        """What the client sends can't be read: say so behind the answers that it is owed, and close."""
        self._connections.free(self._reserved)
        self._expect_message()
        self._is_closing, self._since_s = True, self._connections.now_s
        exchange = Exchange(self, b"", b"", {}, b"", False, 0)
        self._inside.append(exchange)
        retry = b"retry-after: 1\r\n" if refusal.status == _UNAVAILABLE else b""
        exchange.respond(refusal.status, JSON, msgspec.json.encode({"error": refusal.text}), headers=retry)

    def _last_answer_sent(self) -> None:
        """Close; but data that nobody has read would take the answer with it, so then the client is listened out."""
        assert self._transport is not None  # noqa: S101 - it was just written to
        if self._is_closing and self._transport.can_write_eof():
            self._transport.write_eof()
            self._since_s = self._connections.now_s
            if self._is_reading_paused:
                self._transport.resume_reading()
        else:
            self._transport.close()


class _Refusal(Exception):
    """A request that can't be read to its end."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text
