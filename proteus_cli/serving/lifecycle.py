"""What state the server is in, as a table; and starting, which may be given up."""

import asyncio
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any

from proteus_cli.errors import NotReady


class ServerState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    GONE = "gone"


class LifecycleEvent(StrEnum):
    WARMED_UP = "warmed up"
    STOPPED = "stopped"
    EMPTIED = "emptied"


TRANSITIONS: dict[ServerState, dict[LifecycleEvent, ServerState]] = {
    ServerState.STARTING: {LifecycleEvent.WARMED_UP: ServerState.READY, LifecycleEvent.STOPPED: ServerState.GONE},
    ServerState.READY: {LifecycleEvent.STOPPED: ServerState.DRAINING},
    ServerState.DRAINING: {LifecycleEvent.STOPPED: ServerState.GONE, LifecycleEvent.EMPTIED: ServerState.GONE},
    ServerState.GONE: {},
}


class Lifecycle:
    """Moves along `TRANSITIONS`; a move that isn't there is a bug and raises `KeyError`."""

    def __init__(self) -> None:
        self.state = ServerState.STARTING

    def on(self, event: LifecycleEvent) -> None:
        self.state = TRANSITIONS[self.state][event]

    def require_ready(self) -> None:
        """Raise `NotReady` unless requests are taken."""
        if self.state is not ServerState.READY:
            raise NotReady(f"the server is {self.state}")


class StoppedEarly(Exception):
    """The server was told to stop before it was ready."""


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do some work, unless ``stop`` is set before it is done: then it is cancelled, and `StoppedEarly` raised."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise StoppedEarly
        await working
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
