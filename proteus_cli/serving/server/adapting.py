"""Adaptation, opened for as long as the server runs: the plan in force, and all that changes plans and profiles."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

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
    source, controller, rule = deployment.source, plane.controller, deployment.policy.replanning
    async with AsyncExitStack() as stack:

        async def keep_running(work: Callable[..., Coroutine[Any, Any, None]], **how: Any) -> None:
            await stack.enter_async_context(running(work, **how))

        # The plan in force
        solver = None
        if rule is not None:
            replanner = source.replanner(deployment.plan, profiles)
            solver = stack.enter_context(contextlib.closing(SolverProcess(replanner, deployment.solve_limit_s)))
            solver.warm_up(rule.initial_demand(deployment.plan.demand_qps, controller.demand.slo_s), deployment.plan)
        journal = PlanJournal(deployment.journal, plane.counts) if deployment.journal is not None else None
        versions = VersionedPlans(controller, profiles, served)
        control_loop = ControlLoop(plane, LivePlanner(source, profiles, solver), journal, versions.expanded)
        kept = deployment.conditions.families
        controller.dispatch.stop_when.update({family: each.stop_when for family, each in kept.items()})
        since = [f"{family} stops when {each.stop_when}, as since {each.since}" for family, each in kept.items()]
        reason = "; ".join([deployment.reason, *since])
        await run_unless(stop, control_loop.start(deployment.plan, deployment.origin, reason))
        await keep_running(plane.fleet.standbys.run)
        if journal is not None:
            stack.callback(journal.stopped)
        if rule is not None and solver is not None:
            await keep_running(solver.watch)
            await keep_running(control_loop.run, every_s=rule.every_s, solver=solver)

        # Changes of profiles, devices, accuracies, the catalog and versions
        if deployment.hosts is not None:
            sharing = Sharing(hardware.shared, profiles, controller, plane.fleet, control_loop)
            await keep_running(sharing.watch)
        recalibration = None
        if drift is not None:
            recalibration = Recalibration(
                drift, profiles, controller, control_loop, source, plane.clock, is_recording=deployment.records
            )
            stack.callback(recalibration.write)
            await keep_running(recalibration.watch)
        if deployment.newcomers is not None and isinstance(hardware, ClusterHardware):
            joining = Joining(
                hardware, plane, profiles, deployment.newcomers, control_loop, has_standbys=deployment.has_standbys
            )
            await keep_running(joining.run)
        feedback = Feedback(plane, profiles, control_loop, source, is_recording=deployment.records)
        await keep_running(feedback.run)
        conditions = LiveConditions(
            control_loop, controller, plane.lifecycle, served, deployment.conditions, is_emulated=plane.is_emulated
        )
        live_catalog = None
        if deployment.catalog_source is not None:
            live_catalog = LiveCatalog(
                served, hardware, plane, profiles, deployment.catalog_source, control_loop, feedback,
                conditions.catalog_changed,
            )  # fmt: skip
            stack.push_async_callback(live_catalog.stop_following)
            await keep_running(live_catalog.run, watches=deployment.watches_catalog)
        if shifts is not None:
            await keep_running(shifts.run)
        rollouts = VersionRollouts(
            deployment.version_source, live_catalog, served, plane, profiles, control_loop, versions,
            is_guarded=options.tokens is not None,
        )  # fmt: skip
        await keep_running(rollouts.run)
        requirements = PlanRequirements(deployment.policy.name, served, profiles, plane.fleet.loader.models)
        manual_plans = ManualPlans(control_loop, plane.lifecycle, source, requirements, live_catalog)
        yield Adaptation(
            control_loop, manual_plans, conditions, live_catalog, feedback, shifts, solver, journal, recalibration,
            rollouts,
        )  # fmt: skip
