"""One version roll-out as the server has brought it about, its plans, and its steps."""

import asyncio
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import msgspec

from proteus_cli.control.controller import Controller
from proteus_cli.control.rollouts.plan_expansion import PriceOf, contracted, expanded, replaced
from proteus_cli.control.rollouts.version_rollout import VersionRollout, WantedStep
from proteus_cli.domain.attainment import SloTarget
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.domain.rollouts import Ending, RolloutStage, RolloutStatus, VersionPair
from proteus_cli.errors import EngineError, Unprocessable
from proteus_cli.serving.adaptation.catalog_reading import ServedCatalog
from proteus_cli.serving.adaptation.control_loop import ControlLoop
from proteus_cli.serving.adaptation.live_catalog import LiveCatalog
from proteus_cli.serving.adaptation.plan_inputs import ProfileStore
from proteus_cli.serving.adaptation.rollout_requests import Candidate, VersionSource
from proteus_cli.serving.logs import fields
from proteus_cli.serving.measuring_process import tells_of_waits
from proteus_cli.serving.requests.data_plane import DataPlane
from proteus_cli.serving.requests.version_arms import VersionArms
from proteus_cli.units import format_percent

log = logging.getLogger("proteus.rollouts")

QUIET_S = 30.0
"""After this time without a query, the status of a roll-out says so: other variants answer, or no query comes."""

