"""How long batches are on their way between a server and an agent, and how fast the network is."""

import statistics
from typing import TYPE_CHECKING

from proteus_cli.serving.devices.remote.channel.messages import MAX_ECHO_BYTES

if TYPE_CHECKING:
    from proteus_cli.serving.devices.remote.sessions.session import AgentSession
import math

WINDOW_S = 1.0
"""As long as between two pings, so that an idle connection has one in each window."""


class RoundTrips:
    """``shortest_s`` is the shortest round trip of this window and the one before; 0 before the first.

    A long one may tell of an event loop that was late, at either end; if all are long, the network is slow.
    """

    def __init__(self) -> None:
        self.shortest_s = 0.0
        self._before_s = self._now_s = math.inf
        self._began_s = -math.inf

    def add(self, took_s: float, ended_s: float) -> None:
        """One has ended, by a clock that goes on."""
        if ended_s - self._began_s >= WINDOW_S:
            self._before_s, self._now_s, self._began_s = self._now_s, took_s, ended_s
        elif took_s < self._now_s:
            self._now_s = took_s
        else:
            return
        self.shortest_s = max(0.0, min(self._before_s, self._now_s))


PINGS = 20
FIRST_BYTES = 2**16
LONG_ENOUGH_S = 0.05
"""Seconds of an echo that tells the bandwidth: the event loops at both ends add a few per cent at most."""
ECHOES, ECHOES_S = 3, 1.0


class Crossings:
    """The time that batches are on their way, there and back, as `RoundTrips` of batches of about the same size."""

    def __init__(self) -> None:
        self._by_size: dict[int, RoundTrips] = {}

    def shortest_s(self, size: int, took_s: float, ended_s: float) -> float:
        """The time that counts for the bytes of a batch, inputs and outputs together. Learns from it."""
        trips = self._by_size.get(size.bit_length())
        if trips is None:
            trips = self._by_size[size.bit_length()] = RoundTrips()
        trips.add(took_s, ended_s)
        return trips.shortest_s


async def measured_speed(session: "AgentSession") -> tuple[float, float]:
    """Seconds of a round trip without content, the median, and bytes per second of large messages, there and back.

    No device of the host serves meanwhile. The event loop is held up for a few milliseconds at a time. It takes a few
    seconds at most, unless 64 KiB take longer than one. Raises `HostLost`.
    """
    round_trip_s = statistics.median([await session.echo(0) for _ in range(PINGS)])
    size, shortest_s = FIRST_BYTES, await _shortest_echo_s(session, FIRST_BYTES)
    while shortest_s < LONG_ENOUGH_S and size < MAX_ECHO_BYTES:
        size *= 4
        shortest_s = await _shortest_echo_s(session, size)
    crossing_s = max(shortest_s - round_trip_s, shortest_s / 2)  # of all bytes twice: they come back once all are there
    return round_trip_s, 2 * size / crossing_s


async def _shortest_echo_s(session: "AgentSession", size: int) -> float:
    """Several are sent: the first ones are slow, while TCP finds out how much the network carries."""
    took_s: list[float] = []
    while len(took_s) < ECHOES and sum(took_s) < ECHOES_S:
        took_s.append(await session.echo(size))
    return min(took_s)
