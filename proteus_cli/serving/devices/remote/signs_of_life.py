"""Whether a host is dead: nothing has come from its agent in so many looks."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

from proteus_cli.domain.connection import BEAT_S
from proteus_cli.serving.devices.remote.messages import Ping

if TYPE_CHECKING:
    from proteus_cli.serving.devices.remote.session import AgentSession

MAX_SILENT_MEASURING = 100
"""As `MAX_SILENT`, of a host that is measured."""

PING_S = 1.0
"""Between two measurements of the round trip of an idle connection; the agent hears of the server so often, too."""


@contextmanager
def watching(session: "AgentSession", max_silent: int) -> Iterator[None]:
    """Look each `BEAT_S` whether something has come, and end the session after ``max_silent`` looks in vain. Pings."""
    loop, looks = asyncio.get_running_loop(), count(1)
    seen, silent = session.bytes_received, 0
    timer: asyncio.TimerHandle

    def look() -> None:  # no task that sleeps: with hundreds of agents, those cost as much as their beats
        nonlocal seen, silent, timer
        silent = 0 if session.bytes_received != seen else silent + 1
        seen = session.bytes_received
        allowed = max(max_silent, MAX_SILENT_MEASURING) if session.is_measuring else max_silent
        if silent >= allowed:
            session.ended(f"nothing came from it for {allowed * BEAT_S * 1e3:.0f} ms")
            return
        if next(looks) % round(PING_S / BEAT_S) == 0:
            session.send(Ping(time.monotonic()))
        timer = loop.call_later(BEAT_S, look)

    session.send(Ping(time.monotonic()))
    timer = loop.call_later(BEAT_S, look)
    try:
        yield
    finally:
        timer.cancel()
