"""gRPC over HTTP/2: messages in their frames, statuses in trailers.

Source: the "gRPC over HTTP2" and "Compression" documents of the gRPC project.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from proteus_cli.domain.buffer import Buffer
from proteus_cli.errors import BodyTooLarge, RequestError
from proteus_cli.serving.grpc.status import HEAD, TRAILERS_OK, CallError, Status, trailers_of
from proteus_cli.serving.http2.headers import Fields
from proteus_cli.serving.http2.limits import KIB
from proteus_cli.serving.http2.sending import Http2Stream
from proteus_cli.serving.transport.connections import MIN_BYTES_PER_S, Connections
from proteus_cli.serving.transport.gunzip import Compression, ContentTooLarge, CorruptContent, decompress

log = logging.getLogger("proteus.grpc")

PREFIX = 5
_LARGE = 64 * KIB
_PART_BYTES = 64  # what a part costs besides its content
_MAX_WASTE = 4
_NONE = b""


@dataclass(frozen=True, slots=True)
class Request:
    """What the header fields of a call say. ``open_call`` makes a call of its method."""

    open_call: "Callable[[Request, Http2Stream], GrpcCall]"
    fields: Fields
    timeout_s: float | None
    unpacks: bool
    message_bytes: int


class GrpcCall:
    """A call. Subclasses take each message, and the end of all; `answer`, `send` and `fail` are theirs."""

    __slots__ = ("_has_begun", "_is_over", "_kept", "_needed", "_parts", "_reserved", "request", "stream")
    may_idle = True  # between messages

    def __init__(self, request: Request, stream: Http2Stream) -> None:
        self.request, self.stream = request, stream
        self._parts: list[Buffer] = []  # of a message that is coming in: so much of what is needed
        self._kept = self._needed = 0
        self._has_begun = self._is_over = False
        self._reserved = 0  # bytes of the message that is coming in, or is being answered

    def message(self, message: Buffer) -> None:
        """The next message. Raises `RequestError` or `CallError` to end the call."""
        raise NotImplementedError

    def ended(self) -> None:
        """There are no more messages. Raises like `message`."""
        raise NotImplementedError

    def abandoned(self) -> None:
        """Nobody waits for the answer any more: whatever is still under way for it is to be given up."""

    def drain(self) -> None:
        """The server stops: nothing to do for a call that ends with its answer."""

    # Call

    def received(self, content: Buffer, *, ended: bool) -> None:
        if not self._is_over:
            self.settle(lambda: self._take(content, ended=ended))

    def settle(self, step: Callable[[], None]) -> None:
        """Take a step; where it raises, that ends the call."""
        try:
            step()
        except (RequestError, CallError) as error:
            self.fail(error)
        except Exception:
            log.exception("a bug in a call of %r", self.request.fields.get(b":path"))
            self.fail(CallError(Status.INTERNAL, "internal error"))

    def cancelled(self) -> None:
        self._free()
        self.abandoned()

    # Messages

    def _take(self, content: Buffer, *, ended: bool) -> None:
        self._read(content)
        if ended:
            if self._parts:
                raise CallError(Status.INTERNAL, "a message that is cut off")
            self.ended()

    def _read(self, content: Buffer) -> None:
        data = content
        if self._parts:
            self._keep(content)
            if self._kept < self._needed:
                self._wait(len(content))
                return
            data, self._parts, self._kept = b"".join(self._parts), [], 0
            if self.may_idle:
                self._free()
        at, stop, size = 0, PREFIX, len(data)
        while size - at >= PREFIX:
            stop = at + PREFIX + int.from_bytes(data[at + 1 : at + PREFIX], "big")
            if stop - at - PREFIX > self.request.message_bytes:
                raise BodyTooLarge(f"the message is larger than {self.request.message_bytes} bytes")
            if stop > size:
                break
            message: Buffer = memoryview(data)[at + PREFIX : stop]
            if stop - at < _LARGE:
                message = bytes(message)
            self.message(self._unpacked(message, data[at]) if data[at] else message)
            at, stop = stop, stop + PREFIX
        if at < size:
            self._needed = stop - at
            self._keep(memoryview(data)[at:])
        if not self.stream.is_half_closed:
            self._wait(len(content))

    def _keep(self, content: Buffer) -> None:
        """A part of a message that is not complete: as it is, unless it would keep much more in memory than it is."""
        size = len(content) + _PART_BYTES
        if not self._connections.reserve(size):
            raise CallError(Status.RESOURCE_EXHAUSTED, "too many large messages are coming in; try again")
        self._reserved += size
        self._kept += len(content)
        if isinstance(content, memoryview) and len(content) * _MAX_WASTE < len(content.obj):  # type: ignore[arg-type]
            content = bytes(content)
        self._parts.append(content)

    def _wait(self, size: int) -> None:
        """Note since when the client has been at a message, as it may not take forever: longer where it sends much."""
        stream = self.stream
        if self._parts:
            since_s = stream.waiting_since_s
            now_s = self._connections.now_s
            stream.waiting_since_s = now_s if since_s is None else min(since_s + size / MIN_BYTES_PER_S, now_s)
        elif self.may_idle and stream.queue is None:
            stream.waiting_since_s = None

    def _free(self) -> None:
        if self._reserved:
            self._connections.free(self._reserved)
            self._reserved = 0

    @property
    def _connections(self) -> Connections:
        return self.stream.connection.connections

    def _unpacked(self, message: Buffer, flag: int) -> bytes:
        if flag != 1 or not self.request.unpacks:
            raise CallError(Status.INTERNAL, "a compressed message without a grpc-encoding")
        max_bytes = self.request.message_bytes
        try:
            return decompress(message, Compression.GZIP, max_bytes)
        except CorruptContent as error:
            raise CallError(Status.INTERNAL, f"a message that is not what its grpc-encoding says: {error}") from None
        except ContentTooLarge:
            raise BodyTooLarge(f"the message unpacks to more than {max_bytes} bytes") from None

    # Answers

    def answer(self, message: bytes) -> None:
        """The one message of a unary call, which ends it."""
        self._free()
        self.stream.send(HEAD, framed(message), TRAILERS_OK)

    def send(self, message: bytes) -> None:
        """The next message of a streaming call."""
        self.stream.send(self._head(), framed(message), _NONE)

    def finish(self) -> None:
        """End a streaming call."""
        self._is_over = True
        self.stream.send(self._head(), _NONE, TRAILERS_OK)

    def fail(self, error: RequestError | CallError) -> None:
        """End the call with an error."""
        self._is_over = True
        self.cancelled()
        if self._has_begun:
            self.stream.send(_NONE, _NONE, trailers_of(error))
        else:
            self.stream.send(_NONE, _NONE, HEAD + trailers_of(error))

    def _head(self) -> bytes:
        head, self._has_begun = (_NONE if self._has_begun else HEAD), True
        return head


class UnaryCall(GrpcCall):
    """A call of one message, which `handle` answers, now or later."""

    __slots__ = ("_only",)
    may_idle = False

    def __init__(self, request: Request, stream: Http2Stream) -> None:
        super().__init__(request, stream)
        self._only: Buffer | None = None

    def message(self, message: Buffer) -> None:
        if self._only is not None:
            raise CallError(Status.UNIMPLEMENTED, "this method takes one message")
        self._only = message

    def ended(self) -> None:
        if self._only is None:
            raise CallError(Status.UNIMPLEMENTED, "this method takes one message, and there was none")
        only, self._only = self._only, None
        self.handle(only)

    def handle(self, message: Buffer) -> None:
        """Answer, or see to it. Raises like `message`."""
        raise NotImplementedError


def framed(message: bytes) -> bytes:
    """A message as it stands in DATA frames."""
    return b"\0" + len(message).to_bytes(4, "big") + message
