"""The catalog of a running server: read anew, and followed without losing a request.

Theory of operation
===================

SIGHUP, ``POST /v2/proteus/catalog`` and ``--watch`` have the catalog read. What is read is compared with what is
served (`domain/catalog_changes.py`): a model that has changed is another variant, with its version behind its name. A
catalog that is wrong, or that cannot be followed, changes nothing, and the answer says why.

Variants that no profile knows are measured first, in a process that runs only where the devices leave it time. Then
all parts of the server get to know the new variants in one step, and the controller asks for a plan. From there on it
is a change of plan like any other: engines are loaded beside those that serve, and all workers switch at one instant.
Variants that are not in the catalog any more are *retiring*: they serve until a plan does without them, and are
forgotten once no device has them loaded. If their model comes back before that, they are served again.

A variant serves on where no device has a profile of what it is to be replaced by: then nothing changes. Where the
catalog is as before, profiles that are new are taken in, and models that were moved.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from pathlib import Path

from proteus_cli.control.topology.hosting import device_memory
from proteus_cli.control.topology.succession import has_news, succeeding_profile, without_variants
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.catalog_changes import CatalogChange, Succession, in_words, succession
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import Conflict, Forbidden, ProteusError, Unprocessable
from proteus_cli.serving.adaptation.catalog.followable import require_fitting, require_possible, require_successors
from proteus_cli.serving.adaptation.catalog.served_catalog import ServedCatalog
from proteus_cli.serving.adaptation.catalog.source import CatalogFiles, CatalogSource, Measurements
from proteus_cli.serving.adaptation.catalog.status import CatalogStatus, State
from proteus_cli.serving.adaptation.feedback import Feedback
from proteus_cli.serving.adaptation.plan_source import PlanSource
from proteus_cli.serving.adaptation.profile_store import ProfileStore
from proteus_cli.serving.adaptation.solver.process import SolverProcess
from proteus_cli.serving.devices.hardware import NO_MODEL, Hardware
from proteus_cli.serving.logs import fields
from proteus_cli.serving.requests.data_plane import DataPlane

log = logging.getLogger("proteus.catalog")

LOOK_S = 0.5
"""Between two looks at whether retiring variants are gone."""

FORGET_AFTER_S = 10.0
"""Retiring variants are there for so long: a plan that was being made may have them yet."""

WATCH_S = 2.0
"""Between two looks at the files, of a server that watches them."""


class LiveCatalog:
    """Reads the catalog anew, and has the server follow it. It alone changes what is ``served``.

    ``is_guarded``: clients have shown a token. Without, none may have it read.
    ``solver`` is None where nothing re-plans.
    """

    def __init__(
        self,
        served: ServedCatalog,
        hardware: Hardware,
        plane: DataPlane,
        profiles: ProfileStore,
        files: CatalogSource,
        source: PlanSource,
        solver: SolverProcess | None,
        feedback: Feedback,
        *,
        is_guarded: bool,
    ) -> None:
        self._served, self._hardware, self._plane, self._profiles = served, hardware, plane, profiles
        self._files, self._source, self._solver, self._feedback = files, source, solver, feedback
        self._is_guarded = is_guarded
        self._names: Mapping[VariantKey, str] = {key: key.variant for key in served.content.variants}
        self._retiring: dict[VariantKey, str] = {}  # with the digests of their models
        self._retired_s = 0.0
        self._reading = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None
        self._state: State = "served"
        self._changes: tuple[CatalogChange, ...] = ()
        self._problem: str | None = None
        self._read_unix_s: float | None = None

    def status(self) -> CatalogStatus:
        retiring: dict[str, list[str]] = {}
        for key in self._retiring:
            retiring.setdefault(key.family, []).append(key.variant)
        content = self._served.content
        return CatalogStatus(
            content.catalog, content.digests, self._state, self._changes, self._problem, retiring, self._read_unix_s
        )

    def as_served(self, plan: Plan) -> Plan:
        """A plan that was made from the workspace, by the names that its variants have here."""
        return plan.with_names(lambda key: self._names.get(key, key.variant))

    async def from_client(self) -> CatalogStatus:
        """Read the catalog now. Raises `RequestError`; then nothing has changed."""
        if not self._is_guarded:
            raise Forbidden("the catalog is read anew only where clients need a token: start with `--auth-tokens`")
        self._plane.lifecycle.require_ready()
        try:
            await self.read()
        except (Conflict, Unprocessable):
            raise
        except ProteusError as error:
            raise Unprocessable(f"the catalog can't be followed: {error.message}", hint=error.hint) from error
        return self.status()

    async def read(self) -> bool:
        """Read the catalog, and begin to follow what differs; whether anything does.

        Raises `ProteusError` where it is wrong, or cannot be followed; then nothing has changed.
        """
        async with self._reading:
            try:
                files = await asyncio.to_thread(self._files.read)
                following = succession(self._served.content, files.content, self._retiring)
                require_possible(following, self._hardware)
                signatures = {name: family.signature for name, family in self._plane.families.by_name.items()}
                known = self._plane.fleet.loader.models
                await asyncio.to_thread(require_fitting, following, files, self._hardware, known, signatures)
            except ProteusError as error:
                self._problem, self._read_unix_s = error.message, time.time()
                raise
            await self._give_up_following()
            self._changes, self._problem, self._read_unix_s = following.changes, None, time.time()
            self._state = "served"
            if not following.changes:
                await self._take_in(files, following)
                return False
            log.info("the catalog has changed: %s", "; ".join(map(str, following.changes)))
            self._state = "measuring"
            self._following = asyncio.create_task(self._follow(files, following))
            return True

    async def followed(self) -> bool:
        """Wait until what was read is followed; whether it is, and not given up."""
        if self._following is not None:
            await asyncio.wait([self._following])
        return self._state == "served"

    async def run(self, *, watches: bool) -> None:
        """Forget variants once they are gone, until cancelled; with ``watches``, read the catalog where it changes."""
        seen: object = None  # so that what has changed since the start is seen, too
        looked_s = self._plane.clock()
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                self._forget_retired()
                if watches and self._plane.clock() - looked_s >= WATCH_S:
                    looked_s = self._plane.clock()
                    found = await asyncio.to_thread(self._files.stamp)
                    if found != seen:
                        seen = found
                        await self._read_watched()
        finally:
            await self._give_up_following()

    async def _read_watched(self) -> None:
        try:
            await self.read()
        except ProteusError as error:
            log.error("kept the catalog: %s", error.message, extra=fields(hint=error.hint))  # noqa: TRY400

    # --- following

    async def _take_in(self, files: CatalogFiles, following: Succession) -> None:
        """What was measured, or moved, since a catalog was read that was the same. Raises `ProteusError`."""
        found = await asyncio.to_thread(self._files.measurements, files, self._types())
        models = self._models(files, following)
        await self._plane.fleet.loader.look_at(models)
        alone = self._profiles.alone
        news = [device for device, each in found.profiles.items() if has_news(alone[device], each, following.names)]
        if news:
            log.info("took in the profiles of %s", ", ".join(news), extra=fields(devices=news))
            self._take_over(following, found, models, f"there are other profiles of {', '.join(news)}")
        else:
            self._plane.fleet.loader.add_models(models)

    async def _follow(self, files: CatalogFiles, following: Succession) -> None:
        try:
            measured = await self._measurements(files)
            require_successors(following, measured, self._profiles.alone)
            models = self._models(files, following)
            await self._plane.fleet.loader.look_at(models)
            self._take_over(following, measured, models, f"the catalog has changed: {in_words(following.changes)}")
        except ProteusError as error:
            self._state, self._problem = "failed", error.message
            log.error("kept the catalog: %s", error.message, extra=fields(hint=error.hint))  # noqa: TRY400
        except Exception:  # a bug of ours must not pass unseen, in a task that nobody waits for
            self._state, self._problem = "failed", "a bug; the log has its traceback"
            log.exception("a bug while the catalog was followed")

    async def _measurements(self, files: CatalogFiles) -> Measurements:
        """What is known of all devices, once what this machine's CPUs lack was measured, as far as time allowed."""
        found = await asyncio.to_thread(self._files.measurements, files, self._types())
        lacking = [device for device, each in found.profiles.items() if self._may_measure(each) and _lacks(each, files)]
        if lacking and self._files.measures:
            start_s = self._plane.clock()
            log.info("measuring what is new on %s", ", ".join(lacking), extra=fields(devices=lacking))
            await self._files.measure(lacking, lambda line: log.debug("proteus profile: %s", line))
            found = await asyncio.to_thread(self._files.measurements, files, self._types())
            log.info("measured it in %.0f s", self._plane.clock() - start_s)
        for device, profile in found.profiles.items():
            if names := sorted(key.variant for key in _lacks(profile, files)):
                log.warning(
                    "no current profile of %s on %s: plans do without what is new", ", ".join(names), device,
                    extra=fields(device=device, variants=names),
                )  # fmt: skip
        return found

    def _types(self) -> dict[str, str]:
        return {device: profile.device.type for device, profile in self._profiles.items()}

    def _models(self, files: CatalogFiles, following: Succession) -> dict[VariantKey, Path]:
        """The files of variants that are new, and of those whose files were moved."""
        known = self._plane.fleet.loader.models
        found = {
            VariantKey(plain.family, name): NO_MODEL if self._hardware.is_emulated else files.models[plain]
            for plain, name in following.names.items()
        }
        return {key: path for key, path in found.items() if known.get(key) != path}

    def _may_measure(self, profile: Profile) -> bool:
        return profile.device.kind == "cpu" and not profile.device.host and not self._hardware.is_emulated

    def _take_over(
        self, following: Succession, measured: Measurements, models: Mapping[VariantKey, Path], reason: str
    ) -> None:
        """All at once, so that nobody knows of a variant that another does not know."""
        controller, fleet = self._plane.controller, self._plane.fleet
        alone, before = self._profiles.alone, self._served.content
        profiles = [
            succeeding_profile(alone[device], each, following.names) for device, each in measured.profiles.items()
        ]
        self._retiring |= {key: before.digest(key) or "" for key in following.retired}
        for key in following.content.variants:
            self._retiring.pop(key, None)
        self._served.content, self._names = following.content, following.names
        self._retired_s = self._plane.clock()
        self._profiles.use(profiles)
        self._hardware.learn(profiles)
        fleet.loader.add_models(models)
        self._plane.families.use(self._profiles.values())
        keys, limits = following.content.catalog.keys, controller.memory_limits
        memory = device_memory(limits, self._profiles, controller.demand.slo_s, controller.plan.rules, keys)
        controller.use_memory(memory)
        self._files.use(following, measured.inputs)
        if self._solver is not None:
            self._solver.use(self._source.replanner(controller.plan, self._profiles))
        controller.replanning.ask(reason, self._plane.clock())
        self._state = "served"

    async def _give_up_following(self) -> None:
        """End what follows an earlier reading, as another one counts."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
            self._following = None

    def _forget_retired(self) -> None:
        """Forget the retiring variants that no device has any more, and that no plan may bring back."""
        fleet, controller = self._plane.fleet, self._plane.controller
        if not self._retiring or self._plane.clock() < self._retired_s + FORGET_AFTER_S or self._is_changing():
            return
        there = {placement.key for placement in controller.placements}
        for device in fleet.workers:
            there |= fleet.loader.loaded(device) | controller.resident_on(device)
        gone = self._retiring.keys() - there
        if not gone:
            return
        for key in gone:
            del self._retiring[key]
        fleet.loader.forget_models(gone)
        fleet.engines.forget(gone)
        controller.forget_variants(gone)
        self._feedback.forget(gone)
        self._profiles.use([without_variants(profile, gone) for profile in self._profiles.alone.values()])
        self._plane.families.use(self._profiles.values())
        names = ", ".join(sorted(key.variant for key in gone))
        log.info("%s served for the last: forgotten", names, extra=fields(variants=names))

    def _is_changing(self) -> bool:
        """Whether a plan, or a catalog, is about to come that may have a variant that is retiring now."""
        is_following = self._following is not None and not self._following.done()
        is_solving = self._solver is not None and self._solver.state.is_busy
        return self._reading.locked() or is_following or is_solving or self._plane.fleet.is_changing


def _lacks(profile: Profile, files: CatalogFiles) -> set[VariantKey]:
    """Variants of the catalog that a profile has no times of; names are those of the catalog file."""
    known = {each.key for each in profile.variants if each.points}
    return files.models.keys() - known
