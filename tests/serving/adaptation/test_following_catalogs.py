"""A server follows its catalog, in virtual time: what serves goes once something else serves, and leaves nothing."""

import asyncio

import pytest
from failing import World
from following import GONE_S, PLANNED_S, SETTLED_S, Followed, followed

from proteus_cli.control.devices.breaker import BreakerState
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import Conflict, EngineError
from proteus_cli.serving.adaptation.control_loop import HOLD_S


def hosted(world: World) -> set[str]:
    return set().union(*world.hosts.values())


def test_what_is_retrained_takes_over_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients may ask for what retires until it is gone."""

    async def story(catalog: Followed) -> None:
        told: list[dict[str, set[str]]] = []
        catalog.world.plane.families.watch(lambda: told.append(catalog.asked_versions))
        await asyncio.sleep(PLANNED_S)
        catalog.retrain("good", "22222222")
        assert await catalog.live.read()
        await asyncio.sleep(PLANNED_S)
        assert hosted(catalog.world) == {"good@22222222"}
        new, plain = {"good@22222222"}, {"fast": {"fast"}, "good": {"good"}}
        assert catalog.asked_versions == plain | {"22222222": new, "good@22222222": new}
        await asyncio.sleep(GONE_S)
        assert catalog.known == {"good@22222222", "fast"}
        assert catalog.asked_versions == {"22222222": new, "good@22222222": new, "fast": {"fast"}}
        assert ["good" in each for each in told] == [True, False]

    followed(story, monkeypatch)


def test_what_serves_goes_on_where_nobody_has_measured_what_replaces_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        catalog.retrain("good", "22222222", is_profiled=False)
        await catalog.live.read()
        await asyncio.sleep(GONE_S)
        status = catalog.live.status()
        assert (status.state, status.problem) == ("failed", "No device has a profile of `f/good` as it is now.")
        assert (hosted(catalog.world), catalog.known) == ({"good"}, {"good", "fast"})
        catalog.retrain("good", "22222222")
        await catalog.live.read()
        await asyncio.sleep(SETTLED_S)
        assert hosted(catalog.world) in ({"good@22222222"}, {"good@22222222", "fast"})  # one device carries all

    followed(story, monkeypatch)


def test_no_family_loses_all_that_anybody_has_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        catalog.families["f"], catalog.profiled = {"better": "b"}, {}
        await catalog.live.read()
        await asyncio.sleep(GONE_S)
        assert (catalog.live.status().state, hosted(catalog.world)) == ("failed", {"good"})

    followed(story, monkeypatch)


def test_what_is_measured_after_the_catalog_was_read_is_taken_in_where_it_is_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(catalog: Followed) -> None:
        catalog.models["better"] = "b"
        await catalog.live.read()
        await asyncio.sleep(PLANNED_S)
        assert hosted(catalog.world) == {"good"}
        catalog.retrain("better", "b", accuracy=0.95)
        assert not await catalog.live.read()
        await asyncio.sleep(PLANNED_S)
        assert hosted(catalog.world) == {"better"}

    followed(story, monkeypatch)


def test_devices_that_cannot_learn_profiles_keep_those_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has changed then, neither the profiles nor the plan."""

    async def story(catalog: Followed) -> None:
        catalog.models["better"] = "b"
        await catalog.live.read()
        await asyncio.sleep(PLANNED_S)
        catalog.hardware.takes_variants = False
        catalog.retrain("better", "b", accuracy=0.95)
        with pytest.raises(Conflict, match="the profiles of the start alone"):
            await catalog.live.read()
        await asyncio.sleep(PLANNED_S)
        assert hosted(catalog.world) == {"good"}
        assert catalog.world.profiles["cpu0"].of("f", "better") is None

    followed(story, monkeypatch)


def test_a_version_that_is_broken_is_forgotten_with_its_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        world = catalog.world
        catalog.models["better"] = "b"
        catalog.retrain("better", "b", accuracy=0.95)
        world.spoilt[VariantKey("f", "better")] = EngineError("it cannot be loaded")
        await catalog.live.read()
        await asyncio.sleep(PLANNED_S)
        assert (hosted(world), len(world.fleet.broken_engines.breakers)) == ({"good"}, 2)
        catalog.retrain("better", "33333333", accuracy=0.95)
        await catalog.live.read()
        await asyncio.sleep(GONE_S)
        assert hosted(world) == {"better@33333333"}
        assert (world.fleet.broken_engines.breakers, world.controller.replanning.without.engines) == ({}, frozenset())

    followed(story, monkeypatch)


def test_nothing_is_forgotten_while_a_plan_comes_into_force(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        catalog.retrain("good", "22222222")
        await catalog.live.read()
        await asyncio.sleep(PLANNED_S)
        async with catalog.world.fleet._changing:
            await asyncio.sleep(GONE_S)
            assert "good" in catalog.known
        await asyncio.sleep(GONE_S)
        assert "good" not in catalog.known

    followed(story, monkeypatch)


def test_a_plan_by_hand_delays_what_follows_the_catalog_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        world = catalog.world
        await world.adaptation.apply(world.first, "request", "applied by a client")
        catalog.retrain("good", "22222222")
        await catalog.live.read()
        await asyncio.sleep(HOLD_S - 2.0)
        assert hosted(world) == {"good"}
        await asyncio.sleep(4.0)
        assert hosted(world) == {"good@22222222"}

    followed(story, monkeypatch)


def test_many_versions_leave_no_more_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        for number in range(8):
            catalog.retrain("good", f"{number:08}")
            await catalog.live.read()
            await asyncio.sleep(GONE_S + PLANNED_S)
        assert catalog.known == {"good@00000007", "fast"}
        assert catalog.world.fleet.loader.labels.keys() >= {("f", "good@00000007")}

    followed(story, monkeypatch)


def test_a_device_that_has_joined_has_no_standbys_of_what_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        world = catalog.world
        world.join("cpu2")
        await asyncio.sleep(5.0)
        assert world.state("cpu2") is BreakerState.CLOSED
        catalog.retrain("fast", "22222222", accuracy=0.7)
        await catalog.live.read()
        await asyncio.sleep(3 * GONE_S)
        assert {key.variant for device in world.fleet.workers for key in world.fleet.loader.loaded(device)} >= {"good"}
        assert catalog.known == {"good", "fast@22222222"}

    followed(story, monkeypatch, resident_bytes=2000)
