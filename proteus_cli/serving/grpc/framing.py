"""gRPC frames: the messages of a call, each behind a prefix of five bytes, in the DATA of its HTTP/2 stream.

The prefix is a flag, 1 if the message is compressed, and the message's length. A frame may come in any pieces, and a
piece may hold many frames. `MessageReader` puts messages together and checks each frame: its length, its compression,
that it is complete where the stream ends, and how long the client takes to send it. A frame that is not the first of
its piece is a unit of work. An incomplete frame, frames that a turn leaves, and frames that come while a call has no
room wait in one buffer, whose bytes are counted.

Source: the "gRPC over HTTP2" and "Compression" documents of the gRPC project.
"""

from proteus_cli.buffers import Buffer
from proteus_cli.errors import BodyTooLarge
from proteus_cli.serving.grpc.status import CallError
from proteus_cli.serving.http2.limits import KIB
from proteus_cli.serving.http2.stream import Http2Stream
from proteus_cli.serving.oip.codes import GrpcStatus
from proteus_cli.serving.oip.tensors import MAX_UNPACKED_BYTES
from proteus_cli.serving.transport.connections import MIN_BYTES_PER_S
from proteus_cli.serving.transport.gunzip import decompressed

PREFIX_BYTES = 5
_LARGE_BYTES = 64 * KIB  # a message from here on is a view of the buffer
UNCOUNTED_BYTES = 4 * KIB  # of a complete message
_BYTES_PER_UNIT = 16 * KIB  # of work: they are put together, copied, and read


