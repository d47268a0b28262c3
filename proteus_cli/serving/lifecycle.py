"""What state the server is in, as a table; and starting, which may be given up."""

import asyncio
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any

from proteus_cli.errors import NotReady


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    GONE = "gone"


class Event(StrEnum):
    WARMED_UP = "warmed up"
    STOPPED = "stopped"
    EMPTIED = "emptied"


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.STARTING: {Event.WARMED_UP: State.READY, Event.STOPPED: State.GONE},
    State.READY: {Event.STOPPED: State.DRAINING},
    State.DRAINING: {Event.STOPPED: State.GONE, Event.EMPTIED: State.GONE},
    State.GONE: {},
}


class Lifecycle:
    """Moves along `TRANSITIONS`; a move that isn't there is a bug and raises `KeyError`."""

    def __init__(self) -> None:
        self.state = State.STARTING

    def on(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state][event]

    def require_ready(self) -> None:
        """Raise `NotReady` unless requests are taken."""
        if self.state is not State.READY:
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
