"""One request and its response."""

from typing import TYPE_CHECKING, Protocol

from proteus_cli.buffers import Buffer
from proteus_cli.serving.http2.frames import ErrorCode, StreamFault

if TYPE_CHECKING:
    from proteus_cli.serving.http2.connection import Http2Connection
from enum import StrEnum


class ConnectionState(StrEnum):
    """How a connection treats streams and input."""

    OPEN = "open"
    GOING_AWAY = "going away"  # GOAWAY is sent or received: no new streams; open ones go on to their end
    CLOSING = "closing"  # all streams are over; input is discarded until the peer closes, too
    CLOSED = "closed"


class ConnectionEvent(StrEnum):
    """The causes of a change of a connection's state."""

    DRAINED = "one side opens or takes no more streams"
    EMPTIED = "the last stream is over"
    FAILED = "the peer broke the protocol"
    LOST = "the connection is lost"


class StreamState(StrEnum):
    """Which side of a stream may still send; the server ends its side last."""

    OPEN = "open"
    HALF_CLOSED = "half-closed"  # the client has sent all of its request
    CLOSED = "closed"


class StreamEvent(StrEnum):
    """The causes of a change of a stream's state."""

    REQUEST_ENDED = "the request is complete"
    RESPONSE_SENT = "the response is sent, with its trailers"
    RESET = "one side has reset the stream, or the connection is over"


# Bound to names of their own, as looking up a member of an enumeration takes 0.15 µs, and frames do it often.
OPEN, HALF_CLOSED, CLOSED = StreamState
REQUEST_ENDED, RESPONSE_SENT, RESET = StreamEvent

CONNECTION_TRANSITIONS: dict[ConnectionState, dict[ConnectionEvent, ConnectionState]] = {
    ConnectionState.OPEN: {
        ConnectionEvent.DRAINED: ConnectionState.GOING_AWAY,
        ConnectionEvent.FAILED: ConnectionState.CLOSING,
        ConnectionEvent.LOST: ConnectionState.CLOSED,
    },
    ConnectionState.GOING_AWAY: {
        ConnectionEvent.EMPTIED: ConnectionState.CLOSING,
        ConnectionEvent.FAILED: ConnectionState.CLOSING,
        ConnectionEvent.LOST: ConnectionState.CLOSED,
    },
    ConnectionState.CLOSING: {ConnectionEvent.LOST: ConnectionState.CLOSED},
    ConnectionState.CLOSED: {},
}

STREAM_TRANSITIONS: dict[StreamState, dict[StreamEvent, StreamState]] = {
    OPEN: {REQUEST_ENDED: HALF_CLOSED, RESPONSE_SENT: CLOSED, RESET: CLOSED},
    HALF_CLOSED: {RESPONSE_SENT: CLOSED, RESET: CLOSED},
    CLOSED: {},
}


def _after(event: StreamEvent) -> dict[StreamState, StreamState]:
    return {state: moves[event] for state, moves in STREAM_TRANSITIONS.items() if event in moves}


# By event, as each request looks two of them up.
AFTER_REQUEST, AFTER_RESPONSE, AFTER_RESET = map(_after, StreamEvent)


class Call(Protocol):
    """The handler of a stream's request."""

    def received(self, content: Buffer, *, ended: bool) -> None:
        """Take the next bytes of the request's body; ``ended``: there are no more."""

    def cancelled(self) -> None:
        """Give the call up: its client has gone, and no frame may be sent."""

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
        """Count ``size`` bytes of the body. Raises `StreamFault` if they are more than the request said."""
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
