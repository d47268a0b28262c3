"""The planes of the server, each opened for as long as it runs: hardware, data plane, adaptation, telemetry."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from proteus_cli.control.controller import Controller
from proteus_cli.control.devices.drift import Drift
from proteus_cli.control.topology.hosting import device_memory, slots_of
from proteus_cli.control.topology.standbys import DeviceMemory
from proteus_cli.domain.catalog.changes import CatalogContent
from proteus_cli.serving.adaptation.catalog.live_catalog import LiveCatalog
from proteus_cli.serving.adaptation.catalog.served_catalog import ServedCatalog
from proteus_cli.serving.adaptation.control_loop import ControlLoop
from proteus_cli.serving.adaptation.feedback import Feedback
from proteus_cli.serving.adaptation.joining import Joining
from proteus_cli.serving.adaptation.live_conditions import LiveConditions
from proteus_cli.serving.adaptation.manual_plans import ManualPlans, PlanRequirements
from proteus_cli.serving.adaptation.plan_journal import PlanJournal
from proteus_cli.serving.adaptation.profile_store import ProfileStore
from proteus_cli.serving.adaptation.recalibration import Recalibration
from proteus_cli.serving.adaptation.rollouts.plan_source import VersionedPlanSource
from proteus_cli.serving.adaptation.rollouts.version_rollouts import VersionRollouts
from proteus_cli.serving.adaptation.sharing import Sharing
from proteus_cli.serving.adaptation.shifts.shifts import Shifts
from proteus_cli.serving.adaptation.slot_tuning import SlotTuning
from proteus_cli.serving.adaptation.solver.jobs import WarmUp
from proteus_cli.serving.adaptation.solver.process import SolverProcess
from proteus_cli.serving.devices.hardware import (
    ClusterHardware,
    Hardware,
    cluster_devices,
    emulated_devices,
    local_devices,
)
from proteus_cli.serving.fleet.model_files import ModelFiles
from proteus_cli.serving.fleet.recovery import Recovery
from proteus_cli.serving.fleet.worker import DISPATCH_AHEAD_S
from proteus_cli.serving.lifecycle import run_unless, running
from proteus_cli.serving.oip.repository import ModelRepository
from proteus_cli.serving.requests.answer_log import AnswerLog
from proteus_cli.serving.requests.data_plane import DataPlane, make_data_plane
from proteus_cli.serving.requests.families import FamilyFiles, ServedFamily, served_families
from proteus_cli.serving.requests.samples.writer import SampleWriter
from proteus_cli.serving.requests.second_stages import DrawnConfidence
from proteus_cli.serving.rest.endpoints import Endpoints
from proteus_cli.serving.rest.openapi import document
from proteus_cli.serving.rest.routes import ROUTES
from proteus_cli.serving.server.deployment import Deployment, ServerOptions
from proteus_cli.serving.telemetry.history.sampler import MetricsSampler
from proteus_cli.serving.telemetry.loop_lag import LoopLag
from proteus_cli.serving.telemetry.metrics.metrics import Metrics
from proteus_cli.serving.telemetry.status import StatusSources
from proteus_cli.serving.transport.connections import Connections

if TYPE_CHECKING:
    from proteus_cli.domain.profile.profile import Profile

log = logging.getLogger("proteus.server")


@asynccontextmanager
async def open_hardware(deployment: Deployment) -> AsyncIterator[Hardware]:
    """The devices of this machine and of a cluster, or emulated ones.

    Raises like `local_devices`, `cluster_devices` and `emulated_devices`.
    """
    catalog, models, in_processes = deployment.catalog, deployment.models, deployment.in_processes
    devices = {device.id: device for device in deployment.devices}
    built, slots = deployment.built, slots_of(devices, deployment.profiles)
    async with AsyncExitStack() as stack:
        if deployment.emulated:
            profiles: Mapping[str, Profile] | None = deployment.profiles
            here = emulated_devices(deployment.profiles, catalog, models, in_processes=in_processes)
            hardware = stack.enter_context(here)
        else:
            profiles = None
            local = {device.id: device for device in deployment.local_devices}
            hardware = await stack.enter_async_context(
                local_devices(local, catalog, models, built, slots, in_processes=in_processes)
            )
        if deployment.hosts is not None:
            changes = await stack.enter_async_context(contextlib.aclosing(deployment.hosts.changes()))
            cluster = cluster_devices(hardware, changes, devices, slots, profiles)
            hardware = await stack.enter_async_context(cluster)
        yield hardware


@asynccontextmanager
async def open_data_plane(
    deployment: Deployment,
    options: ServerOptions,
    hardware: Hardware,
    profiles: ProfileStore,
    drift: Drift | None,
    answers: AnswerLog | None,
    sample_writer: SampleWriter | None,
) -> AsyncIterator[DataPlane]:
    """All devices, which host nothing yet; lost ones are looked for and taken back. Raises `DeviceUnavailable`."""
    devices = [device.id for device in deployment.devices]
    slots = slots_of(devices, deployment.profiles)
    if hardware.is_emulated:
        log.warning("devices are emulated (%s): no time of theirs is a measurement", hardware.platform)
    controller = Controller(
        deployment.catalog.slo_s(),
        slots,
        deployment.policy,
        dispatch_ahead_s=DISPATCH_AHEAD_S,
        max_unavailable_frac=deployment.max_unavailable_frac,
        memory=_memory(deployment),
        attainment={family.name: family.attainment for family in deployment.catalog.families},
    )
    plane = make_data_plane(
        controller,
        _served_families(deployment, hardware),
        devices,
        hardware.open_device,
        time.monotonic,
        models=hardware.models,
        profiles=profiles,
        files=None if deployment.emulated else ModelFiles(hardware.models, profiles),
        drift=drift,
        refuses_non_finite=options.refuses_non_finite,
        max_timeout_s=options.max_timeout_s,
        is_emulated=hardware.is_emulated,
        memory_of=hardware.memory_of,
        confidence=DrawnConfidence(np.random.default_rng(0)) if hardware.is_emulated else None,
        check_nth=0 if hardware.is_emulated else options.check_nth,
        answers=answers,
        sample_writer=sample_writer,
        tunes_slots=deployment.tunes_slots,
    )
    if profiles.live_accuracy:
        plane.families.use(profiles.values())
    try:
        recovery = Recovery(plane.fleet, plane.controller, profiles, plane.clock, hardware.is_reachable)
        tuning = SlotTuning(plane.controller, plane.fleet, plane.clock)
        async with running(recovery.run()), running(tuning.run()):
            yield plane
    finally:
        plane.fleet.close()


def _has_standbys(deployment: Deployment) -> bool:
    """Where plans change, variants may stand by."""
    return deployment.policy.standbys and deployment.policy.replanning is not None


def _memory(deployment: Deployment) -> Mapping[str, DeviceMemory]:
    """Of the devices that may have standbys: those whose profiles know memory."""
    if not _has_standbys(deployment):
        return {}
    slo_s, rules, keys = deployment.catalog.slo_s(), deployment.plan.rules, deployment.catalog.keys
    memory = device_memory(deployment.memory_bytes, deployment.profiles, slo_s, rules, keys)
    if any(deployment.memory_bytes.values()) and not memory:
        log.info("the profiles know no memory of variants, so none stands by")
    return memory


def _served_families(deployment: Deployment, hardware: Hardware) -> list[ServedFamily]:
    """Raises `ArtefactError` as `FamilyFiles` does."""
    files = (
        FamilyFiles(
            family, hardware.signatures[family.name], deployment.labels.get(family.name, ()),
            is_stub=family.name in hardware.stubs,
        )
        for family in deployment.catalog.families
    )  # fmt: skip
    return served_families(files, list(deployment.profiles.values()))


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
    drift: Drift | None,
    answers: AnswerLog | None,
    stop: asyncio.Event,
) -> AsyncIterator[Adaptation]:
    """Put the plan in force, while the solver gets ready, and adapt it from then on.

    Raises `StoppedEarly`, and `EngineError` where the plan can't be put in force.
    """
    rule, source = deployment.policy.replanning, VersionedPlanSource(deployment.source)
    async with AsyncExitStack() as stack:
        solver = None
        if rule is not None:
            replanner = source.replanner(deployment.plan, profiles)
            solver = stack.enter_context(contextlib.closing(SolverProcess(replanner, deployment.solve_limit_s)))
            demand = rule.initial_demand(deployment.plan.demand_qps, plane.controller.demand.slo_s)
            solver.warm_up(WarmUp(demand, deployment.plan))
        journal = PlanJournal(deployment.journal, plane.counts) if deployment.journal is not None else None
        control_loop = ControlLoop(plane.controller, plane.fleet, plane.clock, journal)
        await run_unless(stop, control_loop.start(deployment.plan, deployment.origin, deployment.reason))
        await stack.enter_async_context(running(plane.fleet.standbys.run()))
        if journal is not None:
            stack.callback(journal.stopped)
        if rule is not None and solver is not None:
            await stack.enter_async_context(running(solver.watch()))
            await stack.enter_async_context(running(control_loop.run(rule.every_s, solver)))
        if deployment.hosts is not None:
            sharing = Sharing(hardware.shared, profiles, plane.controller, plane.fleet, control_loop, solver, source)
            await stack.enter_async_context(running(sharing.watch()))
        recalibration = None
        if drift is not None:
            recalibration = Recalibration(
                drift, profiles, plane.controller, control_loop, solver, source, plane.clock,
                is_recording=deployment.records,
            )  # fmt: skip
            stack.callback(recalibration.write)
            await stack.enter_async_context(running(recalibration.watch()))
        if deployment.newcomers is not None and isinstance(hardware, ClusterHardware):
            joining = Joining(
                hardware, plane, profiles, deployment.newcomers, source, solver, has_standbys=_has_standbys(deployment)
            )
            await stack.enter_async_context(running(joining.run()))
        feedback = Feedback(answers, plane, profiles, control_loop, source, solver, is_recording=deployment.records)
        feedback.arms = plane.admission.arms
        if feedback.is_wanted:
            await stack.enter_async_context(running(feedback.run()))
        served = ServedCatalog(CatalogContent.served(deployment.catalog, deployment.digests))
        is_guarded, live_catalog = options.tokens is not None, None
        if deployment.catalog_source is not None:
            live_catalog = LiveCatalog(
                served, hardware, plane, profiles, deployment.catalog_source, source, solver, feedback,
                is_guarded=is_guarded,
            )  # fmt: skip
            await stack.enter_async_context(running(live_catalog.run(watches=deployment.watches_catalog)))
        requirements = PlanRequirements(deployment.policy.name, served, profiles, plane.fleet.loader.models)
        manual_plans = ManualPlans(
            control_loop, plane.lifecycle, source, requirements, solver, live_catalog, is_guarded=is_guarded
        )
        conditions = LiveConditions(
            control_loop, plane.controller, plane.lifecycle, served,
            is_guarded=is_guarded, is_emulated=plane.is_emulated,
        )  # fmt: skip
        shifts = None
        if deployment.references is not None:
            shifts = Shifts(plane, profiles, served, deployment.references, np.random.default_rng())
            plane.admission.looks = shifts
            await stack.enter_async_context(running(shifts.run()))
        rollouts = VersionRollouts(
            deployment.version_source, live_catalog, served, plane, profiles, control_loop, source, solver,
            is_guarded=is_guarded,
        )  # fmt: skip
        await stack.enter_async_context(running(rollouts.run()))
        yield Adaptation(
            control_loop,
            manual_plans,
            conditions,
            live_catalog,
            feedback,
            shifts,
            solver,
            journal,
            recalibration,
            rollouts,
        )


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What is measured of the running server, and shown."""

    sampler: MetricsSampler
    metrics: Metrics
    sources: StatusSources


