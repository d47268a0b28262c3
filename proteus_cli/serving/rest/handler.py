"""The REST front end on top of HTTP/1: dispatches requests, and translates inference and errors."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Iterator, Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import msgspec

from proteus_cli.domain.arrays import Buffer
from proteus_cli.errors import (
    BadRequest,
    BodyTooLarge,
    DeadlineExceeded,
    InternalError,
    MethodNotAllowed,
    NotAccurateEnough,
    NotReady,
    Overloaded,
    RequestError,
)
from proteus_cli.serving.http1.compression import accepted_encodings, compressed
from proteus_cli.serving.http1.exchange import JSON, OCTETS, Answer, Exchange
from proteus_cli.serving.oip import tensors as oip
from proteus_cli.serving.oip.codes import HTTP_STATUS, request_error
from proteus_cli.serving.oip.inference import Decoded, Inference, InferencePipeline, InFlight
from proteus_cli.serving.requests.admission import Admission
from proteus_cli.serving.requests.families import Families
from proteus_cli.serving.requests.in_flight import Answered
from proteus_cli.serving.requests.query import Inputs, InTurns, ReadInputs, Steps
from proteus_cli.serving.rest.access import Access, require_json
from proteus_cli.serving.rest.bodies import Error
from proteus_cli.serving.rest.codec import DecodedRequest, EncodedAnswer, RestCodec
from proteus_cli.serving.rest.endpoints import Endpoints
from proteus_cli.serving.rest.routes import INFER, OWN, ROUTES
from proteus_cli.serving.rest.routing import RestRequest, RestResponse, Router, path_of, route_of
from proteus_cli.serving.transport.gunzip import Compression, ContentTooLarge, CorruptContent, decompressed_pieces
from proteus_cli.serving.transport.turns import LoopTurn, Turns
from proteus_cli.serving.transport.unset_bytes import unset_bytes

if TYPE_CHECKING:
    from proteus_cli.serving.telemetry.tracing import Tracing

log = logging.getLogger("proteus.http")

JSON_LENGTH = b"inference-header-content-length"
OUTCOME = b"proteus-outcome"
_OK = 200
_MAX_DIGITS = 18
_JSON_BYTES_PER_UNIT = 2 * 1024  # of work: they take 10 µs
_PIECES_AT_ONCE = 8  # of an unpacked body, which are copied to their place: 1 MiB
_POST = b"POST"


class RestHandler:
    """Handles the requests of all HTTP connections. Compressed bodies unpack to ``max_body_bytes`` at most."""

    def __init__(
        self,
        admission: Admission,
        families: Families,
        endpoints: Endpoints,
        *,
        access: Access,
        max_body_bytes: int,
        tracing: "Tracing | None" = None,
    ) -> None:
        self._admission, self._endpoints, self._access = admission, endpoints, access
        self._max_body_bytes = max_body_bytes
        traces = None if tracing is None else tracing.of_protocol(
            f"POST {INFER}", {"http.request.method": "POST", "http.route": INFER},
            code="http.response.status_code", ok=_OK, codes=HTTP_STATUS,
        )  # fmt: skip
        self._pipeline, self._router = InferencePipeline(admission, traces), Router(ROUTES)
        self._codecs = {
            f"/v2/models/{family.name}{version}/infer".encode(): codec
            for family in families.by_name.values()
            for codec in [RestCodec(family.name, family.signature, family.max_rows)]
            for version in ("", f"/versions/{oip.VERSION}")
        }
        self._tasks: set[asyncio.Future[None]] = set()  # the loop holds only weak references

    # http1.exchange.Handler

    def route(self, method: bytes, target: bytes, headers: Mapping[bytes, bytes]) -> Answer:
        refusal = self._access.refusal(method, target, headers)
        if refusal is not None:
            raise refusal
        codec = self._codecs.get(target)
        if codec is None or method != _POST:
            return self._answer
        try:
            return self._infers(codec, headers)
        except Exception as error:  # noqa: BLE001 - the client must have an answer
            return partial(self._fail, error=error)

    def abandoned(self, exchange: Exchange) -> None:
        """The client has gone."""
        self._pipeline.cancel(exchange.in_flight)

    def _infers(self, codec: RestCodec, headers: Mapping[bytes, bytes]) -> Answer:
        return RestInferences(self._pipeline, codec, headers, min(self._max_body_bytes, codec.max_bytes)).answer

    def _answer(self, exchange: Exchange) -> None:
        """Answer a request, now or later."""
        try:
            self._dispatch(exchange)
        except Exception as error:  # noqa: BLE001 - the client must have an answer
            self._fail(exchange, error)

    def _dispatch(self, exchange: Exchange) -> None:
        """An endpoint besides inference, or inference whose path is written in an unusual way."""
        head = exchange.head
        routes, values, path = self._router.match(path_of(head.target))
        codec = self._codecs.get(path.encode())
        if codec is not None and head.method == _POST:
            self._infers(codec, head.headers)(exchange)
            return
        exchange.connection.turn.end()
        self._endpoints.require_version(values)
        route = route_of(routes, head.method.decode(), path)
        if route.changes_state:
            require_json(head.headers, exchange.body)
        query = head.target.partition(b"?")[2]
        response = route.handle(self._endpoints, RestRequest(values, exchange.body, head.headers, query))
        if isinstance(response, RestResponse):
            _respond(exchange, path, response)
        else:
            task = asyncio.ensure_future(self._respond_later(exchange, path, response))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _respond_later(self, exchange: Exchange, path: str, response: Awaitable[RestResponse]) -> None:
        try:
            _respond(exchange, path, await response)
        except Exception as error:  # noqa: BLE001 - the client must have an answer
            self._fail(exchange, error)

    def _fail(self, exchange: Exchange, error: Exception) -> None:
        told = request_error(error)
        if isinstance(told, InternalError):
            log.error("a bug while handling %r %r", exchange.head.method, exchange.head.target, exc_info=error)
        else:
            self._admission.count_refusal(told)
        refuse(exchange, told)


class RestInferences:
    """The inference requests of one head. Compressed bodies unpack to ``max_bytes`` at most. Raises `BadRequest`."""

    def __init__(
        self, pipeline: InferencePipeline, codec: RestCodec, headers: Mapping[bytes, bytes], max_bytes: int
    ) -> None:
        self._pipeline, self.codec, self.max_bytes = pipeline, codec, max_bytes
        length = headers.get(JSON_LENGTH)
        self.json_bytes = None if length is None else _whole_number(length)
        self.encoding, self.accepted = headers.get(b"content-encoding"), accepted_encodings(headers)

    def answer(self, exchange: Exchange) -> None:
        """Answer a request, later."""
        exchange.in_flight = self._pipeline.submit(RestInference(exchange, self), exchange.body, exchange.head.headers)
        exchange.release()


class RestInference(Inference[EncodedAnswer]):
    """An inference request over HTTP. ``headers`` are lines for its answer."""

    __slots__ = ("_exchange", "_headers", "_of", "_query")

    def __init__(self, exchange: Exchange, of: RestInferences) -> None:
        self._exchange, self._of, self._headers = exchange, of, b""

    def decode(self, content: Buffer) -> Decoded | InTurns[Decoded]:  # noqa: ARG002 - it is the exchange's body
        body, of = self._exchange.body, self._of
        if of.encoding is not None:
            return InTurns(self._unpacked_and_decoded(body, of.encoding))
        units = 0 if of.json_bytes is not None else len(body) // _JSON_BYTES_PER_UNIT
        if units and self._loop_turn.is_crowded:
            return InTurns(self._decoded(body))
        decoded = of.codec.decode(body, of.json_bytes)
        if isinstance(decoded, InTurns):
            return InTurns(self._noted(decoded.steps))
        self._query, read_inputs = decoded
        if units and not isinstance(read_inputs, InTurns):
            return self._query, partial(self._read_inputs, read_inputs, units)
        return decoded

    @property
    def _loop_turn(self) -> LoopTurn:
        return self._exchange.connection.connections.loop_turn

    def _read_inputs(self, read_inputs: ReadInputs, units: int) -> Inputs:
        """Read the tensors at once, which is so much work."""
        self._loop_turn.spend(units)
        return read_inputs()

    def _decoded(self, body: bytes | bytearray) -> Steps[Decoded]:
        decoded = self._of.codec.decode(body, self._of.json_bytes)
        if isinstance(decoded, InTurns):
            return (yield from self._noted(decoded.steps))
        self._query = decoded[0]
        return decoded

    def _noted(self, steps: Steps[DecodedRequest]) -> Steps[Decoded]:
        decoded = yield from steps
        self._query = decoded[0]
        return decoded

    def _unpacked_and_decoded(self, body: bytes | bytearray, encoding: bytes) -> Steps[Decoded]:
        content = yield from self._unpacked(body, encoding)
        return (yield from self._decoded(content))

    def _unpacked(self, body: bytes | bytearray, encoding: bytes) -> Steps[bytes | bytearray]:
        """The body without its encoding: one piece, or its pieces in one place."""
        pieces = deque[bytes | bytearray]()
        for piece in unpacked(body, encoding, self._of.max_bytes):
            if pieces:
                yield
            if not self._exchange.reserve(len(piece)):
                raise NotReady("too many large requests at once")
            pieces.append(piece)
        if len(pieces) == 1:
            return pieces[0]
        content, at = unset_bytes(sum(map(len, pieces))), 0
        while pieces:
            piece = pieces.popleft()
            content[at : at + len(piece)] = piece
            at += len(piece)
            if len(pieces) % _PIECES_AT_ONCE == 0:
                yield
        return content

    def encode(self, answered: Answered) -> EncodedAnswer | InTurns[EncodedAnswer]:
        return self._of.codec.encode(self._query, answered)

    def answer(self, encoded: EncodedAnswer) -> None:
        (body, tensors), exchange, headers = encoded, self._exchange, self._headers
        content_type = JSON
        if tensors:
            content_type = OCTETS
            headers += _json_length(len(body))
        if self._of.accepted is not None:
            body, tensors, more = compressed(self._of.accepted, body, tensors)
            headers += more
        exchange.respond(_OK, content_type, body, tensors, headers)

    def fail(self, error: RequestError) -> None:
        refuse(self._exchange, error, self._headers)

    def turns(self) -> Turns:
        return self._exchange.connection.connections.turns

    def is_now(self, in_flight: InFlight | None) -> None:
        self._exchange.in_flight = in_flight

    def is_traced(self, traceparent: bytes) -> None:
        self._headers = b"traceparent: %b\r\n" % traceparent


def refuse(exchange: Exchange, error: RequestError, headers: bytes = b"") -> None:
    """Answer with an error; ``headers`` are lines for its answer."""
    if isinstance(error, Overloaded | NotReady):
        headers += b"retry-after: %d\r\n" % math.ceil(error.retry_after_s)
    elif isinstance(error, MethodNotAllowed):
        headers += b"allow: %b\r\n" % error.allowed.encode()
    elif isinstance(error, NotAccurateEnough):
        headers += b"%b: rejected\r\n" % OUTCOME  # unlike other bad requests, it counts as an outcome
    elif isinstance(error, DeadlineExceeded):
        headers += b"%b: %b\r\n" % (OUTCOME, b"late" if error.is_late else b"dropped")
    exchange.respond(HTTP_STATUS[type(error)], JSON, msgspec.json.encode(Error(error.message)), headers=headers)


def unpacked(body: bytes | bytearray, encoding: bytes, max_bytes: int) -> Iterator[bytes | bytearray]:
    """A body without its ``Content-Encoding``, in pieces. Raises `BadRequest`, `BodyTooLarge`."""
    name = encoding.strip().lower()
    if name == b"identity":
        yield body
        return
    if name not in {b"gzip", b"x-gzip", b"deflate"}:
        raise BadRequest("bodies may be compressed with gzip or deflate")
    try:
        yield from decompressed_pieces(body, Compression.GZIP_OR_ZLIB, max_bytes)
    except CorruptContent as error:
        raise BadRequest(f"the body is not what its Content-Encoding says: {error}") from None
    except ContentTooLarge:
        raise BodyTooLarge(f"the body unpacks to more than {max_bytes} bytes") from None


def _respond(exchange: Exchange, path: str, response: RestResponse) -> None:
    body, headers = response.body, response.headers
    # Triton's asyncio client asks for compression, but does not unpack the protocol's documents.
    if not headers and (path.startswith(OWN) or not path.startswith("/v2/")):
        body, _, headers = compressed(accepted_encodings(exchange.head.headers), body, [])
    exchange.respond(response.status, response.content_type, body, headers=headers)


@lru_cache(maxsize=256)
def _json_length(size: int) -> bytes:
    return b"%b: %d\r\n" % (JSON_LENGTH, size)


def _whole_number(text: bytes) -> int:
    if not text.isdigit() or len(text) > _MAX_DIGITS:
        raise BadRequest("Inference-Header-Content-Length must be a whole number")
    return int(text)
