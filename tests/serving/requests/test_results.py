"""Every request ends exactly once, by its deadline, whatever becomes of its batch and its client."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import msgspec
import numpy as np
import pytest
from one_device import AT_ONCE_S, FLOAT, SLO_S, World, outputs, run

from proteus_cli.domain.cluster import Network
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import BadRequest, DeadlineExceeded, EngineError, EngineFailed, Overloaded
from proteus_cli.serving.devices.executor import BatchResult
from proteus_cli.serving.requests.in_flight import Answered, Result
from proteus_cli.serving.requests.query import Query, RequestOptions

if TYPE_CHECKING:
    from proteus_cli.control.devices.slowness import Drift


def test_requests_that_arrive_together_share_a_batch_and_get_their_own_rows() -> None:
    async def together(world: World) -> None:
        world.submit(1, 2)
        world.submit(3, 4, 5, 6)
        assert world.results == []  # never before `submit` returns
        await asyncio.sleep(0.01)
        assert world.executor.runs == [3]
        assert [outputs(result) for result in world.results] == [[2, 4], [6, 8, 10, 12]]
        assert world.counted == {Outcome.SERVED: 2}

    run(together, AT_ONCE_S)


def test_a_request_whose_deadline_passes_while_its_batch_runs_is_late() -> None:
    """The client is told at its deadline; the batch may end when it likes, and counts nothing any more."""

    async def late(world: World) -> None:
        world.submit(1, 2)
        await asyncio.sleep(SLO_S + 0.05)
        (result,) = world.results
        assert isinstance(result, DeadlineExceeded)
        assert result.is_late
        world.executor.release()
        await asyncio.sleep(0.01)
        assert world.counted == {Outcome.LATE: 1}

    run(late)


def test_a_request_whose_deadline_passes_in_the_queue_is_dropped() -> None:
    async def dropped(world: World) -> None:
        world.submit(1, 2, options=RequestOptions(timeout_s=60.0))
        await asyncio.sleep(0.01)
        world.submit(3, 4)  # the one worker is busy until it is released
        await asyncio.sleep(SLO_S + 0.05)
        (result,) = world.results
        assert isinstance(result, DeadlineExceeded)
        assert not result.is_late
        world.executor.release()
        await asyncio.sleep(0.05)
        assert world.executor.held == []  # it is not run any more
        assert world.counted == {Outcome.SERVED: 1, Outcome.DROPPED: 1}

    run(dropped)


@pytest.mark.parametrize(("is_emulated", "took_s"), [(False, 0.014), (True, 0.010)])
def test_profiles_of_hosts_drift_by_what_a_batch_takes_with_its_way(*, is_emulated: bool, took_s: float) -> None:
    """The device computes for 10 ms, and the network takes 4 ms; an emulated device takes both."""
    seen: list[float] = []

    async def far(world: World) -> None:
        world.submit(1, 2)
        await asyncio.sleep(0.001)
        ((launch, started_s),) = world.plane.fleet.workers["cpu0"].running.values()
        results = world.plane.results
        results._drift = cast("Drift", SimpleNamespace(record_run=lambda *_, took_s, **_rest: seen.append(took_s)))
        results._is_emulated = is_emulated
        there = msgspec.structs.replace(launch, hosted=replace(launch.hosted, network=Network(0.004, 1e6, {})))
        results.answered(there, started_s, BatchResult((np.array([[2, 4]], FLOAT),), 0.010))
        world.executor.release()

    run(far)
    assert seen[0] == pytest.approx(took_s)


def test_a_timeout_of_a_request_replaces_the_slo() -> None:
    async def short(world: World) -> None:
        world.submit(1, 2, options=RequestOptions(timeout_s=0.02))
        await asyncio.sleep(0.05)
        (result,) = world.results
        assert isinstance(result, DeadlineExceeded)
        world.executor.release()

    run(short)


def test_a_queued_request_whose_client_goes_is_dropped_without_a_result() -> None:
    async def gone(world: World) -> None:
        world.submit(1, 2, options=RequestOptions(timeout_s=60.0))
        await asyncio.sleep(0.01)
        waiting = world.submit(3, 4, options=RequestOptions(timeout_s=60.0))
        world.plane.admission.cancel(waiting)
        world.plane.admission.cancel(waiting)
        world.executor.release()
        await asyncio.sleep(0.05)
        assert [outputs(result) for result in world.results] == [[2, 4]]
        assert world.executor.held == []
        assert world.executor.runs == [1]
        assert world.counted == {Outcome.SERVED: 1, Outcome.DROPPED: 1}

    run(gone)


def test_a_running_request_whose_client_goes_is_dropped_without_a_result() -> None:
    async def gone(world: World) -> None:
        running = world.submit(1, 2)
        await asyncio.sleep(0.01)
        world.plane.admission.cancel(running)
        world.executor.release()
        world.plane.admission.cancel(running)
        assert world.results == []
        assert world.counted == {Outcome.DROPPED: 1}

    run(gone)


def test_a_batch_that_fails_fails_its_requests_and_the_next_batch_runs() -> None:
    async def failing(world: World) -> None:
        world.submit(1, 2)
        world.submit(3, 4)
        await asyncio.sleep(0.01)
        world.executor.release(EngineError("it broke"))
        assert [type(result) for result in world.results] == [EngineFailed, EngineFailed]
        world.submit(5, 6)
        await asyncio.sleep(0.01)
        world.executor.release()
        assert outputs(world.results[2]) == [10, 12]
        assert world.counted == {Outcome.FAILED: 2, Outcome.SERVED: 1}

    run(failing)


def test_a_request_that_fails_alone_leaves_the_rest_of_its_batch_served() -> None:
    async def poisoned(world: World) -> None:
        for value in (1, 2, 3):
            world.submit(value, value)
        await asyncio.sleep(0.01)
        batch, _ = world.executor.held[0]
        good = world.executor.run(batch)
        world.executor.release(BatchResult(good.outputs, 0.001, {1: EngineError("poison")}))
        assert [type(result) for result in world.results if not isinstance(result, Answered)] == [EngineFailed]
        assert [outputs(result) for result in world.results if isinstance(result, Answered)] == [[2, 2], [6, 6]]
        assert world.counted == {Outcome.SERVED: 2, Outcome.FAILED: 1}

    run(poisoned)


def test_nan_passes_through_unless_the_server_refuses_it() -> None:
    async def passes(world: World) -> None:
        world.submit(float("nan"), 1)
        await asyncio.sleep(0.01)
        assert np.isnan(outputs(world.results[0])[0])

    async def is_refused(world: World) -> None:
        for value in (float("nan"), float("inf"), -float("inf")):
            with pytest.raises(BadRequest, match="NaN or infinity"):
                world.submit(value, 1)
        world.submit(3e38, 1)  # twice that is infinity
        world.submit(1, 2)
        await asyncio.sleep(0.01)
        assert [type(result) for result in world.results if not isinstance(result, Answered)] == [EngineFailed]
        assert [outputs(result) for result in world.results if isinstance(result, Answered)] == [[2, 4]]

    run(passes, AT_ONCE_S)
    run(is_refused, AT_ONCE_S, refuses_non_finite=True)


def test_too_many_rows_and_too_many_requests_are_refused_at_admission() -> None:
    async def refused(world: World) -> None:
        with pytest.raises(BadRequest, match="at most 8 rows"):
            world.submit(*range(18))
        admitted = 0
        while world.counted.get(Outcome.REJECTED, 0) == 0:
            try:
                world.submit(1, 2)
                admitted += 1
            except Overloaded:
                continue
        await asyncio.sleep(SLO_S + 0.05)
        assert len(world.results) == admitted
        world.executor.release()

    run(refused)


def test_a_bug_in_a_front_end_leaves_the_results_of_other_requests(caplog: pytest.LogCaptureFixture) -> None:
    """Neither those of its batch, nor those whose time is over in the same round."""

    def broken(result: Result) -> None:
        raise RuntimeError("a bug of ours")

    async def answering(world: World) -> None:
        content = np.array([9, 9], FLOAT).tobytes()
        for timeout_s in (60.0, 0.5):
            options = RequestOptions(timeout_s=timeout_s)
            world.plane.admission.submit(Query("f", 1, ((0, False),), options), lambda: (content,), broken)
            world.submit(1, 2, options=options)
            await asyncio.sleep(0.01)
        world.executor.release()  # the first two
        assert [outputs(result) for result in world.results] == [[2, 4]]
        while len(world.results) < 2:
            await asyncio.sleep(0.01)
        assert caplog.text.count("a bug in a front end") == 2
        world.executor.release()

    run(answering)
