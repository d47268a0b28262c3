"""Models that are long on their way to devices, in virtual time: nothing that serves waits for them, or is lost."""

import asyncio
from pathlib import Path

import pytest
from failing import LOAD_S, LOOK_S, FailingExecutor, World, answers, played

from proteus_cli.control.devices.breaker import BreakerState
from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import EngineError
from proteus_cli.serving.devices.executor import settle
from proteus_cli.serving.fleet.loading import LIMIT_MULTIPLE, UNHURRIED_S

SENT_S = 10 * (UNHURRIED_S + LIMIT_MULTIPLE * LOAD_S)
"""Longer than any load may take."""

ONE, OTHER = {"cpu0": "good"}, {"cpu0": "fast"}
TOO_LITTLE_FOR_TWO = 700
PLANNED_S = 1.0
"""Another plan is made by then."""


@pytest.fixture
def slow_network(monkeypatch: pytest.MonkeyPatch) -> None:
    async def send_ahead(executor: FailingExecutor, _model: Path) -> None:
        sent: asyncio.Future[None] = executor._loop.create_future()
        executor._loop.call_later(SENT_S, settle, sent, None)
        await executor._until_loaded(sent)

    monkeypatch.setattr(FailingExecutor, "send_ahead", send_ahead)


@pytest.mark.usefixtures("slow_network")
@pytest.mark.parametrize("memory_bytes", [0, TOO_LITTLE_FOR_TWO])
def test_a_plan_waits_for_its_models_and_the_one_before_serves(memory_bytes: int) -> None:
    """Also where the device has no room for the engines of both plans."""

    async def change(world: World) -> None:
        changing = asyncio.create_task(world.fleet.deploy(world.plan_of(OTHER)))
        asked = await world.ask(1.0, SENT_S / 2)
        assert not changing.done()
        assert answers(world) == ["cpu0"] * asked
        await changing
        assert world.hosts == {"cpu0": {"fast"}}
        assert not world.fleet.breakers["cpu0"].opened
        assert world.fleet.loader.load_times_s("cpu0")[VariantKey("f", "fast")] == pytest.approx(LOAD_S)
        assert world.counted == {Outcome.SERVED: asked}

    played(change, ONE, devices=("cpu0",), replans=False, memory_bytes=memory_bytes)


@pytest.mark.usefixtures("slow_network")
def test_a_device_that_comes_back_waits_for_its_models_and_plans_may_change_meanwhile() -> None:
    async def come_back(world: World) -> None:
        world.executor("cpu1").die()
        while world.state("cpu1") is not BreakerState.HALF_OPEN:
            await asyncio.sleep(LOAD_S)
        assert not world.fleet.is_changing
        while world.state("cpu1") is BreakerState.HALF_OPEN:
            await asyncio.sleep(LOAD_S)
        assert world.hosts == {"cpu0": {"good"}, "cpu1": {"good"}}
        assert world.fleet.breakers["cpu1"].opened == 1

    played(come_back, {"cpu0": "good", "cpu1": "good"}, replans=False)


@pytest.mark.usefixtures("slow_network")
def test_a_plan_that_waits_for_its_models_is_dropped_once_a_device_is_lost_that_it_counts_on() -> None:
    async def lose_another(world: World) -> None:
        asking = asyncio.create_task(world.ask(300.0, SENT_S / 20))
        while not world.fleet.is_changing:
            await asyncio.sleep(LOOK_S)
        (lost,) = (device for device in ("cpu0", "cpu1") if not world.executor(device)._loading)
        world.executor(lost).die()
        await asyncio.sleep(PLANNED_S)
        assert [list(outages.devices) for outages in world.asked][:2] == [[], [lost]]
        assert world.fleet.is_changing, "the plan without it waits for its models, too"
        await asking
        while world.fleet.is_changing:
            await asyncio.sleep(LOOK_S)
        assert {"fast"} in world.hosts.values()

    played(lose_another, {"cpu0": "good", "cpu1": "good"})


def test_a_model_that_cannot_be_sent_fails_in_its_load(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_executor: FailingExecutor, _model: Path) -> None:
        raise EngineError("there is no room for it")

    async def change(world: World) -> None:
        monkeypatch.setattr(FailingExecutor, "send_ahead", refuse)
        with pytest.raises(EngineError, match="no room"):
            await world.fleet.deploy(world.plan_of(OTHER))
        assert world.hosts == {"cpu0": {"good"}}

    played(change, ONE, devices=("cpu0",), replans=False)
