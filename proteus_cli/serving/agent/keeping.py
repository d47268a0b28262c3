"""An agent that another process keeps ends some time after that."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from proteus_cli.serving.lifecycle import running

ALONE_S = 10.0
"""Seconds that an agent without a keeper waits for a server: longer than the pause of a server before it connects
again."""

_LOOK_S = 0.5

log = logging.getLogger("proteus.agent")


@asynccontextmanager
async def ends_with(
    keeper: int | None, stop: asyncio.Event, *, is_serving: Callable[[], bool], alone_s: float = ALONE_S
) -> AsyncIterator[None]:
    """Set ``stop`` once the process ``keeper`` has ended and no server has been there for ``alone_s``.

    An agent that serves outlives its keeper: what keeps agents is not needed to serve.
    """
    if keeper is None:
        yield
        return
    async with running(_stop_after, keeper, stop, is_serving, alone_s):
        yield


async def _stop_after(keeper: int, stop: asyncio.Event, is_serving: Callable[[], bool], alone_s: float) -> None:
    await _ended(keeper)
    log.warning("the process that keeps this agent has ended; the agent ends once it serves nobody")
    loop = asyncio.get_running_loop()
    alone_since_s = loop.time()
    while loop.time() - alone_since_s < alone_s:
        await asyncio.sleep(min(_LOOK_S, alone_s))
        if is_serving():
            alone_since_s = loop.time()
    stop.set()


async def _ended(pid: int) -> None:
    """Wait for the end of a process, which need not be a child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop, has_ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, has_ended.set)
    try:
        await has_ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
