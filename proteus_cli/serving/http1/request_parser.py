"""Bytes to requests. Parsing is llhttp's, by httptools; memory, limits and what is refused are decided here."""

import re
from typing import TYPE_CHECKING

import httptools

from proteus_cli.serving.http1.exchange import NO_HEAD, Exchange, Head, Refusal
from proteus_cli.serving.http1.states import (
    BODY_READ_BYTES,
    HEAD_COMPLETE,
    READ_BYTES,
    READING,
    READING_BODY,
    READING_HEAD,
    SLICE_BYTES,
    HttpLimits,
)
from proteus_cli.serving.memory import unset_bytes

if TYPE_CHECKING:
    from proteus_cli.serving.http1.connection import HttpConnection
from proteus_cli.serving.memory import remember

_MAX_HEADS = 1024
MAX_HEAD_BYTES = 2048
END_OF_HEAD = b"\r\n\r\n"


class KnownHeads:
    """Heads by their bytes before `END_OF_HEAD`, on which alone their meaning depends until `forget`.

    Beside each, how many bytes of body follow it. Emptied when full.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Head, int]] = {}
        self.get = self._known.get

    def forget(self) -> None:
        """Who answers requests has changed: what heads mean is to be found anew."""
        self._known.clear()

    def remember(self, text: bytes, head: Head, body_bytes: int) -> None:
        """Remember a head, unless it is long or has empty lines before it: those may belong to any request."""
        if not text.startswith(head.method + b" ") or len(text) > MAX_HEAD_BYTES:
            return
        remember(self._known, text, (head, body_bytes), _MAX_HEADS)


# Each read is parsed before the next one, of whichever connection, so one buffer is enough for all of them.
_SHARED_READ_BUFFER = memoryview(bytearray(READ_BYTES))
_SINGLE = frozenset({
    b"authorization", b"content-encoding", b"content-length", b"content-type", b"expect", b"host",
    b"inference-header-content-length", b"origin", b"sec-fetch-site", b"transfer-encoding",
})  # fmt: skip
"""Headers that a request has once at most; two servers could take different ones of several."""
_HOST = re.compile(rb"[\w.~!$&'()*+;=:%\[\]-]*", re.ASCII)
_BYTES_PER_UNIT = 1024  # of work: 30 headers, which take 20 µs
_BODY_BYTES_PER_UNIT = 16 * 1024  # that are copied from the kernel into pages that are taken for them
_MEMORY_OF_HEAD = 2  # times its bytes, once it is parsed


class RequestParser:
    """Reads the requests of a connection, one after another, and reports to it what it reads.

    The next read goes to ``buffer``. ``body_bytes`` of the current body have come in, and ``reserved_bytes`` are
    reserved for the request in memory. A read is parsed in slices, and the rest kept in ``_rest`` once the connection
    takes no more: that bounds what one turn costs, and how many requests wait.
    """

    def __init__(self, connection: "HttpConnection", known_heads: KnownHeads, limits: HttpLimits) -> None:
        self._connection, self._known_heads, self._limits = connection, known_heads, limits
        self._uncounted_bytes = min(limits.uncounted_bytes, limits.body_bytes)
        self._llhttp = httptools.HttpRequestParser(self)
        self._new_head = b""
        self._rest: memoryview | None = None
        self._expect_request()

    def _expect_request(self) -> None:
        self._target, self._headers, self._head = b"", dict[bytes, bytes](), NO_HEAD
        self._header_lines = self._header_bytes = self._length = self._reserved_body_bytes = self.body_bytes = (
            self.reserved_bytes
        ) = 0
        self._wants_upgrade = False
        self.buffer = _SHARED_READ_BUFFER
        self._body: bytes | bytearray = b""
        self._large_body: bytearray | None = None  # read straight into its place

    def drop_request(self) -> None:
        """Forget the request that is being read, and what came behind it."""
        self._rest = None
        self._connection.connections.free(self.reserved_bytes)
        self._expect_request()

    def close(self) -> None:
        """Break the cycle of references with llhttp's parser, so that no garbage collection is needed."""
        self._llhttp = None

    # Reading

    @property
    def has_rest(self) -> bool:
        """Whether a part of the last read waits for `read_on`."""
        return self._rest is not None

    def read_on(self) -> None:
        """Parse what was left of a read. Raises `Refusal`."""
        rest, self._rest = self._rest, None
        if rest is not None:
            self._parse(rest)

    def read(self, nbytes: int) -> None:
        """Take the first bytes of ``buffer``. Raises `Refusal`."""
        if self._large_body is not None:
            self._grow(self._large_body, nbytes)
        else:
            self._parse(_SHARED_READ_BUFFER[:nbytes])

    def known_request(self, nbytes: int) -> Exchange | None:
        """The request that these bytes are, if they are one, and its head was parsed before: clients repeat themselves.

        None also for a read that fills the buffer, behind which there may be another one in the same turn of the loop.
        """
        is_long = nbytes > MAX_HEAD_BYTES
        start = _SHARED_READ_BUFFER[: MAX_HEAD_BYTES if is_long else nbytes].tobytes()
        text, end_of_head, body = start.partition(END_OF_HEAD)
        known = self._known_heads.get(text)
        if known is None:
            self._new_head = text if end_of_head else b""
            return None
        head, body_bytes = known
        if nbytes != len(text) + len(END_OF_HEAD) + body_bytes or nbytes == READ_BYTES:
            return None
        reserved_bytes = 0
        if body_bytes > self._uncounted_bytes:
            if not self._connection.connections.reserve(body_bytes):
                return None
            reserved_bytes = body_bytes
        if is_long:
            body = _SHARED_READ_BUFFER[nbytes - body_bytes : nbytes].tobytes()
        return Exchange(self._connection, head, body, True, reserved_bytes)

    def _parse(self, data: memoryview) -> None:
        """Parse slices: a head as a whole where its length is known, a body as far as it is there."""
        connection, size = self._connection, 0
        if self._rest is not None:  # TLS hands on what it had decrypted before it was paused
            self._rest = memoryview(bytes(self._rest) + bytes(data))
            return
        if self._new_head and len(data) > SLICE_BYTES:
            size = len(self._new_head) + len(END_OF_HEAD)
        while data:
            if not 0 < size <= SLICE_BYTES:
                size = max(SLICE_BYTES, self._length - self.body_bytes)
            try:
                self._parse_slice(data[:size])
            except httptools.HttpParserCallbackError as error:
                if not isinstance(error.__context__, Refusal | MemoryError):
                    raise
                raise error.__context__ from None
            except httptools.HttpParserError as error:
                raise Refusal(400, f"not HTTP: {error}") from None
            data, size = data[size:], 0
            if data and not connection.takes_requests:
                self._rest = memoryview(bytes(data))
                return

    def _parse_slice(self, data: memoryview) -> None:
        connection, headers, self._slice_bytes = self._connection, self._headers, len(data)
        connection.turn.left -= 1 + min(len(data), SLICE_BYTES) // _BYTES_PER_UNIT
        while True:
            try:
                self._llhttp.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._begin_without_upgrade()
            else:
                break
        if connection.state in READING and self._headers is headers:  # all of this slice belongs to one request
            self._header_bytes += len(data)
            if self._header_bytes > self._limits.header_bytes:
                raise Refusal(431, f"there are more than {self._limits.header_bytes} bytes around the body")
            if connection.state is READING_HEAD:
                self._reserve(len(data) * _MEMORY_OF_HEAD)

    def _begin_without_upgrade(self) -> None:
        """Begin a request again as if it asked for no other protocol: llhttp would take its body for that protocol."""
        closes = [] if self._keep_alive else [b"connection: close"]
        kept = [b"%b: %b" % header for header in self._headers.items() if header[0] not in {b"upgrade", b"connection"}]
        first = b"%b %b HTTP/%b" % (self._method, self._target, self._version.encode())
        head = b"\r\n".join([first, *kept, *closes, b"", b""])
        reserved_bytes = self.reserved_bytes
        self._expect_request()
        self.reserved_bytes = reserved_bytes
        self._llhttp = httptools.HttpRequestParser(self)
        self._llhttp.feed_data(head)

    def _grow(self, body: bytearray, nbytes: int) -> None:
        self.body_bytes += nbytes
        self.buffer = memoryview(body)[self.body_bytes : self.body_bytes + BODY_READ_BYTES]
        self._connection.turn.left -= nbytes // _BODY_BYTES_PER_UNIT
        if not self.buffer:
            self._llhttp = httptools.HttpRequestParser(self)  # the old one still waits for that body
            self._complete(body)

    def _complete(self, body: bytes | bytearray) -> None:
        connection = self._connection
        exchange = Exchange(connection, self._head, body, self._keep_alive, self.reserved_bytes)
        self._expect_request()
        connection.on_request(exchange)

    def _reserve_body(self, body_bytes: int) -> None:
        """Count a large body among those in memory."""
        if body_bytes > self._limits.body_bytes:
            raise Refusal(413, f"the body is larger than {self._limits.body_bytes} bytes")
        self._reserve(body_bytes - self._reserved_body_bytes)
        self._reserved_body_bytes = body_bytes

    def _reserve(self, size: int) -> None:
        """Count memory of a request until its response is sent."""
        if not self._connection.connections.reserve(size):
            raise Refusal(503, "too many large requests at once")
        self.reserved_bytes += size

    # httptools.HttpRequestParser

    def on_message_begin(self) -> None:
        self._connection.on_request_began()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_lines += 1
        if self._header_lines > self._limits.headers:
            raise Refusal(431, f"there are more than {self._limits.headers} headers")
        if self._connection.state is READING_BODY:  # a trailer
            return
        headers, name = self._headers, name.lower()
        if name in headers:
            if name in _SINGLE:
                raise Refusal(400, f"the header {name.decode()} is repeated")
            value = b"%b, %b" % (headers[name], value)
        headers[name] = value

    def on_headers_complete(self) -> None:
        connection, llhttp, headers = self._connection, self._llhttp, self._headers
        self._method, self._keep_alive = llhttp.get_method(), llhttp.should_keep_alive()
        self._version = llhttp.get_http_version()
        self._head = Head(self._method, self._target, headers, connection.route(self._method, self._target, headers))
        self._check_host()
        if not self._keep_alive or b"connection" in headers or self._method == b"CONNECT":
            self._check_version()
            self._wants_upgrade = llhttp.should_upgrade()
            if self._wants_upgrade:
                return
        connection.on(HEAD_COMPLETE)
        if b"transfer-encoding" in headers and headers[b"transfer-encoding"].strip().lower() != b"chunked":
            raise Refusal(501, "bodies may be sent in chunks, and in no other transfer encoding")
        # llhttp has checked it. Zeros in front are cut off: Python limits the digits of a number.
        self._length = length = int(headers.get(b"content-length", b"").lstrip(b"0") or 0)
        if length > self._uncounted_bytes:
            self._reserve_body(length)
            if length > READ_BYTES:
                self._large_body = unset_bytes(length)
                self.buffer = memoryview(self._large_body)[:BODY_READ_BYTES]
        if b"expect" in headers and self._version != "1.0":  # which has no expectations
            if headers[b"expect"].lower() != b"100-continue":
                raise Refusal(417, "this expectation can't be met")
            connection.send_continue()
        elif self._new_head and self._keep_alive and length < READ_BYTES and b"transfer-encoding" not in headers:
            self._known_heads.remember(self._new_head, self._head, length)
        self._new_head = b""

    def on_body(self, body: bytes) -> None:
        first, self.body_bytes = self.body_bytes, self.body_bytes + len(body)
        # The rest of this slice is body and must not count; `_parse_slice` adds it afterwards.
        self._header_bytes = -self._slice_bytes
        self._connection.turn.left -= 1
        if self._large_body is not None:
            self._large_body[first : self.body_bytes] = body
            self.buffer = memoryview(self._large_body)[self.body_bytes : self.body_bytes + BODY_READ_BYTES]
            return
        if self.body_bytes > self._reserved_body_bytes and self.body_bytes > self._uncounted_bytes:  # in chunks
            self._reserve_body(self.body_bytes)
        if not first:
            self._body = body
        elif isinstance(self._body, bytearray):
            self._body += body
        else:
            self._body = bytearray(self._body) + body

    def on_message_complete(self) -> None:
        if not self._wants_upgrade:
            self._complete(self._body)

    def _check_host(self) -> None:
        """RFC 9112, 3.2."""
        host = self._headers.get(b"host")
        if host is None:
            if self._version == "1.1":
                raise Refusal(400, "the header Host is missing")
        elif not _HOST.fullmatch(host):
            raise Refusal(400, "the header Host is malformed")

    def _check_version(self) -> None:
        if self._version not in {"1.0", "1.1"}:
            raise Refusal(505, "this is HTTP/1.1")
        if self._version == "1.0":
            self._keep_alive = False
            if b"transfer-encoding" in self._headers:
                raise Refusal(400, "HTTP/1.0 has no transfer encodings")
        if self._method == b"CONNECT" and self._llhttp.should_upgrade():
            raise Refusal(405, "this is no proxy")
