"""All lanes, and the change from one plan to the next without losing a request."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from proteus_cli.backends.base import Signature
from proteus_cli.control.controller import Controller
from proteus_cli.control.hosting import hosted_by
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import EngineError
from proteus_cli.serving.executor import EngineKey, Executor
from proteus_cli.serving.lane import INLINE_S, Clock, Endings, Lane
from proteus_cli.serving.logs import fields

TIMER_S = 0.001  # uvloop counts in milliseconds

log = logging.getLogger("proteus.fleet")


class Fleet:
    """Loads what a plan needs beside what runs, switches all lanes at once, then frees the rest."""

    def __init__(
        self,
        controller: Controller,
        executors: Mapping[str, Executor],
        endings: Endings,
        clock: Clock,
        *,
        models: Mapping[EngineKey, Path],
        profiles: Mapping[str, Profile],
        signatures: Mapping[str, Signature],
        timer_s: float = TIMER_S,
        inline_s: float = INLINE_S,
    ) -> None:
        self._controller, self._endings, self._clock = controller, endings, clock
        self._models, self._profiles, self._signatures = models, profiles, signatures
        self._loaded: set[tuple[str, EngineKey]] = set()
        self.lanes: dict[str, Lane] = {}
        for device, executor in executors.items():
            on_loop_s = inline_s if executor.pid is None else 0.0
            self.lanes[device] = Lane(device, controller, executor, endings, clock, self.lanes, timer_s, on_loop_s)

    async def deploy(self, plan: Plan) -> None:
        """Make before break. Raises `EngineError` where an engine can't be loaded; then nothing has changed."""
        wanted = {(p.device, (p.family, p.variant)): p for p in plan.placements}
        new = [placement for key, placement in wanted.items() if key not in self._loaded]
        await self._load_all(new)
        orphans = self._controller.adopt(plan, hosted_by(plan, self._profiles), self._clock())
        for request in orphans:
            self._endings.dropped(request)
        for lane in self.lanes.values():
            lane.ask()
        self._unload(key for key in list(self._loaded) if key not in wanted)

    def close(self) -> None:
        """Free all engines. Batches that run are finished first."""
        for lane in self.lanes.values():
            lane.executor.close()

    async def _load_all(self, placements: Iterable[Placement]) -> None:
        jobs = [self._load(placement) for placement in placements]
        failures = [f for f in await asyncio.gather(*jobs, return_exceptions=True) if isinstance(f, BaseException)]
        if failures:
            in_use = {(p.device, (p.family, p.variant)) for p in self._controller.placements}
            self._unload(key for key in list(self._loaded) if key not in in_use)
            raise failures[0]

    async def _load(self, placement: Placement) -> None:
        key = (placement.family, placement.variant)
        executor = self.lanes[placement.device].executor
        signature = await executor.load(key, self._models[key], placement.max_batch)
        self._loaded.add((placement.device, key))
        if not signature.fits(self._signatures[placement.family]):
            raise EngineError(
                f"`{placement.variant}` takes or gives other tensors than the rest of family `{placement.family}`.",
                hint="queries of a family must fit each of its variants",
            )
        log.info(
            "loaded %s on %s", placement.variant, placement.device,
            extra=fields(family=placement.family, variant=placement.variant, device=placement.device),
        )  # fmt: skip

    def _unload(self, keys: Iterable[tuple[str, EngineKey]]) -> None:
        for device, key in keys:
            self._loaded.remove((device, key))
            self.lanes[device].executor.unload(key)