LONGEST_NOTE = 200
PUTTING_BACK = "the old version is being put back"

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Between two tries to go back to the old version; the pause doubles."""

NOWHERE_S = 30.0
"""Seconds without any device that has the new version; a device that is lost is mostly back by then."""

LEFT_OUT_S = 300.0
"""Seconds without a plan that places the new version; a burst, which needs faster variants, is over by then."""

FOLLOWED_S = 120.0
"""The longest time for the catalog to be followed."""

POLL_S = 0.1


@dataclass(slots=True, eq=False)
class Running:
    """A running roll-out of the version ``new`` in place of ``old``; ``digest`` identifies the model of ``new``.

    ``step`` runs (``is_measuring``: it measures), and ``done`` is the last place that was reached. ``measured`` has the
    profile of each device, and ``said`` the last line of measuring. Plans are to ``have_both`` versions. The catalog
    file, as written here, has the new one if it ``is_named``; from then on the old one is kept loaded (``keeps_old``).
    ``problem`` is the last one, which was logged. After a failure to go back, it is tried again at ``again_s``. Since
    ``absent_since_s``, no device or no plan has had the new version; ``without`` says why, by device. ``changed`` is
    set after a person's decision and at the end of a step.
    """

    machine: VersionRollout
    arms: VersionArms
    candidate: Candidate
    old: VariantKey
    new: VariantKey
    digest: str
    step: "asyncio.Task[None] | None" = None
    done: tuple[RolloutStage, int] | None = None
    measured: Mapping[str, VariantProfile] = field(default_factory=dict)
    said: str = ""
    is_measuring: bool = False
    have_both: bool = False
    is_named: bool = False
    keeps_old: bool = False
    is_over: bool = False
    problem: str = ""
    pause_s: float = 0.0
    again_s: float = 0.0
    absent_since_s: float | None = None
    without: Mapping[str, str] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def family(self) -> str:
        return self.old.family

    @property
    def pair(self) -> VersionPair:
        """Both versions, with the share of the new one now."""
        return VersionPair(self.family, self.old.variant, self.new.variant, self.machine.wanted.share)

    @property
    def goes_back(self) -> bool:
        """Whether the old version is being put back: the catalog and the planner may still have the new one."""
        return self.machine.wanted.ending not in {None, Ending.DONE} and not self.is_over

    def tell(self, line: str) -> None:
        """Take a line of measuring."""
        self.said = line[:LONGEST_NOTE]
        level = logging.INFO if tells_of_waits(line) else logging.DEBUG
        log.log(level, "measuring %s: %s", self.new.variant, line)

    def status(self, now_s: float) -> RolloutStatus:
        """The published state."""
        status = self.machine.status(now_s)
        return msgspec.structs.replace(status, note=self._waits_for(now_s) or status.note)

    def _waits_for(self, now_s: float) -> str:
        """The event that it waits for; empty where something seems to happen."""
        stage = self.machine.wanted.stage
        if self.goes_back:
            return f"{PUTTING_BACK}: {self.problem}"[:LONGEST_NOTE] if self.pause_s else PUTTING_BACK
        if stage is RolloutStage.MEASURING:
            return self.said
        quiet_s = now_s - max(self.machine.since_s, self.arms.reached_s)
        if stage in {RolloutStage.SHADOW, RolloutStage.CANARY} and quiet_s >= QUIET_S:
            return f"no query has reached {self.old.variant} or {self.new.variant} for {quiet_s:.0f} s"
        return ""


class VersionedPlans:
    """Plans with both versions, or one of them only. ``running`` has the last roll-out of each family."""

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
                plan, running.without = found.plan, found.without
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
        """The limits of a version: the SLO of its family, the broken engines, and the price of devices."""
        target = self._controller.slo_targets[running.family]
        return target, self._controller.topology.outages.engines, self._served.catalog.price_of


def places(plan: Plan, key: VariantKey) -> bool:
    """Whether a plan has a variant on any device."""
    return any(placement.key == key for placement in plan.placements)


class RolloutSteps:
    """Brings steps about. Steps of several families may run at the same time.

    A plan is made and put in force in one step of the control loop. The catalog file is changed by one roll-out after
    another, and read before the next one changes it: no change is lost. All that was written is followed together.
    ``naming`` are the families whose change of the file is not followed yet.
    """

    def __init__(
        self,
        plans: VersionedPlans,
        plane: DataPlane,
        profiles: ProfileStore,
        control_loop: ControlLoop,
        live: LiveCatalog,
        source: VersionSource,
    ) -> None:
        self._plans, self._plane, self._profiles = plans, plane, profiles
        self._control_loop, self._planner = control_loop, control_loop.planner
        self.live, self.source, self.naming = live, source, set[str]()
        self._writing = asyncio.Lock()

    # --- problems

    def problem(self, running: Running, now_s: float) -> str | None:
        """Why it cannot go on; None: it can."""
        stage, served = running.machine.wanted.stage, self._plane.families.by_name.get(running.family)
        if stage is RolloutStage.ENDED:
            return None
        if served is None:
            return f"`{running.family}` is not served any more"
        if served.why_out:
            return f"`{running.family}` is {served.why_out}"
        serving = running.new if stage is RolloutStage.FULL else running.old
        if stage is not RolloutStage.PROMOTING and not self.live.serves(serving):
            running.is_named = False  # the catalog is what somebody else has made of it
            return "the catalog names another model now"
        return self._broken(running.new) or self._absent(running, now_s)

    def _broken(self, new: VariantKey) -> str | None:
        """The new version can't be loaded on a device, or the device was given up as it failed there on all inputs."""
        fleet = self._plane.fleet
        for device, *key in sorted(self._plane.controller.topology.outages.engines):
            if tuple(key) == new:
                breaker = fleet.broken_engines.breakers.get((device, new))
                return f"{new.variant} is broken on {device}: {(breaker and breaker.reason) or 'it fails'}"
        lost = sorted(device for device, key in fleet.lost_by_variant.items() if key == new)
        return f"{lost[0]} was given up: {fleet.breakers[lost[0]].reason}" if lost else None

    def _absent(self, running: Running, now_s: float) -> str | None:
        """No device has the new version, or with ``auto`` no plan places it, and that lasts."""
        fleet, machine = self._plane.fleet, running.machine
        is_there = any(
            running.new in fleet.loader.loaded(device) and breaker.is_closed
            for device, breaker in fleet.breakers.items()
        )
        is_asked = machine.wanted.stage in {RolloutStage.SHADOW, RolloutStage.CANARY}
        is_left_out = machine.specification.is_auto and not places(self._plane.controller.plan, running.new)
        if not is_asked or (is_there and not is_left_out):
            running.absent_since_s = None
            return None
        if running.absent_since_s is None:
            running.absent_since_s = now_s
        if now_s - running.absent_since_s < (LEFT_OUT_S if is_there else NOWHERE_S):
            return None
        if not is_there:
            return _no_device(running)
        live = self._profiles.live_accuracy
        told = ", ".join(
            f"{key.variant} has {format_percent(live[key])}" for key in (running.old, running.new) if key in live
        )
        left_out = f"plans have left out {running.old.variant} and {running.new.variant} for {LEFT_OUT_S:.0f} s"
        return f"{left_out} (accuracy by labels: {told})" if told else left_out

    # --- steps

    async def bring_about(self, running: Running, wanted: WantedStep) -> None:
        """Bring a step about. Raises `ProteusError` if it cannot be."""
        match wanted.stage:
            case RolloutStage.MEASURING:
                await self._measure(running)
            case RolloutStage.SHADOW | RolloutStage.CANARY:
                await self._share(running, wanted)
            case RolloutStage.PROMOTING:
                await self._promote(running)
            case RolloutStage.ENDED if wanted.ending is Ending.DONE:
                await self._finish(running)
            case RolloutStage.ENDED:
                await self._go_back(running, wanted)
            case RolloutStage.FULL:
                pass  # it serves already: see `_promote`

    async def _measure(self, running: Running) -> None:
        """Measure the new version on the devices, and have it known."""
        types = {device: profile.device.type for device, profile in self._profiles.items()}
        possible = self.live.measurable()
        devices = [device.id for device in possible.devices]
        log.info("measuring %s on %s", running.new.variant, ", ".join(devices), extra=fields(devices=devices))
        running.measured = await self.source.measure(running.candidate, possible, types, running.tell)
        if not running.measured:
            raise Unprocessable(f"{running.new.variant} could not be measured on any device in time")
        model = running.candidate.files.models[running.candidate.plain]
        named = {
            device: msgspec.structs.replace(each, variant=running.new.variant)
            for device, each in running.measured.items()
        }
        await self.live.hold(running.new, running.digest, model, named)
        running.machine.ready(self._plane.clock())

    async def _share(self, running: Running, wanted: WantedStep) -> None:
        """The new version beside the old one, for its share of the queries."""
        self._planner.version_pairs[running.family] = running.pair
        running.have_both = True
        self._plane.controller.use_version_pair(running.family, running.pair)
        reason = _reason(running, wanted)
        await self._control_loop.redeploy(self._plans.again, reason, "request")
        if not places(self._plane.controller.plan, running.new) and not self._planner.replans:
            raise Unprocessable(_no_device(running))
        self._plane.arms[running.family] = running.arms
        running.arms.use(wanted.share, wanted.shadow_share)
        log.info("%s", reason, extra=fields(family=running.family, share=wanted.share))
        await self._control_loop.changed(reason)

    async def _promote(self, running: Running) -> None:
        """Have the catalog name the new version, which then serves in place of the old one.

        The old one stays loaded. It ends early if the roll-out ends meanwhile.
        """
        running.keeps_old = running.is_named = True
        await self._keep_old()
        self._planner.version_pairs.pop(running.family, None)
        log.info("%s is to serve in place of %s", running.new.variant, running.old.variant)
        await self._name(running, is_new=True)
        if running.machine.wanted.stage is not RolloutStage.PROMOTING:
            return
        running.have_both = False
        self._plane.controller.use_version_pair(running.family, None)
        reason = f"{running.new.variant} serves in place of {running.old.variant}"
        await self._put_in_force(running, reason, is_new=True)
        await asyncio.to_thread(self.source.succeeded, running.candidate)  # the next server undoes nothing
        running.arms.use_fully()
        log.info("%s", reason, extra=fields(family=running.family))
        await self._control_loop.changed(reason)
        if running.machine.wanted.stage is RolloutStage.PROMOTING:  # else it has ended meanwhile
            running.machine.promoted(self._plane.clock())

    async def _finish(self, running: Running) -> None:
        """The old version is kept no longer."""
        self._plane.arms.pop(running.family, None)
        running.is_over = True
        await self._keep_old()
        reason = f"{running.old.variant} is kept no longer: {running.new.variant} is rolled out"
        await self._control_loop.redeploy(lambda: self._plane.controller.plan, reason, "request")
        log.info("%s is rolled out", running.new.variant, extra=fields(family=running.family))

    async def _go_back(self, running: Running, wanted: WantedStep) -> None:
        """The old version serves as before, or again."""
        controller, live = self._plane.controller, self.live
        running.arms.use(0.0, 0.0)
        self._planner.version_pairs.pop(running.family, None)
        running.have_both, was_named = False, running.is_named
        reason = f"{running.new.variant} is not rolled out ({wanted.ending}): {wanted.reason}"
        if was_named:
            if places(controller.plan, running.new):  # the old version is loaded: it serves before the catalog is read
                try:
                    await self._control_loop.redeploy(lambda: self._plans.only_old(running), reason, "request")
                except EngineError as error:
                    log.warning("%s can't serve at once: %s", running.old.variant, error.message)
            await self._name(running, is_new=False)
        await self._control_loop.settled()
        is_old_there = live.serves(running.old) or places(controller.plan, running.old)
        has_place_of_old = places(controller.plan, running.new) and not live.serves(running.new) and is_old_there
        if has_place_of_old or (was_named and not self._planner.is_of_now(controller.plan)):
            await self._put_in_force(running, reason, is_new=False)
        controller.use_version_pair(running.family, None)
        self._plane.arms.pop(running.family, None)
        live.release(running.new)
        running.is_over = True
        await self._keep_old()
        log.warning("%s", reason, extra=fields(family=running.family, ending=str(wanted.ending)))
        await self._control_loop.changed(reason)

    # --- parts of steps

    async def _put_in_force(self, running: Running, reason: str, *, is_new: bool) -> None:
        """One version in place of the other, in a plan that the next server can resume; then the journal has it."""
        make = self._plans.only_new if is_new else self._plans.only_old
        await self._control_loop.redeploy(lambda: self._planner.of_now(make(running)), reason, "request")
        await self._control_loop.recorded()

    async def _name(self, running: Running, *, is_new: bool) -> None:
        """Have the catalog name the new or the old version, and follow it.

        A new version is not waited for once the roll-out has ended: it is to be written back. A catalog that names
        another model than the new version stays as it is, and is read. Raises `ProteusError` if the version does not
        serve then.
        """
        live, source, stop_s = self.live, self.source, self._plane.clock() + FOLLOWED_S

        def is_wanted() -> bool:
            return not is_new or running.machine.wanted.ending is None

        self.naming.add(running.family)
        try:
            async with self._writing:
                if not is_wanted():
                    return
                if is_new:
                    await asyncio.to_thread(source.write, running.candidate, running.measured)
                elif not await asyncio.to_thread(source.write_back, running.candidate):
                    log.warning("the catalog names another model than %s: it stays", running.new.variant)
                    running.is_named = False
                    await live.read(rolled_out=self.naming - {running.family})
                    return
                await live.read(rolled_out=frozenset(self.naming))
            # While another roll-out writes, the files may not fit together; what it reads then is all that was written.
            while (live.status().state == "measuring" or self._writing.locked()) and self._plane.clock() < stop_s:
                if not is_wanted():
                    return
                await asyncio.sleep(POLL_S)
        finally:
            self.naming.discard(running.family)
        if not live.serves(running.new if is_new else running.old):
            raise Unprocessable(f"the catalog was not followed: {live.status().problem or 'it names another model'}")
        running.is_named = is_new

    async def _keep_old(self) -> None:
        """Keep the old versions loaded that somebody may go back to."""
        running = self._plans.running.values()
        await self.live.keep([each.old for each in running if each.keeps_old and not each.is_over])


def _reason(running: Running, wanted: WantedStep) -> str:
    if wanted.stage is RolloutStage.SHADOW:
        return f"{running.new.variant} is shadowed"
    share, note = format_percent(wanted.share), wanted.note and f"; {wanted.note}"
    return f"{running.new.variant} answers {share} of {running.family} in place of {running.old.variant}{note}"


def _no_device(running: Running) -> str:
    """That no device has the new version, with the reasons of the first devices."""
    told = "; ".join(f"{device}: {why}" for device, why in sorted(running.without.items())[:3])
    return f"no device has {running.new.variant}" + (f" ({told})" if told else "")
