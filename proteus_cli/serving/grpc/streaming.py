"""Calls that stay open: `ModelStreamInfer`, and health's `Watch`."""

import asyncio
from collections import deque
from collections.abc import Callable

from google.protobuf.message import DecodeError

from proteus_cli.domain.buffer import Buffer
from proteus_cli.errors import BadRequest, RequestError
from proteus_cli.serving.grpc.calls import GrpcCall, Request, UnaryCall
from proteus_cli.serving.grpc.inference import GrpcCodec
from proteus_cli.serving.grpc.messages import (
    HealthCheckRequest,
    HealthCheckResponse,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from proteus_cli.serving.grpc.status import CallError, Status
from proteus_cli.serving.http2.limits import MIB
from proteus_cli.serving.http2.stream import Http2Stream
from proteus_cli.serving.requests.admission import Admission
from proteus_cli.serving.requests.in_flight import InFlightRequest, Result
from proteus_cli.serving.requests.query import Query

_MAX_INSIDE = 256
_MAX_BACKLOG = 1 * MIB
_LOOK_EVERY_S = 0.25


class _Turn:
    """One request of a stream, and its answer once there is one."""

    __slots__ = ("answer", "call", "pending", "query")

    def __init__(self, call: "StreamInferCall") -> None:
        self.call = call
        self.answer: bytes | None = None
        self.pending: InFlightRequest | None = None
        self.query: Query | None = None

    def done(self, ending: Result) -> None:
        self.pending = None
        if isinstance(ending, RequestError) or self.query is None:
            self.answer = _refusal(ending, self.query)
        else:
            self.answer = _wrapped(self.call.codec.encode(self.query, ending))
        self.call.send_ready()


class StreamInferCall(GrpcCall):
    """Requests run side by side and are answered in their order, as Triton does; a refused one doesn't end the stream.

    A client that is too far ahead of its answers gets no more room to send.
    """

    __slots__ = ("_admission", "_has_ended", "_turns", "codec")

    def __init__(self, admission: Admission, codec: GrpcCodec, request: Request, stream: Http2Stream) -> None:
        super().__init__(request, stream)
        self._admission, self.codec = admission, codec
        self._turns = deque[_Turn]()
        self._has_ended = False

    def message(self, message: Buffer) -> None:
        turn = _Turn(self)
        self._turns.append(turn)
        try:
            family, turn.query = self.codec.decode(message, self.request.timeout_s)
            turn.pending = self._admission.submit(family, turn.query, turn.done)
        except RequestError as error:
            turn.answer = _refusal(error, turn.query)
        self.send_ready()

    def ended(self) -> None:
        self._has_ended = True
        self.send_ready()

    def drain(self) -> None:
        self.ended()

    def abandoned(self) -> None:
        for turn in self._turns:
            if turn.pending is not None:
                self._admission.cancel(turn.pending)
        self._turns.clear()

    def send_ready(self) -> None:
        """Send the answers whose turn it is."""
        turns = self._turns
        while turns and turns[0].answer is not None:
            answer = turns.popleft().answer
            assert answer is not None  # noqa: S101 - checked above
            self.send(answer)
        self.stream.throttle(is_throttled=len(turns) >= _MAX_INSIDE or self.stream.unsent_bytes >= _MAX_BACKLOG)
        if self._has_ended and not turns:
            self.finish()


def _refusal(error: object, query: Query | None) -> bytes:
    assert isinstance(error, RequestError)  # noqa: S101 - an answer needs its query
    refusal = ModelStreamInferResponse(error_message=error.message)
    if query is not None and query.id is not None:
        refusal.infer_response.id = query.id
    return bytes(refusal.SerializeToString())


def _wrapped(answer: bytes) -> bytes:
    """An answer as the second field of a `ModelStreamInferResponse`."""
    return bytes(ModelStreamInferResponse(infer_response=ModelInferResponse.FromString(answer)).SerializeToString())


def serving_status(*, is_serving: bool | None) -> str:
    return "SERVICE_UNKNOWN" if is_serving is None else "SERVING" if is_serving else "NOT_SERVING"


class WatchCall(UnaryCall):
    """Tells the status of a service now, and whenever it changes."""

    __slots__ = ("_is_serving", "_service", "_timer", "_told")

    def __init__(self, is_serving: Callable[[str], bool | None], request: Request, stream: Http2Stream) -> None:
        super().__init__(request, stream)
        self._is_serving = is_serving
        self._told = ""
        self._timer: asyncio.TimerHandle | None = None

    def handle(self, message: Buffer) -> None:
        try:
            self._service = HealthCheckRequest.FromString(message).service
        except DecodeError:
            raise BadRequest("the message is not what this method takes") from None
        self._look()

    def drain(self) -> None:
        if self._told:
            self._tell()
        self.abandoned()
        self.fail(CallError(Status.UNAVAILABLE, "the server stops"))

    def _tell(self) -> None:
        status = serving_status(is_serving=self._is_serving(self._service))
        if status != self._told and not self.stream.unsent_bytes:
            self._told = status
            self.send(HealthCheckResponse(status=status).SerializeToString())

    def _look(self) -> None:
        self._tell()
        self._timer = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)

    def abandoned(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
