"""The catalog of a running server: read anew, and followed without losing a request.

Theory of operation
===================

SIGHUP, ``POST /v2/proteus/catalog`` and the setting ``watch`` have the catalog read. It is compared with the catalog
that is served (`domain/catalog_changes.py`): a model that has changed is another variant, with its version behind its
name. A catalog that is wrong, or that cannot be followed, changes nothing, and the answer says why.

Variants that no profile knows are measured first, in a process that runs only where the devices leave it time. Then all
parts of the server get to know the new variants in one step, and the controller asks for a plan. The rest is a change
of plan like any other: engines are loaded beside the serving ones, and all workers switch at one instant. Variants that
are not in the catalog any more are *retiring*: they serve until a plan does without them, and are forgotten once no
device has them loaded. If their model comes back before that, they are served again. A family that is not in the
catalog any more takes no more requests, and admitted ones end first. It leaves until no variant of it is there.

A variant serves on where no device has a profile of what it is to be replaced by: then nothing changes. Where the
catalog is as before, profiles that are new are taken in, and models that were moved.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.catalog_changes import CatalogChange, CatalogContent, Succession, in_words, succession
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.domain.profile_changes import has_news, succeeding_profile, with_variant, without_variants
from proteus_cli.errors import Conflict, NotReady, ProteusError, Unprocessable
from proteus_cli.serving.adaptation.catalog_reading import (
    CatalogFiles,
    CatalogSource,
    CatalogStatus,
    MeasurableDevices,
    Measurements,
    ReadCatalog,
    ServedCatalog,
    State,
    read_families,
    require_successors,
)
from proteus_cli.serving.adaptation.control_loop import ControlLoop
from proteus_cli.serving.adaptation.feedback import Feedback
from proteus_cli.serving.adaptation.plan_inputs import ProfileStore
from proteus_cli.serving.devices.hardware import NO_MODEL, Hardware
from proteus_cli.serving.json_bodies import refusing
from proteus_cli.serving.lifecycle import count_bug
from proteus_cli.serving.logs import fields
from proteus_cli.serving.measuring_process import tells_of_waits
from proteus_cli.serving.requests.data_plane import DataPlane
from proteus_cli.serving.requests.families import LEAVING, ServedFamily, served_families

log = logging.getLogger("proteus.catalog")

LOOK_S = 0.5
"""Between two looks at whether retiring variants are gone."""

FORGET_AFTER_S = 10.0
"""Retiring variants are known for this long: a plan that was being made may have them yet."""

DRAIN_LOOK_S = 0.02
"""Between two looks at whether the requests of families that are to leave have ended."""

PATIENCE_S = 30.0
"""The longest time for which a client waits until the catalog is followed. On busy cores, measuring may take longer."""

WATCH_S = 2.0
"""Between two looks at the files, of a server that watches them."""


class LiveCatalog:
    """Reads the catalog anew, and has the server follow it. It alone changes what is ``served``.

    ``was_followed`` is called when it has. Roll-outs *hold* variants beside the catalog, and have retiring variants
    *kept* loaded.
    """

    def __init__(
        self,
        served: ServedCatalog,
        hardware: Hardware,
        plane: DataPlane,
        profiles: ProfileStore,
        files: CatalogSource,
        control_loop: ControlLoop,
        feedback: Feedback,
        was_followed: Callable[[], Awaitable[None]],
    ) -> None:
        self._served, self._hardware, self._plane, self._profiles = served, hardware, plane, profiles
        self._files, self._control_loop, self._was_followed = files, control_loop, was_followed
        self._feedback, self._families, self._loader = feedback, plane.families, plane.fleet.loader
        self._names: Mapping[VariantKey, str] = {key: key.variant for key in served.content.variants}
        self._retiring, self._held = (
            dict[VariantKey, str](),
            dict[VariantKey, str](),
        )  # with the digests of their models
        self._kept = frozenset[VariantKey]()
        self._retired_s = 0.0
        self._reading = asyncio.Lock()
        self._following: asyncio.Task[str | None] | None = None  # its result: why it was not followed
        self._wanted: CatalogContent | None = None  # what was read last
        self._state: State = "served"
        self._changes: tuple[CatalogChange, ...] = ()
        self._problem: str | None = None
        self._read_unix_s: float | None = None

    def status(self) -> CatalogStatus:
        """The catalog that is served, and the state of changes of the file."""
        content, retiring = self._served.content, dict[str, list[str]]()
        for key in self._retiring:
            retiring.setdefault(key.family, []).append(key.variant)
        leaving = [name for name, family in self._families.by_name.items() if family.why_out == LEAVING]
        return CatalogStatus(
            content.catalog, content.digests, self._state, self._changes, self._problem, retiring, leaving,
            self._read_unix_s,
        )  # fmt: skip

    def as_served(self, plan: Plan) -> Plan:
        """A plan that was made from the workspace, by the names that its variants have here."""
        return plan.with_names(lambda key: self._names.get(key, key.variant))

    # --- reading

    async def from_client(self, *, restarts: bool = True) -> CatalogStatus:
        """Read the catalog now, as `read`. Raises `RequestError`, without any change."""
        self._plane.lifecycle.require_ready()
        with refusing("the catalog can't be followed: "):
            await self.read(restarts=restarts)
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
        roll-outs have changed there; where a client has unloaded one, it stays so. Raises `ProteusError`, without any
        change, if the catalog is wrong, or cannot be followed.
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
            self._resume(apart_from=self._left_out_by(read.following))
            self._changes, self._problem, self._read_unix_s = changes, None, time.time()
            if not changes:
                self._state = "served"
                await self._take_in(read)
                return False
            log.info("the catalog has changed: %s", "; ".join(map(str, changes)))
            self._state = "measuring"
            self._following = asyncio.create_task(self._follow(read))
            return True

    async def _compared(self, rolled_out: Collection[str]) -> ReadCatalog:
        """The catalog file, compared with the served catalog. Raises `ProteusError` where it cannot be followed."""
        files, served = await asyncio.to_thread(self._files.read), self._served.content
        following = self.succession(files)
        families = await read_families(following, files, self._hardware, self._plane)
        return ReadCatalog(files, served, following, families, frozenset(rolled_out))

    async def outcome(self) -> str | None:
        """Wait until the last reading is followed, and return why it is not; None: it is."""
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
        seen: object = None  # so that a change since the start is seen, too
        looked_s = self._plane.clock()
        while True:
            await asyncio.sleep(LOOK_S)
            await self._forget_retired()
            if watches and self._plane.clock() - looked_s >= WATCH_S:
                looked_s, before = self._plane.clock(), seen
                seen = await asyncio.to_thread(self._files.stamp)
                if seen != before:
                    try:
                        await self.read()
                    except ProteusError as error:
                        log.error("kept the catalog: %s", error.message, extra=fields(hint=error.hint))  # noqa: TRY400

    async def stop_following(self) -> None:
        """End the task that follows an earlier reading: another one counts, or the server stops."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
            self._following = None

    @property
    def _is_following(self) -> bool:
        """Whether the last reading is not followed yet."""
        return self._following is not None and not self._following.done()

    # --- measurements

    def measurable(self) -> MeasurableDevices:
        """The CPUs of this machine, and of hosts that are connected: they could be measured now, were they real."""
        sessions = dict(self._hardware.sessions())
        cpus = [profile.device for profile in self._profiles.values() if profile.device.kind == "cpu"]
        return MeasurableDevices([cpu for cpu in cpus if not cpu.host or cpu.host in sessions], sessions)

    async def _known(self, files: CatalogFiles) -> Measurements:
        """The known measurements of all devices. Raises `ProteusError`."""
        while True:
            types = {device: profile.device.type for device, profile in self._profiles.items()}
            found = await asyncio.to_thread(self._files.measurements, files, types)
            if self._profiles.keys() == types.keys():  # else devices have joined meanwhile
                return found

    async def _measured(self, files: CatalogFiles) -> Measurements:
        """As `_known`, after CPUs were measured where they lack any, as far as time allowed. Raises `ProteusError`."""
        found = await self._known(files)
        lacking = self.measurable().only([device for device, each in found.profiles.items() if _lacks(each, files)])
        if lacking.devices and self._files.measures and not self._hardware.is_emulated:
            start_s, names = self._plane.clock(), [cpu.id for cpu in lacking.devices]
            log.info("measuring what is new on %s", ", ".join(names), extra=fields(devices=names))
            await self._files.measure(lacking, _say)
            found = await self._known(files)
            log.info("measured it in %.0f s", self._plane.clock() - start_s)
        for device, profile in found.profiles.items():
            if names := sorted(key.variant for key in _lacks(profile, files)):
                log.warning(
                    "no current profile of %s on %s: plans do without what is new", ", ".join(names), device,
                    extra=fields(device=device, variants=names),
                )  # fmt: skip
        return found

    # --- following

    async def _take_in(self, read: ReadCatalog) -> None:
        """Take in new profiles, moved models and new labels, where the catalog is the same. Raises `ProteusError`."""
        found, alone, served = await self._known(read.files), self._profiles.alone, self._families.by_name
        models = await self._models(read)
        names = read.following.names
        measured = [device for device, each in found.profiles.items() if has_news(alone[device], each, names)]
        if measured and not self._hardware.takes_variants:
            raise Conflict("devices that are emulated in other processes have the profiles of the start alone")
        labelled = [name for name, each in read.families.items() if tuple(each.labels) != tuple(served[name].labels)]
        news = [
            f"{what} of {', '.join(names)}" for what, names in (("profiles", measured), ("labels", labelled)) if names
        ]
        if news:
            log.info("took in the %s", " and the ".join(news), extra=fields(devices=measured, families=labelled))
            await self._take_over(read, found, models, f"there are other {' and '.join(news)}")
        else:
            self._add_models(models)

    async def _follow(self, read: ReadCatalog) -> str | None:
        """Why it is not followed; None where it is."""
        try:
            require_successors(read.following, await self._measured(read.files), self._profiles.alone)
            models = await self._models(read)
            await self._drain(self._left_out_by(read.following))
            measured = await self._known(read.files)  # anew: draining may take long
            require_successors(read.following, measured, self._profiles.alone)
            reason = f"the catalog has changed: {in_words(read.following.changes)}"
            await self._take_over(read, measured, models, reason)
            await asyncio.shield(self._was_followed())  # this is served, also where another reading ends this task
        except ProteusError as error:
            log.error("kept the catalog: %s", error.message, extra=fields(hint=error.hint))  # noqa: TRY400
            problem = error.message
        except Exception as error:  # noqa: BLE001
            problem = count_bug("LiveCatalog.follow", error)
        else:
            return None
        self._state, self._problem = "failed", problem
        self._resume()
        return problem

    def _left_out_by(self, following: Succession) -> list[str]:
        """The families that a catalog has no more."""
        names = following.content.catalog.names
        return [name for name in self._served.catalog.names if name not in names]

    async def _models(self, read: ReadCatalog) -> dict[VariantKey, Path]:
        """The files of new variants, and of variants whose files were moved. Raises `ArtefactError`."""
        known = self._loader.models
        found = {
            VariantKey(plain.family, name): NO_MODEL if self._hardware.is_emulated else read.files.models[plain]
            for plain, name in read.following.names.items()
        }
        models = {key: path for key, path in found.items() if known.get(key) != path}
        await self._loader.look_at(models)
        return models

    async def _take_over(
        self, read: ReadCatalog, measured: Measurements, models: Mapping[VariantKey, Path], reason: str
    ) -> None:
        """All at once, so that all parts know the same families and variants."""
        alone, before, following = self._profiles.alone, self._served.content, read.following
        self._retiring |= {key: before.digest(key) or "" for key in following.retired}
        for key in following.content.variants:
            self._retiring.pop(key, None)
            self._held.pop(key, None)
        self._retired_s = self._plane.clock()
        self._served.content, self._names = following.content, following.names
        self._use_profiles(
            [succeeding_profile(alone[device], each, following.names) for device, each in measured.profiles.items()]
        )
        self._add_models(models)
        changed = {change.family for change in following.changes} - read.rolled_out
        self._offer_read(read, [name for name in before.catalog.names if name not in changed])
        self._files.use(following, measured.inputs)
        self._state = "served"
        await self._control_loop.changed(reason, self._profiles)

    def _use_profiles(self, profiles: Sequence[Profile]) -> None:
        self._profiles.use(profiles)
        self._hardware.learn(profiles)
        self._use_variants()

    def _use_variants(self) -> None:
        """Plans may place the variants of the catalog. Those beside it may stay loaded."""
        self._plane.controller.placeable.use(self._profiles, self._served.catalog.keys, self._held.keys() | self._kept)

    def _add_models(self, models: Mapping[VariantKey, Path]) -> None:
        self._loader.add_models(models)
        self._hardware.use_models(self._loader.models)

    # --- families that come and leave

    async def _drain(self, names: Collection[str]) -> None:
        """Let families take no more requests, and wait until the admitted ones have ended."""
        controller, clock = self._plane.controller, self._plane.clock
        until_s = clock()
        for name in names:
            family = self._families.by_name[name]
            family.why_out = family.why_out or LEAVING
            until_s = max(until_s, clock() + self._plane.admission.longest_s(name))
        if names:
            log.info("%s: being taken out of service", ", ".join(names))
        while any(controller.families[name].rows for name in names) and clock() < until_s:
            await asyncio.sleep(DRAIN_LOOK_S)

    def _resume(self, apart_from: Collection[str] = ()) -> None:
        """Families that were to leave, and that the catalog has still, take requests again."""
        for name in self._served.catalog.names:
            family = self._families.by_name[name]
            if family.why_out == LEAVING and name not in apart_from:
                family.why_out = ""

    @property
    def _leaving(self) -> list[str]:
        """Families that the catalog has no more, and that are not gone yet."""
        return [name for name in self._families.by_name if name not in self._served.catalog.names]

    def _offer_read(self, read: ReadCatalog, as_before: Collection[str]) -> None:
        """Offer the families of the catalog and leaving ones, with the variants that are known beside it.

        A family that a client has unloaded stays so where the catalog says of it what it said before.
        """
        known, files = self._families.by_name, read.families
        offered = served_families(files.values(), list(self._profiles.values()))
        for family in offered:
            if family.name in known:
                was = known[family.name]
                family.max_rows = max(family.max_rows, was.max_rows)
                family.why_out = was.why_out if family.name in as_before else ""
                family.know_beside({key.variant for key in self._beside if key.family == family.name}, was)
        leaving = [known[name] for name in self._leaving]
        for family in leaving:
            family.why_out = LEAVING
        stubs = {name for name, each in files.items() if each.is_stub}
        self._offer([*offered, *leaving], stubs | (self._hardware.stubs - files.keys()))

    def _offer(self, families: Sequence[ServedFamily], stubs: Collection[str]) -> None:
        self._hardware.use_signatures({family.name: family.signature for family in families}, stubs)
        self._plane.use_families(families, self._served.catalog.names)

    # --- variants beside the catalog

    @property
    def _beside(self) -> Mapping[VariantKey, str]:
        return self._retiring | self._held

    async def _forget_retired(self) -> None:
        """Forget the retiring variants that no device has any more, and that no plan may bring back; then families."""
        is_changing = (
            self._reading.locked() or self._is_following
            or self._control_loop.planner.is_solving or self._plane.fleet.is_changing
        )  # fmt: skip
        is_due = self._plane.clock() >= self._retired_s + FORGET_AFTER_S
        if is_changing or not is_due or not (self._retiring or self._leaving):
            return
        fleet, change = self._plane.fleet, self._plane.controller.change
        there = {placement.key for placement in self._plane.controller.placements}
        for device in fleet.workers:
            there |= self._loader.loaded(device) | change.resident_on(device)
        if gone := self._retiring.keys() - there - self._kept:
            await self._forget_variants(gone)
        self._forget_families()

    async def _forget_variants(self, gone: Collection[VariantKey]) -> None:
        for key in gone:
            del self._retiring[key]
        self._loader.forget_models(gone)
        self._hardware.use_models(self._loader.models)
        self._plane.fleet.broken_engines.forget(gone)
        self._plane.controller.topology.forget_variants(gone)
        self._feedback.forget(gone)
        self._profiles.use([without_variants(profile, gone) for profile in self._profiles.alone.values()])
        self._families.know_beside(self._beside)
        names = ", ".join(sorted(key.variant for key in gone))
        log.info("%s served for the last: forgotten", names, extra=fields(variants=names))
        await self._control_loop.changed("variants are forgotten", self._profiles, asks=False)

    def _forget_families(self) -> None:
        """Forget leaving families without variants, hosts and requests."""
        kept, states = {key.family for key in self._beside}, self._plane.controller.families
        left = [name for name in self._leaving if name not in kept]
        if out := {name for name in left if not states[name].rows and not states[name].hosts}:
            stay = [family for family in self._families.by_name.values() if family.name not in out]
            self._offer(stay, self._hardware.stubs - out)
            log.info("%s: out of service, and forgotten", ", ".join(sorted(out)), extra=fields(families=sorted(out)))

    def name_of(self, plain: VariantKey) -> VariantKey:
        """The name that a variant of the catalog file has here."""
        return VariantKey(plain.family, self._names[plain])

    def succession(self, files: CatalogFiles) -> Succession:
        """From what is served to another catalog."""
        return succession(self._served.content, files.content, self._beside)

    def serves(self, key: VariantKey) -> bool:
        """The catalog that is served has a variant."""
        return key in self._served.catalog.keys

    async def require_possible(self, files: CatalogFiles, following: Succession) -> None:
        """Raise `ProteusError` where a catalog could not be followed."""
        await read_families(following, files, self._hardware, self._plane)

    async def hold(self, key: VariantKey, digest: str, model: Path, measured: Mapping[str, VariantProfile]) -> None:
        """Make a variant known everywhere that is not in the catalog: no plan of the planner has it.

        ``measured`` by device. Raises `ArtefactError` where its model is not there.
        """
        await self._loader.look_at({key: model})
        self._retiring.pop(key, None)
        self._held[key] = digest
        alone = self._profiles.alone
        self._use_profiles([with_variant(alone[device], each) for device, each in measured.items() if device in alone])
        self._add_models({key: model})
        self._families.know_beside(self._beside)
        await self._control_loop.changed(f"{key.variant} is held", self._profiles, asks=False)

    def release(self, key: VariantKey) -> None:
        """A variant that was held is forgotten once no device has it."""
        if key in self._held:
            self._retiring[key] = self._held.pop(key)
            self._retired_s = self._plane.clock()

    async def keep(self, keys: Collection[VariantKey]) -> None:
        """Keep these retiring variants loaded where there is memory, and no others."""
        self._kept = self._plane.controller.change.pinned = frozenset(keys)
        self._use_variants()
        await self._control_loop.changed("variants are kept", self._profiles, asks=False)


def _say(line: str) -> None:
    log.log(logging.INFO if tells_of_waits(line) else logging.DEBUG, "proteus profile: %s", line)


def _lacks(profile: Profile, files: CatalogFiles) -> set[VariantKey]:
    """Variants of the catalog that a profile has no times of; names are as in the catalog file."""
    return files.models.keys() - {each.key for each in profile.variants if each.points}
