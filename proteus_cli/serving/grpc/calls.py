"""gRPC calls: what every method's call does with its messages, its responses and its end.

Source: the "gRPC over HTTP2" document of the gRPC project.
"""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proteus_cli.buffers import Buffer
from proteus_cli.errors import InternalError, RequestError
from proteus_cli.serving.grpc.framing import PREFIX_BYTES, UNCOUNTED_BYTES, MessageReader, framed
from proteus_cli.serving.grpc.status import HEAD, TRAILERS_OK, CallError, trailers_of
from proteus_cli.serving.http2.header_blocks import Fields
from proteus_cli.serving.http2.stream import Http2Stream
from proteus_cli.serving.oip.codes import GrpcStatus, request_error

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("proteus.grpc")

_NONE = b""
REFUSAL_UNITS = 2  # of work, beside the message itself


@dataclass(frozen=True, slots=True)
class CallHeaders:
    """The header fields of a call, as they are kept.

    ``open_call`` opens the call of its method. ``token`` is the digest of its token; empty without one.
    Only the fields in ``trace`` are kept as they are: a client may have many calls open, with many fields.
    """

    open_call: "Callable[[CallHeaders, Http2Stream], GrpcCall]"
    path: bytes
    trace: Fields
    timeout_s: float | None
    is_gzip: bool
    token: bytes


class GrpcCall(MessageReader):
    """A call. Subclasses take its messages, and respond by `answer`, or by `send` and `finish`, or by `fail`.

    Who opens it sets ``max_bytes``, the limit of each message.
    """

    __slots__ = ("_has_begun", "request")

    def __init__(self, request: CallHeaders, stream: Http2Stream) -> None:
        super().__init__(stream, is_gzip=request.is_gzip)
        self.request = request
        self._has_begun = False

    def abandoned(self) -> None:
        """Give up the response: its client has gone."""

    def drain(self) -> None:
        """The server stops. A call that ends with its response has nothing to do."""

    # Call

    def received(self, content: Buffer, *, ended: bool) -> None:
        if self._is_over:
            return
        try:
            self.read(content, ended=ended)
        except Exception as error:  # noqa: BLE001 - a bug is logged, and the client answered
            self._end_by(error)

    def go_on(self) -> None:
        if self._is_over or not self._is_stopped:
            return
        try:
            self.read_on()
        except Exception as error:  # noqa: BLE001 - like above
            self._end_by(error)

    def cancelled(self) -> None:
        self._is_over = True
        self._kept = None
        self.free()
        self.abandoned()

    def sent(self) -> None:
        """A call that ends with its response has nothing more to send."""

    # Responses

    def answer(self, message: bytes) -> None:
        """Send the one message of a unary call, which ends it."""
        if self._reserved_bytes:
            self.free()
        self.stream.send(HEAD, framed(message), TRAILERS_OK)

    def send(self, message: bytes) -> None:
        """Send the next message of a streaming call."""
        self.stream.send(self._head(), framed(message), _NONE)

    def finish(self) -> None:
        """End a streaming call."""
        self._is_over = True
        self.stream.send(self._head(), _NONE, TRAILERS_OK)

    def fail(self, error: RequestError | CallError) -> None:
        """End the call with an error, which takes longer than an answer."""
        self.stream.connection.turn.left -= REFUSAL_UNITS
        self.cancelled()
        if self._has_begun:
            self.stream.send(_NONE, _NONE, trailers_of(error))
        else:
            self.stream.send(_NONE, _NONE, HEAD + trailers_of(error))

    def _end_by(self, error: Exception) -> None:
        told = error if isinstance(error, CallError) else request_error(error)
        if isinstance(told, InternalError):
            log.error("a bug in a call of %r", self.request.path, exc_info=error)
        self.fail(told)

    def _head(self) -> bytes:
        head, self._has_begun = (_NONE if self._has_begun else HEAD), True
        return head


class UnaryCall(GrpcCall):
    """A call of one message, which `handle` answers at once or later."""

    __slots__ = ("_only",)
    may_idle = False

    def __init__(self, request: CallHeaders, stream: Http2Stream) -> None:
        super().__init__(request, stream)
        self._only: Buffer | None = None

    def received(self, content: Buffer, *, ended: bool) -> None:
        if not (ended and self._only is None and self._is_one_small_message(content)):
            super().received(content, ended=ended)
            return
        self.stream.connection.flood_budget.message_received()
        try:
            self.handle(bytes(content[PREFIX_BYTES:]))
        except Exception as error:  # noqa: BLE001 - a bug is logged, and the client answered
            self._end_by(error)

    def message(self, message: Buffer) -> None:
        if self._only is not None:
            raise CallError(GrpcStatus.UNIMPLEMENTED, "this method takes one message")
        if len(message) > UNCOUNTED_BYTES:
            self._reserve(len(message))
        self._only = message

    def ended(self) -> None:
        if self._only is None:
            raise CallError(GrpcStatus.UNIMPLEMENTED, "this method takes one message, and there was none")
        only, self._only = self._only, None
        self.handle(only)

    def handle(self, message: Buffer) -> None:
        """Answer the message at once or later. Raises like `message`."""
        raise NotImplementedError
