"""An agent's signs of life to a server, and whether that gives any itself."""

import asyncio
import time
from collections.abc import Callable

from proteus_cli.backends.free_memory import host_memory
from proteus_cli.domain.cluster.connection import BEAT_S
from proteus_cli.serving.devices.remote.channel.channel import FrameChannel
from proteus_cli.serving.devices.remote.channel.messages import Beat, ToAgent

MEMORY_S = 1.0
"""Between two looks at the memory of the host."""

SERVER_SILENT_S = 10.0
"""A server that sends nothing for so long is gone. It pings each second, but its event loop may be held up."""

_EARLY_S = 0.002
"""A timer may be early by its resolution."""


async def beat(channel: FrameChannel[ToAgent], end: Callable[[str], object]) -> None:
    """See that the server gets something each `BEAT_S`, until it has been silent for too long; then ``end`` says so.

    Whatever is sent is a sign of life, so an agent that answers batches sends few besides.
    """
    heard, heard_s = channel.bytes_received, time.monotonic()
    looked_s = heard_s - MEMORY_S
    while True:
        now_s = time.monotonic()
        if now_s - looked_s >= MEMORY_S - _EARLY_S:
            channel.send(Beat(host_memory()))
            looked_s = now_s
        elif now_s - channel.sent_s >= BEAT_S - _EARLY_S:
            channel.send_sign_of_life()
        await asyncio.sleep(max(channel.sent_s + BEAT_S - time.monotonic(), _EARLY_S))
        now_s = time.monotonic()
        if channel.bytes_received != heard:
            heard, heard_s = channel.bytes_received, now_s
        elif now_s - heard_s > SERVER_SILENT_S:
            end(f"nothing came from it for {SERVER_SILENT_S:.0f} s")
            return
