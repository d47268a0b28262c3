"""A request may have its answer before its batch is done: it ends then, once, and the batch counts once."""

import asyncio

import numpy as np
from builders import requests_waiting
from one_device import FLOAT, World, outputs, run
from two_stages import UNSURE, TwoStages
from two_stages import run as run_cascade

from proteus_cli.domain.request import Outcome
from proteus_cli.errors import DeviceLost, EngineError
from proteus_cli.serving.devices.executor import BatchResult
from proteus_cli.serving.requests.in_flight import Answered, Result


def leave(world: World | TwoStages, parts: tuple[int, ...], *rows: tuple[float, float], device: str = "cpu0") -> None:
    """These parts leave the batch that runs on a device, with those outputs."""
    ((launch, started_s),) = world.plane.fleet.workers[device].running.values()
    world.plane.results.left(launch, started_s, parts, BatchResult((np.array(rows, FLOAT),), 0.0005))


async def two_run(world: World) -> None:
    """Two requests, of one row and of two, in a batch."""
    world.submit(0, 0)
    await asyncio.sleep(0.001)
    world.submit(1, 2)
    world.submit(3, 4, 5, 6)
    world.executor.release()
    await asyncio.sleep(0.001)
    assert [batch.rows for batch, _ in world.executor.held] == [3]
    world.results.clear()


def test_each_request_ends_once_and_the_batch_counts_once() -> None:
    async def leaving(world: World) -> None:
        await two_run(world)
        leave(world, (1,), (30.0, 40.0), (50.0, 60.0))
        assert [outputs(result) for result in world.results] == [[30, 40, 50, 60]]
        counts = world.plane.counts.by_family["f"]
        assert (counts.answered_rows, sum(counts.latency.counts), counts.rows) == (1, 2, 3)
        world.executor.release()
        assert [outputs(result) for result in world.results] == [[30, 40, 50, 60], [2, 4]]
        assert (counts.answered_rows, sum(counts.latency.counts), counts.rows) == (4, 3, 4)
        assert world.counted == {Outcome.SERVED: 3}

    run(leaving)


def test_where_the_rest_of_the_batch_fails_only_that_fails() -> None:
    async def failing(world: World) -> None:
        await two_run(world)
        leave(world, (0,), (10.0, 20.0))
        world.executor.release(EngineError("it fails"))
        assert world.counted == {Outcome.SERVED: 2, Outcome.FAILED: 1}
        assert len(world.results) == 2

    run(failing)


def test_what_has_left_a_batch_whose_device_is_lost_does_not_wait_again() -> None:
    async def losing(world: World) -> None:
        await two_run(world)
        leave(world, (0,), (10.0, 20.0))
        world.executor.release(DeviceLost("it is lost"))
        assert requests_waiting(world.plane.controller) == 1
        await asyncio.sleep(0.2)
        assert world.counted == {Outcome.SERVED: 2, Outcome.DROPPED: 1}

    run(losing)


def test_what_leaves_the_first_stage_of_a_cascade_is_deferred_once() -> None:
    """Its batch ends while the second stage runs."""

    async def deferred(world: TwoStages) -> None:
        world.submit(UNSURE)
        await asyncio.sleep(0.005)
        leave(world, (0,), UNSURE)
        await asyncio.sleep(0.001)
        assert [batch.rows for batch, _ in world.second.held] == [1]
        world.first.release()
        await asyncio.sleep(0.001)
        assert requests_waiting(world.plane.controller) == 0, "no second time"
        assert world.results == []
        world.second.release()
        assert world.answer[2].stages == 2
        assert world.counted == ({("cpu1", "served"): 1}, 1, 0)

    run_cascade(deferred)


def test_what_leaves_a_batch_of_a_second_stage_has_its_answer_once() -> None:
    """So do the requests of a half that succeeds, where such a batch fails as a whole."""

    async def leaving(world: TwoStages) -> None:
        ended: list[Result] = []
        world.results = ended
        world.submit(UNSURE)
        world.submit(UNSURE)
        await asyncio.sleep(0.01)
        world.first.release()
        await asyncio.sleep(0.001)
        assert [batch.rows for batch, _ in world.second.held] == [2]
        leave(world, (0,), (50.0, 90.0), device="cpu1")
        assert [isinstance(result, Answered) for result in ended] == [True]
        world.second.release()
        assert [isinstance(result, Answered) for result in ended] == [True, True]
        assert world.counted == ({("cpu1", "served"): 2}, 2, 0)
        world.results = []

    run_cascade(leaving)
