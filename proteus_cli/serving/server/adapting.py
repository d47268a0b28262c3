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
from proteus_cli.serving.adaptation.manual_plans import ManualPlans
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
from proteus_cli.serving.server.deployment import Deployment


@dataclass(frozen=True, slots=True)
class Adaptation:
    """The parts that change plans and profiles while the server runs. A part that is None is not wanted."""

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
    hardware: Hardware,
    plane: DataPlane,
    profiles: ProfileStore,
    served: ServedCatalog,
    drift: Drift | None,
    shifts: Shifts | None,
    stop: asyncio.Event,
) -> AsyncIterator[Adaptation]:
    """Put the plan in force, while the solver gets ready, and adapt it from then on.

    All tasks are supervised, and end in reverse order. Raises `StoppedEarly`, and `EngineError` where the plan can't be
    put in force.
    """
    source, records = deployment.source, deployment.settings.record
    async with AsyncExitStack() as stack:

        async def start(work: Callable[..., Coroutine[Any, Any, None]], *given: Any, **how: Any) -> None:
            await stack.enter_async_context(running(work, *given, **how))

        solver = _solver(deployment, plane, profiles, stack)
        journal = PlanJournal(deployment.journal, plane.counts) if deployment.journal is not None else None
        versions = VersionedPlans(plane.controller, profiles, served)
        control_loop = ControlLoop(plane, LivePlanner(source, profiles, solver), journal, versions.expanded)
        await run_unless(
            stop, control_loop.start(deployment.plan, deployment.origin, _use_conditions(deployment, plane))
        )
        await start(plane.fleet.standbys.run)
        if journal is not None:
            stack.callback(journal.stopped)
        rule = deployment.policy.replanning
        if rule is not None and solver is not None:
            await start(solver.watch)
            await start(control_loop.run, rule.every_s, solver)
        if deployment.hosts is not None:
            await start(Sharing(hardware.shared, profiles, plane.fleet, control_loop).watch)
        recalibration = None
        if drift is not None:
            recalibration = Recalibration(drift, profiles, plane, control_loop, source, is_recording=records)
            stack.callback(recalibration.write)
            await start(recalibration.watch)
        if deployment.newcomers is not None and isinstance(hardware, ClusterHardware):
            has_standbys = deployment.has_standbys
            await start(
                Joining(hardware, plane, profiles, deployment.newcomers, control_loop, has_standbys=has_standbys).run
            )
        feedback = Feedback(plane, profiles, control_loop, source, is_recording=records)
        await start(feedback.run)
        conditions = LiveConditions(plane, control_loop, served, deployment.conditions)
        live_catalog = None
        if deployment.catalog_source is not None:
            live_catalog = LiveCatalog(
                served, hardware, plane, profiles, deployment.catalog_source, control_loop, feedback,
                conditions.catalog_changed,
            )  # fmt: skip
            stack.push_async_callback(live_catalog.stop_following)
            await start(live_catalog.run, watches=deployment.settings.watch)
        if shifts is not None:
            await start(shifts.run)
        rollouts = VersionRollouts(
            deployment.version_source, live_catalog, plane, profiles, control_loop, versions,
            is_guarded=deployment.tokens is not None,
        )  # fmt: skip
        await start(rollouts.run)
        manual_plans = ManualPlans(plane, profiles, control_loop, served, source, live_catalog)
        yield Adaptation(
            control_loop, manual_plans, conditions, live_catalog, feedback, shifts, solver, journal, recalibration,
            rollouts,
        )  # fmt: skip


def _solver(
    deployment: Deployment, plane: DataPlane, profiles: ProfileStore, stack: AsyncExitStack
) -> SolverProcess | None:
    """The process of the planner, which warms up; None if the first plan stays."""
    rule = deployment.policy.replanning
    if rule is None:
        return None
    replanner = deployment.source.replanner(deployment.plan, profiles)
    solver = stack.enter_context(contextlib.closing(SolverProcess(replanner, deployment.solve_limit_s)))
    solver.warm_up(rule.initial_demand(deployment.plan.demand_qps, plane.controller.demand.slo_s), deployment.plan)
    return solver


def _use_conditions(deployment: Deployment, plane: DataPlane) -> str:
    """Use the live conditions that were kept; returns the reason of the first plan, which names them."""
    kept = deployment.conditions.families
    plane.controller.dispatch.stop_when.update({family: each.stop_when for family, each in kept.items()})
    since = [f"{family} stops when {each.stop_when}, as since {each.since}" for family, each in kept.items()]
    return "; ".join([deployment.reason, *since])
