"""Whether a host is dead: nothing has come from its agent in so many looks."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from proteus_cli.domain.cluster.connection import BEAT_S, MAX_SILENT
from proteus_cli.serving.devices.remote.channel.messages import Ping
from proteus_cli.serving.devices.remote.sessions.looks import Looks

if TYPE_CHECKING:
    from proteus_cli.serving.devices.remote.sessions.session import AgentSession

MAX_SILENT_MEASURING = 100
"""As `MAX_SILENT`, of a host that is measured."""

PING_S = 1.0
"""Between two measurements of the round trip of an idle connection; the agent hears of the server so often, too."""


@contextmanager
def watching(session: "AgentSession", looks: Looks) -> Iterator[None]:
    """Look each `BEAT_S` whether something has come, and end the session after `MAX_SILENT` looks in vain. Pings."""
    loop, channel = asyncio.get_running_loop(), session.channel
    pinging: asyncio.Handle
    seen, silent = -1, 0  # the first look may come at once, and counts for nothing

    def look() -> None:
        nonlocal seen, silent
        received = channel.bytes_received
        if received != seen:
            seen, silent = received, 0
            return
        silent += 1
        allowed = MAX_SILENT_MEASURING if session.is_measuring else MAX_SILENT
        if silent >= allowed:
            session.ended(f"nothing came from it for {allowed * BEAT_S * 1e3:.0f} ms")

    def ping() -> None:  # each session at a time of its own: answers that come together would seem to take longer
        nonlocal pinging
        session.send(Ping(time.monotonic()))
        pinging = loop.call_later(PING_S, ping)

    pinging = loop.call_soon(ping)
    try:
        with looks.calling(look):
            yield
    finally:
        pinging.cancel()
