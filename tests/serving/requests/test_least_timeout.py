"""Who asks for an answer sooner than any variant gives one is told what time it would need."""

import asyncio

import pytest
from one_device import SLOW_S, World, run

from proteus_cli.errors import DeadlineExceeded
from proteus_cli.serving.requests.in_flight import Answered
from proteus_cli.serving.requests.query import RequestOptions

NEEDS = "no variant that is loaded could answer by the deadline: even an idle device needs 10.21 ms"
"""A row takes 10 ms, and 2 % of the time are for the answer."""


async def ended(world: World, timeout_s: float) -> object:
    world.submit(1, 2, options=RequestOptions(timeout_s=timeout_s))
    await asyncio.sleep(0.001)
    while world.executor.held:
        world.executor.release()
    await asyncio.sleep(0.1)
    return world.results[-1]


@pytest.mark.parametrize("timeout_s", [0.0001, 0.0102])
def test_a_deadline_that_nothing_keeps_is_refused_with_the_least_that_is_kept(timeout_s: float) -> None:
    async def too_short(world: World) -> None:
        result = await ended(world, timeout_s)
        assert isinstance(result, DeadlineExceeded)
        assert (result.message, result.is_late) == (NEEDS, False)

    run(too_short, SLOW_S)


def test_that_time_will_do() -> None:
    async def enough(world: World) -> None:
        assert isinstance(await ended(world, 0.01021), Answered)

    run(enough, SLOW_S)


def test_a_request_that_waited_too_long_had_time_enough() -> None:
    async def waited(world: World) -> None:
        world.submit(1, 2)
        await asyncio.sleep(0)
        result = await asyncio.wait_for(_behind(world), 1.0)
        assert isinstance(result, DeadlineExceeded)
        assert result.message == "no variant that is loaded could answer by the deadline"
        world.executor.release()

    run(waited, SLOW_S)


async def _behind(world: World) -> object:
    """What becomes of a request that waits until its deadline, as a batch hangs."""
    world.submit(1, 2, options=RequestOptions(timeout_s=0.05))
    while not world.results:
        await asyncio.sleep(0.001)
    return world.results[0]
