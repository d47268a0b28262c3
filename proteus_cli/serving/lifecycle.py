"""The states of the server as a transition table, its signals, and the tasks that run meanwhile.

SIGTERM and SIGINT stop the server, SIGHUP has it read its files again.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ParamSpec, TypeVar

from proteus_cli.errors import NotReady

log = logging.getLogger("proteus.server")

Arguments = ParamSpec("Arguments")
ResultT = TypeVar("ResultT")

RETRY_S, MAX_RETRY_S = 1.0, 60.0
"""The pause after the first unexpected error of a background task; it doubles up to the second value."""

INTERRUPTED = 130
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class ServerState(StrEnum):
    """Whether the server takes requests: only while it is ready."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    GONE = "gone"


class LifecycleEvent(StrEnum):
    """An event that moves the server from one state to another."""

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


@dataclass(slots=True)
class TaskErrors:
    """Unexpected errors of a background task: how many since the start, and the last one (unix time)."""

    total: int = 0
    last: str = ""
    last_unix_s: float = 0.0


task_errors: dict[str, TaskErrors] = {}
"""The errors of background tasks of this process, by the name of the task's function."""


def count_bug(task: str, error: BaseException) -> str:
    """Log an unexpected error of a background task, and count it in `task_errors`; returns what others are told."""
    errors = task_errors.setdefault(task, TaskErrors())
    errors.total, errors.last, errors.last_unix_s = errors.total + 1, repr(error), time.time()
    log.error("a bug in %s", task, exc_info=error)
    return "a bug; the log has its traceback"


@asynccontextmanager
async def running(
    work: Callable[Arguments, Coroutine[Any, Any, None]], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> AsyncIterator[None]:
    """Run ``work`` as a task until the context is left.

    It is `supervised`.
    """
    task = asyncio.create_task(supervised(work, *args, **kwargs))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def supervised(
    work: Callable[Arguments, Coroutine[Any, Any, None]], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> None:
    """Run ``work`` until it ends without an exception.

    An exception in it is a bug: `count_bug` logs and counts it, and ``work`` is called again after a pause.
    """
    name = work.__qualname__
    task_errors.setdefault(name, TaskErrors())
    loop, retry_s = asyncio.get_running_loop(), RETRY_S
    while True:
        start_s = loop.time()
        try:
            await work(*args, **kwargs)
        except Exception as error:  # noqa: BLE001
            if loop.time() - start_s > MAX_RETRY_S:
                retry_s = RETRY_S
            count_bug(name, error)
            log.info("%s starts again in %g s", name, retry_s)
            await asyncio.sleep(retry_s)
            retry_s = min(2.0 * retry_s, MAX_RETRY_S)
        else:
            return


@contextmanager
def stopping_on_signals(stop: asyncio.Event) -> Iterator[None]:
    """The first stop signal sets ``stop``; a second one ends the process at once."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(INTERRUPTED)
        stop.set()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)


@contextmanager
def reloading_on_hangup(reload: Callable[[], None]) -> Iterator[None]:
    """SIGHUP calls ``reload``. Afterwards it is ignored: while the server drains, a new plan comes too late."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
