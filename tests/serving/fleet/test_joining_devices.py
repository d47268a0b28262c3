"""Devices that join a running server: tried out first, then planned with, and seen like the others."""

import asyncio
import math

from failing import LOAD_S, LOOK_S, SOLVE_S, World, answers, played

from proteus_cli.control.devices.breaker import BreakerState
from proteus_cli.control.topology.standbys import ASK_S
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import NONE_OUT, Outages
from proteus_cli.domain.request import Outcome
from proteus_cli.serving.fleet.recovery import EVERY_S
from proteus_cli.serving.telemetry.telemetry import Sources, Telemetry

BOTH = {"cpu0": "good", "cpu1": "good"}
JOINED_S = LOAD_S + 2 * EVERY_S + 0.1  # opened, loaded, tried out
PLANNED_S = SOLVE_S + LOAD_S + 2 * LOOK_S
RATE_QPS = 250.0  # more than two devices carry with `good`


def test_a_device_that_joins_is_tried_out_then_planned_with_and_answers() -> None:
    async def join(world: World) -> None:
        asking = asyncio.create_task(world.ask(RATE_QPS, 20.0))
        await asyncio.sleep(10.0)
        before = len(answers(world))
        world.join("b/cpu0")
        assert world.state("b/cpu0") is BreakerState.OPEN
        await asyncio.sleep(EVERY_S + LOAD_S / 2)
        assert world.state("b/cpu0") is BreakerState.HALF_OPEN
        assert "b/cpu0" not in world.hosts
        await asyncio.sleep(JOINED_S + PLANNED_S)
        assert world.state("b/cpu0") is BreakerState.CLOSED
        assert world.asked[-1] == NONE_OUT
        assert [change.reason for change in world.adaptation.changes if "joined" in change.reason]
        asked = await asking
        await asyncio.sleep(1.0)
        assert set(answers(world)[before:]) == {"cpu0", "cpu1", "b/cpu0"}
        assert world.hosts == {device: {"good"} for device in ("cpu0", "cpu1", "b/cpu0")}
        assert world.counted[Outcome.SERVED] > 0.98 * asked

    world = played(join, BOTH)
    assert [len(executor.batches) > 1 for executor in world.opened] == [True]


def test_a_device_that_cannot_be_opened_joins_once_it_can() -> None:
    async def join(world: World) -> None:
        world.shut.add("b/cpu0")
        world.join("b/cpu0")
        await asyncio.sleep(5.0)
        breaker = world.fleet.breakers["b/cpu0"]
        assert breaker.state is BreakerState.OPEN
        assert breaker.opened == 0, "it was never lost"
        assert breaker.reason == "it has joined, and was not tried out yet; then: b/cpu0 can't be opened"
        await world.ask(100.0, 2.0)
        assert set(answers(world)) == {"cpu0", "cpu1"}
        world.shut.clear()
        await asyncio.sleep(10.0)
        assert world.state("b/cpu0") is BreakerState.CLOSED

    played(join, BOTH)


def test_a_device_that_has_joined_is_lost_and_comes_back_like_the_others() -> None:
    async def lose(world: World) -> None:
        world.join("b/cpu0")
        asking = asyncio.create_task(world.ask(RATE_QPS, 20.0))
        await asyncio.sleep(10.0)
        world.executor("b/cpu0").die()
        assert world.fleet.breakers["b/cpu0"].opened == 1
        await asyncio.sleep(5.0)
        assert Outages(frozenset({"b/cpu0"})) in world.asked[1:]
        assert world.state("b/cpu0") is BreakerState.CLOSED
        await asking
        await asyncio.sleep(1.0)

    played(lose, BOTH)


def test_a_device_joins_while_a_plan_is_rolled_out() -> None:
    async def join(world: World) -> None:
        deploying = asyncio.create_task(world.fleet.deploy(world.plan_of(dict.fromkeys(BOTH, "fast"))))
        await asyncio.sleep(LOAD_S / 2)
        world.join("b/cpu0")
        changes = await deploying
        assert {change.device for change in changes} == set(BOTH)
        await asyncio.sleep(JOINED_S)
        await world.fleet.deploy(world.plan_of({**BOTH, "b/cpu0": "good"}))
        assert world.hosts == {device: {"good"} for device in ("cpu0", "cpu1", "b/cpu0")}

    played(join, BOTH, replans=False)


def test_variants_stand_by_on_a_device_that_has_joined() -> None:
    async def join(world: World) -> None:
        world.join("b/cpu0")
        await asyncio.sleep(JOINED_S)
        await world.fleet.deploy(world.plan_of({**BOTH, "b/cpu0": "good"}))
        await asyncio.sleep(3 * (LOAD_S + 2 * ASK_S) / 0.1)
        assert world.controller.change.standbys["b/cpu0"] == {VariantKey("f", "fast")}

    played(join, BOTH, resident_bytes=1100, replans=False)


def test_the_page_and_the_terminal_see_a_device_that_joins() -> None:
    async def join(world: World) -> None:
        telemetry = Telemetry(Sources(world.plane, world.adaptation), world.loop.time)
        await asyncio.sleep(1.0)
        telemetry.sample()
        world.join("b/cpu0")
        telemetry.sample()
        await asyncio.sleep(EVERY_S + LOAD_S / 2)
        telemetry.sample()
        await asyncio.sleep(JOINED_S + PLANNED_S)
        await world.ask(RATE_QPS, 2.0)
        telemetry.sample()
        history = telemetry.history()
        first, _, third, last = history.samples.devices["b/cpu0"]["load"]
        assert first is not None
        assert math.isnan(first), "nothing is known of the time before it"
        assert third == 0.0
        assert last is not None
        assert last > 0.0
        of_device = [event.text for event in history.events if event.kind.value == "device"]
        assert of_device == ["b/cpu0 has joined"]
        await asyncio.sleep(1.0)

    played(join, BOTH)
