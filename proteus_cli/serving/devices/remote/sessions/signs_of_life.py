"""Whether a host is dead: nothing has come from its agent in so many looks."""

import time
from typing import TYPE_CHECKING

from proteus_cli.domain.cluster import BEAT_S, MAX_SILENT
from proteus_cli.serving.devices.remote.channel.messages import Ping

if TYPE_CHECKING:
    from proteus_cli.serving.devices.remote.sessions.session import AgentSession

MAX_SILENT_MEASURING = 100
"""As `MAX_SILENT`, of a host that is measured."""


class SignsOfLife:
    """Ends a session after `MAX_SILENT` looks in vain, and pings its agent; `looks` says when."""

    def __init__(self, session: "AgentSession") -> None:
        self._session, self._channel = session, session.channel
        self._seen, self._silent = -1, 0  # the first look may come at once, and counts for nothing

    def look(self) -> None:
        """Look whether anything came since the last look; end the session after too many without."""
        received = self._channel.bytes_received
        if received != self._seen:
            self._seen, self._silent = received, 0
            return
        self._silent += 1
        allowed = MAX_SILENT_MEASURING if self._session.is_measuring else MAX_SILENT
        if self._silent >= allowed:
            self._session.ended(f"nothing came from it for {allowed * BEAT_S * 1e3:.0f} ms")

    def ping(self) -> None:
        """Send a `Ping`, whose answer measures the round trip."""
        self._channel.send(Ping(time.monotonic()))