@asynccontextmanager
async def open_telemetry(
    deployment: Deployment,
    hardware: Hardware,
    plane: DataPlane,
    profiles: ProfileStore,
    adaptation: Adaptation,
    connections: Connections,
) -> AsyncIterator[Telemetry]:
    lag = LoopLag()
    sampler = MetricsSampler(
        plane, plane.clock, adaptation.control_loop.changes, links=hardware.links,
        rollouts=lambda: adaptation.rollouts.status().rollouts,
    )  # fmt: skip
    sources = StatusSources(
        plane=plane,
        control_loop=adaptation.control_loop,
        profiles=profiles,
        sampler=sampler,
        replan=deployment.replanning,
        solver=adaptation.solver.state if adaptation.solver is not None else None,
        journal=adaptation.journal,
        recalibration=adaptation.recalibration,
        links=hardware.links,
        feedback=adaptation.feedback,
        rollouts=adaptation.rollouts,
        shifts=adaptation.shifts,
    )
    async with running(lag.watch()), running(sampler.run()):
        yield Telemetry(sampler, Metrics(sources, connections, lag), sources)


def make_endpoints(
    options: ServerOptions,
    hardware: Hardware,
    plane: DataPlane,
    profiles: ProfileStore,
    adaptation: Adaptation,
    telemetry: Telemetry,
) -> tuple[ModelRepository, Endpoints]:
    """The models as the protocol shows them, and the endpoints beside inference."""
    models = ModelRepository(
        plane.families,
        plane.controller,
        plane.lifecycle,
        plane.counts,
        plane.clock,
        platform=hardware.platform,
        profiles=profiles,
        stubs=hardware.stubs,
        is_emulated=plane.is_emulated,
        refresh=adaptation.live_catalog.refresh if adaptation.live_catalog and options.tokens is not None else None,
    )

    def describe() -> Mapping[str, Any]:
        signatures = {family.name: family.signature for family in plane.families.by_name.values()}
        return document(ROUTES, signatures, needs_token=options.tokens is not None)

    endpoints = Endpoints(
        models, telemetry.metrics, telemetry.sources, adaptation.manual_plans, adaptation.conditions,
        adaptation.live_catalog, adaptation.feedback, adaptation.rollouts, describe,
    )  # fmt: skip
    plane.families.watch(endpoints.families_changed)
    return models, endpoints
