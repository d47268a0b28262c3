"""Calls that stay open: `ModelStreamInfer`, and health's `Watch`."""

import asyncio
from collections import deque
from collections.abc import Callable

from google.protobuf.message import DecodeError

from proteus_cli.domain.arrays import Buffer
from proteus_cli.errors import BadRequest, RequestError
from proteus_cli.serving.grpc.calls import CallHeaders, GrpcCall, UnaryCall
from proteus_cli.serving.grpc.inference import GrpcCodec
from proteus_cli.serving.grpc.messages import (
    HealthCheckRequest,
    HealthCheckResponse,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from proteus_cli.serving.grpc.status import CallError
from proteus_cli.serving.http2.limits import MIB
from proteus_cli.serving.http2.stream import Http2Stream
from proteus_cli.serving.oip.codes import GrpcStatus
from proteus_cli.serving.oip.inference import Inference, InferencePipeline
from proteus_cli.serving.requests.in_flight import Answered, InFlightRequest
from proteus_cli.serving.requests.query import Query, ReadInputs

_MAX_IN_FLIGHT = 256  # requests of one stream
_MAX_BACKLOG = 1 * MIB
_CHECK_EVERY_S = 0.25


class StreamInferCall(GrpcCall):
    """`ModelStreamInfer`: requests run side by side, and their answers are sent in the order of the requests.

    A request that is refused is answered with an error, and the stream goes on. A client that is too far ahead of its
    answers gets no more room to send.
    """

    __slots__ = ("_has_ended", "_pipeline", "_requests", "codec")

    def __init__(
        self, pipeline: InferencePipeline, codec: GrpcCodec, request: CallHeaders, stream: Http2Stream
    ) -> None:
        super().__init__(request, stream)
        self._pipeline, self.codec = pipeline, codec
        self._requests = deque[_StreamRequest]()
        self._has_ended = False

    def message(self, message: Buffer) -> None:
        request = _StreamRequest(self)
        self._requests.append(request)
        request.in_flight = self._pipeline.submit(request, message, self.request.fields)
        self.send_ready()

    def ended(self) -> None:
        self._has_ended = True
        self.send_ready()

    def drain(self) -> None:
        self.ended()

    def abandoned(self) -> None:
        for request in self._requests:
            self._pipeline.cancel(request.in_flight)
        self._requests.clear()

    def send_ready(self) -> None:
        """Send the answers of the requests before the first that is still in flight."""
        requests = self._requests
        while requests and (response := requests[0].response) is not None:
            requests.popleft()
            self.send(response)
        self.stream.throttle(is_throttled=len(requests) >= _MAX_IN_FLIGHT or self.stream.unsent_bytes >= _MAX_BACKLOG)
        if self._has_ended and not requests:
            self.finish()


class _StreamRequest(Inference[bytes]):
    """One request of a stream, and its answer once there is one."""

    __slots__ = ("_call", "_query", "in_flight", "response")

    def __init__(self, call: StreamInferCall) -> None:
        self._call = call
        self._query: Query | None = None
        self.in_flight: InFlightRequest | None = None
        self.response: bytes | None = None

    def decode(self, content: Buffer) -> tuple[Query, ReadInputs]:
        self._query, read_inputs = self._call.codec.decode(content, self._call.request.timeout_s)
        return self._query, read_inputs

    def encode(self, answered: Answered) -> bytes:
        assert self._query is not None  # noqa: S101 - it was decoded
        response = ModelInferResponse.FromString(self._call.codec.encode(self._query, answered))
        return bytes(ModelStreamInferResponse(infer_response=response).SerializeToString())

    def answer(self, encoded: bytes) -> None:
        self.response = encoded
        self._call.send_ready()

    def fail(self, error: RequestError) -> None:
        response = ModelStreamInferResponse(error_message=error.message)
        if self._query is not None and self._query.id is not None:
            response.infer_response.id = self._query.id
        self.answer(bytes(response.SerializeToString()))


def serving_status(*, is_serving: bool | None) -> str:
    return "SERVICE_UNKNOWN" if is_serving is None else "SERVING" if is_serving else "NOT_SERVING"


class WatchCall(UnaryCall):
    """`Watch`: sends the status of a service now, and whenever it changes."""

    __slots__ = ("_is_serving", "_sent", "_service", "_timer")

    def __init__(self, is_serving: Callable[[str], bool | None], request: CallHeaders, stream: Http2Stream) -> None:
        super().__init__(request, stream)
        self._is_serving = is_serving
        self._sent = ""  # the status that was sent last
        self._timer: asyncio.TimerHandle | None = None

    def handle(self, message: Buffer) -> None:
        try:
            self._service = HealthCheckRequest.FromString(message).service
        except DecodeError:
            raise BadRequest("the message is not what this method takes") from None
        self._check()

    def drain(self) -> None:
        if self._sent:
            self._send_change()
        self.abandoned()
        self.fail(CallError(GrpcStatus.UNAVAILABLE, "the server stops"))

    def _send_change(self) -> None:
        status = serving_status(is_serving=self._is_serving(self._service))
        if status != self._sent and not self.stream.unsent_bytes:
            self._sent = status
            self.send(HealthCheckResponse(status=status).SerializeToString())

    def _check(self) -> None:
        self._send_change()
        self._timer = asyncio.get_running_loop().call_later(_CHECK_EVERY_S, self._check)

    def abandoned(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
