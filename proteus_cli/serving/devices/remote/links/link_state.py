"""What a server knows of its connection to a host: of the session that there is, and of those that have ended."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proteus_cli.errors import HostLost

if TYPE_CHECKING:
    from proteus_cli.serving.devices.remote.sessions.session import AgentSession


@dataclass(frozen=True, slots=True)
class LinkState:
    """A server's link to the agent of a host. Counts are those since the start, over all sessions.

    ``since_s``: since then, by `time.monotonic`, it is connected, or not; ``why`` not. ``round_trip_s`` is the shortest
    of the last ones, None before the first. A host that ``is_listed`` no more was taken out.
    """

    address: str
    is_connected: bool
    since_s: float
    why: str
    losses: int
    round_trip_s: float | None
    bytes_sent: int
    bytes_received: int
    is_listed: bool = True


@dataclass(slots=True)
class PastSessions:
    """The sessions that have ended; ``since_s`` is when the last one did, or the present one began."""

    since_s: float = field(default_factory=time.monotonic)
    losses: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0

    def add(self, session: "AgentSession") -> None:
        """Count a session that has ended."""
        if session.loss is not None:
            self.since_s, self.losses = session.ended_s, self.losses + 1
        self.bytes_sent += session.bytes_sent
        self.bytes_received += session.bytes_received

    def state(self, address: str, session: "AgentSession | None", loss: HostLost, *, is_listed: bool) -> LinkState:
        """``session`` is the present one, or one that has just ended; ``loss`` is why there is none."""
        if session is None or session.loss is not None:
            ended = PastSessions(self.since_s, self.losses, self.bytes_sent, self.bytes_received)
            if session is not None:
                ended.add(session)
                loss = session.loss or loss
            return LinkState(
                address,
                False,
                ended.since_s,
                loss.why,
                ended.losses,
                None,
                ended.bytes_sent,
                ended.bytes_received,
                is_listed,
            )
        return LinkState(
            address, True, self.since_s, "", self.losses, session.round_trip_s or None,
            self.bytes_sent + session.bytes_sent, self.bytes_received + session.bytes_received,
            is_listed,
        )  # fmt: skip
