"""CPUs of one host share its memory: what they load beside each other fits what is free there."""

import asyncio
from typing import Any

import pytest
from builders import make_measured
from failing import LOAD_S, VARIANTS, World, played

from proteus_cli.backends.base import Signature
from proteus_cli.backends.free_memory import HostMemory
from proteus_cli.control.topology.standbys import ASK_S
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import EngineError

BOTH = {"cpu0": "good", "cpu1": "good"}
SIZES = {VariantKey(v.family, v.variant): v.memory_bytes for v in VARIANTS}
GOOD = SIZES[VariantKey("f", "good")]
LOADED = 2 * GOOD
FAST = SIZES[VariantKey("f", "fast")]
THIRD = make_measured("f", "third", 0.8, {1: 0.002, 2: 0.004, 4: 0.008}, load_s=LOAD_S, memory_bytes=100)  # 500 qps


def watched(world: World) -> list[int]:
    """What all devices have loaded and are loading, at the start of each load."""
    taken, loading = list[int](), dict[str, int]()
    loaded = world.fleet.loader.loaded

    def watch(device: str) -> None:
        executor = world.executor(device)
        load = executor.load

        async def watched_load(key: VariantKey, *arguments: Any) -> Signature:
            loading[device] = SIZES[key]
            resident = sum(SIZES[each] for worker in world.fleet.workers for each in loaded(worker))
            taken.append(resident + sum(loading.values()))
            signature = await load(key, *arguments)
            del loading[device]
            return signature

        executor.load = watched_load  # type: ignore[assignment, method-assign]

    for device in world.fleet.workers:
        watch(device)
    return taken


@pytest.mark.parametrize(("free_bytes", "beside"), [(None, 2), (3 * FAST, 2), (2 * FAST, 1), (FAST, 0)])
def test_a_plan_is_rolled_out_within_the_free_memory_of_a_host(free_bytes: int | None, beside: int) -> None:
    async def roll_out(world: World) -> None:
        world.memory[""] = HostMemory(free_bytes)
        taken = watched(world)
        asking = asyncio.create_task(world.ask(50.0, 2.0))
        await world.fleet.deploy(world.plan_of(dict.fromkeys(BOTH, "fast")))
        assert max(taken) == (LOADED + beside * FAST if beside else LOADED - GOOD + FAST)
        assert world.hosts == {"cpu0": {"fast"}, "cpu1": {"fast"}}
        asked = await asking
        await asyncio.sleep(0.5)
        assert world.counted == {Outcome.SERVED: asked}

    played(roll_out, BOTH, replans=False)


def changing_in_part(world: World) -> "asyncio.Task[Any]":
    """A change for 700 qps, which cpu0 alone carries with `fast`, and not with `third`.

    What is free of the host's memory is enough for `third`, which cpu0 loads first; then cpu1 loads `fast` in place.
    """
    world.memory[""] = HostMemory(2 * THIRD.memory_bytes)
    return asyncio.create_task(world.fleet.deploy(world.plan_of({"cpu0": "third", "cpu1": "fast"}, 700.0)))


IN_PART: dict[str, Any] = {"replans": False, "variants": (*VARIANTS, THIRD)}
BEFORE = {"cpu0": "fast", "cpu1": "good"}
FAST_KEY, GOOD_KEY = VariantKey("f", "fast"), VariantKey("f", "good")


@pytest.mark.parametrize("is_short", [False, True])
def test_a_device_keeps_what_it_serves_and_what_it_loaded_beside_until_others_have_loaded_in_place(
    *, is_short: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where memory is short meanwhile: it would be loaded again."""

    async def roll_out(world: World) -> None:
        changing = changing_in_part(world)
        await asyncio.sleep(LOAD_S + LOAD_S / 4)
        world.memory[""] = HostMemory(0, is_short=is_short)
        await asyncio.sleep(LOAD_S * 5 / 8)
        assert not world.fleet.loader.loaded("cpu1")
        assert world.hosts["cpu0"] == {"fast"}
        assert world.fleet.loader.loaded("cpu0") == {FAST_KEY, THIRD.key}
        assert "gives its standbys up" not in caplog.text
        world.submit()
        await changing
        assert world.hosts == {"cpu0": {"third"}, "cpu1": {"fast"}}
        assert world.fleet.loader.loaded("cpu0") == {THIRD.key}
        assert world.executor("cpu0").loads == [FAST_KEY, THIRD.key]
        world.submit()
        await asyncio.sleep(0.1)
        assert world.counted == {Outcome.SERVED: 2}

    played(roll_out, BEFORE, **IN_PART)


def test_where_a_load_in_place_fails_the_others_have_served_all_the_time_and_load_nothing_again() -> None:
    async def roll_out(world: World) -> None:
        world.spoilt[FAST_KEY] = EngineError("the file is cut off")
        with pytest.raises(EngineError, match="cut off"):
            await changing_in_part(world)
        assert world.controller.plan == world.first
        assert world.hosts == {"cpu0": {"fast"}, "cpu1": {"good"}}
        assert [world.fleet.loader.loaded(device) for device in BOTH] == [{FAST_KEY}, {GOOD_KEY}]
        assert world.executor("cpu0").loads == [FAST_KEY, THIRD.key]

    played(roll_out, BEFORE, **IN_PART)


def test_where_a_device_is_lost_that_loads_in_place_the_other_switches_and_answers() -> None:
    async def roll_out(world: World) -> None:
        changing = changing_in_part(world)
        await asyncio.sleep(LOAD_S + LOAD_S / 2)
        assert world.hosts["cpu0"] == {"fast"}
        world.executor("cpu1").die()
        await changing
        assert world.hosts == {"cpu0": {"third"}}
        assert world.fleet.loader.loaded("cpu0") == {THIRD.key}
        world.submit()
        await asyncio.sleep(0.1)
        assert world.counted == {Outcome.SERVED: 1}

    played(roll_out, BEFORE, **IN_PART)


def test_standbys_of_a_host_without_memory_are_given_up_and_those_of_others_stay() -> None:
    async def fill(world: World) -> None:
        world.join("b/cpu0")
        await asyncio.sleep(2.0)
        await world.fleet.deploy(world.plan_of({**BOTH, "b/cpu0": "good"}))
        await asyncio.sleep(60.0)
        assert set(world.controller.change.standbys) == {"cpu0", "cpu1", "b/cpu0"}
        world.memory["b"] = HostMemory(0, is_short=True)
        await asyncio.sleep(2 * ASK_S)
        assert set(world.controller.change.standbys) == {"cpu0", "cpu1"}
        await asyncio.sleep(200.0)
        assert set(world.controller.change.standbys) == {"cpu0", "cpu1"}, "nothing is loaded there meanwhile"
        world.memory.clear()
        await asyncio.sleep(200.0)
        assert set(world.controller.change.standbys) == {"cpu0", "cpu1", "b/cpu0"}

    played(fill, BOTH, replans=False, resident_bytes=1100)
