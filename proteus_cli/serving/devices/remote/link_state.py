"""What a server knows of its connection to a host."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkState:
    """A server's link to the agent of a host. Counts are those since the start, over all sessions.

    ``since_s``: since then, by `time.monotonic`, it is connected, or not; ``why`` not. ``round_trip_s`` is the shortest
    of the last ones, None before the first.
    """

    address: str
    is_connected: bool
    since_s: float
    why: str
    losses: int
    round_trip_s: float | None
    bytes_sent: int
    bytes_received: int
