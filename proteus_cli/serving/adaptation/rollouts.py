"""Versions of variants are rolled out while the server serves.

Theory of operation
===================

The machine decides (`control/rollouts/`) which part of the queries the new version answers, and which version the
catalog is to name. `VersionRollouts` brings that about, one step after another, and reports to the machine:

* The new version is measured in a copy of the workspace, in the time that the devices have left. Then it is *held*: the
  server knows it by its versioned name, and the planner does not.
* From then on each plan is *expanded* (`control/rollouts/plan_expansion.py`): the new version is loaded beside the old
  one. Dispatch knows both as a `VersionPair`, and admission marks the canaries (`serving/requests/version_arms.py`).
* To promote it, the catalog file is made to name it, and is read like any change of the catalog. The old version is
  kept loaded, as a standby, until the rollback window is over.
* To go back, plans are contracted again; where the catalog names the new version already, it names the old one again.

Each roll-out has its own task, so that none waits for another. Each step is a task, and the guard is looked at all the
while: promotion may take two minutes, and canaries are asked until its end. If the guard fails then, or a person
aborts, the roll-out goes back. Plans come into force one after another, in the control loop. Roll-outs change the
catalog file one after another, too.

The old version serves on whatever becomes of the new one. A roll-out ends if an engine of the new version breaks, if
another change of the catalog comes, or if the family is unloaded. It ends if no device has the new version for
`NOWHERE_S`. With ``auto``, so does a new version that no plan places for `LEFT_OUT_S`. The catalog alone is kept on the
disk: the next server serves the versions that it names. Where a server ends before the version that it has named
serves, the next one names the old one again (`VersionSource.write`).
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Mapping

from proteus_cli.control.rollouts.version_rollout import VersionRollout, WantedStep
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.rollouts import RolloutStage, RolloutStatus
from proteus_cli.errors import Conflict, Forbidden, NotFound, ProteusError
from proteus_cli.serving.adaptation.control_loop import ControlLoop
from proteus_cli.serving.adaptation.live_catalog import LiveCatalog
from proteus_cli.serving.adaptation.plan_inputs import ProfileStore
from proteus_cli.serving.adaptation.rollout_requests import (
    RolloutAbortion,
    RolloutPromotion,
    RolloutsStatus,
    RolloutStart,
    VersionSource,
)
from proteus_cli.serving.adaptation.rollout_steps import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    RolloutSteps,
    Running,
    VersionedPlans,
)
from proteus_cli.serving.json_bodies import decoded, refusing
from proteus_cli.serving.lifecycle import count_bug
from proteus_cli.serving.logs import fields
from proteus_cli.serving.requests.data_plane import DataPlane
from proteus_cli.serving.requests.version_arms import VersionArms

log = logging.getLogger("proteus.rollouts")

LOOK_S = 0.5
"""Between two looks at a roll-out."""

LONGEST_BODY = 16_384
MAX_GONE = 20
"""The families that are not served any more whose last roll-out the status still shows."""


class VersionRollouts:
    """One roll-out of a family at a time. ``source`` is None where the server follows no catalog.

    ``is_guarded``: clients have shown a token. Without, none may change anything.
    """

    def __init__(
        self,
        source: VersionSource | None,
        live_catalog: LiveCatalog | None,
        plane: DataPlane,
        profiles: ProfileStore,
        control_loop: ControlLoop,
        plans: VersionedPlans,
        *,
        is_guarded: bool,
    ) -> None:
        self._plane, self._profiles, self._is_guarded = plane, profiles, is_guarded
        self._of = plans.running
        self.ended = Counter[str]()  # by how they did
        self._begun = asyncio.Event()
        self._steps: RolloutSteps | None = None
        if live_catalog is not None and source is not None:
            self._steps = RolloutSteps(plans, plane, profiles, control_loop, live_catalog, source)

    @property
    def all(self) -> Mapping[str, RolloutStatus]:
        """The last roll-out of each family."""
        now_s = self._plane.clock()
        return {family: running.status(now_s) for family, running in self._of.items()}

    def status(self) -> RolloutsStatus:
        """All roll-outs that are known, and why none can be started now."""
        return RolloutsStatus(list(self.all.values()), self._refusal())

    # --- clients

    async def start(self, body: bytes | bytearray) -> RolloutStatus:
        """Raises `RequestError`, without any change."""
        steps = self._require_possible()
        source, live_catalog = steps.source, steps.live
        asked = decoded(body, RolloutStart, LONGEST_BODY)
        plain, version = asked.plain_and_version()
        self._require_idle(asked.family)
        with refusing():
            source.require_writable()
            candidate = await asyncio.to_thread(source.candidate, plain, version)
            following = live_catalog.succession(candidate.files)
            others = [each for each in following.changes if (each.family, each.variant) != plain]
            if others and others[0].family in steps.naming:
                raise Conflict(f"a version of `{others[0].family}` is being named by the catalog: try again")
            if others:
                raise Conflict(f"{others[0]}, and was not read: have the catalog read first, as by SIGHUP")
            if not following.changes:
                raise Conflict(f"`{plain.variant}` has that model already")
            await live_catalog.require_possible(candidate.files, following)
        old, new = live_catalog.name_of(plain), VariantKey(asked.family, following.names[plain])
        specification = asked.specification(old.variant, new.variant)
        self._require_idle(asked.family)
        plane = self._plane
        family, now_s = plane.families.require(asked.family), plane.clock()
        machine = VersionRollout(specification, family.slo_s, now_s, self._accuracy_of(old))
        arms = VersionArms(old, new, machine.guard, plane.controller, plane.lifecycle, plane.workers, plane.clock)
        digest = candidate.files.content.digest(plain) or ""
        self._forget_gone()
        plane.fleet.forget_losses_by(new)
        self._of[asked.family] = Running(machine, arms, candidate, old, new, digest)
        log.info("rolling out %s in place of %s", new.variant, old.variant, extra=fields(family=asked.family))
        self._begun.set()
        return machine.status(now_s)

    def promote(self, family: str, body: bytes | bytearray) -> RolloutStatus:
        """Go on to the next step. Raises `RequestError`."""
        return self._decided(family, body, RolloutPromotion)

    def abort(self, family: str, body: bytes | bytearray) -> RolloutStatus:
        """End a roll-out. Raises `RequestError`."""
        return self._decided(family, body, RolloutAbortion)

    def _decided(
        self, family: str, body: bytes | bytearray, kind: type[RolloutPromotion | RolloutAbortion]
    ) -> RolloutStatus:
        self._require_possible()
        if family not in self._of:
            raise Conflict(f"no version of `{family}` is rolled out")
        running, now_s, asked = self._of[family], self._plane.clock(), decoded(body, kind, LONGEST_BODY)
        if isinstance(asked, RolloutPromotion):
            running.machine.promote(now_s, fully=asked.fully)
        else:
            running.machine.abort(now_s, asked.reason or "aborted by a client")
        running.changed.set()
        return running.machine.status(now_s)

    # --- steps

    async def run(self) -> None:
        """Bring about what the roll-outs want, each in a task, until cancelled. Then all tasks have ended."""
        begun = set[Running]()
        async with asyncio.TaskGroup() as group:
            while True:
                under_way = {running for running in self._of.values() if not running.is_over}
                for running in under_way - begun:
                    group.create_task(self._roll_out(running))
                begun = under_way
                await self._begun.wait()
                self._begun.clear()

    async def _roll_out(self, running: Running) -> None:
        """Bring about what one roll-out wants, one step at a time, until it is over; look at it all the while."""
        try:
            while not running.is_over:
                self._look(running)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):  # `wait_for` of Python 3.11 can lose that it is cancelled
                        await running.changed.wait()
                running.changed.clear()
        finally:
            if running.step is not None:
                running.step.cancel()
                await asyncio.gather(running.step, return_exceptions=True)
                running.step = None
        if (ending := running.machine.wanted.ending) is not None:
            self.ended[ending] += 1

    def _look(self, running: Running) -> None:
        """Begin the step that is wanted now, once the one before has ended. Measuring is given up where it is not."""
        machine, now_s = running.machine, self._plane.clock()
        assert self._steps is not None  # noqa: S101 - else no roll-out has started
        if (problem := self._steps.problem(running, now_s)) is not None:
            machine.fail(now_s, problem)
        wanted = machine.decide(now_s)
        if running.step is not None and not running.step.done():
            if wanted.ending is not None and running.is_measuring:
                running.is_measuring = False  # once: it may have to clean up
                running.step.cancel()
        elif (wanted.stage, wanted.number) != running.done and now_s >= running.again_s:
            running.is_measuring = wanted.stage is RolloutStage.MEASURING
            running.step = asyncio.create_task(self._step(self._steps, running, wanted))

    async def _step(self, steps: RolloutSteps, running: Running, wanted: WantedStep) -> None:
        """Bring a step about. A failure ends the roll-out; if it goes back already, it is tried again."""
        machine, new = running.machine, running.new.variant
        try:
            await steps.bring_about(running, wanted)
            running.done = wanted.stage, wanted.number
        except ProteusError as error:
            if wanted.ending is not None and error.message != running.problem:
                log.error("can't go back to %s yet: %s", running.old.variant, error.message)  # noqa: TRY400
            elif machine.wanted.ending is not None:
                what = "measuring" if wanted.stage is RolloutStage.MEASURING else "naming"
                log.warning("%s %s failed, after its roll-out has ended: %s", what, new, error.message)
            running.problem = error.message
        except Exception as error:  # noqa: BLE001
            running.problem = count_bug("VersionRollouts.step", error)
        else:
            running.problem = ""
        now_s = self._plane.clock()
        if running.problem:
            machine.fail(now_s, running.problem)
            if wanted.ending is not None:
                running.pause_s = min(max(2 * running.pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
                running.again_s = now_s + running.pause_s
        running.changed.set()

    # --- conditions

    def _require_possible(self) -> RolloutSteps:
        if not self._is_guarded:
            raise Forbidden("versions are rolled out only where clients need a token: start with `--auth-tokens`")
        self._plane.lifecycle.require_ready()
        if self._steps is None:
            raise NotFound("this server reads no catalog")
        return self._steps

    def _refusal(self) -> str:
        """Why no roll-out can start, whatever it is of; empty where one can."""
        try:
            self._require_possible().source.require_writable()
        except ProteusError as error:
            return error.message
        return ""

    def _accuracy_of(self, key: VariantKey) -> float | None:
        """The least that a variant has on an eval split; None where it was not measured."""
        found = (profile.of(*key) for profile in self._profiles.values())
        measured = [each for each in found if each is not None and each.eval_digest is not None]
        return min((each.accuracy for each in measured), default=None)

    def _forget_gone(self) -> None:
        """Forget the roll-outs of families that are not served any more, but for the last few."""
        served = self._plane.families.by_name
        gone = [family for family, running in self._of.items() if running.is_over and family not in served]
        for family in gone[: max(0, len(gone) - MAX_GONE)]:
            del self._of[family]

    def _require_idle(self, family: str) -> None:
        running = self._of.get(family)
        if running is not None and not running.is_over:
            if running.machine.wanted.ending is not None:
                raise Conflict(
                    f"`{running.new.variant}` is being taken back{running.problem and f': {running.problem}'}"
                )
            raise Conflict(f"`{running.new.variant}` is being rolled out: promote or abort that first")
