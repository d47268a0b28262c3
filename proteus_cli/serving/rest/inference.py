"""Inference requests over HTTP, and how they are read, decoded and answered by their head."""

import math
from collections.abc import Mapping
from functools import lru_cache

import msgspec

from proteus_cli.buffers import Buffer
from proteus_cli.errors import (
    BadRequest,
    BoundsUnmet,
    DeadlineExceeded,
    MethodNotAllowed,
    NotAccurateEnough,
    NotReady,
    Overloaded,
    RequestError,
)
from proteus_cli.serving.http1.connection import HttpConnection
from proteus_cli.serving.http1.exchange import JSON, OCTETS, Exchange
from proteus_cli.serving.oip.codes import HTTP_STATUS
from proteus_cli.serving.oip.inference import CancelHandle, Inference, InferencePipeline
from proteus_cli.serving.oip.tensors import MAX_UNPACKED_BYTES
from proteus_cli.serving.requests.in_flight import Answered
from proteus_cli.serving.requests.query import Decoded
from proteus_cli.serving.rest.codec.answers import EncodedAnswer
from proteus_cli.serving.rest.codec.bodies import Error
from proteus_cli.serving.rest.codec.codec import RestCodec
from proteus_cli.serving.transport.gunzip import decompressed

_IMAGE = b"image/"
JSON_LENGTH = b"inference-header-content-length"
_OK = 200
_MAX_DIGITS = 18
LONG_JSON_BYTES = 32 * 1024  # of a body whose JSON is decoded in a turn of its own


class InferRoute:
    """How the inference requests of one head are answered. Bodies unpack to ``max_bytes`` at most, which is capped.

    Raises `BadRequest`.
    """

    def __init__(
        self, pipeline: InferencePipeline, codec: RestCodec, headers: Mapping[bytes, bytes], max_bytes: int
    ) -> None:
        self._pipeline, self.codec, self._max_bytes = pipeline, codec, max_bytes
        length = headers.get(JSON_LENGTH)
        self._json_bytes = None if length is None else _whole_number(length)
        self._has_json = length is not None or not headers.get(b"content-type", JSON).lower().startswith(_IMAGE)
        self._encoding = headers.get(b"content-encoding")
        self.needs_turn = self._encoding is not None or (self._json_bytes or 0) > LONG_JSON_BYTES
        """Whatever the body is; one that is JSON alone also by its length."""
        self.is_json = self._has_json and length is None

    def decode(self, body: bytes | bytearray, inference: "RestInference") -> Decoded:
        """Decode a body: an image, where its `Content-Type` says so. Raises `BadRequest`, `BodyTooLarge`."""
        if self._encoding is not None:
            body = unpacked(body, self._encoding, min(self._max_bytes, MAX_UNPACKED_BYTES))
            inference.require_memory(len(body))
        if not self._has_json:
            return self.codec.decode_image(body)
        decoded = self.codec.decode(body, self._json_bytes)
        if self._json_bytes is None and len(body) > LONG_JSON_BYTES:
            inference.require_memory(decoded[0].rows * self.codec.row_bytes)
        return decoded

    def answer(self, exchange: Exchange) -> None:
        """Answer a request, later."""
        exchange.in_flight = self._pipeline.submit(RestInference(exchange, self), exchange.body, exchange.head.headers)
        exchange.release()


class RestInference(Inference[EncodedAnswer]):
    """An inference request over HTTP. ``headers`` are lines for its answer."""

    __slots__ = ("_exchange", "_headers", "_query", "_route")

    def __init__(self, exchange: Exchange, route: InferRoute) -> None:
        self._exchange, self._route, self._headers = exchange, route, b""

    def needs_turn(self, content: Buffer) -> bool:
        route = self._route
        return route.needs_turn or (route.is_json and len(content) > LONG_JSON_BYTES)

    def decode(self, content: Buffer) -> Decoded:
        decoded = self._route.decode(content, self)  # type: ignore[arg-type]  # a body is no view
        self._query = decoded[0]
        return decoded

    def encode(self, answered: Answered) -> EncodedAnswer:
        return self._route.codec.encode(self._query, answered)

    def answer(self, encoded: EncodedAnswer) -> None:
        (body, tensors), exchange, headers = encoded, self._exchange, self._headers
        content_type = JSON
        if tensors:
            content_type = OCTETS
            headers += _json_length(len(body))
        exchange.respond(_OK, content_type, body, tensors, headers)

    def fail(self, error: RequestError) -> None:
        refuse(self._exchange, error, self._headers)

    def reserve(self, size: int) -> bool:
        return self._exchange.reserve(size)

    def connection(self) -> HttpConnection:
        return self._exchange.connection

    def set_cancel_handle(self, handle: CancelHandle | None) -> None:
        self._exchange.in_flight = handle

    def is_traced(self, traceparent: bytes) -> None:
        self._headers = b"traceparent: %b\r\n" % traceparent


def unpacked(body: bytes | bytearray, encoding: bytes, max_bytes: int) -> bytes | bytearray:
    """A body without its ``Content-Encoding``. Raises `BadRequest`, `BodyTooLarge`, `CorruptBody`."""
    name = encoding.strip().lower()
    if name == b"identity":
        return body
    if name not in {b"gzip", b"x-gzip", b"deflate"}:
        raise BadRequest("bodies may be compressed with gzip or deflate")
    return decompressed(body, max_bytes, "body", "Content-Encoding", takes_zlib=True)


@lru_cache(maxsize=256)
def _json_length(size: int) -> bytes:
    return b"%b: %d\r\n" % (JSON_LENGTH, size)


def _whole_number(text: bytes) -> int:
    if not text.isdigit() or len(text) > _MAX_DIGITS:
        raise BadRequest("Inference-Header-Content-Length must be a whole number")
    return int(text)


OUTCOME = b"proteus-outcome"


def refuse(exchange: Exchange, error: RequestError, headers: bytes = b"") -> None:
    """Answer with an error; ``headers`` are lines for its answer."""
    if isinstance(error, Overloaded | NotReady):
        headers += b"retry-after: %d\r\n" % math.ceil(error.retry_after_s)
    elif isinstance(error, MethodNotAllowed):
        headers += b"allow: %b\r\n" % error.allowed.encode()
    elif isinstance(error, BoundsUnmet | NotAccurateEnough):
        headers += b"%b: rejected\r\n" % OUTCOME  # unlike other bad requests, it counts as an outcome
    elif isinstance(error, DeadlineExceeded):
        headers += b"%b: %b\r\n" % (OUTCOME, b"late" if error.is_late else b"dropped")
    exchange.respond(HTTP_STATUS[type(error)], JSON, msgspec.json.encode(Error(error.message)), headers=headers)
