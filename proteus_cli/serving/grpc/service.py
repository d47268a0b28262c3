"""The gRPC front end: the methods of all services, and how a call of each is opened."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import ParseDict
from msgspec import to_builtins

from proteus_cli.buffers import Buffer
from proteus_cli.errors import Forbidden, RequestError
from proteus_cli.serving.grpc.calls import CallHeaders, GrpcCall, UnaryCall
from proteus_cli.serving.grpc.codec import GrpcCodec
from proteus_cli.serving.grpc.infer_calls import InferCall, StreamInferCall
from proteus_cli.serving.grpc.messages import message, parsed
from proteus_cli.serving.grpc.status import CallError, plain_http
from proteus_cli.serving.http2.header_blocks import Fields
from proteus_cli.serving.http2.stream import Http2Stream
from proteus_cli.serving.oip.codes import GRPC_STATUS, GrpcStatus
from proteus_cli.serving.oip.documents import Statistics
from proteus_cli.serving.oip.inference import InferencePipeline
from proteus_cli.serving.oip.repository import ModelRepository, server_metadata
from proteus_cli.serving.oip.tensors import OTHER_BYTES
from proteus_cli.serving.requests.admission import Admission
from proteus_cli.serving.requests.families import Families
from proteus_cli.serving.transport.tokens import NEEDS_TOKENS, Tokens, digest_of

if TYPE_CHECKING:
    from proteus_cli.serving.telemetry.tracing import Tracing

SERVICE = "inference.GRPCInferenceService"
OPEN_METHODS = frozenset(
    {
        b"/inference.GRPCInferenceService/ServerLive",
        b"/inference.GRPCInferenceService/ServerReady",
        b"/grpc.health.v1.Health/Check",
    }
)
"""The health checks: they need no token, and are answered beyond the limit on connections."""
_CONTROL_METHODS = frozenset(f"/{SERVICE}/RepositoryModel{name}".encode() for name in ("Load", "Unload"))
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_UNIT_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TRACE_FIELDS = (b"traceparent", b"tracestate")
_MAX_KEPT_BYTES = 512  # of a field; Trace Context asks for no more
_KEPT_BYTES = range(1, _MAX_KEPT_BYTES + 1)
_GRPC = re.compile(rb"application/grpc(\+proto)?(;.*)?")


class GrpcHandler:
    """The application on top of HTTP/2. With ``tokens``, all methods but `OPEN_METHODS` need one.

    `families_changed` is to be called whenever they have.
    """

    def __init__(
        self,
        admission: Admission,
        families: Families,
        *,
        models: ModelRepository,
        tokens: Tokens | None = None,
        max_message_bytes: int,
        tracing: "Tracing | None" = None,
    ) -> None:
        self._admission, self._families, self.codec = admission, families.by_name, GrpcCodec(families)
        self._models, self._tokens = models, tokens
        self._max_message_bytes = max_message_bytes
        self._methods = {path.encode(): open_call for path, open_call in self._table(tracing).items()}

    def families_changed(self, max_message_bytes: int) -> None:
        """Other families are there now, and with them the largest message of any request."""
        self._max_message_bytes = max_message_bytes
        self.codec.forget()

    # Application

    def request(self, fields: Fields) -> CallHeaders:
        path, timeout_s = fields[b":path"], None
        open_call = self._methods.get(path) or partial(_refused, _unknown(path))
        if fields[b":method"] != b"POST":
            open_call = partial(_refused_http, 405)
        elif not _GRPC.fullmatch(fields.get(b"content-type", b"")):
            open_call = partial(_refused_http, 415)
        encoding = fields.get(b"grpc-encoding", b"identity")
        if encoding not in {b"identity", b"gzip"}:
            text = f"grpc-encoding is {encoding.decode(errors='replace')}; identity and gzip are understood"
            open_call = partial(_refused, CallError(GrpcStatus.UNIMPLEMENTED, text))
        if b"grpc-timeout" in fields:
            parsed = _TIMEOUT.fullmatch(fields[b"grpc-timeout"])
            if parsed is None:
                open_call = partial(_refused, CallError(GrpcStatus.INTERNAL, "grpc-timeout makes no sense"))
            else:
                timeout_s = int(parsed[1]) * _UNIT_S[parsed[2]]
        if self._tokens is None and path in _CONTROL_METHODS:
            open_call = partial(_refused, Forbidden(NEEDS_TOKENS))
        trace = {name: fields[name] for name in _TRACE_FIELDS if len(fields.get(name, b"")) in _KEPT_BYTES}
        token = digest_of(fields.get(b"authorization")) if self._tokens is not None else b""
        return CallHeaders(open_call, path[:_MAX_KEPT_BYTES], trace, timeout_s, encoding == b"gzip", token)

    def open(self, request: CallHeaders, stream: Http2Stream) -> GrpcCall:
        if not stream.connection.is_admitted and request.path not in OPEN_METHODS:
            call = _refused(CallError(GrpcStatus.UNAVAILABLE, "too many connections"), request, stream)
            stream.connection.drain()
            return call
        if self._tokens is not None and request.path not in OPEN_METHODS and not self._tokens.knows(request.token):
            return _refused(CallError(GrpcStatus.UNAUTHENTICATED, "no valid token"), request, stream)
        call = request.open_call(request, stream)
        call.max_bytes = self._max_message_bytes if call.takes_tensors else min(self._max_message_bytes, OTHER_BYTES)
        return call

    # Methods

    def _table(self, tracing: "Tracing | None") -> dict[str, Callable[[CallHeaders, Http2Stream], GrpcCall]]:
        """How to open a call, by the path of its method."""
        models = self._models
        plain: dict[str, Callable[[Any], object]] = {
            "ServerLive": lambda _: {"live": True},
            "ServerReady": lambda _: {"ready": models.is_server_ready},
            "ModelReady": lambda request: {"ready": models.is_ready(request.name, request.version)},
            "ServerMetadata": lambda _: server_metadata(),
            "ModelMetadata": lambda request: models.metadata(models.require(request.name, request.version)),
            "ModelConfig": lambda request: {"config": models.config(request.name, request.version)},
            "ModelStatistics": self._statistics,
            "RepositoryIndex": lambda request: {"models": models.index(only_ready=request.ready)},
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        table: dict[str, Callable[[CallHeaders, Http2Stream], GrpcCall]] = {
            f"/{SERVICE}/{name}": partial(
                PlainCall, message(f"inference.{name}Request"), message(f"inference.{name}Response"), handler
            )
            for name, handler in plain.items()
        }
        for name, call in (("ModelInfer", InferCall), ("ModelStreamInfer", StreamInferCall)):
            table[f"/{SERVICE}/{name}"] = partial(call, self._pipeline(name, tracing), self.codec)
        health, answer = message("grpc.health.v1.HealthCheckRequest"), message("grpc.health.v1.HealthCheckResponse")
        table["/grpc.health.v1.Health/Check"] = partial(PlainCall, health, answer, self._check)
        return table

    def _pipeline(self, method: str, tracing: "Tracing | None") -> InferencePipeline:
        attributes = {"rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": method}
        traces = None if tracing is None else tracing.of_protocol(
            f"{SERVICE}/{method}", attributes, code="rpc.grpc.status_code", ok=GrpcStatus.OK, codes=GRPC_STATUS
        )  # fmt: skip
        return InferencePipeline(self._admission, traces)

    def is_serving(self, service: str) -> bool | None:
        """Whether the server (empty name), `SERVICE`, or a family serves; None: there is no such service."""
        if service in {"", SERVICE}:
            return self._models.is_server_ready
        if service in self._families:
            return self._models.is_ready(service)
        return None

    def _check(self, request: Any) -> dict[str, Any]:
        is_serving = self.is_serving(request.service)
        if is_serving is None:
            raise CallError(GrpcStatus.NOT_FOUND, "no such service")
        return {"status": "SERVING" if is_serving else "NOT_SERVING"}

    def _statistics(self, request: Any) -> Statistics:
        return self._models.statistics(request.name or None, request.version)

    async def _load(self, request: Any) -> dict[str, Any]:
        await self._models.load_anew(request.model_name, request.parameters)
        return {}

    def _unload(self, request: Any) -> dict[str, Any]:
        self._models.unload(request.model_name)
        return {}


class PlainCall(UnaryCall):
    """A call whose handler takes the decoded message, and returns the Struct or dict of the response, or awaits it.

    A handler that takes its time goes on where its client does not wait for the response.
    """

    __slots__ = ("_handler", "_request_class", "_response_class", "_task")

    def __init__(
        self,
        request_class: Any,
        response_class: Any,
        handler: Callable[[Any], object],
        request: CallHeaders,
        stream: Http2Stream,
    ) -> None:
        super().__init__(request, stream)
        self._request_class, self._response_class, self._handler = request_class, response_class, handler

    def handle(self, message: Buffer) -> None:
        self.stream.connection.turn.end()
        response = self._handler(parsed(self._request_class, message))
        if isinstance(response, Awaitable):
            self._task = asyncio.ensure_future(self._respond_later(response))
        else:
            self._respond(response)

    async def _respond_later(self, response: Awaitable[object]) -> None:
        try:
            found = await response
            if not self._is_over:
                self._respond(found)
        except Exception as error:  # noqa: BLE001 - a bug is logged, and the client answered
            if not self._is_over:
                self._end_by(error)

    def _respond(self, response: object) -> None:
        # The protocol's messages lack some fields of our documents.
        document = ParseDict(to_builtins(response), self._response_class(), ignore_unknown_fields=True)
        self.answer(document.SerializeToString())


class _Refused(GrpcCall):
    """A call that ended when it was opened; what its client sends is ignored."""

    __slots__ = ()

    def received(self, content: Buffer, *, ended: bool) -> None: ...


def _unknown(path: bytes) -> CallError:
    return CallError(GrpcStatus.UNIMPLEMENTED, f"no method {path[:_MAX_KEPT_BYTES].decode(errors='replace')}")


def _refused(error: CallError | RequestError, request: CallHeaders, stream: Http2Stream) -> GrpcCall:
    call = _Refused(request, stream)
    call.fail(error)
    return call


def _refused_http(status: int, request: CallHeaders, stream: Http2Stream) -> GrpcCall:
    """A request that is no gRPC call is answered in HTTP."""
    stream.send(b"", b"", plain_http(status))
    return _Refused(request, stream)
