"""A client's side of a connection, bytes in and out without a socket: HTTP/1.1, and gRPC over HTTP/2."""

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

OK = 200


class Reply(NamedTuple):
    """An answer to a request. ``status`` is HTTP's; of gRPC it is 200, or the gRPC status."""

    number: int
    status: int
    head: bytes
    body: bytes


class Broken(Exception):
    """The server sent what can't be understood, or ended the connection."""


class Connection(Protocol):
    """``greeting`` is sent first; ``most`` requests may be in flight; ``echo`` (acknowledgements) is to be sent."""

    greeting: bytes
    in_flight: int
    echo: bytes

    @property
    def most(self) -> int: ...

    def ask(self, index: int, request: bytes) -> bytes:
        """The bytes to send for a request."""
        ...

    def receive(self, data: bytes) -> Sequence[Reply]:
        """The answers that these bytes complete. Raises `Broken`."""
        ...

    def unanswered(self) -> Sequence[int]:
        """The requests in flight."""
        ...


class Http1:
    """One request at a time, as most clients do."""

    greeting = b""
    most = 1

    def __init__(self) -> None:
        self.echo = b""
        self.in_flight = 0
        self._index = -1
        self._buffer = b""

    def ask(self, index: int, request: bytes) -> bytes:
        self._index, self.in_flight = index, 1
        return request

    def receive(self, data: bytes) -> Sequence[Reply]:
        if not self.in_flight:
            raise Broken(f"unasked: {data[:100]!r}")
        self._buffer = buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return ()
        head = buffer[:end]
        body, size = _body(head.lower(), buffer, end + 4)
        if body is None:
            return ()
        self._buffer, self.in_flight = buffer[size:], 0
        return (Reply(self._index, int(buffer[9:12]), head, body),)

    def unanswered(self) -> Sequence[int]:
        return (self._index,) if self.in_flight else ()


def _body(head: bytes, buffer: bytes, start: int) -> tuple[bytes | None, int]:
    """The body that starts there and where it ends; None while some of it is missing."""
    _, has_length, rest = head.partition(b"\r\ncontent-length:")
    if has_length:
        end = start + int(rest.split(b"\r", 1)[0])
        return (buffer[start:end], end) if end <= len(buffer) else (None, 0)
    if b"\r\ntransfer-encoding: chunked" not in head:
        raise Broken(f"no length: {head[:200]!r}")
    chunks: list[bytes] = []
    while (line_end := buffer.find(b"\r\n", start)) >= 0:
        size = int(buffer[start:line_end].split(b";")[0], 16)
        start = line_end + 2 + size + 2
        if start > len(buffer):
            break
        if not size:
            return b"".join(chunks), start
        chunks.append(buffer[line_end + 2 : start - 2])
    return None, 0


DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
ACK, END_STREAM, END_HEADERS = 1, 1, 4
_FRAME = struct.Struct(">IBI")  # length and type in one, flags, stream
FRAME_BYTES = 9
_LARGEST_WINDOW = 2**31 - 1
_FIRST_WINDOW = 65_535
MAX_CALLS = 16  # at once on one connection
_INITIAL_WINDOW_SIZE, _HEADER_TABLE_SIZE, _ENABLE_PUSH = 4, 1, 2


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame (RFC 9113, 4.1)."""
    return _FRAME.pack(len(payload) << 8 | kind, flags, stream) + payload


def frames(buffer: bytes) -> Iterator[tuple[int, int, int, bytes, int]]:
    """Whole frames at the start of ``buffer``: type, flags, stream, payload, and where the next one starts."""
    at = 0
    while len(buffer) - at >= FRAME_BYTES:
        size_and_kind, flags, stream = _FRAME.unpack_from(buffer, at)
        end = at + FRAME_BYTES + (size_and_kind >> 8)
        if end > len(buffer):
            return
        yield size_and_kind & 0xFF, flags, stream, buffer[at + FRAME_BYTES : end], end
        at = end


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Grpc:
    """Unary gRPC calls of one method, several at a time on one connection.

    A request is sent whole, so there is room for one only while the connection's flow-control window takes the
    ``largest_bytes`` of any.
    A header table of size 0 makes each header block readable by itself.
    """

    def __init__(self, path: str, largest_bytes: int) -> None:
        if largest_bytes > _FIRST_WINDOW:
            raise ValueError(f"requests of {largest_bytes} bytes need the flow control of streams, which isn't here")
        self._largest_bytes, self._window = largest_bytes, _FIRST_WINDOW
        settings = ((_HEADER_TABLE_SIZE, 0), (_ENABLE_PUSH, 0), (_INITIAL_WINDOW_SIZE, 2**20))
        self.greeting = (
            PREFACE
            + frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in settings))
            + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", _LARGEST_WINDOW - _FIRST_WINDOW))
        )
        self.in_flight = 0
        self.echo = b""
        self._headers = _request_headers(path)
        self._indices: dict[int, int] = {}
        self._bodies: dict[int, bytes] = {}
        self._next = 1
        self._buffer = b""

    @property
    def most(self) -> int:
        return MAX_CALLS if self._window >= self._largest_bytes else 0

    def ask(self, index: int, request: bytes) -> bytes:
        self._window -= len(request)
        stream, self._next = self._next, self._next + 2
        self._indices[stream] = index
        self.in_flight += 1
        return frame(HEADERS, END_HEADERS, stream, self._headers) + frame(DATA, END_STREAM, stream, request)

    def receive(self, data: bytes) -> Sequence[Reply]:
        self._buffer = buffer = self._buffer + data if self._buffer else data
        replies, end = [], 0
        for kind, flags, stream, payload, next_at in frames(buffer):
            end = next_at
            if kind == DATA:
                self._bodies[stream] = self._bodies.get(stream, b"") + payload
            elif kind == WINDOW_UPDATE and not stream:
                self._window += int.from_bytes(payload, "big")
            elif kind == SETTINGS and not flags & ACK:
                self.echo += frame(SETTINGS, ACK, 0, b"")
            elif kind == PING and not flags & ACK:
                self.echo += frame(PING, ACK, 0, payload)
            elif kind == GOAWAY:
                raise Broken(f"GOAWAY: {payload!r}")
            if kind == RST_STREAM or (kind in {DATA, HEADERS} and flags & END_STREAM):
                replies.append(self._reply(stream, payload if kind == HEADERS else b""))
        self._buffer = buffer[end:]
        return replies

    def unanswered(self) -> Sequence[int]:
        return tuple(self._indices.values())

    def _reply(self, stream: int, trailers: bytes) -> Reply:
        """A message in the body is success: unary calls that fail have none."""
        self.in_flight -= 1
        index, body = self._indices.pop(stream), self._bodies.pop(stream, b"")
        status = OK if body else _grpc_status(trailers)
        return Reply(index, status, trailers, body)


def _request_headers(path: str) -> bytes:
    from hpack import Encoder, NeverIndexedHeaderTuple  # noqa: PLC0415 - only where it is gRPC

    headers = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "127.0.0.1"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    )
    encoded: bytes = Encoder().encode([NeverIndexedHeaderTuple(*pair) for pair in headers], huffman=False)
    return encoded


@lru_cache(256)
def _grpc_status(trailers: bytes) -> int:
    from hpack import Decoder  # noqa: PLC0415

    headers = dict(Decoder().decode(trailers, raw=True)) if trailers else {}
    return int(headers.get(b"grpc-status", -1))
