"""Adaptation, opened for as long as the server runs: the plan in force, and all that changes plans and profiles."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

from proteus_cli.control.devices.slowness import Drift
from proteus_cli.serving.adaptation.catalog_reading import ServedCatalog
from proteus_cli.serving.adaptation.conditions import LiveConditions
from proteus_cli.serving.adaptation.control_loop import ControlLoop
from proteus_cli.serving.adaptation.feedback import Feedback
from proteus_cli.serving.adaptation.joining import Joining
from proteus_cli.serving.adaptation.live_catalog import LiveCatalog
from proteus_cli.serving.adaptation.manual_plans import ManualPlans, PlanRequirements
from proteus_cli.serving.adaptation.plan_inputs import LivePlanner, ProfileStore
from proteus_cli.serving.adaptation.plan_journal import PlanJournal
from proteus_cli.serving.adaptation.recalibration import Recalibration
from proteus_cli.serving.adaptation.rollout_steps import VersionedPlans
from proteus_cli.serving.adaptation.rollouts import VersionRollouts
from proteus_cli.serving.adaptation.sharing import Sharing
from proteus_cli.serving.adaptation.shifts import Shifts
from proteus_cli.serving.adaptation.solver import SolverProcess
from proteus_cli.serving.devices.hardware import ClusterHardware, Hardware
from proteus_cli.serving.lifecycle import run_unless, running
from proteus_cli.serving.requests.data_plane import DataPlane
from proteus_cli.serving.server.deployment import Deployment, ServerOptions


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What changes plans and profiles while the server runs. What is None is not wanted."""

    control_loop: ControlLoop
    manual_plans: ManualPlans
    conditions: LiveConditions
    live_catalog: LiveCatalog | None
    feedback: Feedback
    shifts: Shifts | None
    solver: SolverProcess | None
    journal: PlanJournal | None
    recalibration: Recalibration | None
    rollouts: VersionRollouts


@asynccontextmanager
async def open_adaptation(
    deployment: Deployment,
    options: ServerOptions,
    hardware: Hardware,
    plane: DataPlane,
    profiles: ProfileStore,
    served: ServedCatalog,
    drift: Drift | None,
    shifts: Shifts | None,
    stop: asyncio.Event,
) -> AsyncIterator[Adaptation]:
    """Put the plan in force, while the solver gets ready, and adapt it from then on.

    Raises `StoppedEarly`, and `EngineError` where the plan can't be put in force.
    """
    async with AsyncExitStack() as stack:
        planning = await _open_planning(deployment, plane, profiles, served, stack, stop)
        parts = _Parts(deployment, hardware, plane, profiles, planning, options.tokens is not None, stack)
        await parts.open_sharing()
        recalibration = await parts.open_recalibration(drift)
        await parts.open_joining()
        feedback = await parts.open_feedback()
        conditions = parts.live_conditions(served)
        live_catalog = await parts.open_live_catalog(served, feedback, conditions)
        if shifts is not None:
            await stack.enter_async_context(running(shifts.run))
        rollouts = await parts.open_rollouts(live_catalog)
        yield Adaptation(
            planning.control_loop,
            parts.manual_plans(served, live_catalog),
            conditions,
            live_catalog,
            feedback,
            shifts,
            planning.solver,
            planning.journal,
            recalibration,
            rollouts,
        )


class _PlanningParts(NamedTuple):
    solver: SolverProcess | None
    journal: PlanJournal | None
    control_loop: ControlLoop
    versions: VersionedPlans


