"""How long batches are on their way between a server and an agent, and how fast the network is."""

import statistics
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proteus_cli.serving.devices.remote.link import AgentSession

RECENT = 10
PINGS = 20
FIRST_BYTES, MOST_BYTES = 2**16, 2**22
LONG_ENOUGH_S = 0.05
"""An echo of so long tells the bandwidth: what the event loops at both ends add is a few per cent of it at most."""
ECHOES, ECHOES_S = 3, 1.0


class Crossings:
    """The time that batches are on their way, there and back: the shortest of the last ten of about the same size.

    A longer one tells of an event loop that was late, or of batches that went before.
    """

    def __init__(self) -> None:
        self._recent_s: dict[int, deque[float]] = {}

    def shortest_s(self, size: int, took_s: float) -> float:
        """Learn from a batch of so many bytes, inputs and outputs together."""
        recent_s = self._recent_s.setdefault(size.bit_length(), deque(maxlen=RECENT))
        recent_s.append(took_s)
        return max(min(recent_s), 0.0)


async def measured_speed(session: "AgentSession") -> tuple[float, float]:
    """Seconds of a round trip without content, the median, and bytes per second of large messages, there and back.

    No device of the host serves meanwhile. The event loop is held up for a few milliseconds at a time. It takes a few
    seconds at most, unless 64 KiB take longer than one. Raises `HostLost`.
    """
    round_trip_s = statistics.median([await session.echo(0) for _ in range(PINGS)])
    size, shortest_s = FIRST_BYTES, await _shortest_echo_s(session, FIRST_BYTES)
    while shortest_s < LONG_ENOUGH_S and size < MOST_BYTES:
        size *= 4
        shortest_s = await _shortest_echo_s(session, size)
    crossing_s = max(shortest_s - round_trip_s, shortest_s / 2)  # of all bytes twice: they come back once all are there
    return round_trip_s, 2 * size / crossing_s


async def _shortest_echo_s(session: "AgentSession", size: int) -> float:
    """Of a few: the first ones are slow, as TCP finds out how much the network carries."""
    took_s: list[float] = []
    while len(took_s) < ECHOES and sum(took_s) < ECHOES_S:
        took_s.append(await session.echo(size))
    return min(took_s)
