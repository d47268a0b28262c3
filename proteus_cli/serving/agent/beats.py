"""An agent's signs of life to a server, and whether that gives any itself."""

import asyncio
import math
import time
from collections.abc import Callable

from proteus_cli.backends.free_memory import host_memory
from proteus_cli.domain.cluster import BEAT_S
from proteus_cli.serving.devices.remote.channel.channel import FrameChannel
from proteus_cli.serving.devices.remote.channel.messages import Beat, ToAgent

MEMORY_S = 1.0
"""Between two looks at the memory of the host."""

SERVER_SILENT_S = 10.0
"""A server that sends nothing for so long is gone. It pings each second, but its event loop may be held up."""


async def beat(channel: FrameChannel[ToAgent], end: Callable[[str], object]) -> None:
    """Send something each `BEAT_S`, until the server has been silent for too long; then ``end`` is told so.

    One of the signs of life in each `MEMORY_S` has the memory of the host.
    """
    heard, heard_s = channel.bytes_received, time.monotonic()
    told_s = -math.inf
    while True:
        now_s = time.monotonic()
        if now_s - told_s >= MEMORY_S:
            channel.send(Beat(host_memory()))
            told_s = now_s
        else:
            channel.send_sign_of_life()
        await asyncio.sleep(BEAT_S)
        now_s = time.monotonic()
        if channel.bytes_received != heard:
            heard, heard_s = channel.bytes_received, now_s
        elif now_s - heard_s > SERVER_SILENT_S:
            end(f"nothing came from it for {SERVER_SILENT_S:.0f} s")
            return
