"""A server follows its catalog, in virtual time: what serves goes once something else serves, and leaves nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from builders import make_catalog, make_family, make_measured
from failing import LOAD_S, World, played

from proteus_cli.control.policies import PROTEUS
from proteus_cli.control.topology.breaker import BreakerState
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.catalog_changes import CatalogContent, Succession
from proteus_cli.domain.profile import VariantProfile
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import EngineError
from proteus_cli.planning.planner import Planner
from proteus_cli.serving.adaptation.catalog.live_catalog import FORGET_AFTER_S, LOOK_S, LiveCatalog
from proteus_cli.serving.adaptation.catalog.served_catalog import ServedCatalog
from proteus_cli.serving.adaptation.catalog.source import CatalogFiles, Measurements
from proteus_cli.serving.adaptation.control_loop import HOLD_S
from proteus_cli.serving.adaptation.feedback import Feedback

BOTH = {"cpu0": "good", "cpu1": "good"}
GONE_S = FORGET_AFTER_S + 2 * LOOK_S
PLANNED_S = 1.0
"""Another plan is in force by then."""


class Followed:
    """A world whose catalog is read anew: ``models`` has the digest of each, ``profiled`` what was measured."""

    measures = False

    def __init__(self, world: World) -> None:
        self.world = world
        self.models = {"good": "good-1", "fast": "fast-1"}
        self.profiled = {measured.variant: measured for measured in world.profiles["cpu0"].variants}
        hardware: Any = SimpleNamespace(is_emulated=True, takes_variants=True, learn=self._learn)
        solver: Any = SimpleNamespace(state=SimpleNamespace(is_busy=False), use=self._plan_with)
        feedback = Feedback(None, world.plane, world.profiles, world.adaptation, self, solver)
        self.live = LiveCatalog(
            ServedCatalog(self.read().content), hardware, world.plane, world.profiles, self, self, solver, feedback,
            is_guarded=True,
        )  # fmt: skip

    def retrain(self, variant: str, digest: str, accuracy: float = 0.9, *, is_profiled: bool = True) -> None:
        self.models[variant] = digest
        self.profiled.pop(variant, None)
        if is_profiled:
            made = make_measured("f", variant, accuracy, {1: 0.01, 2: 0.02, 4: 0.04}, load_s=LOAD_S)
            self.profiled[variant] = msgspec.structs.replace(made, model_digest=digest)

    @property
    def known(self) -> set[str]:
        """The variants that profiles, or the loader, know."""
        loader = self.world.fleet.loader.models
        return {each.variant for each in self.world.profiles["cpu0"].variants} | {name for _, name in loader}

    # --- a `CatalogSource`

    def stamp(self) -> object:
        return None

    def read(self) -> CatalogFiles:
        family = make_family("f", dict.fromkeys(self.models, 0.5), slo="200ms")
        return CatalogFiles(CatalogContent(make_catalog(family), {"f": dict(self.models)}), {})

    def measurements(self, files: CatalogFiles, types: Any) -> Measurements:
        def of(device: str) -> tuple[VariantProfile, ...]:
            assert device in types
            return tuple(self.profiled.values())

        profiles = self.world.profiles.items()
        return Measurements({d: msgspec.structs.replace(each, variants=of(d)) for d, each in profiles}, {})

    def use(self, following: Succession, _inputs: Any) -> None:
        self.world.catalog = following.content.catalog

    # --- a `PlanSource`, and what is around it

    def replanner(self, _plan: Any, profiles: Any) -> Planner:
        return Planner(self.world.catalog, dict(profiles), PROTEUS, headroom=1.0, inputs={}, spares=True)

    def __getattr__(self, name: str) -> Any:  # the rest of a `PlanSource` is not asked for
        raise AttributeError(name)

    def _plan_with(self, planner: Planner) -> None:
        self.world.planner = planner

    def _learn(self, profiles: Any) -> None:
        for profile in profiles:
            self.world.executor(profile.device.id).learn(profile)


def followed(story: Callable[[Followed], Awaitable[None]], monkeypatch: pytest.MonkeyPatch, **options: Any) -> World:
    async def at_once(function: Callable[..., Any], *given: Any) -> Any:
        return function(*given)

    monkeypatch.setattr(asyncio, "to_thread", at_once)  # virtual time does not wait for threads

    async def tell(world: World) -> None:
        catalog = Followed(world)
        running = asyncio.create_task(catalog.live.run(watches=False))
        asking = asyncio.create_task(world.ask(50.0, 300.0))
        await story(catalog)
        running.cancel()
        asking.cancel()
        await asyncio.sleep(1.0)
        assert set(world.counted) == {Outcome.SERVED}

    return played(tell, BOTH, **options)


def hosted(world: World) -> set[str]:
    return set().union(*world.hosts.values())


def test_what_is_retrained_takes_over_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        await asyncio.sleep(PLANNED_S)
        catalog.retrain("good", "22222222")
        assert await catalog.live.read()
        await asyncio.sleep(PLANNED_S)
        assert hosted(catalog.world) == {"good@22222222"}
        await asyncio.sleep(GONE_S)
        assert catalog.known == {"good@22222222", "fast"}

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
        await asyncio.sleep(PLANNED_S)
        assert hosted(catalog.world) == {"good@22222222"}

    followed(story, monkeypatch)


def test_no_family_loses_all_that_anybody_has_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        catalog.models, catalog.profiled = {"better": "b"}, {}
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


def test_a_version_that_is_broken_is_forgotten_with_its_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(catalog: Followed) -> None:
        world = catalog.world
        catalog.models["better"] = "b"
        catalog.retrain("better", "b", accuracy=0.95)
        world.spoilt[VariantKey("f", "better")] = EngineError("it cannot be loaded")
        await catalog.live.read()
        await asyncio.sleep(PLANNED_S)
        assert (hosted(world), len(world.fleet.engines.breakers)) == ({"good"}, 2)
        catalog.retrain("better", "33333333", accuracy=0.95)
        await catalog.live.read()
        await asyncio.sleep(GONE_S)
        assert hosted(world) == {"better@33333333"}
        assert (world.fleet.engines.breakers, world.controller.replanning.without.engines) == ({}, frozenset())

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
