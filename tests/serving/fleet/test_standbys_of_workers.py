"""Standbys of the live server, in virtual time: activated without a load, and never in the way of what serves."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from builders import make_measured, near
from failing import LOAD_S, VARIANTS, World, played
from msgspec.structs import replace

from proteus_cli.backends.free_memory import HostMemory
from proteus_cli.control.topology.standbys import ASK_S
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import EngineError, OutOfDeviceMemory

GOOD, FAST = VariantKey("f", "good"), VariantKey("f", "fast")
BOTH = {"cpu0": "good", "cpu1": "good"}
BOTH_FIT = 1100
THIRD = make_measured("f", "third", 0.8, {1: 0.002, 2: 0.004, 4: 0.008}, load_s=LOAD_S, memory_bytes=100)
WARM_S = 2 * (LOAD_S + 2 * ASK_S)  # one standby after the other


def deployed(world: World, hosts: dict[str, str]) -> Awaitable[dict[tuple[str, str], float | None]]:
    async def deploy() -> dict[tuple[str, str], float | None]:
        return {(each.device, each.variant): each.load_s for each in await world.fleet.deploy(world.plan_of(hosts))}

    return deploy()


def test_a_plan_that_wants_a_standby_is_in_force_at_once_and_what_it_replaces_stands_by() -> None:
    async def activate(world: World) -> None:
        assert world.controller.change.standbys == {}
        await asyncio.sleep(WARM_S)
        assert world.controller.change.standbys == {"cpu0": {FAST}, "cpu1": {FAST}}
        before_s = world.loop.time()
        assert await deployed(world, dict.fromkeys(BOTH, "fast")) == {("cpu0", "fast"): None, ("cpu1", "fast"): None}
        assert world.loop.time() == before_s
        assert world.hosts == {"cpu0": {"fast"}, "cpu1": {"fast"}}
        await asyncio.sleep(WARM_S)
        assert world.controller.change.standbys == {"cpu0": {GOOD}, "cpu1": {GOOD}}
        assert [world.executor(device).loads for device in BOTH] == [[GOOD, FAST]] * 2
        await world.ask(100.0, 1.0)
        await asyncio.sleep(0.1)
        assert set(world.counted) == {Outcome.SERVED}

    played(activate, BOTH, resident_bytes=BOTH_FIT, replans=False)


def test_standbys_load_one_after_the_other_while_devices_serve() -> None:
    async def load(world: World) -> None:
        asking = asyncio.create_task(world.ask(20.0, WARM_S))
        loaded = list[str]()
        while len(loaded) < 2:
            await asyncio.sleep(0.01)
            loaded += [device for device in world.controller.change.standbys if device not in loaded]
            assert sum(len(world.executor(device).loads) for device in BOTH) <= 2 + len(loaded) + 1
        await asking
        await asyncio.sleep(0.1)
        assert set(world.counted) == {Outcome.SERVED}

    played(load, BOTH, resident_bytes=BOTH_FIT, replans=False)


def test_without_memory_for_it_nothing_stands_by() -> None:
    async def wait(world: World) -> None:
        await asyncio.sleep(WARM_S)
        assert world.controller.change.standbys == {}
        assert world.executor("cpu0").loads == [GOOD]

    played(wait, BOTH, resident_bytes=1000, replans=False)


def test_a_plan_waits_for_a_standby_that_it_wants_and_cancels_what_is_in_its_way() -> None:
    async def change(world: World) -> None:
        await asyncio.sleep(ASK_S + LOAD_S / 2)
        assert (world.executor("cpu0").loads, world.executor("cpu1").loads) == ([GOOD, FAST], [GOOD])
        before_s = world.loop.time()
        assert await deployed(world, {"cpu0": "fast", "cpu1": "good"}) == {("cpu0", "fast"): LOAD_S}
        assert world.loop.time() == near(before_s + LOAD_S / 2)
        assert world.executor("cpu0").loads == [GOOD, FAST]
        await asyncio.sleep(WARM_S)

    async def pass_by(world: World) -> None:
        await asyncio.sleep(ASK_S + LOAD_S / 2)
        before_s = world.loop.time()
        assert await deployed(world, BOTH) == {}
        assert world.loop.time() == before_s
        assert await deployed(world, {"cpu0": "good", "cpu1": "third"}) == {("cpu1", "third"): LOAD_S}
        assert world.loop.time() == near(before_s + LOAD_S)
        assert world.controller.change.standbys["cpu0"] == {FAST}

    async def cancel(world: World) -> None:
        """What has begun on the device runs to its end, and then its load comes."""
        await asyncio.sleep(ASK_S + LOAD_S / 2)
        before_s = world.loop.time()
        assert await deployed(world, {"cpu0": "third", "cpu1": "good"}) == {("cpu0", "third"): near(LOAD_S * 3 / 2)}
        assert world.loop.time() == near(before_s + LOAD_S * 3 / 2)
        assert world.fleet.loader.loaded("cpu0") == {GOOD, THIRD.key}
        await asyncio.sleep(2 * WARM_S + 10 * LOAD_S)
        assert FAST in world.controller.change.standbys["cpu0"]

    for test in (change, pass_by, cancel):
        played(test, BOTH, resident_bytes=1300, replans=False, variants=(*VARIANTS, THIRD))


def test_a_standby_that_can_not_be_loaded_changes_nothing() -> None:
    async def spoil(world: World) -> None:
        world.spoilt[FAST] = EngineError("the file is cut off")
        await asyncio.sleep(2 * WARM_S)
        assert world.controller.change.standbys == {}
        assert world.hosts == {"cpu0": {"good"}, "cpu1": {"good"}}
        assert world.fleet.broken_engines.breakers == {}, "a plan that places it finds out"
        assert [world.executor(device).loads for device in BOTH] == [[GOOD, FAST]] * 2, "it is tried once for now"
        world.submit()
        await asyncio.sleep(0.1)
        assert world.counted == {Outcome.SERVED: 1}

    played(spoil, BOTH, resident_bytes=BOTH_FIT, replans=False)


def test_a_device_without_memory_for_a_standby_goes_on_without() -> None:
    async def fill(world: World) -> None:
        world.spoilt[FAST] = OutOfDeviceMemory("the device is full")
        await asyncio.sleep(2 * WARM_S)
        assert world.controller.change.standbys == {}
        assert world.fleet.loader.loaded("cpu0") == {GOOD}

    played(fill, BOTH, resident_bytes=BOTH_FIT, replans=False)


def test_standbys_make_room_where_a_plan_runs_out_of_memory() -> None:
    """The profile is wrong: a third engine does not fit. The standby goes, and what is active serves on."""

    async def fill(world: World) -> None:
        await asyncio.sleep(WARM_S)
        executor = world.executor("cpu0")
        load = executor.load

        async def at_most_two(key: VariantKey, model: object, rows: int) -> object:
            if len(world.fleet.loader.loaded("cpu0")) > 1:
                raise OutOfDeviceMemory("the device is full")
            return await load(key, model, rows)

        executor.load = at_most_two  # type: ignore[assignment, method-assign]
        changed = await deployed(world, {"cpu0": "third", "cpu1": "good"})
        assert changed == {("cpu0", "third"): LOAD_S}
        assert world.hosts["cpu0"] == {"third"}
        assert FAST not in world.fleet.loader.loaded("cpu0")

    played(fill, BOTH, resident_bytes=1300, replans=False, variants=(*VARIANTS, THIRD))


def test_a_machine_without_memory_gives_all_standbys_up() -> None:
    async def fill(world: World) -> None:
        await asyncio.sleep(WARM_S)
        assert set(world.controller.change.standbys) == set(BOTH)
        world.memory[""] = HostMemory(0, is_short=True)
        await asyncio.sleep(2 * ASK_S)
        assert world.controller.change.standbys == {}
        assert all(world.fleet.loader.loaded(device) == {GOOD} for device in BOTH)
        assert world.hosts == {"cpu0": {"good"}, "cpu1": {"good"}}

    played(fill, BOTH, resident_bytes=BOTH_FIT, replans=False)


def test_a_plan_that_loads_keeps_the_standby_that_it_wants_where_memory_gets_short_meanwhile() -> None:
    """It is activated, and what it replaces is given up."""

    async def fill(world: World) -> None:
        await asyncio.sleep(WARM_S)
        deploying = asyncio.ensure_future(deployed(world, {"cpu0": "third", "cpu1": "fast"}))
        await asyncio.sleep(LOAD_S / 4)
        world.memory[""] = HostMemory(0, is_short=True)
        await asyncio.sleep(LOAD_S / 4 + ASK_S)
        assert not deploying.done()
        assert world.controller.change.standbys["cpu1"] == {FAST}
        assert await deploying == {("cpu0", "third"): 2 * LOAD_S, ("cpu1", "fast"): None}
        await asyncio.sleep(2 * ASK_S)
        assert [world.fleet.loader.loaded(device) for device in BOTH] == [{THIRD.key}, {FAST}]

    played(fill, BOTH, resident_bytes=BOTH_FIT, replans=False, variants=(*VARIANTS, replace(THIRD, load_s=2 * LOAD_S)))


def test_a_plan_does_not_wait_for_the_load_of_a_standby_that_was_given_up_for_want_of_memory() -> None:
    """The load of a second one gives way, and would take 20 s. A machine without memory ends it, as a plan would."""
    fourth = make_measured("f", "fourth", 0.6, {1: 0.004, 2: 0.008, 4: 0.016}, load_s=LOAD_S, memory_bytes=900)

    async def relieve(world: World) -> None:
        await asyncio.sleep(ASK_S + 2 * LOAD_S)
        world.executor("cpu0").give_way(20.0)
        while len(world.executor("cpu0").loads) < 3:
            await asyncio.sleep(ASK_S)
        assert world.controller.change.standbys["cpu0"]
        world.memory[""] = HostMemory(0, is_short=True)
        await asyncio.sleep(1.5 * ASK_S)
        world.memory[""] = HostMemory()
        world.executor("cpu0").can_give_way = False  # as a load that is urgent
        before_s = world.loop.time()
        await deployed(world, {"cpu0": "fourth", "cpu1": "good"})
        assert world.loop.time() == near(before_s + LOAD_S)

    played(relieve, BOTH, resident_bytes=1200, replans=False, variants=(*VARIANTS, THIRD, fourth))


def test_the_memory_of_a_standby_that_a_plan_waits_for_counts_once() -> None:
    """Of 1000 bytes that were free, the load that has almost ended has taken 500: the device need not stop for it."""

    async def wait(world: World) -> None:
        await asyncio.sleep(ASK_S + 0.9 * LOAD_S)
        assert world.executor("cpu0").loads == [GOOD, FAST]
        world.memory[""] = HostMemory(500)
        deploying = asyncio.ensure_future(deployed(world, {"cpu0": "fast", "cpu1": "good"}))
        await asyncio.sleep(0.05 * LOAD_S)
        assert world.hosts["cpu0"] == {"good"}
        await deploying
        assert world.hosts["cpu0"] == {"fast"}

    played(wait, BOTH, resident_bytes=1300, replans=False)


@pytest.mark.parametrize("begun_s", [0.0, 100 * WARM_S], ids=["none is loaded", "all are loaded"])
def test_standbys_load_again_once_a_change_of_plan_is_cancelled_while_it_loads(begun_s: float) -> None:
    async def cancel(world: World) -> None:
        await asyncio.sleep(begun_s)
        deploying = asyncio.ensure_future(deployed(world, {"cpu0": "third", "cpu1": "good"}))
        await asyncio.sleep(LOAD_S / 2)
        deploying.cancel()
        await asyncio.wait([deploying])
        await asyncio.sleep(WARM_S + 10 * LOAD_S)  # a device rests nine times as long as its load took
        assert world.controller.change.standbys == {"cpu0": {FAST}, "cpu1": {FAST}}
        assert world.hosts == {"cpu0": {"good"}, "cpu1": {"good"}}

    played(cancel, BOTH, resident_bytes=BOTH_FIT, replans=False, variants=(*VARIANTS, THIRD))


def test_the_load_of_a_standby_ends_with_its_device_also_before_it_has_begun_there() -> None:
    """Before it begins, files are looked at. What ends later could free what the device has by then."""

    async def lose(world: World) -> None:
        ended_s = list[float]()

        async def look_at_files(*_: Any, **__: Any) -> None:
            try:
                await asyncio.sleep(3600.0)
            finally:
                ended_s.append(world.loop.time())

        world.fleet.loader.load = look_at_files  # type: ignore[method-assign]
        await asyncio.sleep(2 * ASK_S)
        lost_s = world.loop.time()
        world.executor("cpu0").die()
        await asyncio.sleep(ASK_S)
        assert ended_s == [near(lost_s)]

    played(lose, BOTH, resident_bytes=BOTH_FIT, replans=False)


def test_a_device_that_is_lost_loses_its_standbys_also_while_one_loads() -> None:
    async def lose(world: World) -> None:
        await asyncio.sleep(ASK_S + LOAD_S / 2)
        world.executor("cpu0").die()
        await asyncio.sleep(WARM_S)
        assert "cpu0" not in world.controller.change.standbys or world.hosts["cpu0"] == {"good"}
        await asyncio.sleep(20 * WARM_S)
        assert world.controller.change.standbys == {"cpu0": {FAST}, "cpu1": {FAST}}

    played(lose, BOTH, resident_bytes=BOTH_FIT, replans=False)


# --- the overflow


def test_standbys_answer_what_active_variants_cannot_in_time_with_no_change_of_plan() -> None:
    """In 200 ms, the two devices answer 40 rows with the good variant, and 100 arrive at once."""

    async def burst(world: World) -> None:
        await asyncio.sleep(WARM_S)
        for _ in range(100):
            world.submit()
        await asyncio.sleep(0.2)
        assert world.counted == {Outcome.SERVED: 100}
        assert {batch.key for device in BOTH for batch in world.executor(device).batches} == {GOOD, FAST}
        assert 0 < world.plane.counts.by_family["f"].overflow < 100
        assert world.hosts == {"cpu0": {"good"}, "cpu1": {"good"}}

    played(burst, BOTH, resident_bytes=BOTH_FIT, replans=False)


def test_a_standby_that_is_freed_in_a_burst_ends_its_batch_first() -> None:
    async def fill(world: World) -> None:
        await asyncio.sleep(WARM_S)
        for _ in range(100):
            world.submit()
        while not any(batch.key == FAST for device in BOTH for batch in world.executor(device).batches):
            await asyncio.sleep(0.001)
        world.memory[""] = HostMemory(0, is_short=True)
        await asyncio.sleep(2 * ASK_S)
        assert world.controller.change.standbys == {}
        assert all(world.fleet.loader.loaded(device) == {GOOD} for device in BOTH)
        await asyncio.sleep(0.2)
        assert Outcome.FAILED not in world.counted

    played(fill, BOTH, resident_bytes=BOTH_FIT, replans=False)


def test_a_device_that_dies_with_a_batch_of_a_standby_loses_no_request() -> None:
    async def die(world: World) -> None:
        await asyncio.sleep(WARM_S)
        for _ in range(60):
            world.submit()
        while not any(batch.key == FAST for batch in world.executor("cpu0").batches):
            await asyncio.sleep(0.0001)
        world.executor("cpu0").die()
        await asyncio.sleep(0.3)
        assert world.counted == {Outcome.SERVED: 60}

    played(die, BOTH, resident_bytes=BOTH_FIT, replans=False)
