"""Work that takes long, in turns of some milliseconds, between which others are served, or in threads."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

from proteus_cli.serving.requests.query import InThreads, InTurns, ResultT, Stepwise
from proteus_cli.serving.transport.turns import Turns

THREADS = 2
"""For the steps of all requests that are not large; those have one thread more, as each takes much memory."""

_tasks: set[asyncio.Task[None]] = set()  # the loop holds only weak references


def start(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run ``work`` as a task, which is kept until it is done; its exceptions are its own."""
    task = asyncio.ensure_future(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task


async def result_of(work: InTurns[ResultT], turns: Turns) -> ResultT:
    """The result of the work, each part of which waits for its turn. Raises what it raises."""
    if isinstance(work, InThreads):
        return await _in_threads(work.steps)
    while True:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        turns.wait(partial(_begin, turn))
        await turn
        try:
            next(work.steps)
        except StopIteration as ended:
            result: ResultT = ended.value
            return result


async def _in_threads(steps: Stepwise[ResultT]) -> ResultT:
    loop, is_large = asyncio.get_running_loop(), False
    while True:
        ended, is_large = await loop.run_in_executor(_threads(is_large), _step, steps)
        if ended:
            return ended[0]


def _step(steps: Stepwise[ResultT]) -> tuple[list[ResultT], bool]:
    """Do a step: the result once there is one, and whether the next is large. (A future can't hold `StopIteration`.)"""
    try:
        return [], bool(next(steps))
    except StopIteration as ended:
        return [ended.value], False


@cache
def _threads(are_large: bool) -> ThreadPoolExecutor:  # noqa: FBT001 - the key of the cache
    return ThreadPoolExecutor(1 if are_large else THREADS, thread_name_prefix="images")


def _begin(turn: "asyncio.Future[None]") -> None:
    if not turn.cancelled():
        turn.set_result(None)
