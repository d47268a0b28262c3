"""A request over HTTP/1 and its response, and the handler that connects them."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from proteus_cli.buffers import Buffer

if TYPE_CHECKING:
    from proteus_cli.serving.http1.connection import HttpConnection

JSON = b"application/json"
OCTETS = b"application/octet-stream"
_NOT_FOR_PAGES = b"x-content-type-options: nosniff\r\ncache-control: no-store\r\n"  # browsers neither guess nor keep it
_END = b"\r\n"
MAX_JOINED_BYTES = 16 * 1024  # a response up to here is joined to one piece, which costs less than a second write
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


class Head(msgspec.Struct, frozen=True, eq=False):
    """The head of a request, and how its handler answers it. Requests of the same head share one."""

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    answer: "Answer"


class Exchange(msgspec.Struct, eq=False):
    """A request. ``reserved_bytes`` of memory are reserved for it; ``in_flight`` belongs to the handler."""

    connection: "HttpConnection"
    head: Head
    body: bytes | bytearray
    keep_alive: bool
    reserved_bytes: int = 0
    is_answered: bool = False
    in_flight: Any = None

    def reserve(self, body_bytes: int) -> bool:
        """Reserve memory for the decompressed body, until the response is sent. False: there is not enough left."""
        if not self.connection.connections.reserve(body_bytes):
            return False
        self.reserved_bytes += body_bytes
        return True

    def release(self) -> None:
        """Drop the request's head and body, once the handler has what it needs."""
        self.head, self.body = NO_HEAD, b""

    def respond(
        self, status: int, content_type: bytes, body: bytes, blobs: Sequence[Buffer] = (), headers: bytes = b""
    ) -> None:
        """Respond with ``body`` and then ``blobs``; ``headers`` are complete lines. No effect if the client is gone."""
        size = len(body)
        for blob in blobs:
            size += len(blob)
        connection = self.connection
        if not self.keep_alive or (connection.connections.is_draining and not connection.has_rest):
            self.keep_alive = False
            headers += b"connection: close\r\n"
        start = _start(status, content_type, size)
        if self.head.method == b"HEAD":  # its length counts the body that is left out
            response: tuple[Buffer, ...] = (b"".join((start, headers, _END)),)
        elif size <= MAX_JOINED_BYTES:
            response = (b"".join((start, headers, _END, body, *blobs)),)
        else:
            response = (b"".join((start, headers, _END)), body, *blobs)
        self.in_flight, self.is_answered = None, True
        connection.send(self, response)


@lru_cache(maxsize=1024)
def _start(status: int, content_type: bytes, size: int) -> bytes:
    more = _NOT_FOR_PAGES if content_type in {JSON, OCTETS} else b""
    return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n%bcontent-length: %d\r\n" % (
        status, _REASONS[status], content_type, more, size,
    )  # fmt: skip


Answer = Callable[[Exchange], None]
"""Responds to a request by `Exchange.respond`, at once or later."""


def _no_answer(exchange: Exchange) -> None:
    """No request has this head."""
    raise NotImplementedError


NO_HEAD = Head(b"", b"", {}, _no_answer)


class Refusal(Exception):
    """A request that is not read to its end: ``text`` is the error of its response, ``headers`` are whole lines."""

    def __init__(self, status: int, text: str, headers: bytes = b"") -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers


class Handler(Protocol):
    """Handles requests."""

    def route(self, method: bytes, target: bytes, headers: Mapping[bytes, bytes]) -> Answer:
        """How requests with this head are answered, by the head alone. Raises `Refusal` where they must not be read."""

    def abandoned(self, exchange: Exchange) -> None:
        """The client is gone before its response."""
