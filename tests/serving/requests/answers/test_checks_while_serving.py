"""Sure answers that are checked: by an idle device alone, after they have gone out, and at no request's cost."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from one_device import FLOAT
from two_stages import CASCADE, SURE, UNSURE, TwoStages, plan_of, run

from proteus_cli.control.devices.breaker import BreakerEvent
from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.domain.plan.plan import Placement
from proteus_cli.domain.request import Bounds
from proteus_cli.domain.stages.cascade import SureRows
from proteus_cli.errors import EngineError
from proteus_cli.serving.devices.executor import BatchResult
from proteus_cli.serving.lifecycle import LifecycleEvent
from proteus_cli.serving.requests.in_flight import Answered
from proteus_cli.serving.requests.query import DEFAULT_OPTIONS, RequestOptions

KNOWN = replace(CASCADE, point=replace(CASCADE.point, sure_rows=SureRows(100, 3)))
SECOND = Placement("cpu1", "f", "l", 8, 0.0, 0.0, 400.0, deferred_qps=5.0)
PLAN = plan_of(SECOND, cascades=(KNOWN,))


def checking(test: Callable[[TwoStages], Awaitable[None]], *, nth: int = 1, **options: Any) -> None:
    """As `run`, with every ``nth`` sure answer to be checked; nothing of a check is left in the end."""

    async def and_nothing_is_left(world: TwoStages) -> None:
        await test(world)
        await asyncio.sleep(0.001)
        assert checks_of(world).running == {}
        world.results = []

    run(and_nothing_is_left, PLAN, check_nth=nth, **options)


def checks_of(world: TwoStages) -> Any:
    stages: Any = world.plane.results._second_stages
    return stages.checks


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    records = [record for record in caplog.records if record.name == "proteus.dataplane"]
    return [(record.levelname, record.getMessage()) for record in records]


def found(world: TwoStages) -> tuple[int, int]:
    """How many were checked, and disagreed."""
    watches = world.plane.controller.cascades.disagreements.values()
    return sum(watch.checked for watch in watches), sum(watch.disagreed for watch in watches)


@pytest.mark.parametrize(("factor", "disagreed"), [(10, 0), (-10, 1)])
def test_an_idle_device_checks_an_answer_that_has_gone_out(factor: float, disagreed: int) -> None:
    async def idle(world: TwoStages) -> None:
        await world.after_first_stage(SURE)
        (result,) = world.results
        assert isinstance(result, Answered)
        assert found(world) == (0, 0)
        world.second.release()
        assert world.second.inputs == [list(SURE)]
        assert found(world) == (1, disagreed)

    checking(idle, second_factor=factor)


def test_a_check_is_no_request() -> None:
    """No arrival, outcome or batch of the family counts it, and nothing waits for it while the server drains."""

    async def uncounted(world: TwoStages) -> None:
        await world.after_first_stage(SURE)
        counts, demand = world.plane.counts.by_family["f"], world.plane.controller.demand.counts_of("f")
        before = counts.tally(), counts.rows, sum(counts.batch.counts), demand.total
        assert world.plane.results.in_flight_count == 0
        world.second.release()
        assert (counts.tally(), counts.rows, sum(counts.batch.counts), demand.total) == before
        assert world.counted == ({("cpu0", "served"): 1}, 0, 0)

    checking(uncounted)


def test_of_several_rows_the_first_is_checked() -> None:
    async def rows(world: TwoStages) -> None:
        await world.after_first_stage((1.0, 7.0), SURE, SURE)
        world.second.release()
        assert world.second.inputs == [[1.0, 7.0]]
        assert found(world) == (1, 0)

    checking(rows)


def test_only_every_nth_sure_answer_is() -> None:
    async def counted(world: TwoStages) -> None:
        for _ in range(10):
            await world.after_first_stage(SURE)
            while world.second.held:
                world.second.release()
        assert found(world) == (3, 0)

    checking(counted, nth=3)


def test_answers_that_may_not_be_checked_take_no_turn() -> None:
    """Every second answer is of a request that limits its energy: of the others, every second one is checked."""

    async def counted(world: TwoStages) -> None:
        for place in range(12):
            bounds = Bounds(max_energy_j=1.0) if place % 2 else None
            await world.after_first_stage(SURE, options=RequestOptions(bounds=bounds))
            while world.second.held:
                world.second.release()
        assert found(world) == (3, 0)

    checking(counted, nth=2)


def test_a_turn_that_comes_while_a_check_runs_is_that_of_the_next_answer() -> None:
    async def counted(world: TwoStages) -> None:
        for _ in range(4):
            await world.after_first_stage(SURE)  # the check of the second runs on
        assert len(world.second.held) == 1
        world.second.release()
        await world.after_first_stage(SURE)
        assert len(world.second.held) == 1
        world.second.release()
        assert found(world) == (2, 0)

    checking(counted, nth=2)


def test_of_a_variant_that_is_gone_no_count_is_kept() -> None:
    """Another of its name comes, and begins anew."""

    async def gone(world: TwoStages) -> None:
        await world.after_first_stage(SURE)
        world.plane.forget_variants({VariantKey("f", "s")})
        await world.plane.fleet.deploy(PLAN)
        await world.after_first_stage(SURE)
        assert world.second.held == []
        await world.after_first_stage(SURE)
        assert len(world.second.held) == 1
        world.second.release()

    checking(gone, nth=2)


def test_what_is_deferred_is_not() -> None:
    async def deferred(world: TwoStages) -> None:
        await world.after_first_stage(UNSURE, SURE)
        world.second.release()
        await asyncio.sleep(0.001)
        assert world.second.runs == [1]
        assert found(world) == (0, 0)

    checking(deferred)


def test_a_device_that_is_busy_checks_nothing_and_neither_does_one_twice() -> None:
    async def busy(world: TwoStages) -> None:
        await world.after_first_stage(UNSURE)  # runs on the second stage
        await world.after_first_stage(SURE)
        assert len(world.second.held) == 1
        world.second.release()
        await world.after_first_stage(SURE)
        await world.after_first_stage(SURE)  # while the check of the one before runs
        assert len(world.second.held) == 1
        world.second.release()
        await asyncio.sleep(0.001)
        assert world.second.held == []
        assert found(world) == (1, 0)

    checking(busy)


def test_a_request_waits_for_the_batch_of_a_check_and_no_longer() -> None:
    async def waits(world: TwoStages) -> None:
        await world.after_first_stage(SURE)
        await world.after_first_stage(UNSURE)
        assert len(world.second.held) == 1
        world.second.release()
        await asyncio.sleep(0.001)
        assert found(world) == (1, 0)
        world.second.release()
        assert world.counted == ({("cpu0", "served"): 1, ("cpu1", "served"): 1}, 1, 0)

    checking(waits)


def test_a_server_that_drains_starts_no_check() -> None:
    async def draining(world: TwoStages) -> None:
        world.submit(SURE)
        await asyncio.sleep(0.01)
        world.plane.lifecycle.on(LifecycleEvent.STOPPED)
        world.first.release()
        await asyncio.sleep(0.001)
        assert world.second.held == []
        assert len(world.results) == 1

    checking(draining)


def test_a_check_on_a_device_that_is_lost_is_forgotten() -> None:
    async def lost(world: TwoStages) -> None:
        await world.after_first_stage(SURE)
        (_, ends), *_ = world.second.held
        world.plane.fleet.lose("cpu1", BreakerEvent.DIED, "it was killed")
        await asyncio.sleep(0.001)
        assert checks_of(world).running == {}
        ends(BatchResult((np.zeros((1, 2), FLOAT),), 0.001))
        assert found(world) == (0, 0)
        await world.after_first_stage(SURE)
        assert world.second.held == []
        assert world.counted == ({("cpu0", "served"): 2}, 0, 0)

    checking(lost)


def test_a_device_that_is_lost_before_a_check_starts_does_not_get_it() -> None:
    async def lost(world: TwoStages) -> None:
        world.submit(SURE)
        await asyncio.sleep(0.01)
        world.first.release()
        world.plane.fleet.lose("cpu1", BreakerEvent.DIED, "it was killed")
        await asyncio.sleep(0.001)
        assert len(world.results) == 1

    checking(lost)


def test_a_check_that_fails_costs_nobody_anything_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def failing(world: TwoStages) -> None:
        await world.after_first_stage(SURE)
        world.second.release(EngineError("it broke"))
        assert found(world) == (0, 0)
        assert world.counted == ({("cpu0", "served"): 1}, 0, 0)

    checking(failing)
    assert [message for _, message in logged(caplog)] == ["l failed on cpu1: it broke"]


def test_an_answer_that_failed_or_is_no_number_tells_nothing() -> None:
    async def wrong(world: TwoStages) -> None:
        scores = np.zeros((1, 2), FLOAT)
        for result in (
            BatchResult((scores,), 0.001, {0: EngineError("this one")}),
            BatchResult((scores * np.nan,), 0.001),
        ):
            await world.after_first_stage(SURE)
            world.second.release(result)
        assert found(world) == (0, 0)

    checking(wrong)


def test_a_plan_without_the_cascade_lets_a_check_end_and_starts_none() -> None:
    async def replaced(world: TwoStages) -> None:
        await world.after_first_stage(SURE)
        changing = asyncio.ensure_future(world.plane.fleet.deploy(plan_of(SECOND, cascades=())))
        await asyncio.sleep(0.001)
        world.second.release()
        await changing
        assert found(world) == (1, 0)
        assert world.plane.controller.cascades.checks_of("f") == (None, False), "no cascade in use"
        await world.after_first_stage(SURE)
        assert world.second.held == []

    checking(replaced)


@pytest.mark.parametrize("bounds", [Bounds(max_energy_j=1.0), Bounds(min_confidence=1.0)])
def test_who_limits_energy_pays_for_no_check(bounds: Bounds) -> None:
    async def bounded(world: TwoStages) -> None:
        await world.after_first_stage(SURE, options=RequestOptions(bounds=bounds))
        assert len(world.second.held) == (not bounds.is_energy_limited)
        while world.second.held:
            world.second.release()

    checking(bounded)


def test_under_a_live_condition_exits_answer_otherwise_so_nothing_is_checked() -> None:
    async def conditioned(world: TwoStages) -> None:
        world.plane.controller.stop_when["f"] = "confidence >= 0.5"
        await world.after_first_stage(SURE)
        assert world.second.held == []

    checking(conditioned)


def test_where_none_is_to_be_checked_none_is() -> None:
    async def off(world: TwoStages) -> None:
        for _ in range(200):
            await world.after_first_stage(SURE)
        assert world.second.held == []

    checking(off, nth=0)


def test_a_drift_is_told_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    """Of 100 sure rows in the profile 3 differ, which may be 8.5 % of all; at first all answers do, then none."""
    caplog.set_level(logging.INFO, "proteus.dataplane")

    async def drifting(world: TwoStages) -> None:
        for factor, drifts in ((-10, True), (10, False)):
            world.second._factor = np.float32(factor)
            while world.plane.controller.cascades.checks_of("f")[1] != drifts:
                await world.after_first_stage(SURE, options=DEFAULT_OPTIONS)
                world.second.release()

    checking(drifting)
    assert logged(caplog) == [
        ("WARNING", "the confidence of s drifts: l gives another class in more than 8.5 % of its sure answers"),
        ("INFO", "the confidence of s drifts no longer"),
    ]