async def _open_planning(
    deployment: Deployment,
    plane: DataPlane,
    profiles: ProfileStore,
    served: ServedCatalog,
    stack: AsyncExitStack,
    stop: asyncio.Event,
) -> _PlanningParts:
    """The plan is in force then. Raises like `open_adaptation`."""
    rule, solver = deployment.policy.replanning, None
    if rule is not None:
        replanner = deployment.source.replanner(deployment.plan, profiles)
        solver = stack.enter_context(contextlib.closing(SolverProcess(replanner, deployment.solve_limit_s)))
        demand = rule.initial_demand(deployment.plan.demand_qps, plane.controller.demand.slo_s)
        solver.warm_up(demand, deployment.plan)
    journal = PlanJournal(deployment.journal, plane.counts) if deployment.journal is not None else None
    versions = VersionedPlans(plane.controller, profiles, served)
    planner = LivePlanner(deployment.source, profiles, solver)
    control_loop = ControlLoop(plane, planner, journal, versions.expanded)
    kept = deployment.conditions.families
    plane.controller.dispatch.stop_when.update({family: each.stop_when for family, each in kept.items()})
    since = [f"{family} stops when {each.stop_when}, as since {each.since}" for family, each in kept.items()]
    reason = "; ".join([deployment.reason, *since])
    await run_unless(stop, control_loop.start(deployment.plan, deployment.origin, reason))
    await stack.enter_async_context(running(plane.fleet.standbys.run))
    if journal is not None:
        stack.callback(journal.stopped)
    if rule is not None and solver is not None:
        await stack.enter_async_context(running(solver.watch))
        await stack.enter_async_context(running(control_loop.run, rule.every_s, solver))
    return _PlanningParts(solver, journal, control_loop, versions)


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of adaptation; what runs of them is closed with the ``stack``.

    ``is_guarded``: clients have shown a token. Without, no version is rolled out.
    """

    deployment: Deployment
    hardware: Hardware
    plane: DataPlane
    profiles: ProfileStore
    planning: _PlanningParts
    is_guarded: bool
    stack: AsyncExitStack

    async def open_sharing(self) -> None:
        if self.deployment.hosts is None:
            return
        sharing = Sharing(self.hardware.shared, self.profiles, self.plane.fleet, self.planning.control_loop)
        await self.stack.enter_async_context(running(sharing.watch))

    async def open_recalibration(self, drift: Drift | None) -> Recalibration | None:
        if drift is None:
            return None
        recalibration = Recalibration(
            drift, self.profiles, self.plane.controller, self.planning.control_loop, self.deployment.source,
            self.plane.clock, is_recording=self.deployment.records,
        )  # fmt: skip
        self.stack.callback(recalibration.write)
        await self.stack.enter_async_context(running(recalibration.watch))
        return recalibration

    async def open_joining(self) -> None:
        """Devices join where there are hosts that may bring some."""
        if self.deployment.newcomers is not None and isinstance(self.hardware, ClusterHardware):
            joining = Joining(
                self.hardware, self.plane, self.profiles, self.deployment.newcomers,
                self.planning.control_loop, has_standbys=self.deployment.has_standbys,
            )  # fmt: skip
            await self.stack.enter_async_context(running(joining.run))

    async def open_feedback(self) -> Feedback:
        feedback = Feedback(
            self.plane, self.profiles, self.planning.control_loop, self.deployment.source,
            is_recording=self.deployment.records,
        )  # fmt: skip
        await self.stack.enter_async_context(running(feedback.run))
        return feedback

    async def open_live_catalog(
        self, served: ServedCatalog, feedback: Feedback, conditions: LiveConditions
    ) -> LiveCatalog | None:
        if self.deployment.catalog_source is None:
            return None
        live_catalog = LiveCatalog(
            served, self.hardware, self.plane, self.profiles, self.deployment.catalog_source,
            self.planning.control_loop, feedback, conditions.catalog_changed,
        )  # fmt: skip
        self.stack.push_async_callback(live_catalog.stop_following)
        await self.stack.enter_async_context(running(live_catalog.run, watches=self.deployment.watches_catalog))
        return live_catalog

    async def open_rollouts(self, live_catalog: LiveCatalog | None) -> VersionRollouts:
        rollouts = VersionRollouts(
            self.deployment.version_source, live_catalog, self.plane, self.profiles,
            self.planning.control_loop, self.planning.versions, is_guarded=self.is_guarded,
        )  # fmt: skip
        await self.stack.enter_async_context(running(rollouts.run))
        return rollouts

    def manual_plans(self, served: ServedCatalog, live_catalog: LiveCatalog | None) -> ManualPlans:
        models = self.plane.fleet.loader.models
        requirements = PlanRequirements(self.deployment.policy.name, served, self.profiles, models)
        return ManualPlans(
            self.planning.control_loop, self.plane.lifecycle, self.deployment.source, requirements, live_catalog
        )

    def live_conditions(self, served: ServedCatalog) -> LiveConditions:
        return LiveConditions(
            self.planning.control_loop, self.plane.controller, self.plane.lifecycle, served,
            self.deployment.conditions, is_emulated=self.plane.is_emulated,
        )  # fmt: skip
