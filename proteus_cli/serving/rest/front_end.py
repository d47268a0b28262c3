"""The REST front end: only translates, between exchanges and the data plane."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Mapping
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

import msgspec

from proteus_cli.errors import (
    BadRequest,
    BodyTooLarge,
    Conflict,
    DeadlineExceeded,
    EngineFailed,
    Forbidden,
    MethodNotAllowed,
    NotAccurateEnough,
    NotFound,
    NotReady,
    Overloaded,
    RequestError,
    Unfitting,
    UnknownModel,
)
from proteus_cli.serving.http1.compression import compressed
from proteus_cli.serving.http1.exchange import JSON, OCTETS, Exchange
from proteus_cli.serving.oip import tensors as oip
from proteus_cli.serving.requests.admission import Admission
from proteus_cli.serving.requests.families import Families, ServedFamily
from proteus_cli.serving.requests.in_flight import Result
from proteus_cli.serving.requests.query import Query
from proteus_cli.serving.rest.access import admits
from proteus_cli.serving.rest.codec import RestCodec
from proteus_cli.serving.rest.pages import INFER, Pages
from proteus_cli.serving.transport.gunzip import Compression, ContentTooLarge, CorruptContent, decompress
from proteus_cli.serving.transport.tokens import Tokens

if TYPE_CHECKING:
    from proteus_cli.serving.telemetry.tracing import RequestTrace, Tracing

log = logging.getLogger("proteus.http")

STATUS = {
    BadRequest: 400,
    NotAccurateEnough: 400,
    UnknownModel: 404,
    NotFound: 404,
    Forbidden: 403,
    MethodNotAllowed: 405,
    Conflict: 409,
    BodyTooLarge: 413,
    Unfitting: 422,
    Overloaded: 429,
    EngineFailed: 500,
    NotReady: 503,
    DeadlineExceeded: 504,
}
JSON_LENGTH = b"inference-header-content-length"
OUTCOME = b"proteus-outcome"
_OK = 200
_MAX_DIGITS = 18
_POST = b"POST"


class HttpFrontEnd:
    """Open Inference Protocol v2; ``pages`` answer all but inference. Bodies unpack to ``max_body_bytes`` at most."""

    def __init__(
        self,
        admission: Admission,
        families: Families,
        pages: Pages,
        *,
        max_body_bytes: int,
        tokens: Tokens | None = None,
        tracing: "Tracing | None" = None,
    ) -> None:
        self._admission, self._pages, self._max_body_bytes, self._tokens = admission, pages, max_body_bytes, tokens
        self._traces = None if tracing is None else tracing.of_protocol(
            f"POST {INFER}", {"http.request.method": "POST", "http.route": INFER},
            code="http.response.status_code", ok=_OK, codes=STATUS,
        )  # fmt: skip
        self._families: dict[bytes, tuple[str, RestCodec]] = {}
        self._tasks: set[asyncio.Future[None]] = set()  # the loop alone would let go of them
        for family in families.by_name.values():
            self._add(family)

    def _add(self, family: ServedFamily) -> None:
        known = (family.name, RestCodec(family.name, family.signature, family.max_rows))
        for version in ("", f"/versions/{oip.VERSION}"):
            self._families[f"/v2/models/{family.name}{version}/infer".encode()] = known

    # Handler

    def admits(self, target: bytes, headers: Mapping[bytes, bytes]) -> bool:
        return admits(self._tokens, target, headers)

    def handle(self, exchange: Exchange) -> None:
        """Answer a request, now or later."""
        try:
            known = self._families.get(exchange.target)
            if known is not None and exchange.method == _POST:
                self._infer(exchange, *known)
            else:
                self._other(exchange)
        except RequestError as error:
            self._admission.count_refusal(error)
            refuse(exchange, error)
        except Exception:
            log.exception("a bug while handling %r %r", exchange.method, exchange.target)
            exchange.respond(500, JSON, b'{"error":"internal error"}')

    def abandoned(self, exchange: Exchange) -> None:
        """The client is gone: so is its request."""
        if exchange.pending is not None:
            if self._traces is not None:
                self._traces.abandoned(exchange.pending)
            self._admission.cancel(exchange.pending)

    def _other(self, exchange: Exchange) -> None:
        """A page, or an inference whose path is written in another way."""
        path = path_of(exchange.target)
        known = self._families.get(path)
        if known is not None and exchange.method == _POST:
            self._infer(exchange, *known)
        else:
            later = self._pages.answer(exchange, path.decode(errors="replace") or "/")
            if later is not None:
                task = asyncio.ensure_future(self._answer(exchange, later))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _answer(self, exchange: Exchange, later: Awaitable[None]) -> None:
        """A page that takes time."""
        try:
            await later
        except RequestError as error:
            self._admission.count_refusal(error)
            refuse(exchange, error)
        except Exception:
            log.exception("a bug while handling %r %r", exchange.method, exchange.target)
            exchange.respond(500, JSON, b'{"error":"internal error"}')

    def _infer(self, exchange: Exchange, family: str, codec: RestCodec) -> None:
        if self._traces is not None:
            headers = exchange.headers
            trace = self._traces.begin(headers.get(b"traceparent"), headers.get(b"tracestate"))
            if trace is not None:
                self._infer_traced(exchange, family, codec, trace)
                return
        query = self._query(exchange, codec)
        exchange.pending = self._admission.submit(family, query, partial(self._ended, exchange, codec, query, b""))

    def _infer_traced(self, exchange: Exchange, family: str, codec: RestCodec, trace: "RequestTrace") -> None:
        """The same, with a trace; the answer tells which."""
        trace.asks(family)
        try:
            query = self._query(exchange, codec)
            header = b"traceparent: %b\r\n" % trace.traceparent
            done = trace.then(partial(self._ended, exchange, codec, query, header))
            exchange.pending = self._admission.submit(family, query, done)
        except Exception as error:
            trace.refused(error)
            raise

    def _query(self, exchange: Exchange, codec: RestCodec) -> Query:
        headers, body = exchange.headers, exchange.body
        if b"content-encoding" in headers:
            body = unpacked(body, headers[b"content-encoding"], min(self._max_body_bytes, codec.max_bytes))
            if not exchange.reserve(len(body)):
                raise NotReady("too many large requests at once")
        length = headers.get(JSON_LENGTH)
        return codec.decode(body, None if length is None else _whole_number(length))

    def _ended(self, exchange: Exchange, codec: RestCodec, query: Query, headers: bytes, ending: Result) -> None:
        if isinstance(ending, RequestError):
            refuse(exchange, ending, headers)
            return
        try:
            body, tensors = codec.encode(query, ending)
        except Exception:  # the client must have an answer
            log.exception("a bug while encoding an answer")
            exchange.respond(500, JSON, b'{"error":"internal error"}')
            return
        content_type = JSON
        if tensors:
            content_type = OCTETS
            headers += b"%b: %d\r\n" % (JSON_LENGTH, len(body))
        if b"accept-encoding" in exchange.headers:
            body, tensors, more = compressed(exchange.headers, body, tensors)
            headers += more
        exchange.respond(_OK, content_type, body, tensors, headers)


def refuse(exchange: Exchange, error: RequestError, headers: bytes = b"") -> None:
    """Answer with an error; ``headers`` are lines for its answer."""
    if isinstance(error, Overloaded | NotReady):
        headers += b"retry-after: %d\r\n" % math.ceil(error.retry_after_s)
    elif isinstance(error, MethodNotAllowed):
        headers += b"allow: %b\r\n" % error.allowed.encode()
    elif isinstance(error, NotAccurateEnough):
        headers += b"%b: rejected\r\n" % OUTCOME  # unlike other bad requests, it has ended as one of the outcomes
    elif isinstance(error, DeadlineExceeded):
        headers += b"%b: %b\r\n" % (OUTCOME, b"late" if error.is_late else b"dropped")
    exchange.respond(STATUS[type(error)], JSON, msgspec.json.encode({"error": error.message}), headers=headers)


def path_of(target: bytes) -> bytes:
    """The path that a request is for: without query and slashes at its end, unquoted.

    A client that takes this server for a proxy names it too (RFC 9112, 3.2.2).
    """
    if not target.startswith(b"/"):
        _, _, named = target.partition(b"://")
        target = b"/" + named.partition(b"/")[2]
    return unquote_to_bytes(target.partition(b"?")[0]).rstrip(b"/")


def unpacked(body: bytes | bytearray, encoding: bytes, max_bytes: int) -> bytes | bytearray:
    """A body without its ``Content-Encoding``. Raises `BadRequest`, `BodyTooLarge`."""
    name = encoding.strip().lower()
    if name == b"identity":
        return body
    if name not in {b"gzip", b"x-gzip", b"deflate"}:
        raise BadRequest("bodies may be compressed with gzip or deflate")
    try:
        return decompress(body, Compression.GZIP_OR_ZLIB, max_bytes)
    except CorruptContent as error:
        raise BadRequest(f"the body is not what its Content-Encoding says: {error}") from None
    except ContentTooLarge:
        raise BodyTooLarge(f"the body unpacks to more than {max_bytes} bytes") from None


def _whole_number(text: bytes) -> int:
    if not text.isdigit() or len(text) > _MAX_DIGITS:
        raise BadRequest("Inference-Header-Content-Length must be a whole number")
    return int(text)
