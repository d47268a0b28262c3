"""What one client may take of the server, in bytes, counts and seconds."""

from dataclasses import dataclass

READ_BYTES = 64 * 1024  # of one read; a larger body is read straight into memory of its own
BODY_READ_BYTES = 256 * 1024  # of one read of such a body
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
