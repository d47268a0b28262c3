"""A server in virtual time whose catalog is read anew, and that rolls out versions."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import pytest
from builders import make_measured
from failing import LOAD_S, World
from following import Followed, followed
from short_forms import parse_guard

from proteus_cli.domain.catalog import Variant, VariantKey
from proteus_cli.domain.catalog_changes import CatalogContent
from proteus_cli.domain.profile import VariantProfile
from proteus_cli.domain.rollouts import RolloutStatus
from proteus_cli.serving.adaptation.catalog_reading import CatalogFiles, MeasurableDevices
from proteus_cli.serving.adaptation.rollout_requests import Candidate
from proteus_cli.serving.adaptation.rollouts import VersionRollouts
from proteus_cli.serving.devices.hardware import NO_MODEL
from proteus_cli.serving.measuring_process import WAITS

NEW = "good@22222222"
MEASURED_S = 1.2
"""Between two looks."""
STEPPED_S = 2.0
"""A step is brought about by then."""


class Rolled:
    """A world in which versions are rolled out. A version is named by the digest of its model."""

    def __init__(self, catalog: Followed) -> None:
        self.catalog, self.world, self.live = catalog, catalog.world, catalog.live
        self._before = dict[VariantKey, tuple[str, VariantProfile | None]]()
        self.rollouts = VersionRollouts(
            self, catalog.live, self.world.plane, self.world.profiles, self.world.adaptation,
            self.world.versions, is_guarded=True,
        )  # fmt: skip

    async def start(self, version: str = NEW, family: str = "f", **asked: Any) -> RolloutStatus:
        """By hand, unless more is asked for."""
        default = {"canary": [0.5], "guard": parse_guard("errors <= 50%")}
        body = {"family": family, "variant": version} | default | asked
        return await self.rollouts.start(msgspec.json.encode(body))

    def promote(self, family: str = "f") -> RolloutStatus:
        return self.rollouts.promote(family, b"")

    def abort(self, family: str = "f") -> RolloutStatus:
        return self.rollouts.abort(family, b"")

    def is_over(self, family: str = "f") -> bool:
        return self.rollouts._of[family].is_over

    def at(self, family: str = "f") -> tuple[str, str | None]:
        """The stage of a roll-out, and its ending."""
        status = self.rollouts.all[family]
        return str(status.stage), None if status.ending is None else str(status.ending)

    def hosted(self, family: str = "f") -> set[str]:
        """The variants of a family that any device has active."""
        controller = self.world.controller
        hosts = (host for device in self.world.profiles for host in controller.change.hosted_on(device))
        return {host.variant for host in hosts if host.family == family}

    @property
    def beside(self) -> set[VariantKey]:
        """What is there beside the catalog, for roll-outs."""
        return self.live._held.keys() | self.live._kept

    # --- a `VersionSource`

    def require_writable(self) -> None:
        pass

    def candidate(self, plain: VariantKey, version: str) -> Candidate:
        files = self.catalog.read()
        digests = {family: dict(models) for family, models in files.content.digests.items()}
        digests[plain.family][plain.variant] = version
        before = files.content.catalog.family(plain.family).variant(plain.variant)
        changed = CatalogFiles(CatalogContent(files.content.catalog, digests), {plain: NO_MODEL})
        return Candidate(plain, before, Variant(plain.variant, accuracy=0.5), changed)

    async def measure(
        self, candidate: Candidate, possible: MeasurableDevices, types: Mapping[str, str], say: Callable[[str], object]
    ) -> Mapping[str, VariantProfile]:
        say(WAITS)
        await asyncio.sleep(MEASURED_S)
        plain = candidate.plain
        times_s = {1: 0.01, 2: 0.02, 4: 0.04}
        made = make_measured(plain.family, plain.variant, 0.9, times_s, load_s=LOAD_S, memory_bytes=600)
        made = msgspec.structs.replace(made, model_digest=candidate.files.content.digest(plain))
        return dict.fromkeys((device.id for device in possible.devices), made)

    def write(self, candidate: Candidate, measured: Mapping[str, VariantProfile]) -> None:
        plain, models = candidate.plain, self.catalog.families[candidate.plain.family]
        self._before[plain] = models[plain.variant], self.catalog.profiled.get(plain)
        models[plain.variant] = candidate.files.content.digest(plain) or ""
        self.catalog.profiled[plain] = next(iter(measured.values()))

    def succeeded(self, candidate: Candidate) -> None:
        """What was written could be undone until now; it can be written back as before."""
        assert candidate.plain in self._before

    def write_back(self, candidate: Candidate) -> bool:
        models = self.catalog.families.get(candidate.plain.family, {})
        if models.get(candidate.plain.variant) != candidate.files.content.digest(candidate.plain):
            return False
        digest, measured = self._before[candidate.plain]
        self.catalog.families[candidate.plain.family][candidate.plain.variant] = digest
        if measured is not None:
            self.catalog.profiled[candidate.plain] = measured
        return True


def rolled(story: Callable[[Rolled], Awaitable[None]], monkeypatch: pytest.MonkeyPatch, **options: Any) -> World:
    """Tell a story while family `f` is asked all the time: all of its requests are served."""

    async def tell(catalog: Followed) -> None:
        world = Rolled(catalog)
        running = asyncio.create_task(world.rollouts.run())
        await story(world)
        running.cancel()
        (ended,) = await asyncio.gather(running, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended

    return followed(tell, monkeypatch, **options)
