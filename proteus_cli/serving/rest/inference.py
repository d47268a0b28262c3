"""Inference requests over HTTP: how those of one head are read, decoded and answered."""

import asyncio
from collections.abc import Mapping
from functools import lru_cache, partial

from proteus_cli.buffers import Buffer
from proteus_cli.errors import BadRequest, BodyTooLarge, CorruptBody, NotReady, RequestError
from proteus_cli.serving.http1.exchange import JSON, OCTETS, Exchange
from proteus_cli.serving.oip.inference import NO_MEMORY, Decoded, Inference, InferencePipeline, InFlight
from proteus_cli.serving.oip.tensors import MAX_UNPACKED_BYTES
from proteus_cli.serving.requests.in_flight import Answered
from proteus_cli.serving.requests.query import InOneTurn, Inputs, InThreads, ReadInputs
from proteus_cli.serving.rest.codec.answers import EncodedAnswer
from proteus_cli.serving.rest.codec.codec import DecodedRequest, RestCodec
from proteus_cli.serving.rest.refusals import refuse
from proteus_cli.serving.transport.gunzip import Compression, ContentTooLarge, CorruptContent, decompressed
from proteus_cli.serving.transport.turns import LoopTurn, Turns

_IMAGE = b"image/"
JSON_LENGTH = b"inference-header-content-length"
_OK = 200
_MAX_DIGITS = 18
_JSON_BYTES_PER_UNIT = 2 * 1024  # of work: they take 10 µs


class RestInferences:
    """The inference requests of one head. Compressed bodies unpack to ``max_bytes`` at most, which is capped.

    Raises `BadRequest`.
    """

    def __init__(
        self, pipeline: InferencePipeline, codec: RestCodec, headers: Mapping[bytes, bytes], max_bytes: int
    ) -> None:
        self._pipeline, self.codec, self.max_bytes = pipeline, codec, max_bytes
        length = headers.get(JSON_LENGTH)
        self.json_bytes = None if length is None else _whole_number(length)
        self.has_json = length is not None or not headers.get(b"content-type", JSON).lower().startswith(_IMAGE)
        self.encoding = headers.get(b"content-encoding")

    def decode(self, body: bytes | bytearray) -> DecodedRequest:
        """Decode a body: an image, where its `Content-Type` says so. Raises `BadRequest`, `BodyTooLarge`."""
        return self.codec.decode(body, self.json_bytes) if self.has_json else self.codec.decode_image(body)

    def answer(self, exchange: Exchange) -> None:
        """Answer a request, later."""
        exchange.in_flight = self._pipeline.submit(RestInference(exchange, self), exchange.body, exchange.head.headers)
        exchange.release()


class RestInference(Inference[EncodedAnswer]):
    """An inference request over HTTP. ``headers`` are lines for its answer."""

    __slots__ = ("_exchange", "_headers", "_of", "_query")

    def __init__(self, exchange: Exchange, of: RestInferences) -> None:
        self._exchange, self._of, self._headers = exchange, of, b""

    def decode(self, content: Buffer) -> Decoded | InOneTurn[Decoded]:  # noqa: ARG002 - it is the exchange's body
        body, of = self._exchange.body, self._of
        if of.encoding is not None:
            return InOneTurn(partial(self._unpacked_and_decoded, body, of.encoding))
        units = 0 if of.json_bytes is not None or not of.has_json else len(body) // _JSON_BYTES_PER_UNIT
        if units and self._loop_turn.is_crowded:
            return InOneTurn(partial(self._decoded, body))
        decoded = of.decode(body)
        self._query, read_inputs = decoded
        if units and not isinstance(read_inputs, InOneTurn | InThreads):
            return self._query, partial(self._read_inputs, read_inputs, units)
        return decoded

    @property
    def _loop_turn(self) -> LoopTurn:
        return self._exchange.connection.connections.loop_turn

    def _read_inputs(self, read_inputs: ReadInputs, units: int) -> Inputs:
        """Read the tensors at once, which is so much work."""
        self._loop_turn.spend(units)
        return read_inputs()

    def _decoded(self, body: bytes | bytearray) -> Decoded:
        decoded = self._of.decode(body)
        self._query = decoded[0]
        return decoded

    def _unpacked_and_decoded(self, body: bytes | bytearray, encoding: bytes) -> Decoded:
        content = unpacked(body, encoding, min(self._of.max_bytes, MAX_UNPACKED_BYTES))
        if not self.reserve(len(content)):
            raise NotReady(NO_MEMORY)
        return self._decoded(content)

    def encode(self, answered: Answered) -> EncodedAnswer:
        return self._of.codec.encode(self._query, answered)

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

    def turns(self) -> Turns:
        return self._exchange.connection.connections.long_turns

    def in_order(self) -> asyncio.Lock:
        return self._exchange.connection.reads_long

    def set_cancel_handle(self, in_flight: InFlight | None) -> None:
        self._exchange.in_flight = in_flight

    def is_traced(self, traceparent: bytes) -> None:
        self._headers = b"traceparent: %b\r\n" % traceparent


def unpacked(body: bytes | bytearray, encoding: bytes, max_bytes: int) -> bytes | bytearray:
    """A body without its ``Content-Encoding``. Raises `BadRequest`, `BodyTooLarge`, `CorruptBody`."""
    name = encoding.strip().lower()
    if name == b"identity":
        return body
    if name not in {b"gzip", b"x-gzip", b"deflate"}:
        raise BadRequest("bodies may be compressed with gzip or deflate")
    try:
        return decompressed(body, Compression.GZIP_OR_ZLIB, max_bytes)
    except CorruptContent as error:
        raise CorruptBody(f"the body is not what its Content-Encoding says: {error}") from None
    except ContentTooLarge:
        raise BodyTooLarge(f"the body unpacks to more than {max_bytes} bytes: send it as it is") from None


@lru_cache(maxsize=256)
def _json_length(size: int) -> bytes:
    return b"%b: %d\r\n" % (JSON_LENGTH, size)


def _whole_number(text: bytes) -> int:
    if not text.isdigit() or len(text) > _MAX_DIGITS:
        raise BadRequest("Inference-Header-Content-Length must be a whole number")
    return int(text)
