"""A server in virtual time whose catalog is read anew."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from builders import make_catalog, make_family, make_measured
from failing import LOAD_S, World, played

from proteus_cli.control.policies import PROTEUS
from proteus_cli.control.replanning.replan_rules import ForecastRule
from proteus_cli.domain.catalog import Family, VariantKey
from proteus_cli.domain.catalog_changes import CatalogContent, Succession
from proteus_cli.domain.profile import VariantProfile
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import RequestError
from proteus_cli.planning.planner import Planner
from proteus_cli.serving.adaptation.catalog_reading import CatalogFiles, Measurements, ServedCatalog
from proteus_cli.serving.adaptation.feedback import Feedback
from proteus_cli.serving.adaptation.live_catalog import FORGET_AFTER_S, LOOK_S, LiveCatalog
from proteus_cli.serving.adaptation.plan_inputs import LivePlanner
from proteus_cli.serving.requests.in_flight import Result
from proteus_cli.serving.requests.query import Query, RequestOptions

BOTH = {"cpu0": "good", "cpu1": "good"}
GONE_S = FORGET_AFTER_S + 2 * LOOK_S
PLANNED_S = 1.0
"""Another plan is in force by then, …"""
SETTLED_S = PLANNED_S + 2 * ForecastRule().refresh_s
"""… and what idle devices host by then, no routine plan finds anything better for."""


class Followed:
    """A world whose catalog is read anew.

    ``families`` has the digest of each model by family and variant, ``models`` those of family `f`; ``settings`` are
    what families have besides; ``profiled`` is what was measured. Requests of other families than `f` end in
    ``results``.
    """

    measures = False

    def __init__(self, world: World) -> None:
        self.world = world
        self.models = {"good": "good-1", "fast": "fast-1"}
        self.families = {"f": self.models}
        self.settings: dict[str, dict[str, Any]] = {}
        self.profiled = {measured.key: measured for measured in world.profiles["cpu0"].variants}
        self.results = list[Result]()
        self.hardware_models: set[VariantKey] = {measured.key for measured in world.profiles["cpu0"].variants}
        self.followed = list[tuple[str, ...]]()  # the families of each catalog that was followed
        hardware: Any = SimpleNamespace(
            sessions=dict,
            is_emulated=True,
            takes_variants=True,
            learn=self._learn,
            use_models=self._use_models,
            use_signatures=self._use_signatures,
            stubs=set(),
        )
        self.hardware = hardware
        solver: Any = SimpleNamespace(state=SimpleNamespace(is_busy=False), use=self._plan_with)
        source: Any = self
        self.served = ServedCatalog(self.read().content)
        world.adaptation.planner = LivePlanner(source, world.profiles, solver)
        feedback = Feedback(world.plane, world.profiles, world.adaptation, source)
        self.live = LiveCatalog(
            self.served, self.hardware, world.plane, world.profiles, self, world.adaptation, feedback,
            self._was_followed,
        )  # fmt: skip

    def _use_models(self, models: Mapping[VariantKey, object]) -> None:
        self.hardware_models = set(models)

    async def _was_followed(self) -> None:
        self.followed.append(self.served.catalog.names)

    def retrain(
        self, variant: str, digest: str, accuracy: float = 0.9, *, family: str = "f", is_profiled: bool = True
    ) -> None:
        self.families.setdefault(family, {})[variant] = digest
        self.profiled.pop(VariantKey(family, variant), None)
        if is_profiled:
            made = make_measured(family, variant, accuracy, {1: 0.01, 2: 0.02, 4: 0.04}, load_s=LOAD_S)
            self.profiled[made.key] = msgspec.structs.replace(made, model_digest=digest)

    @property
    def known(self) -> set[str]:
        """The variants that profiles, or the loader, know."""
        loader = self.world.fleet.loader.models
        return {each.variant for each in self.world.profiles["cpu0"].variants} | {name for _, name in loader}

    @property
    def asked_versions(self) -> dict[str, set[str]]:
        """What clients may ask family `f` for."""
        found = self.world.plane.families.by_name["f"].asked_versions
        return {name: set(version.variants) for name, version in found.items()}

    def hosts(self, family: str) -> set[str]:
        """The variants of a family that are hosted."""
        return {host.variant for host in self.world.controller.families[family].hosts}

    def submit(self, family: str, timeout_s: float | None = None) -> None:
        """Ask another family than `f` for one row; raises where that is refused."""
        query = Query(family, 1, ((0, False),), RequestOptions(timeout_s=timeout_s))
        self.world.plane.admission.submit(query, lambda: (b"\0\0\0\0",), self.results.append)

    def refusal(self, family: str) -> str | None:
        """Why a request is refused now; None where it is admitted."""
        try:
            self.submit(family)
        except RequestError as error:
            return f"{type(error).__name__}: {error.message}"
        return None

    def ended(self) -> Counter[str]:
        """How requests of other families ended."""
        return Counter(type(result).__name__ for result in self.results)

    # --- a `CatalogSource`

    def stamp(self) -> object:
        return None

    def read(self) -> CatalogFiles:
        families = tuple(map(self._family, self.families))
        digests = {name: dict(models) for name, models in self.families.items()}
        return CatalogFiles(CatalogContent(make_catalog(*families), digests), {})

    def _family(self, name: str) -> Family:
        family = make_family(name, dict.fromkeys(self.families[name], 0.5), slo="200ms")
        return msgspec.structs.replace(family, **self.settings.get(name, {}))

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
        return Planner(self.world.catalog, dict(profiles), PROTEUS, headroom=1.0, inputs={}, spares=True, hurries=True)

    def inputs(self) -> Mapping[str, str]:
        """Plans are made from no files here."""
        return {}

    def __getattr__(self, name: str) -> Any:  # the rest of a `PlanSource` is not asked for
        raise AttributeError(name)

    def _plan_with(self, planner: Planner) -> None:
        self.world.planner = planner

    def _learn(self, profiles: Any) -> None:
        for profile in profiles:
            self.world.executor(profile.device.id).learn(profile)

    def _use_signatures(self, signatures: Any, _stubs: Any) -> None:
        self.world.signatures.clear()
        self.world.signatures.update(signatures)


def followed(
    story: Callable[[Followed], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
    *,
    qps: float = 50.0,
    **options: Any,
) -> World:
    """Tell a story while family `f` is asked all the time: all of its requests are served."""

    async def at_once(function: Callable[..., Any], *given: Any) -> Any:
        return function(*given)

    monkeypatch.setattr(asyncio, "to_thread", at_once)  # virtual time does not wait for threads

    async def tell(world: World) -> None:
        catalog = Followed(world)
        running = asyncio.create_task(catalog.live.run(watches=False))
        asking = asyncio.create_task(world.ask(qps, 400.0))
        await story(catalog)
        running.cancel()
        asking.cancel()
        await catalog.live.stop_following()
        await asyncio.sleep(1.0)
        assert set(world.counted) == {Outcome.SERVED}

    return played(tell, BOTH, **options)
