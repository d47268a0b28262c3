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
forgotten once no device has them loaded. If their model comes back before that, they are served again. A family that is
not in the catalog any more takes no requests from then on, and those that were admitted end first (`offers`).

A variant serves on where no device has a profile of what it is to be replaced by: then nothing changes. Where the
catalog is as before, profiles that are new are taken in, and models that were moved.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path

from proteus_cli.control.topology.hosting import device_memory
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.catalog_changes import CatalogChange, CatalogContent, Succession, in_words, succession
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import VariantProfile
from proteus_cli.domain.profile_changes import has_news, succeeding_profile, with_variant
from proteus_cli.errors import Conflict, NotReady, ProteusError, Unprocessable
from proteus_cli.serving.adaptation.catalog.followable import ReadCatalog, read_possible, require_successors
from proteus_cli.serving.adaptation.catalog.measuring import CatalogMeasuring
from proteus_cli.serving.adaptation.catalog.offers import Offers
from proteus_cli.serving.adaptation.catalog.retiring import Retiring
from proteus_cli.serving.adaptation.catalog.served_catalog import ServedCatalog
from proteus_cli.serving.adaptation.catalog.source import CatalogFiles, CatalogSource, MeasurableDevices, Measurements
from proteus_cli.serving.adaptation.catalog.status import CatalogStatus, State
from proteus_cli.serving.adaptation.control_loop import ControlLoop
from proteus_cli.serving.adaptation.feedback.live_accuracies import LiveAccuracies
from proteus_cli.serving.adaptation.profile_store import ProfileStore
from proteus_cli.serving.devices.hardware import NO_MODEL, Hardware
from proteus_cli.serving.logs import fields
from proteus_cli.serving.requests.data_plane import DataPlane

log = logging.getLogger("proteus.catalog")

LOOK_S = 0.5
"""Between two looks at whether retiring variants are gone."""

PATIENCE_S = 30.0
"""A client waits no longer until the catalog is followed: on busy cores, to measure what is new may take long."""

WATCH_S = 2.0
"""Between two looks at the files, of a server that watches them."""


