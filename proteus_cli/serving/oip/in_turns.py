"""Work that takes long, in turns of some milliseconds, between which others are served."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from proteus_cli.serving.requests.query import InTurns, Result
from proteus_cli.serving.transport.turns import Turns

_tasks: set[asyncio.Task[None]] = set()  # the loop holds only weak references


def start(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.ensure_future(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task


async def result_of(work: InTurns[Result], turns: Turns, check: Callable[[], None] = lambda: None) -> Result:
    """The result of the work, each part of which waits for its turn. Raises what it raises, or ``check`` in between."""
    while True:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        turns.wait(partial(_begin, turn))
        await turn
        check()
        try:
            next(work.steps)
        except StopIteration as ended:
            result: Result = ended.value
            return result


def _begin(turn: "asyncio.Future[None]") -> None:
    if not turn.cancelled():
        turn.set_result(None)
