"""Models that are long on their way to devices, in virtual time: nothing that serves waits for them, or is lost."""

import asyncio
from pathlib import Path

import pytest
from failing import LOAD_S, FailingExecutor, World, answers, played

from proteus_cli.control.devices.breaker import BreakerState
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import EngineError, ModelOnItsWay
from proteus_cli.serving.devices.executor import settle
from proteus_cli.serving.fleet.loading import HURRIED_S, LIMIT_MULTIPLE, UNHURRIED_S

SENT_S = 10 * (UNHURRIED_S + LIMIT_MULTIPLE * LOAD_S)
"""Longer than any load may take."""

SOON_S = HURRIED_S / 2
"""Longer than a load, and soon enough for the next plan."""

ONE, OTHER = {"cpu0": "good"}, {"cpu0": "fast"}
TOO_LITTLE_FOR_TWO = 700
FAST = VariantKey("f", "fast")


def sent_in(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on models come to devices after that time; what has come is there."""
    began = asyncio.get_running_loop().time()

    async def send_ahead(executor: FailingExecutor, _model: Path) -> None:
        sent: asyncio.Future[None] = executor._loop.create_future()
        executor._loop.call_at(max(began + seconds, executor._loop.time()), settle, sent, None)
        await executor._until_loaded(sent)

    monkeypatch.setattr(FailingExecutor, "send_ahead", send_ahead)


@pytest.mark.parametrize("memory_bytes", [0, TOO_LITTLE_FOR_TWO])
def test_a_plan_waits_for_its_models_and_the_one_before_serves(
    memory_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the device has no room for the engines of both plans."""

    async def change(world: World) -> None:
        sent_in(SOON_S, monkeypatch)
        changing = asyncio.create_task(world.fleet.deploy(world.plan_of(OTHER)))
        asked = await world.ask(10.0, 0.8 * SOON_S)
        assert not changing.done()
        assert answers(world) == ["cpu0"] * asked
        await changing
        assert world.hosts == {"cpu0": {"fast"}}
        assert world.fleet.loader.load_times_s("cpu0")[FAST] == pytest.approx(LOAD_S), "the wait counts for no load"
        assert world.counted == {Outcome.SERVED: asked}

    played(change, ONE, devices=("cpu0",), replans=False, memory_bytes=memory_bytes)


@pytest.mark.parametrize("memory_bytes", [0, TOO_LITTLE_FOR_TWO])
def test_a_plan_whose_model_comes_too_late_is_given_up_and_costs_no_device(
    memory_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plans do without that engine for a while. Once the model is there, it is loaded."""

    async def change(world: World) -> None:
        sent_in(SENT_S, monkeypatch)
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(ModelOnItsWay, match="the model of fast is still on its way to cpu0"):
            await world.fleet.deploy(world.plan_of(OTHER))
        assert asyncio.get_running_loop().time() - began_s == pytest.approx(HURRIED_S + LIMIT_MULTIPLE * LOAD_S)
        assert world.hosts == {"cpu0": {"good"}}
        assert not world.fleet.breakers["cpu0"].opened
        assert list(world.fleet.broken_engines.breakers) == [("cpu0", FAST)]
        await asyncio.sleep(SENT_S)
        await world.fleet.deploy(world.plan_of(OTHER))
        assert world.hosts == {"cpu0": {"fast"}}

    played(change, ONE, devices=("cpu0",), replans=False, memory_bytes=memory_bytes)


def test_a_device_that_comes_back_is_tried_again_until_its_model_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async def come_back(world: World) -> None:
        sent_in(SENT_S, monkeypatch)
        world.executor("cpu1").die()
        await asyncio.sleep(SENT_S / 2)
        assert world.state("cpu1") is not BreakerState.CLOSED
        await asyncio.sleep(SENT_S)
        assert world.state("cpu1") is BreakerState.CLOSED
        assert world.hosts == {"cpu0": {"good"}, "cpu1": {"good"}}

    played(come_back, {"cpu0": "good", "cpu1": "good"}, replans=False)


def test_a_model_that_cannot_be_sent_fails_before_anything_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_executor: FailingExecutor, _model: Path) -> None:
        raise EngineError("there is no room for it")

    async def change(world: World) -> None:
        monkeypatch.setattr(FailingExecutor, "send_ahead", refuse)
        loaded_s = world.fleet.loader.load_times_s("cpu0")
        with pytest.raises(EngineError, match="no room"):
            await world.fleet.deploy(world.plan_of(OTHER))
        assert world.hosts == {"cpu0": {"good"}}
        assert world.fleet.loader.load_times_s("cpu0") == loaded_s

    played(change, ONE, devices=("cpu0",), replans=False, memory_bytes=TOO_LITTLE_FOR_TWO)