class LiveCatalog:
    """Reads the catalog anew, and has the server follow it. It alone changes what is ``served``.

    ``was_followed`` is called when it has.
    """

    def __init__(
        self,
        served: ServedCatalog,
        hardware: Hardware,
        plane: DataPlane,
        profiles: ProfileStore,
        files: CatalogSource,
        control_loop: ControlLoop,
        accuracies: LiveAccuracies,
        was_followed: Callable[[], Awaitable[None]],
    ) -> None:
        self._served, self._hardware, self._plane, self._profiles = served, hardware, plane, profiles
        self._files, self._control_loop, self._was_followed = files, control_loop, was_followed
        self._offers = Offers(served, hardware, plane)
        self._measuring = CatalogMeasuring(files, profiles, plane.clock, hardware)
        self._names: Mapping[VariantKey, str] = {key: key.variant for key in served.content.variants}
        self._retiring = Retiring(plane, profiles, accuracies)
        self._reading = asyncio.Lock()
        self._following: asyncio.Task[str | None] | None = None  # its result: why it was not followed
        self._wanted: CatalogContent | None = None  # what was read last
        self._state: State = "served"
        self._changes: tuple[CatalogChange, ...] = ()
        self._problem: str | None = None
        self._read_unix_s: float | None = None

    def status(self) -> CatalogStatus:
        """What is served, and what becomes of changes of the file."""
        content = self._served.content
        return CatalogStatus(
            content.catalog, content.digests, self._state, self._changes, self._problem,
            self._retiring.by_family, self._offers.taking_out, self._read_unix_s,
        )  # fmt: skip

    def as_served(self, plan: Plan) -> Plan:
        """A plan that was made from the workspace, by the names that its variants have here."""
        return plan.with_names(lambda key: self._names.get(key, key.variant))

    async def from_client(self, *, restarts: bool = True) -> CatalogStatus:
        """Read the catalog now, as `read`. Raises `RequestError`; then nothing has changed."""
        self._plane.lifecycle.require_ready()
        try:
            await self.read(restarts=restarts)
        except (Conflict, Unprocessable):
            raise
        except ProteusError as error:
            raise Unprocessable(f"the catalog can't be followed: {error.message}", hint=error.hint) from error
        return self.status()

    async def refresh(self) -> None:
        """Read the catalog now, and wait until it is followed. Raises `RequestError` where it can't be, or not yet."""
        await self.from_client(restarts=False)
        try:
            problem = await asyncio.wait_for(self.outcome(), PATIENCE_S)
        except TimeoutError:
            raise NotReady("what is new in the catalog is being measured", retry_after_s=PATIENCE_S) from None
        if problem is not None:
            raise Unprocessable(f"the catalog can't be followed: {problem}")

    async def read(self, *, restarts: bool = True, rolled_out: Collection[str] = ()) -> bool:
        """Read the catalog, and begin to follow what differs; whether anything does.

        Unless it ``restarts``, what follows a reading of the same goes on. ``rolled_out``: the families that version
        roll-outs have changed there; where a client has unloaded one, it stays so. Raises `ProteusError` where the
        catalog is wrong, or cannot be followed; then nothing has changed.
        """
        async with self._reading:
            try:
                read = await self._compared(rolled_out)
                if not restarts and self._is_following and read.files.content == self._wanted:
                    return True
                await self.stop_following()
                if self._served.content is not read.served:  # an earlier reading was followed meanwhile
                    read = await self._compared(rolled_out)
            except ProteusError as error:
                self._problem, self._read_unix_s = error.message, time.time()
                if self._state == "measuring" and not self._is_following:
                    self._state = "failed"  # what followed an earlier reading was given up for this one
                raise
            changes, self._wanted = read.following.changes, read.files.content
            self._offers.resume(apart_from=self._left_out_by(read.following))
            self._changes, self._problem, self._read_unix_s = changes, None, time.time()
            self._state = "served"
            if not changes:
                await self._take_in(read)
                return False
            log.info("the catalog has changed: %s", "; ".join(map(str, changes)))
            self._state = "measuring"
            self._following = asyncio.create_task(self._follow(read))
            return True

    async def _compared(self, rolled_out: Collection[str]) -> ReadCatalog:
        """What the catalog says now, beside what is served. Raises `ProteusError` where it cannot be followed."""
        files, served = await asyncio.to_thread(self._files.read), self._served.content
        following = self.succession(files)
        families = await read_possible(following, files, self._hardware, self._plane)
        return ReadCatalog(files, served, following, families, frozenset(rolled_out))

    async def outcome(self) -> str | None:
        """Wait until what was read last is followed, and return why it is not; None where it is."""
        while (following := self._following) is not None:
            await asyncio.wait([following])
            if not following.cancelled():
                return following.result()
            async with self._reading:  # another reading has given it up
                if self._following is following:
                    return "the server stops"
        return None

    async def run(self, *, watches: bool) -> None:
        """Forget variants once they are gone, until cancelled; with ``watches``, read the catalog where it changes."""
        seen: object = None  # so that what has changed since the start is seen, too
        looked_s = self._plane.clock()
        while True:
            await asyncio.sleep(LOOK_S)
            await self._forget_retired()
            if watches and self._plane.clock() - looked_s >= WATCH_S:
                looked_s = self._plane.clock()
                found = await asyncio.to_thread(self._files.stamp)
                if found != seen:
                    seen = found
                    await self._read_watched()

    async def _read_watched(self) -> None:
        try:
            await self.read()
        except ProteusError as error:
            log.error("kept the catalog: %s", error.message, extra=fields(hint=error.hint))  # noqa: TRY400

    # --- following

    async def _take_in(self, read: ReadCatalog) -> None:
        """What was measured, moved or labelled since a catalog was read that was the same. Raises `ProteusError`."""
        found = await self._measuring.known(read.files)
        models = self._models(read)
        await self._plane.fleet.loader.look_at(models)
        alone = self._profiles.alone
        names = read.following.names
        measured = [device for device, each in found.profiles.items() if has_news(alone[device], each, names)]
        if measured and not self._hardware.takes_variants:
            raise Conflict("devices that are emulated in other processes have the profiles of the start alone")
        served = self._plane.families.by_name
        labelled = [name for name, each in read.families.items() if tuple(each.labels) != tuple(served[name].labels)]
        news = [f"profiles of {', '.join(measured)}"] if measured else []
        news += [f"labels of {', '.join(labelled)}"] if labelled else []
        if news:
            log.info("took in the %s", " and the ".join(news), extra=fields(devices=measured, families=labelled))
            await self._take_over(read, found, models, f"there are other {' and '.join(news)}")
        else:
            self._add_models(models)

    async def _follow(self, read: ReadCatalog) -> str | None:
        """Why it is not followed; None where it is."""
        try:
            measured = await self._measuring.measured(read.files)
            require_successors(read.following, measured, self._profiles.alone)
            models = self._models(read)
            await self._plane.fleet.loader.look_at(models)
            await self._offers.drain(self._left_out_by(read.following))
            measured = await self._measuring.known(read.files)  # anew, as that may take long
            require_successors(read.following, measured, self._profiles.alone)
            await self._take_over(
                read, measured, models, f"the catalog has changed: {in_words(read.following.changes)}"
            )
            await asyncio.shield(self._was_followed())  # this is served, also where another reading ends this task
        except ProteusError as error:
            log.error("kept the catalog: %s", error.message, extra=fields(hint=error.hint))  # noqa: TRY400
            return self._failed(error.message)
        except Exception:  # a bug of ours must not pass unseen, in a task that nobody waits for
            log.exception("a bug while the catalog was followed")
            return self._failed("a bug; the log has its traceback")
        return None

    def _failed(self, problem: str) -> str:
        self._state, self._problem = "failed", problem
        self._offers.resume()
        return problem

    def _left_out_by(self, following: Succession) -> list[str]:
        """The families that a catalog has no more."""
        names = following.content.catalog.names
        return [name for name in self._served.catalog.names if name not in names]

    def _models(self, read: ReadCatalog) -> dict[VariantKey, Path]:
        """The files of variants that are new, and of those whose files were moved."""
        known = self._plane.fleet.loader.models
        found = {
            VariantKey(plain.family, name): NO_MODEL if self._hardware.is_emulated else read.files.models[plain]
            for plain, name in read.following.names.items()
        }
        return {key: path for key, path in found.items() if known.get(key) != path}

    async def _take_over(
        self, read: ReadCatalog, measured: Measurements, models: Mapping[VariantKey, Path], reason: str
    ) -> None:
        """All at once, so that nobody knows of a family or a variant that another does not know."""
        following = read.following
        alone, before = self._profiles.alone, self._served.content
        profiles = [
            succeeding_profile(alone[device], each, following.names) for device, each in measured.profiles.items()
        ]
        self._retiring.use(before, following)
        self._served.content, self._names = following.content, following.names
        self._profiles.use(profiles)
        self._hardware.learn(profiles)
        self._add_models(models)
        changed = {change.family for change in following.changes} - read.rolled_out
        as_before = [name for name in before.catalog.names if name not in changed]
        self._offers.use(read.families, as_before, list(self._profiles.values()), self._retiring.with_held)
        self._use_memory()
        self._files.use(following, measured.inputs)
        self._state = "served"
        await self._control_loop.changed(reason, self._profiles)

    # --- versions that are rolled out

    def measurable(self) -> MeasurableDevices:
        """The devices on which a version could be measured now."""
        return self._measuring.measurable()

    def name_of(self, plain: VariantKey) -> VariantKey:
        """What a variant of the catalog file is called here."""
        return VariantKey(plain.family, self._names[plain])

    def succession(self, files: CatalogFiles) -> Succession:
        """From what is served to another catalog."""
        return succession(self._served.content, files.content, self._retiring.with_held)

    def serves(self, key: VariantKey) -> bool:
        """The catalog that is served has a variant."""
        return key in self._served.catalog.keys

    async def require_possible(self, files: CatalogFiles, following: Succession) -> None:
        """Raise `ProteusError` where a catalog could not be followed."""
        await read_possible(following, files, self._hardware, self._plane)

    async def hold(self, key: VariantKey, digest: str, model: Path, measured: Mapping[str, VariantProfile]) -> None:
        """Make a variant known everywhere that is not in the catalog: no plan of the planner has it.

        ``measured`` by device. Raises `ArtefactError` where its model is not there.
        """
        await self._plane.fleet.loader.look_at({key: model})
        alone = self._profiles.alone
        profiles = [with_variant(alone[device], each) for device, each in measured.items() if device in alone]
        self._retiring.hold(key, digest)
        self._profiles.use(profiles)
        self._hardware.learn(profiles)
        self._add_models({key: model})
        self._plane.families.know_beside(self._retiring.with_held)
        self._use_memory()
        await self._control_loop.changed(f"{key.variant} is held", self._profiles, asks=False)

    def release(self, key: VariantKey) -> None:
        """A variant that was held is forgotten once no device has it."""
        self._retiring.release(key)

    def keep(self, keys: Collection[VariantKey]) -> None:
        """Keep these variants alone loaded, where there is memory, of those that the catalog has no more."""
        self._retiring.kept = frozenset(keys)
        self._plane.controller.change.pinned = frozenset(keys)
        self._use_memory()

    def _add_models(self, models: Mapping[VariantKey, Path]) -> None:
        loader = self._plane.fleet.loader
        loader.add_models(models)
        self._hardware.use_models(loader.models)

    def _use_memory(self) -> None:
        controller, keys = self._plane.controller, self._served.catalog.keys
        known = keys | self._retiring.held.keys() | self._retiring.kept
        limits = {device: each.memory_bytes for device, each in controller.change.memory.items()}
        memory = device_memory(limits, self._profiles, controller.slo_targets, controller.plan.rules, known)
        placeable = {device: each.placing_only(keys) for device, each in memory.items()}
        self._plane.fleet.apply(controller.topology.use_memory(placeable))
        controller.placeable.use(self._profiles, keys)

    async def stop_following(self) -> None:
        """End what follows an earlier reading, as another one counts, or the server stops."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
            self._following = None

    async def _forget_retired(self) -> None:
        """Forget the retiring variants that no device has any more, and that no plan may bring back; then families."""
        may_be_gone = self._retiring.variants or self._offers.leaving
        if may_be_gone and self._retiring.is_due and not self._is_changing():
            if self._retiring.forget():
                await self._control_loop.changed("variants are forgotten", self._profiles, asks=False)
            self._hardware.use_models(self._plane.fleet.loader.models)
            self._offers.forget(self._retiring.with_held)

    def _is_changing(self) -> bool:
        """Whether a plan, or a catalog, is about to come that may have a variant that is retiring now."""
        is_solving = self._control_loop.planner.is_solving
        return self._reading.locked() or self._is_following or is_solving or self._plane.fleet.is_changing

    @property
    def _is_following(self) -> bool:
        """What was read last is not followed yet."""
        return self._following is not None and not self._following.done()
