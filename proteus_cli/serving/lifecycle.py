"""The states of the server as a transition table, and the tasks that run while it does."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any, TypeVar

from proteus_cli.errors import NotReady

log = logging.getLogger("proteus.server")

ResultT = TypeVar("ResultT")


class ServerState(StrEnum):
    """Whether the server takes requests: only while it is ready."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    GONE = "gone"


class LifecycleEvent(StrEnum):
    """What moves the server from one state to another."""

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
    """The state, which changes along `TRANSITIONS`. An event that a state does not know is a bug: `KeyError`.

    ``is_ready``: requests are taken. It is a flag, as looking up enum members is slow and each request asks.
    """

    def __init__(self) -> None:
        self.state, self.is_ready = ServerState.STARTING, False

    def on(self, event: LifecycleEvent) -> None:
        """Move along `TRANSITIONS`."""
        self.state = TRANSITIONS[self.state][event]
        self.is_ready = self.state is ServerState.READY

    def require_ready(self) -> None:
        """Raise `NotReady` unless requests are taken."""
        if not self.is_ready:
            raise NotReady(f"the server is {self.state}")


class StoppedEarly(Exception):
    """The server was told to stop before it was ready."""


async def run_unless(stop: asyncio.Event, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """The result of ``work``, unless ``stop`` is set before it is done: then cancel it and raise `StoppedEarly`."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise StoppedEarly
        return await working
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def in_thread(work: Callable[..., ResultT], *given: object) -> ResultT:
    """The result of ``work`` in a thread. Cancelled, it ends after that has ended."""
    working = asyncio.ensure_future(asyncio.to_thread(work, *given))
    try:
        return await asyncio.shield(working)
    finally:
        await asyncio.wait([working])


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run ``work`` as a task until the context is left. An exception in it is logged as a bug."""
    task = asyncio.create_task(work)
    task.add_done_callback(_log_bug)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _log_bug(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("a bug has ended %s", task.get_coro(), exc_info=task.exception())
