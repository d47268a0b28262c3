"""How much a peer may ask of the HTTP/2 server."""

from dataclasses import dataclass

from proteus_cli.serving.http2.frames import DEFAULT_FRAME, DEFAULT_WINDOW

KIB, MIB = 2**10, 2**20


@dataclass(frozen=True, slots=True)
class Http2Limits:
    """Sizes in bytes, times in seconds, per connection.

    ``flood_budget`` is how many frames that ask for nothing (resets, pings, settings, empty data, …) a client may send;
    an answer gives one back, and so does time, ``flood_budget_per_s``. ``request_s`` is the longest that the rest of a
    message or header that has begun may take to come in, and a piece of an answer to be taken.
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
    request_s: float = 30.0
    idle_s: float = 600.0
    linger_s: float = 2.0

    def __post_init__(self) -> None:
        """HTTP/2 knows no smaller frames, and no smaller window of a connection to begin with."""
        if self.frame_bytes < DEFAULT_FRAME or self.connection_window_bytes < DEFAULT_WINDOW:
            raise ValueError(self)
