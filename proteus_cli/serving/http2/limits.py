"""What one HTTP/2 client may take of the server, in bytes, counts and seconds."""

from dataclasses import dataclass

from proteus_cli.serving.http2.frames import DEFAULT_FRAME, DEFAULT_WINDOW

KIB, MIB = 2**10, 2**20


@dataclass(frozen=True, slots=True)
class Http2Limits:
    """Limits on one connection; ``flood_budget`` and its refill are frames that ask for nothing.

    ``continuations`` and ``header_block_bytes`` bound a header block as it is sent, ``header_list_bytes`` its fields.
    """

    streams: int = 256
    header_list_bytes: int = 16 * KIB
    header_block_bytes: int = 32 * KIB
    continuations: int = 8
    frame_bytes: int = 64 * KIB
    window_bytes: int = 1 * MIB
    connection_window_bytes: int = 8 * MIB
    flood_budget: int = 1_000
    flood_budget_per_s: float = 100.0

    def __post_init__(self) -> None:
        """HTTP/2 has no smaller frames, and no smaller window of a connection to begin with."""
        if self.frame_bytes < DEFAULT_FRAME or self.connection_window_bytes < DEFAULT_WINDOW:
            raise ValueError(self)


@dataclass(frozen=True, slots=True)
class Http2Timeouts:
    """How long a connection waits for its client.

    ``request_s``: for the rest of a frame, header block or message that has begun, and for the client to read a piece
    of a response. ``idle_s``: for the next request. ``linger_s``: for the client to close after a GOAWAY.
    """

    request_s: float = 30.0
    idle_s: float = 600.0
    linger_s: float = 2.0
