"""`ModelInfer`, one request in a call, and `ModelStreamInfer`, many of them."""

from collections import deque
from typing import TYPE_CHECKING

from proteus_cli.buffers import Buffer
from proteus_cli.errors import RequestError
from proteus_cli.serving.grpc.calls import REFUSAL_UNITS, CallHeaders, GrpcCall, UnaryCall
from proteus_cli.serving.grpc.codec import GrpcCodec
from proteus_cli.serving.grpc.messages import ModelInferResponse, ModelStreamInferResponse
from proteus_cli.serving.http2.connection import Http2Connection
from proteus_cli.serving.http2.limits import KIB, MIB
from proteus_cli.serving.http2.stream import Http2Stream
from proteus_cli.serving.oip.inference import NO_MEMORY, CancelHandle, Inference, InferencePipeline
from proteus_cli.serving.requests.in_flight import Answered
from proteus_cli.serving.requests.query import Decoded, Query

_MAX_IN_FLIGHT = 256  # requests of one stream
_REQUEST_BYTES = 1 * KIB  # what a request takes in memory besides its message
_MAX_BACKLOG = 1 * MIB
_BYTES_OF_A_VALUE = 8  # once it is decoded, of each byte of typed contents


class _MessageInference(Inference[bytes]):
    """An inference request that is a message of a call."""

    __slots__ = ()
    if TYPE_CHECKING:
        _query: Query
        is_compressed: bool

    def call(self) -> "InferCall | StreamInferCall":
        """The call of the message."""
        raise NotImplementedError

    def needs_turn(self, content: Buffer) -> bool:
        if self.is_compressed:
            return True
        if not GrpcCodec.has_long_contents(content):
            return False
        self.require_memory(_BYTES_OF_A_VALUE * len(content))
        return True

    def decode(self, content: Buffer) -> Decoded:
        call = self.call()
        if self.is_compressed:
            message = call.unpacked(content)
            self.require_memory(len(message))
            content = memoryview(message)
        self._query, _ = decoded = call.codec.decode(content, call.request.timeout_s)  # type: ignore[misc]  # a slot of the subclass
        return decoded

    def connection(self) -> Http2Connection:
        return self.call().stream.connection


class InferCall(UnaryCall, _MessageInference):
    """`ModelInfer`."""

    __slots__ = ("_handle", "_pipeline", "_query", "codec")
    takes_tensors = True

    def __init__(
        self, pipeline: InferencePipeline, codec: GrpcCodec, request: CallHeaders, stream: Http2Stream
    ) -> None:
        super().__init__(request, stream)
        self._pipeline, self.codec = pipeline, codec
        self._handle: CancelHandle | None = None

    def call(self) -> "InferCall":
        return self

    def handle(self, message: Buffer) -> None:
        self._handle = self._pipeline.submit(self, message, self.request.trace)

    def encode(self, answered: Answered) -> bytes:
        return self.codec.encode(self._query, answered)

    def set_cancel_handle(self, handle: CancelHandle | None) -> None:
        self._handle = handle

    def abandoned(self) -> None:
        self._pipeline.cancel(self._handle)
        self._handle = None


class StreamInferCall(GrpcCall):
    """`ModelStreamInfer`: requests run side by side, and their answers are sent in the order of the requests.

    A request that is refused is answered with an error, and the stream goes on. Requests of a client that is too far
    ahead of its answers are not read, and it gets no more room to send.
    """

    __slots__ = ("_has_ended", "_pipeline", "_requests", "codec")
    takes_tensors = True

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
        request.handle = self._pipeline.submit(request, message, self.request.trace)
        self.send_ready()

    @property
    def has_room(self) -> bool:
        return len(self._requests) < _MAX_IN_FLIGHT and self.stream.unsent_bytes < _MAX_BACKLOG

    def ended(self) -> None:
        self._has_ended = True
        self.send_ready()

    def drain(self) -> None:
        self.ended()

    def abandoned(self) -> None:
        for request in self._requests:
            self._pipeline.cancel(request.handle)
            request.handle = None
            self._connections.free(request.reserved_bytes)
        self._requests.clear()

    def send_ready(self) -> None:
        """Send the answers of the requests before the first that is still in flight."""
        requests = self._requests
        while requests and (response := requests[0].response) is not None:
            self._connections.free(requests.popleft().reserved_bytes)
            self.send(response)
        if self._is_over:  # there was no memory for an answer that its client does not take
            return
        self.sent()
        if self._has_ended and not requests:
            self.finish()

    def sent(self) -> None:
        """Take more requests, if there is room for them."""
        if self._is_stopped and self.has_room and len(self._requests) <= _MAX_IN_FLIGHT // 2:
            self.stream.connection.later(self.go_on)
        self.stream.throttle(is_throttled=self._is_stopped or not self.has_room)


class _StreamRequest(_MessageInference):
    """One request of a stream, and its answer once there is one."""

    __slots__ = ("_call", "_query", "handle", "is_compressed", "reserved_bytes", "response")

    def __init__(self, call: StreamInferCall) -> None:
        self._call, self.is_compressed, self.reserved_bytes = call, call.is_compressed, 0
        self.handle: CancelHandle | None = None
        self.response: bytes | None = None

    def call(self) -> StreamInferCall:
        return self._call

    def needs_turn(self, content: Buffer) -> bool:
        self.require_memory(len(content) + _REQUEST_BYTES)
        return super().needs_turn(content)

    def encode(self, answered: Answered) -> bytes:
        """As a message of the stream."""
        answer = ModelInferResponse.FromString(self._call.codec.encode(self._query, answered))
        return bytes(ModelStreamInferResponse(infer_response=answer).SerializeToString())

    def reserve(self, size: int) -> bool:
        has_reserved = self.connection().connections.reserve(size)
        if has_reserved:
            self.reserved_bytes += size
        return has_reserved

    def set_cancel_handle(self, handle: CancelHandle | None) -> None:
        self.handle = handle

    def answer(self, encoded: bytes) -> None:
        if not self.reserve(len(encoded)):
            encoded = self._error(NO_MEMORY)
        self.response = encoded
        self._call.send_ready()

    def fail(self, error: RequestError) -> None:
        self._call.stream.connection.turn.left -= REFUSAL_UNITS
        self.response = self._error(error.message)
        self._call.send_ready()

    def _error(self, message: str) -> bytes:
        response, query = ModelStreamInferResponse(error_message=message), getattr(self, "_query", None)
        if query is not None and query.id is not None:
            response.infer_response.id = query.id
        return bytes(response.SerializeToString())
