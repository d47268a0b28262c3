"""An agent's signs of life to a server, and whether that gives any itself."""

import asyncio
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

_EARLY_S = 0.002
"""A timer may be early by its resolution."""


async def beat(channel: FrameChannel[ToAgent], end: Callable[[str], object]) -> None:
    """See that the server gets something each `BEAT_S`, until it has been silent for too long; then ``end`` says so.

    Whatever is sent is a sign of life, so an agent that answers batches sends few besides. Beats are counted from the
    last answer, and a timer that is late moves none that follow: servers ping so that signs of life of many agents
    come together (`devices/remote/sessions/looks.py`).
    """
    heard, heard_s = channel.bytes_received, time.monotonic()
    told_s, sent_s, due_s = heard_s - MEMORY_S, channel.sent_s, heard_s
    while True:
        now_s = time.monotonic()
        has_answered = channel.sent_s != sent_s
        if now_s - told_s >= (MEMORY_S + BEAT_S if has_answered else MEMORY_S) - _EARLY_S:
            channel.send(Beat(host_memory()))
            told_s = now_s
        elif not has_answered:
            channel.send_sign_of_life()
        due_s = channel.sent_s + BEAT_S if has_answered else _next_s(due_s, now_s)
        sent_s = channel.sent_s
        await asyncio.sleep(max(due_s - time.monotonic(), 0.0))
        now_s = time.monotonic()
        if channel.bytes_received != heard:
            heard, heard_s = channel.bytes_received, now_s
        elif now_s - heard_s > SERVER_SILENT_S:
            end(f"nothing came from it for {SERVER_SILENT_S:.0f} s")
            return


def _next_s(due_s: float, now_s: float) -> float:
    """A beat after the last one was due, unless that is over."""
    return due_s + BEAT_S if due_s + BEAT_S > now_s else now_s + BEAT_S
