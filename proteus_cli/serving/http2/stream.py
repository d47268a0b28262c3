"""One request and its response."""

from typing import TYPE_CHECKING, Protocol

from proteus_cli.buffers import Buffer
from proteus_cli.serving.http2.frames import ErrorCode, StreamFault
from proteus_cli.serving.http2.states import AFTER_REQUEST, OPEN

if TYPE_CHECKING:
    from proteus_cli.serving.http2.connection import Http2Connection


class Call(Protocol):
    """What handles the request of a stream."""

    def received(self, content: Buffer, *, ended: bool) -> None:
        """Take the next bytes of the request's body; ``ended``: there are no more."""

    def cancelled(self) -> None:
        """Give the call up: nobody waits for the response any more, and nothing may be sent."""

    def sent(self) -> None:
        """Go on sending: all that waited is sent, and the call has not ended."""

    def drain(self) -> None:
        """The server stops: end now, unless the call ends by itself."""


class Http2Stream:
    """A stream. ``state`` moves along `STREAM_TRANSITIONS`; a move that is not there is a bug and raises `KeyError`.

    ``send_window`` and ``receive_window`` are the bytes that its windows have left. ``queue`` is what waits to be sent
    before ``trailers``, None if nothing does. ``waiting_since_s`` is since when the server waits for the client, to
    send the rest of a message or to take what is unsent. ``due_bytes`` of the body are to come, if the request said so.
    """

    __slots__ = (
        "call", "connection", "due_bytes", "id", "is_throttled", "queue", "receive_window", "send_window", "state",
        "trailers", "waiting_since_s",
    )  # fmt: skip

    def __init__(
        self,
        connection: "Http2Connection",
        stream_id: int,
        send_window: int,
        receive_window: int,
        due_bytes: int | None = None,
    ) -> None:
        self.connection, self.id, self.due_bytes = connection, stream_id, due_bytes
        self.send_window, self.receive_window = send_window, receive_window
        self.call: Call
        self.state, self.is_throttled = OPEN, False
        self.queue: bytearray | None = None
        self.trailers = b""
        self.waiting_since_s: float | None = connection.connections.now_s

    @property
    def unsent_bytes(self) -> int:
        """Bytes of the answer that wait to be sent."""
        return 0 if self.queue is None else len(self.queue)

    def send(self, head: bytes, body: bytes, trailers: bytes) -> None:
        """Send a header block, data, and a header block that ends the stream; what is empty is left out."""
        self.connection.send_queue.send(self, head, body, trailers)

    def throttle(self, *, is_throttled: bool) -> None:
        """Do not extend the client's window, or extend it again."""
        if self.is_throttled and not is_throttled:
            self.is_throttled = False
            self.connection.extend_window(self)
        self.is_throttled = is_throttled

    def expect_less(self, size: int) -> None:
        """Count so many bytes of the body. Raises `StreamFault` if they are more than the request said."""
        if self.due_bytes is not None:
            self.due_bytes -= size
            if self.due_bytes < 0:
                raise StreamFault(self.id, ErrorCode.PROTOCOL_ERROR)

    def half_close(self, content: Buffer) -> None:
        """Take the last bytes of the request's body. Raises `StreamFault` if there should be more."""
        if self.due_bytes:
            raise StreamFault(self.id, ErrorCode.PROTOCOL_ERROR)
        self.state, self.waiting_since_s = AFTER_REQUEST[self.state], None
        self.call.received(content, ended=True)
