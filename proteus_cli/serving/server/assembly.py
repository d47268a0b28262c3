"""What stands behind the door, each opened for as long as the server runs: devices, fleet, adaptation."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from proteus_cli.control.controller import Controller
from proteus_cli.control.drift import Drift
from proteus_cli.control.hosting import slots_of
from proteus_cli.domain.profile import Profile
from proteus_cli.serving.adaptation.control_loop import ControlLoop
from proteus_cli.serving.adaptation.plan_journal import Adopted, PlanJournal
from proteus_cli.serving.adaptation.recalibration import Recalibration
from proteus_cli.serving.adaptation.solver_process import SolverProcess
from proteus_cli.serving.devices.hardware import Hardware, emulated_devices, local_devices
from proteus_cli.serving.fleet.deploy import Fleet
from proteus_cli.serving.fleet.failover import Recovery
from proteus_cli.serving.fleet.model_files import ModelFiles
from proteus_cli.serving.lifecycle import unless
from proteus_cli.serving.requests.dataplane import DataPlane
from proteus_cli.serving.server.deployment import Deployment

log = logging.getLogger("proteus.server")


@asynccontextmanager
async def hardware_of(deployment: Deployment) -> AsyncIterator[Hardware]:
    catalog, models, in_processes = deployment.catalog, deployment.models, deployment.in_processes
    if deployment.emulated:
        with emulated_devices(deployment.profiles, catalog, models, in_processes=in_processes) as hardware:
            yield hardware
    else:
        devices = {device.id: device for device in deployment.devices}
        built, slots = deployment.built, slots_of(devices, deployment.profiles)
        async with local_devices(devices, catalog, models, built, slots, in_processes=in_processes) as hardware:
            yield hardware


@asynccontextmanager
async def fleet_of(
    deployment: Deployment,
    hardware: Hardware,
    controller: Controller,
    plane: DataPlane,
    profiles: Mapping[str, Profile],
) -> AsyncIterator[Fleet]:
    devices = {device.id: device for device in deployment.devices}
    fleet = Fleet(
        controller,
        devices,
        lambda device, on_lost: hardware.open_device(devices[device], on_lost),
        plane,
        plane.clock,
        models=hardware.models,
        profiles=profiles,
        signatures=plane.signatures,
        files=None if deployment.emulated else ModelFiles(hardware.models, deployment.profiles),
        max_unavailable_frac=deployment.max_unavailable_frac,
    )
    plane.lanes = fleet.workers
    recovery = Recovery(fleet, controller, profiles, plane.clock)
    try:
        async with watching(recovery.run()):
            yield fleet
    finally:
        fleet.close()


@asynccontextmanager
async def adapting(
    deployment: Deployment, plane: DataPlane, fleet: Fleet, stop: asyncio.Event
) -> AsyncIterator[tuple[ControlLoop, SolverProcess | None]]:
    """Put the plan in force and let it follow the demand, with a solver that gets ready meanwhile.

    Raises `StoppedEarly`, and `EngineError` where the plan can't be put in force.
    """
    rule, history = deployment.policy.replanning, deployment.history
    async with AsyncExitStack() as stack:
        solver = None
        if rule is not None:
            solver = stack.enter_context(contextlib.closing(SolverProcess(deployment.replan, deployment.solve_limit_s)))
            solver.warm_up(deployment.plan)
        adaptation = ControlLoop(plane.controller, fleet, plane.clock, _journal(history, plane))
        await unless(stop, adaptation.start(deployment.plan, deployment.origin, deployment.reason))
        if history is not None:
            stack.callback(lambda: history.stopped(plane.tallies()))
        if rule is not None and solver is not None:
            await stack.enter_async_context(watching(solver.watch()))
            await stack.enter_async_context(watching(adaptation.run(rule.every_s, solver)))
        yield adaptation, solver


@asynccontextmanager
async def reprofiling(
    deployment: Deployment,
    plane: DataPlane,
    adaptation: ControlLoop,
    solver: SolverProcess | None,
    profiles: dict[str, Profile],
) -> AsyncIterator[Recalibration | None]:
    """Compare what batches take with ``profiles``; leaving writes what is to be recorded."""
    if not deployment.drift_after_s:
        yield None
        return
    plane.drift = Drift(profiles, now_s=plane.clock(), after_s=deployment.drift_after_s)
    correcting = Recalibration(
        plane.drift,
        profiles,
        plane.controller,
        adaptation,
        solver,
        deployment.source,
        plane.clock,
        record=deployment.source.record if deployment.records else None,
    )
    async with watching(correcting.watch()):
        yield correcting
    correcting.write()


def _journal(history: PlanJournal | None, plane: DataPlane) -> Callable[[Adopted], None] | None:
    if history is None:
        return None
    return lambda adopted: history.began(adopted, plane.tallies())


@asynccontextmanager
async def watching(watch: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Have something run beside, until leaving."""
    task = asyncio.create_task(watch)
    task.add_done_callback(_report_crash)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)  # `_report_crash` has told of any bug


def _report_crash(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("a bug has ended %s", task.get_coro(), exc_info=task.exception())
