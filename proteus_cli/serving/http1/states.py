"""The states of a connection as a table, and the limits of one client in bytes, counts and seconds."""

from dataclasses import dataclass
from enum import StrEnum


class HttpState(StrEnum):
    """How a connection treats its input."""

    IDLE = "idle"  # between two requests
    READING_HEAD = "reading a head"
    READING_BODY = "reading a body"  # and its trailers
    DISCARDING = "discarding input"  # the last request is read; responses are owed
    LINGERING = "lingering"  # the last response is sent; the client may read it and close
    CLOSED = "closed"


class HttpEvent(StrEnum):
    """The causes of a change of state."""

    REQUEST_BEGAN = "a request began"
    HEAD_COMPLETE = "the head of a request is complete"
    REQUEST_COMPLETE = "the request is complete"
    LAST_REQUEST_COMPLETE = "the request is complete, and the last one"
    REFUSED = "a request is refused"
    RESPONSES_SENT = "the last response is sent"
    INPUT_ENDED = "the client sends no more"
    IDLED = "no request came in time"
    LOST = "the connection is lost"


# Bound to names of their own, as looking up a member of an enumeration takes 0.15 µs, and requests do it often.
IDLE, READING_HEAD, READING_BODY, DISCARDING, LINGERING, CLOSED = HttpState
(
    REQUEST_BEGAN, HEAD_COMPLETE, REQUEST_COMPLETE, LAST_REQUEST_COMPLETE, REFUSED, RESPONSES_SENT, INPUT_ENDED, IDLED,
    LOST,
) = HttpEvent  # fmt: skip

_FROM_ANY = {RESPONSES_SENT: LINGERING, INPUT_ENDED: LINGERING, LOST: CLOSED}

TRANSITIONS: dict[HttpState, dict[HttpEvent, HttpState]] = {
    IDLE: {**_FROM_ANY, REQUEST_BEGAN: READING_HEAD, REFUSED: DISCARDING, IDLED: LINGERING},
    READING_HEAD: {
        **_FROM_ANY,
        REQUEST_BEGAN: READING_HEAD,  # again, as if it asked for no other protocol
        HEAD_COMPLETE: READING_BODY,
        REFUSED: DISCARDING,
    },
    READING_BODY: {
        **_FROM_ANY,
        REQUEST_COMPLETE: IDLE,
        LAST_REQUEST_COMPLETE: DISCARDING,
        REFUSED: DISCARDING,
    },
    DISCARDING: _FROM_ANY,
    LINGERING: _FROM_ANY,
    CLOSED: {},
}

READING = frozenset({READING_HEAD, READING_BODY})
DISCARDS_INPUT = frozenset({DISCARDING, LINGERING, CLOSED})


READ_BYTES = 64 * 1024  # of one read; a larger body is read straight into memory of its own
BODY_READ_BYTES = 256 * 1024  # of one read of a large body
SLICE_BYTES = 4 * 1024  # that are parsed at once, except of a body: at most 200 requests, 700 chunks


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits on one connection.

    ``header_bytes`` bounds what is around the body, to `SLICE_BYTES`. A body of up to ``uncounted_bytes`` is not
    counted among those in memory, nor is a head within one slice.
    A connection beyond the limit on connections may ask for ``open_paths`` only.
    """

    body_bytes: int
    header_bytes: int = 32 * 1024
    headers: int = 128
    uncounted_bytes: int = 4 * 1024
    open_paths: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class HttpTimeouts:
    """How long a connection waits for its client.

    ``request_s``: for a request to come in, or for the client to read a response; longer where much is moved.
    ``keep_alive_s``: for the next request. ``linger_s``: for the client to close after the last response.
    """

    request_s: float = 30.0
    keep_alive_s: float = 75.0
    linger_s: float = 2.0
