"""The steps of version roll-outs, as the server takes them."""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

import msgspec

from proteus_cli.control.controller import Controller
from proteus_cli.control.rollouts.plan_expansion import PriceOf, contracted, expanded, replaced
from proteus_cli.control.rollouts.version_rollout import VersionRollout, WantedStep
from proteus_cli.domain.attainment import SloTarget
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.domain.rollouts import Ending, RolloutStage, RolloutStatus, VersionPair
from proteus_cli.errors import Conflict, EngineError, ProteusError, Unprocessable
from proteus_cli.serving.adaptation.catalog_reading import ServedCatalog
from proteus_cli.serving.adaptation.control_loop import ControlLoop
from proteus_cli.serving.adaptation.live_catalog import LiveCatalog
from proteus_cli.serving.adaptation.plan_inputs import ProfileStore
from proteus_cli.serving.adaptation.rollout_requests import Candidate, VersionSource
from proteus_cli.serving.logs import fields
from proteus_cli.serving.measuring_time import tells_of_waits
from proteus_cli.serving.requests.data_plane import DataPlane
from proteus_cli.serving.requests.version_arms import VersionArms
from proteus_cli.units import format_percent

log = logging.getLogger("proteus.rollouts")

QUIET_S = 30.0
"""Without a query for so long, a roll-out tells that it learns nothing: the plan has other variants answer, or no query
comes."""
LONGEST_NOTE = 200