def framed(message: bytes) -> bytes:
    """The frame of a message, which is not compressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


class MessageReader:
    """Reads the messages of a call, and hands each to `message`, and at their end calls `ended`, as subclasses define.

    Kept bytes count among the bodies in memory. After a message of a call that ``may_idle`` the client may take
    any time until the next one. ``_is_stopped``: complete messages may wait until `read_on`. ``_is_over``: nothing more
    is read.

    Messages of methods that take tensors may be compressed when they are handed on, and then ``is_compressed``: the
    call unpacks them by `unpacked` when it is their turn.
    """

    __slots__ = (
        "_connections", "_has_all", "_is_gzip", "_is_over", "_is_stopped", "_kept", "_needed_bytes", "_reserved_bytes",
        "is_compressed", "max_bytes", "stream",
    )  # fmt: skip
    may_idle = True
    takes_tensors = False

    def __init__(self, stream: Http2Stream, *, is_gzip: bool) -> None:
        self.stream, self._connections = stream, stream.connection.connections
        self.max_bytes, self._is_gzip = 0, is_gzip  # the first is set by who opens the call
        self._kept: bytearray | None = None
        self._needed_bytes = 0  # to be kept until another frame is complete
        self._reserved_bytes = 0  # for what is kept, and for the message that is being answered
        self._has_all = self._is_over = self._is_stopped = self.is_compressed = False

    def message(self, message: Buffer) -> None:
        """Take the next message. Raises `RequestError` or `CallError` to end the call."""
        raise NotImplementedError

    def ended(self) -> None:
        """The client sends no more messages. Raises like `message`."""
        raise NotImplementedError

    @property
    def has_room(self) -> bool:
        """Whether another message may be handed to `message`. A call without room calls `read_on` once it has."""
        return True

    def go_on(self) -> None:
        """Have `read_on` called in this turn of the connection, which is a new one."""
        raise NotImplementedError

    def _is_one_small_message(self, content: Buffer) -> bool:
        """Whether ``content`` is one whole message, small and not compressed, with nothing before it."""
        size = len(content) - PREFIX_BYTES
        return (
            0 <= size <= UNCOUNTED_BYTES
            and not content[0]
            and int.from_bytes(content[1:PREFIX_BYTES], "big") == size <= self.max_bytes
            and self._kept is None
            and not self._is_over
        )

    def read(self, content: Buffer, *, ended: bool) -> None:
        """Take the next piece of the stream. Raises `BodyTooLarge`, `CallError`, and what `message` raises."""
        self._has_all = ended
        if self._kept is None:
            self._read_frames(content)
        else:
            self._keep(content)
            if self._is_stopped:
                return
            if len(self._kept) >= self._needed_bytes:
                self._read_kept()
        self._after_read(len(content))

    def read_on(self) -> None:
        """Read the messages that wait. Raises like `read`."""
        self._is_stopped = False
        self._read_kept()
        self._after_read(0)

    def _after_read(self, received_bytes: int) -> None:
        if self._is_over:
            return
        if self._is_stopped:
            self.stream.waiting_since_s = None
        elif not self._has_all:
            self._note_waiting(received_bytes)
        elif self._kept is not None:
            raise CallError(GrpcStatus.INTERNAL, "a message that is cut off")
        else:
            self.ended()

    def _read_kept(self) -> None:
        """Read what was kept; it counts no more, but a message that is being answered does."""
        kept, self._kept = self._kept, None
        if kept is not None:
            self._free(len(kept))
            self.stream.connection.turn.left -= len(kept) // _BYTES_PER_UNIT
            self._read_frames(kept)

    def _read_frames(self, data: Buffer) -> None:
        at, stop, size, connection = 0, PREFIX_BYTES, len(data), self.stream.connection
        while size - at >= PREFIX_BYTES:
            if at:
                connection.turn.left -= 1
            if (at and connection.turn.left <= 0) or not self.has_room:
                self._is_stopped = True
                self._keep(memoryview(data)[at:])
                if self.has_room:
                    connection.later(self.go_on)
                return
            first = at + PREFIX_BYTES
            stop = first + int.from_bytes(data[at + 1 : first], "big")
            if stop - first > self.max_bytes:
                raise BodyTooLarge(f"the message is larger than {self.max_bytes} bytes")
            if stop > size:
                break
            is_large = stop - first >= _LARGE_BYTES
            self._take(data[at], memoryview(data)[first:stop] if is_large else bytes(data[first:stop]))
            if self._is_over:
                return
            at, stop = stop, stop + PREFIX_BYTES
        if at < size:
            self._needed_bytes = stop - at
            self._keep(memoryview(data)[at:])

    def _take(self, flag: int, message: Buffer) -> None:
        self.stream.connection.flood_budget.message_received()
        if flag and (flag != 1 or not self._is_gzip):
            raise CallError(GrpcStatus.INTERNAL, "a compressed message without a grpc-encoding")
        self.is_compressed = bool(flag) and self.takes_tensors
        self.message(self.unpacked(message) if flag and not self.takes_tensors else message)

    def _keep(self, piece: Buffer) -> None:
        self._reserve(len(piece))
        if self._kept is None:
            self._kept = bytearray(piece)
        else:
            self._kept += piece

    def reserve(self, size: int) -> bool:
        """Reserve memory until `free`. False: there is not enough left."""
        has_reserved = self._connections.reserve(size)
        if has_reserved:
            self._reserved_bytes += size
        return has_reserved

    def _reserve(self, size: int) -> None:
        if not self.reserve(size):
            raise CallError(GrpcStatus.RESOURCE_EXHAUSTED, "too many large messages at once; try again")

    def _note_waiting(self, received_bytes: int) -> None:
        """Note since when the client has been at a message; what it sends gives it more time."""
        stream = self.stream
        if self._kept is not None:
            since_s, now_s = stream.waiting_since_s, self._connections.now_s
            gained_s = received_bytes / MIN_BYTES_PER_S
            stream.waiting_since_s = now_s if since_s is None else min(since_s + gained_s, now_s)
        elif self.may_idle and stream.queue is None:
            stream.waiting_since_s = None

    def free(self) -> None:
        """Give back the memory that was reserved."""
        if self._reserved_bytes:
            self._free(self._reserved_bytes)

    def _free(self, size: int) -> None:
        self._connections.free(size)
        self._reserved_bytes -= size

    def unpacked(self, message: Buffer) -> bytearray:
        """A compressed message without its compression. Raises `CorruptBody`, `BodyTooLarge`."""
        return decompressed(message, min(self.max_bytes, MAX_UNPACKED_BYTES), "message", "grpc-encoding")
