"""`ModelStreamInfer`: many requests in one call."""

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from proteus_cli.buffers import Buffer
from proteus_cli.errors import NotReady, RequestError
from proteus_cli.serving.grpc.calls import REFUSAL_UNITS, CallHeaders, GrpcCall
from proteus_cli.serving.grpc.inference import GrpcCodec
from proteus_cli.serving.grpc.messages import ModelInferResponse, ModelStreamInferResponse
from proteus_cli.serving.http2.limits import KIB, MIB
from proteus_cli.serving.http2.stream import Http2Stream
from proteus_cli.serving.oip.inference import NO_MEMORY, Decoded, Inference, InferencePipeline, InFlight
from proteus_cli.serving.requests.in_flight import Answered
from proteus_cli.serving.requests.query import InOneTurn
from proteus_cli.serving.transport.turns import Turns

if TYPE_CHECKING:
    from proteus_cli.serving.requests.query import Query

_MAX_IN_FLIGHT = 256  # requests of one stream
_REQUEST_BYTES = 1 * KIB  # what a request takes in memory besides its message
_MAX_BACKLOG = 1 * MIB


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
        request.in_flight = self._pipeline.submit(request, message, self.request.trace)
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
            self._pipeline.cancel(request.in_flight)
            request.in_flight = None
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


class _StreamRequest(Inference[bytes]):
    """One request of a stream, and its answer once there is one."""

    __slots__ = ("_call", "_query", "in_flight", "reserved_bytes", "response")

    def __init__(self, call: StreamInferCall) -> None:
        self._call, self.reserved_bytes = call, 0
        self._query: Query | None = None
        self.in_flight: InFlight | None = None
        self.response: bytes | None = None

    def decode(self, content: Buffer) -> Decoded | InOneTurn[Decoded]:
        if not self.reserve(len(content) + _REQUEST_BYTES):
            raise NotReady(NO_MEMORY)
        if self._call.is_compressed:
            return InOneTurn(partial(self._unpacked_and_decoded, content))
        return self._decoded(content)

    def _unpacked_and_decoded(self, content: Buffer) -> Decoded:
        message = self._call.unpacked(content)
        if not self.reserve(len(message)):
            raise NotReady(NO_MEMORY)
        return self._decoded(memoryview(message))

    def _decoded(self, content: Buffer) -> Decoded:
        self._query, read_inputs = self._call.codec.decode(content, self._call.request.timeout_s)
        return self._query, read_inputs

    def encode(self, answered: Answered) -> bytes:
        assert self._query is not None  # noqa: S101 - it was decoded
        return _wrapped(self._call.codec.encode(self._query, answered))

    def reserve(self, size: int) -> bool:
        has_reserved = self._call.stream.connection.connections.reserve(size)
        if has_reserved:
            self.reserved_bytes += size
        return has_reserved

    def turns(self) -> Turns:
        return self._call.stream.connection.connections.long_turns

    def in_order(self) -> asyncio.Lock:
        return self._call.stream.connection.reads_long

    def set_cancel_handle(self, in_flight: InFlight | None) -> None:
        self.in_flight = in_flight

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
        response = ModelStreamInferResponse(error_message=message)
        if self._query is not None and self._query.id is not None:
            response.infer_response.id = self._query.id
        return bytes(response.SerializeToString())


def _wrapped(answer: bytes) -> bytes:
    """An answer as a message of the stream."""
    response = ModelInferResponse.FromString(answer)
    return bytes(ModelStreamInferResponse(infer_response=response).SerializeToString())
