"""The REST front end on top of HTTP/1: finds who answers a request, by its head."""

import asyncio
import logging
from collections.abc import Awaitable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from proteus_cli.errors import InternalError
from proteus_cli.serving.http1.exchange import Answer, Exchange
from proteus_cli.serving.oip import tensors as oip
from proteus_cli.serving.oip.codes import HTTP_STATUS, request_error
from proteus_cli.serving.oip.inference import InferencePipeline
from proteus_cli.serving.requests.admission import Admission
from proteus_cli.serving.requests.families import Families, ServedFamily
from proteus_cli.serving.rest.access import Access, require_json
from proteus_cli.serving.rest.codec.codec import RestCodec
from proteus_cli.serving.rest.endpoints import INFER, ROUTES, Endpoints
from proteus_cli.serving.rest.inference import InferRoute, refuse
from proteus_cli.serving.rest.routing import RestRequest, RestResponse, Router, json_response, path_of, route_of

if TYPE_CHECKING:
    from proteus_cli.serving.telemetry.tracing import Tracing

log = logging.getLogger("proteus.http")

_OK = 200
_POST = b"POST"


class RestHandler:
    """Handles the requests of all HTTP connections. Compressed bodies unpack to ``max_body_bytes`` at most.

    `use_families` is to be called whenever these have changed.
    """

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
        traces = None if tracing is None else tracing.of_protocol(
            f"POST {INFER}", {"http.request.method": "POST", "http.route": INFER},
            code="http.response.status_code", ok=_OK, codes=HTTP_STATUS,
        )  # fmt: skip
        self._pipeline, self._router = InferencePipeline(admission, traces), Router(ROUTES)
        self._tasks: set[asyncio.Future[None]] = set()  # the loop holds only weak references
        self.use_families(families, max_body_bytes)

    def use_families(self, families: Families, max_body_bytes: int) -> None:
        """From now on these families are there, and with them the largest body of any request."""
        self.max_body_bytes = max_body_bytes
        self._codecs = {path: codec for family in families.by_name.values() for path, codec in _codecs(family)}

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
        exchange.in_flight = None

    def _infers(self, codec: RestCodec, headers: Mapping[bytes, bytes]) -> Answer:
        return InferRoute(self._pipeline, codec, headers, min(self.max_body_bytes, codec.max_bytes)).answer

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
            self._access.require_tokens()
            require_json(head.headers, exchange.body)
        query = head.target.partition(b"?")[2]
        response = route.handle(self._endpoints, RestRequest(values, exchange.body, head.headers, query))
        if not isinstance(response, Awaitable):
            _respond(exchange, response)
        else:
            task = asyncio.ensure_future(self._respond_later(exchange, response))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _respond_later(self, exchange: Exchange, response: Awaitable[object]) -> None:
        try:
            _respond(exchange, await response)
        except Exception as error:  # noqa: BLE001 - the client must have an answer
            self._fail(exchange, error)

    def _fail(self, exchange: Exchange, error: Exception) -> None:
        told = request_error(error)
        if isinstance(told, InternalError):
            log.error("a bug while handling %r %r", exchange.head.method, exchange.head.target, exc_info=error)
        else:
            self._admission.count_refusal(told)
        refuse(exchange, told)


def _codecs(family: ServedFamily) -> Iterator[tuple[bytes, RestCodec]]:
    """The paths that take requests of a family, and how these are read."""
    of_family = family.name, family.signature, family.max_rows, family.labels, family.image
    of_any = RestCodec(*of_family)
    path = f"/v2/models/{family.name}"
    yield f"{path}/infer".encode(), of_any
    yield f"{path}/versions/{oip.VERSION}/infer".encode(), of_any
    for name, version in family.asked_versions.items():
        yield f"{path}/versions/{name}/infer".encode(), RestCodec(*of_family, version)


def _respond(exchange: Exchange, found: object) -> None:
    response = found if isinstance(found, RestResponse) else json_response(found)
    exchange.respond(response.status, response.content_type, response.body, headers=response.headers)
