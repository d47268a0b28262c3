"""CPUs of one host share its memory: what they load beside each other fits what is free there."""

import asyncio
from typing import Any

import pytest
from failing import VARIANTS, World, played

from proteus_cli.backends.base import Signature
from proteus_cli.backends.free_memory import HostMemory
from proteus_cli.control.topology.warming import ASK_S
from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.domain.request import Outcome

BOTH = {"cpu0": "good", "cpu1": "good"}
SIZES = {VariantKey(v.family, v.variant): v.memory_bytes for v in VARIANTS}
GOOD = SIZES[VariantKey("f", "good")]
LOADED = 2 * GOOD
FAST = SIZES[VariantKey("f", "fast")]


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


def test_standbys_of_a_host_without_memory_are_given_up_and_those_of_others_stay() -> None:
    async def fill(world: World) -> None:
        world.join("b/cpu0")
        await asyncio.sleep(2.0)
        await world.fleet.deploy(world.plan_of({**BOTH, "b/cpu0": "good"}))
        await asyncio.sleep(60.0)
        assert set(world.controller.topology.standbys) == {"cpu0", "cpu1", "b/cpu0"}
        world.memory["b"] = HostMemory(0, is_short=True)
        await asyncio.sleep(2 * ASK_S)
        assert set(world.controller.topology.standbys) == {"cpu0", "cpu1"}
        await asyncio.sleep(200.0)
        assert set(world.controller.topology.standbys) == {"cpu0", "cpu1"}, "nothing is loaded there meanwhile"
        world.memory.clear()
        await asyncio.sleep(200.0)
        assert set(world.controller.topology.standbys) == {"cpu0", "cpu1", "b/cpu0"}

    played(fill, BOTH, replans=False, resident_bytes=1100)