PUTTING_BACK = "the old version is being put back"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Between two tries to go back to the old version."""


@dataclass(slots=True)
class Background:
    """What runs beside the steps: ``measuring`` the new version, which ``said`` something last; ``promoting`` it."""

    measuring: "asyncio.Task[None] | None" = None
    promoting: "asyncio.Task[None] | None" = None
    said: str = ""

    async def cancelled(self) -> None:
        """End all, and wait until it has ended. A roll-out that goes on begins it anew."""
        tasks = [task for task in (self.measuring, self.promoting) if task is not None]
        self.measuring = self.promoting = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def stopped(self, variant: str) -> None:
        """End measuring, and wait until what names the new version has ended, as it does soon where that is not wanted.

        What they fail of meanwhile is logged; the roll-out has its reason to end already.
        """
        tasks = {"measuring": self.measuring, "naming": self.promoting}
        if self.measuring is not None:
            self.measuring.cancel()
        self.measuring = self.promoting = None
        for what, task in tasks.items():
            (error,) = await asyncio.gather(task, return_exceptions=True) if task is not None else (None,)
            if isinstance(error, ProteusError):
                log.warning("%s %s failed, after its roll-out has ended: %s", what, variant, error.message)
            elif isinstance(error, Exception):
                log.error("a bug while %s %s", what, variant, exc_info=error)


@dataclass(slots=True)
class Retries:
    """Going back to the old version: where it has failed, it is tried again at ``again_s``, ``pause_s`` later."""

    pause_s: float = 0.0
    again_s: float = 0.0

    def failed(self, now_s: float) -> None:
        """The pause doubles."""
        self.pause_s = min(max(2 * self.pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        self.again_s = now_s + self.pause_s


@dataclass(slots=True)
class Absence:
    """``since_s``: since when no device, or no plan, has had the new version. ``why``: by device, what prevents it."""

    since_s: float | None = None
    why: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Running:
    """A running roll-out of the version ``new`` in place of ``old``; ``digest`` is that of its model.

    ``done`` is what was brought about last, ``measured`` what devices have shown. Plans are to ``have_both``
    versions. The catalog file, as written here, has the new one if it ``is_named``; from then on the old one is kept
    loaded (``keeps_old``).
    ``problem``: the last one, which was logged. ``changed`` is set where a person has said something, or promoting has
    ended.
    """

    machine: VersionRollout
    arms: VersionArms
    candidate: Candidate
    old: VariantKey
    new: VariantKey
    digest: str
    done: tuple[RolloutStage, int] | None = None
    measured: Mapping[str, VariantProfile] = field(default_factory=dict)
    have_both: bool = False
    is_named: bool = False
    keeps_old: bool = False
    is_over: bool = False
    problem: str = ""
    background: Background = field(default_factory=Background)
    retries: Retries = field(default_factory=Retries)
    absence: Absence = field(default_factory=Absence)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def family(self) -> str:
        return self.old.family

    @property
    def pair(self) -> VersionPair:
        """Both versions, with the share of the new one now."""
        return VersionPair(self.family, self.old.variant, self.new.variant, self.machine.wanted.share)

    @property
    def is_done(self) -> bool:
        """Whether the roll-out has ended well."""
        return self.machine.wanted.ending is Ending.DONE

    @property
    def goes_back(self) -> bool:
        """Whether the old version is being put back: the catalog and the planner may still have the new one."""
        return self.machine.wanted.ending not in {None, Ending.DONE} and not self.is_over

    def said(self, line: str) -> None:
        """Measuring has told something."""
        self.background.said = line[:LONGEST_NOTE]
        level = logging.INFO if tells_of_waits(line) else logging.DEBUG
        log.log(level, "measuring %s: %s", self.new.variant, line)

    def status(self, now_s: float) -> RolloutStatus:
        """What is told of it."""
        status = self.machine.status(now_s)
        return msgspec.structs.replace(status, note=self._waits_for(now_s) or status.note)

    def _waits_for(self, now_s: float) -> str:
        """What it waits for, where nothing seems to happen."""
        machine = self.machine
        if machine.wanted.ending is not None:
            return "" if self.is_over or self.is_done else self._puts_back()
        if machine.wanted.stage is RolloutStage.MEASURING:
            return self.background.said
        if machine.wanted.stage not in {RolloutStage.SHADOW, RolloutStage.CANARY}:
            return ""
        quiet_s = now_s - max(machine.since_s, self.arms.reached_s)
        if quiet_s < QUIET_S:
            return ""
        return f"no query has reached {self.old.variant} or {self.new.variant} for {quiet_s:.0f} s"

    def _puts_back(self) -> str:
        """That the old version does not serve alone yet; and why not, where that was tried in vain."""
        return f"{PUTTING_BACK}: {self.problem}"[:LONGEST_NOTE] if self.retries.pause_s else PUTTING_BACK


class VersionedPlans:
    """``running`` has the roll-outs, by family: the last one of each."""

    def __init__(self, controller: Controller, profiles: Mapping[str, Profile], served: ServedCatalog) -> None:
        self._controller, self._profiles, self._served = controller, profiles, served
        self.running = dict[str, Running]()

    def expanded(self, plan: Plan) -> Plan:
        """A plan of the planner, with the versions that are rolled out; a plan that has them stays as it is.

        A version that is taken back is replaced by the old one: the plan may have been asked for before.
        """
        for running in self.running.values():
            if running.goes_back and places(plan, running.new):
                plan = self._with_old(plan, running)
            elif running.have_both and not places(plan, running.new):
                found = expanded(plan, running.pair, self._profiles, *self._conditions(running))
                plan, running.absence.why = found.plan, found.without
        return plan

    def again(self) -> Plan:
        """The plan in force, expanded anew."""
        plan = self._controller.plan
        for running in self.running.values():
            plan = contracted(plan, running.pair, self._profiles)
        return self.expanded(plan)

    def only_new(self, running: Running) -> Plan:
        """The plan in force, with the new version in place of the old one."""
        return replaced(self._controller.plan, running.pair, self._profiles, *self._conditions(running))

    def only_old(self, running: Running) -> Plan:
        """The plan in force, with the old version in place of the new one."""
        return self._with_old(self._controller.plan, running)

    def _with_old(self, plan: Plan, running: Running) -> Plan:
        plan = contracted(plan, running.pair, self._profiles)
        back = VersionPair(running.family, old=running.new.variant, new=running.old.variant)
        return replaced(plan, back, self._profiles, *self._conditions(running))

    def _conditions(self, running: Running) -> tuple[SloTarget, Collection[tuple[str, str, str]], PriceOf]:
        """What a version must keep: the SLO of its family; the broken engines; and what devices cost."""
        target = self._controller.slo_targets[running.family]
        return target, self._controller.topology.outages.engines, self._served.catalog.price_of


def places(plan: Plan, key: VariantKey) -> bool:
    """Whether a plan has a variant on any device."""
    return any(placement.key == key for placement in plan.placements)


FOLLOWED_S = 120.0
"""So long a catalog may take to be followed."""
POLL_S = 0.1


class CatalogNaming:
    """Names versions in the catalog for `RolloutSteps`. Without a live catalog or a ``source``, all calls raise."""

    def __init__(
        self, live_catalog: LiveCatalog | None, source: VersionSource | None, clock: Callable[[], float]
    ) -> None:
        self._live, self._source, self._clock = live_catalog, source, clock
        self._changing = asyncio.Lock()
        self._following = set[str]()

    @property
    def live_catalog(self) -> LiveCatalog:
        """Raises `Conflict` where the server follows no catalog."""
        if self._live is None:
            raise Conflict("this server reads no catalog")
        return self._live

    @property
    def source(self) -> VersionSource:
        """Raises `Conflict` where the server follows no catalog."""
        if self._source is None:
            raise Conflict("this server reads no catalog")
        return self._source

    def is_naming(self, family: str) -> bool:
        """What a roll-out of a family has written is not followed yet."""
        return family in self._following

    async def name_new(self, running: Running) -> None:
        """Have the catalog name the new version. Raises `ProteusError` where that does not serve then.

        It returns early where the roll-out ends meanwhile; what was written then is to be written back.
        """
        source = self.source

        def write() -> bool:
            source.write(running.candidate, running.measured)
            return True

        running.is_named = True
        await self._name(running.family, running.new, write, lambda: running.machine.wanted.ending is None)

    async def name_old(self, running: Running) -> None:
        """Have the catalog name the old version again; what another has made of it is read as it is.

        Raises `ProteusError` where the old version does not serve then.
        """
        if not await self._name(running.family, running.old, partial(self.source.write_back, running.candidate)):
            log.warning("the catalog names another model than %s: it stays", running.new.variant)
        running.is_named = False

    async def _name(
        self, family: str, serving: VariantKey, write: Callable[[], bool], is_wanted: Callable[[], bool] = lambda: True
    ) -> bool:
        """Change the file, and read it until it is followed, or not wanted any more.

        False where ``write`` has left the file, as it is another's.
        """
        live, stop_s = self.live_catalog, self._clock() + FOLLOWED_S
        self._following.add(family)
        try:
            async with self._changing:
                if not is_wanted():
                    return True
                if not await asyncio.to_thread(write):
                    await live.read(rolled_out=self._following - {family})
                    return False
                await live.read(rolled_out=frozenset(self._following))
            # While another roll-out writes, the files may not fit together; what it reads then is all that was written.
            while (live.status().state == "measuring" or self._changing.locked()) and self._clock() < stop_s:
                if not is_wanted():
                    return True
                await asyncio.sleep(POLL_S)
        finally:
            self._following.discard(family)
        if not live.serves(serving):
            raise Unprocessable(f"the catalog was not followed: {live.status().problem or 'it names another model'}")
        return True


NOWHERE_S = 30.0
"""Seconds without any device that has the new version; a device that is lost is mostly back by then."""

LEFT_OUT_S = 300.0
"""Seconds without a plan that places the new version; a burst, which needs faster variants, is over by then."""


class RolloutSteps:
    """Roll-outs of families may have their steps taken at the same time.

    A plan is made and put in force in one step of the control loop.
    """

    def __init__(
        self,
        plans: VersionedPlans,
        plane: DataPlane,
        profiles: ProfileStore,
        control_loop: ControlLoop,
        live_catalog: LiveCatalog | None,
        source: VersionSource | None,
    ) -> None:
        self._plans, self._plane, self._profiles = plans, plane, profiles
        self._control_loop, self._planner = control_loop, control_loop.planner
        self._naming = CatalogNaming(live_catalog, source, plane.clock)

    def is_naming(self, family: str) -> bool:
        """What a roll-out of a family has written into the catalog is not followed yet."""
        return self._naming.is_naming(family)

    # --- what keeps a roll-out from going on

    def problem(self, running: Running, now_s: float) -> str | None:
        """Why it cannot go on; None: it can."""
        stage, served = running.machine.wanted.stage, self._plane.families.by_name.get(running.family)
        if stage is RolloutStage.ENDED:
            return None
        if served is None:
            return f"`{running.family}` is not served any more"
        if served.why_out:
            return f"`{running.family}` is {served.why_out}"
        if stage is not RolloutStage.PROMOTING and self._is_changed(running):
            running.is_named = False  # the catalog is what somebody else has made of it
            return "the catalog names another model now"
        return self._broken(running) or self._problem_of_place(running, now_s)

    def _broken(self, running: Running) -> str | None:
        """The new version can't be loaded on a device, or the device was given up as it failed there on all inputs."""
        fleet, new = self._plane.fleet, running.new
        for device, *key in sorted(self._plane.controller.topology.outages.engines):
            if tuple(key) == new:
                breaker = fleet.broken_engines.breakers.get((device, new))
                return f"{new.variant} is broken on {device}: {(breaker and breaker.reason) or 'it fails'}"
        lost = sorted(device for device, key in fleet.lost_by_variant.items() if key == new)
        return f"{lost[0]} was given up: {fleet.breakers[lost[0]].reason}" if lost else None

    def _is_changed(self, running: Running) -> bool:
        """Another reading of the catalog has changed the variant."""
        is_new_served = running.machine.wanted.stage is RolloutStage.FULL
        return not self._naming.live_catalog.serves(running.new if is_new_served else running.old)

    def _problem_of_place(self, running: Running, now_s: float) -> str | None:
        """No device has the new version, or with ``auto`` no plan places it, and that lasts."""
        fleet, absence = self._plane.fleet, running.absence
        is_there = any(
            running.new in fleet.loader.loaded(device) and breaker.is_closed
            for device, breaker in fleet.breakers.items()
        )
        is_asked = running.machine.wanted.stage in {RolloutStage.SHADOW, RolloutStage.CANARY}
        is_left_out = running.machine.specification.is_auto and not places(self._plane.controller.plan, running.new)
        if not is_asked or (is_there and not is_left_out):
            absence.since_s = None
            return None
        absence.since_s = now_s if absence.since_s is None else absence.since_s
        absent_s = now_s - absence.since_s
        if is_there:
            return self._left_out(running) if absent_s >= LEFT_OUT_S else None
        return f"no device has {running.new.variant}{_reasons(absence.why)}" if absent_s >= NOWHERE_S else None

    def _left_out(self, running: Running) -> str:
        live = self._profiles.live_accuracy
        known = [key for key in (running.old, running.new) if key in live]
        told = ", ".join(f"{key.variant} has {format_percent(live[key])}" for key in known)
        what = f"plans have left out {running.old.variant} and {running.new.variant} for {LEFT_OUT_S:.0f} s"
        return f"{what} (accuracy by labels: {told})" if told else what

    # --- steps

    async def bring_about(self, running: Running) -> None:
        """What is wanted now. Raises `ProteusError`, and then it cannot be."""
        wanted = running.machine.wanted
        place = wanted.stage, wanted.number
        if place == running.done:
            return
        match wanted.stage:
            case RolloutStage.MEASURING:
                await self._measure(running)
                return
            case RolloutStage.SHADOW | RolloutStage.CANARY:
                await self._share(running, wanted)
            case RolloutStage.PROMOTING:
                await self._promote(running)
                return
            case RolloutStage.FULL:
                pass  # it serves already: see `_promote`
            case RolloutStage.ENDED:
                await (self._finish(running) if running.is_done else self._go_back(running))
        running.done = place

    async def _measure(self, running: Running) -> None:
        """Measure and load the new version, in the background: others have their steps meanwhile."""
        if running.background.measuring is None:
            running.background.measuring = asyncio.create_task(self._measured(running))
        elif running.background.measuring.done():
            measuring, running.background.measuring = running.background.measuring, None
            await measuring
            running.machine.ready(self._plane.clock())

    async def _measured(self, running: Running) -> None:
        types = {device: profile.device.type for device, profile in self._profiles.items()}
        possible = self._naming.live_catalog.measurable()
        devices = [device.id for device in possible.devices]
        log.info("measuring %s on %s", running.new.variant, ", ".join(devices), extra=fields(devices=devices))
        running.measured = await self._naming.source.measure(running.candidate, possible, types, running.said)
        if not running.measured:
            raise Unprocessable(f"{running.new.variant} could not be measured on any device in time")
        model = running.candidate.files.models[running.candidate.plain]
        named = {
            device: msgspec.structs.replace(each, variant=running.new.variant)
            for device, each in running.measured.items()
        }
        await self._naming.live_catalog.hold(running.new, running.digest, model, named)

    async def _share(self, running: Running, wanted: WantedStep) -> None:
        """The new version beside the old one, for its share of the queries."""
        self._planner.version_pairs[running.family] = running.pair
        running.have_both = True
        self._plane.controller.use_version_pair(running.family, running.pair)
        reason = _reason(running, wanted)
        await self._control_loop.redeploy(self._plans.again, reason, "request")
        if not places(self._plane.controller.plan, running.new) and not self._planner.replans:
            raise Unprocessable(f"no device has {running.new.variant}{_reasons(running.absence.why)}")
        self._plane.arms[running.family] = running.arms
        running.arms.use(wanted.share, wanted.shadow_share)
        log.info("%s", reason, extra=fields(family=running.family, share=wanted.share))
        await self._control_loop.changed(reason)

    async def _promote(self, running: Running) -> None:
        """Have the catalog name the new version, and follow it, in the background: it may have to end meanwhile."""
        if running.background.promoting is None:
            running.keeps_old = True
            await self._keep_old()
            self._planner.version_pairs.pop(running.family, None)
            log.info("%s is to serve in place of %s", running.new.variant, running.old.variant)
            running.background.promoting = asyncio.create_task(self._naming.name_new(running))
            running.background.promoting.add_done_callback(lambda _: running.changed.set())
        elif running.background.promoting.done():
            promoting, running.background.promoting = running.background.promoting, None
            await promoting
            await self._switch(running)
            if running.machine.wanted.stage is RolloutStage.PROMOTING:  # else it has ended meanwhile
                running.machine.promoted(self._plane.clock())

    async def _switch(self, running: Running) -> None:
        """The new version in place of the old one, which stays loaded; then nothing is undone by the next server."""
        running.have_both = False
        self._plane.controller.use_version_pair(running.family, None)
        reason = f"{running.new.variant} serves in place of {running.old.variant}"
        plans = self._plans
        await self._control_loop.redeploy(lambda: self._planner.of_now(plans.only_new(running)), reason, "request")
        await self._control_loop.recorded()
        await asyncio.to_thread(self._naming.source.succeeded, running.candidate)
        running.arms.use_fully()
        log.info("%s", reason, extra=fields(family=running.family))
        await self._control_loop.changed(reason)

    async def _finish(self, running: Running) -> None:
        """The old version is kept no longer."""
        self._plane.arms.pop(running.family, None)
        running.is_over = True
        await self._keep_old()
        reason = f"{running.old.variant} is kept no longer: {running.new.variant} is rolled out"
        await self._control_loop.redeploy(lambda: self._plane.controller.plan, reason, "request")
        log.info("%s is rolled out", running.new.variant, extra=fields(family=running.family))

    async def _go_back(self, running: Running) -> None:
        """The old version serves as before, or again."""
        running.arms.use(0.0, 0.0)
        await running.background.stopped(running.new.variant)
        self._planner.version_pairs.pop(running.family, None)
        wanted, running.have_both, was_named = running.machine.wanted, False, running.is_named
        reason = f"{running.new.variant} is not rolled out ({wanted.ending}): {wanted.reason}"
        if running.is_named:
            await self._serve_old(running, reason)
            await self._naming.name_old(running)
        await self._control_loop.settled()
        if self._has_place_of_old(running) or (was_named and not self._planner.is_of_now(self._plane.controller.plan)):
            of_now, plans = self._planner.of_now, self._plans
            await self._control_loop.redeploy(lambda: of_now(plans.only_old(running)), reason, "request")
            await self._control_loop.recorded()
        self._plane.controller.use_version_pair(running.family, None)
        self._plane.arms.pop(running.family, None)
        self._naming.live_catalog.release(running.new)
        running.is_over = True
        await self._keep_old()
        log.warning("%s", reason, extra=fields(family=running.family, ending=str(wanted.ending)))
        await self._control_loop.changed(reason)

    # --- parts of steps

    async def _serve_old(self, running: Running, reason: str) -> None:
        """The old version, which was kept, in place of the new one at once: before the catalog is read, and followed.

        Where that fails, it serves once the catalog names it.
        """
        if places(self._plane.controller.plan, running.new):
            try:
                await self._control_loop.redeploy(lambda: self._plans.only_old(running), reason, "request")
            except EngineError as error:
                log.warning("%s can't serve at once: %s", running.old.variant, error.message)

    def _has_place_of_old(self, running: Running) -> bool:
        """The new version serves though the catalog does not name it, and the old one is there to go back to."""
        plan, live = self._plane.controller.plan, self._naming.live_catalog
        is_old_there = live.serves(running.old) or places(plan, running.old)
        return places(plan, running.new) and not live.serves(running.new) and is_old_there

    async def _keep_old(self) -> None:
        """Keep the old versions loaded that somebody may go back to."""
        await self._naming.live_catalog.keep(
            [each.old for each in self._plans.running.values() if each.keeps_old and not each.is_over]
        )


def _reason(running: Running, wanted: WantedStep) -> str:
    if wanted.stage is RolloutStage.SHADOW:
        return f"{running.new.variant} is shadowed"
    share, note = format_percent(wanted.share), wanted.note and f"; {wanted.note}"
    return f"{running.new.variant} answers {share} of {running.family} in place of {running.old.variant}{note}"


def _reasons(without: Mapping[str, str]) -> str:
    """Why devices are without a version."""
    told = "; ".join(f"{device}: {why}" for device, why in sorted(without.items())[:3])
    return f" ({told})" if told else ""
