"""An agent's signs of life to a server, and whether that gives any itself."""

import asyncio
import time
from collections.abc import Callable
from itertools import count

from proteus_cli.backends.free_memory import host_memory
from proteus_cli.domain.cluster.connection import BEAT_S
from proteus_cli.serving.devices.remote.channel.channel import FrameChannel
from proteus_cli.serving.devices.remote.channel.messages import Beat, ToAgent

BEATS_A_LOOK = 10
"""At the memory of the host."""

SERVER_SILENT_S = 10.0
"""A server that sends nothing for so long is gone. It pings each second, but its event loop may be held up."""


async def beat(channel: FrameChannel[ToAgent], end: Callable[[str], object]) -> None:
    """Send a sign of life each `BEAT_S`, until the server has been silent for too long; then ``end`` says so."""
    seen, seen_s = channel.bytes_received, time.monotonic()
    for number in count():
        if number % BEATS_A_LOOK == 0:
            channel.send(Beat(host_memory()))
        else:
            channel.send_sign_of_life()
        await asyncio.sleep(BEAT_S)
        now_s = time.monotonic()
        if channel.bytes_received != seen:
            seen, seen_s = channel.bytes_received, now_s
        elif now_s - seen_s > SERVER_SILENT_S:
            end(f"nothing came from it for {SERVER_SILENT_S:.0f} s")
            return
