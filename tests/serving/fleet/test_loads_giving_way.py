"""Loads beside what serves leave the time to batches, in virtual time: unless requests are lost until they are over."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
from builders import make_measured
from failing import LOAD_S, VARIANTS, World, played

from proteus_cli.backends.base import Signature
from proteus_cli.control.topology.standbys import ASK_S
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.serving.fleet.loading import HURRIED_S, LIMIT_MULTIPLE, LOOK_S, SharedLook

GOOD, FAST, BETTER = VariantKey("f", "good"), VariantKey("f", "fast"), VariantKey("f", "better")
ONE, OTHER = {"cpu0": "good"}, {"cpu0": "fast"}
SECOND_S = 1.0  # of demand, before which nobody knows it
NEVER_S = 1e3
FULL_SPEED, GIVING_WAY = False, True


def played_on_busy_cores(
    test: Callable[[World], Awaitable[None]], giving_way_takes_s: float = 2 * LOAD_S, **of_world: Any
) -> None:
    """Loads that give way take so long."""

    async def played_here(world: World) -> None:
        for device in ONE:
            world.executor(device).give_way(giving_way_takes_s)
        await test(world)

    played(played_here, ONE, devices=tuple(ONE), replans=False, **of_world)


def test_a_plan_that_nobody_waits_for_is_loaded_with_the_time_that_batches_leave() -> None:
    async def change(world: World) -> None:
        start_s = world.loop.time()
        await world.fleet.deploy(world.plan_of(OTHER))
        assert world.executor("cpu0").gave_way == [FULL_SPEED, GIVING_WAY]
        assert world.loop.time() == start_s + 2 * LOAD_S

    played_on_busy_cores(change)


def test_a_plan_for_a_demand_that_is_too_much_is_loaded_at_full_speed() -> None:
    async def change(world: World) -> None:
        asking = asyncio.create_task(world.ask(400.0, 3 * SECOND_S))
        await asyncio.sleep(SECOND_S)
        await world.fleet.deploy(world.plan_of(OTHER))
        assert world.executor("cpu0").gave_way == [FULL_SPEED, FULL_SPEED]
        await asking

    played_on_busy_cores(change)


def test_a_load_gives_way_no_longer_once_the_demand_is_too_much() -> None:
    """Also one for a plan that carries less, as the plan that would carry it waits for that."""

    async def change(world: World) -> None:
        changing = asyncio.create_task(world.fleet.deploy(world.plan_of({"cpu0": "better"})))
        await asyncio.sleep(LOOK_S)
        asking = asyncio.create_task(world.ask(400.0, 3 * SECOND_S))
        await asyncio.sleep(SECOND_S + LOOK_S + LOAD_S)
        assert changing.done()
        assert world.executor("cpu0").gave_way == [FULL_SPEED, GIVING_WAY, FULL_SPEED]
        assert world.fleet.loader.loaded("cpu0") == {BETTER}
        await asking
        await asyncio.sleep(SECOND_S)  # which answers the last of the queue

    better = make_measured("f", "better", 0.95, {1: 0.012, 2: 0.024, 4: 0.048}, load_s=LOAD_S, memory_bytes=300)
    played_on_busy_cores(change, NEVER_S, variants=(*VARIANTS, better))


def test_an_engine_is_warmed_up_for_the_largest_request_also_where_the_batches_of_the_plan_are_smaller() -> None:
    async def change(world: World) -> None:
        plan = world.plan_of({"cpu0": "better"})
        assert plan.placements[0].max_batch == 4
        await world.fleet.deploy(plan)
        assert world.executor("cpu0").warm_up_rows[-1] == 8

    better = make_measured("f", "better", 0.95, {1: 0.012, 2: 0.024, 4: 0.048, 8: 0.09}, load_s=LOAD_S)
    played_on_busy_cores(change, variants=(*VARIANTS, better))


def test_loads_that_look_at_the_same_time_ask_once() -> None:
    asked, now_s = list[float](), [0.0]

    def gives_way(at_s: float) -> bool:
        asked.append(at_s)
        return at_s < LOOK_S

    look = SharedLook(gives_way, lambda: now_s[0])
    assert [look(), look()] == [True, True]
    now_s[0] = LOOK_S
    assert [look(), look()] == [False, False]
    assert asked == [0.0, LOOK_S]


def test_a_core_that_is_never_idle_does_not_keep_a_plan_from_loading() -> None:
    async def change(world: World) -> None:
        start_s = world.loop.time()
        await world.fleet.deploy(world.plan_of(OTHER))
        limit_s = HURRIED_S + LIMIT_MULTIPLE * LOAD_S
        assert limit_s < world.loop.time() - start_s < limit_s + LOOK_S + 2 * LOAD_S
        assert world.executor("cpu0").gave_way == [FULL_SPEED, GIVING_WAY, FULL_SPEED]

    played_on_busy_cores(change, NEVER_S)


def test_a_standby_gives_way_also_while_the_demand_is_too_much_until_an_urgent_plan_waits_for_it() -> None:
    async def stand_by(world: World) -> None:
        await asyncio.sleep(ASK_S)
        asking = asyncio.create_task(world.ask(400.0, 4 * SECOND_S))
        await asyncio.sleep(2 * SECOND_S)
        assert world.executor("cpu0").gave_way == [FULL_SPEED, GIVING_WAY]
        await world.fleet.deploy(world.plan_of(OTHER))
        assert world.executor("cpu0").gave_way == [FULL_SPEED, GIVING_WAY, FULL_SPEED]
        assert world.hosts == {"cpu0": {"fast"}}
        await asking

    played_on_busy_cores(stand_by, NEVER_S, resident_bytes=1100)


def test_batches_that_a_load_has_slowed_slow_nothing_down_once_it_is_over() -> None:
    async def change(world: World) -> None:
        executor = world.executor("cpu0")
        asking = asyncio.create_task(world.ask(50.0, 3 * SECOND_S))
        await asyncio.sleep(SECOND_S)
        executor.slowed_by = 2.0
        changing = asyncio.create_task(world.fleet.deploy(world.plan_of(OTHER)))
        await asyncio.sleep(SECOND_S)
        assert not changing.done()
        assert world.controller.slowdown_of("cpu0") > 1.5
        await changing
        assert world.controller.slowdown_of("cpu0") == 1.0
        await asking

    played_on_busy_cores(change, 2 * SECOND_S)


def test_the_load_of_each_device_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what it has slowed is forgotten there, however long others load."""
    ended = list[tuple[float, list[str]]]()

    async def change(world: World) -> None:
        forget = world.controller.topology.loads_ended

        def note(devices: Iterable[str]) -> None:
            ended.append((world.loop.time() - start_s, list(devices)))
            forget(devices)

        monkeypatch.setattr(world.controller.topology, "loads_ended", note)
        for device, takes_s in {"cpu0": 3 * LOAD_S, "cpu1": 2 * LOAD_S}.items():
            world.executor(device).give_way(takes_s)
        start_s = world.loop.time()
        await world.fleet.deploy(world.plan_of({"cpu0": "fast", "cpu1": "fast"}))
        assert [devices for _, devices in ended] == [["cpu1"], ["cpu0"]]
        assert [at_s for at_s, _ in ended] == pytest.approx([2 * LOAD_S, 3 * LOAD_S])

    played(change, {"cpu0": "good", "cpu1": "good"}, replans=False)


def test_an_engine_that_comes_just_as_its_load_is_cancelled_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    freed = list[VariantKey]()

    async def cancel(world: World) -> None:
        executor = world.executor("cpu0")
        load = executor.load

        async def load_and_cancel(*arguments: Any, **options: Any) -> Signature:
            signature = await load(*arguments, **options)
            world.loop.call_soon(loading.cancel)
            return signature

        monkeypatch.setattr(executor, "load", load_and_cancel)
        monkeypatch.setattr(executor, "unload", freed.append)
        loading = asyncio.create_task(world.fleet.loader.load("cpu0", executor, FAST, gives_way=lambda: True))
        await asyncio.wait([loading])
        assert loading.cancelled()
        assert freed == [FAST]

    played_on_busy_cores(cancel)
