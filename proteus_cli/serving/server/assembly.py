"""The planes of the server, each opened for as long as it runs; adaptation is in `adapting.py`."""

import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from proteus_cli.control.controller import Controller
from proteus_cli.control.devices.slowness import Drift
from proteus_cli.control.topology.hosting import device_memory, slots_of
from proteus_cli.control.topology.standbys import DeviceMemory
from proteus_cli.serving.adaptation.plan_inputs import ProfileStore
from proteus_cli.serving.adaptation.slot_tuning import SlotTuning
from proteus_cli.serving.devices.hardware import (
    Hardware,
    cluster_devices,
    emulated_devices,
    local_devices,
)
from proteus_cli.serving.fleet.model_files import ModelFiles
from proteus_cli.serving.fleet.recovery import Recovery
from proteus_cli.serving.fleet.worker import DISPATCH_AHEAD_S
from proteus_cli.serving.lifecycle import running
from proteus_cli.serving.oip.repository import ModelRepository
from proteus_cli.serving.requests.admission import RequestWatch
from proteus_cli.serving.requests.answers.second_stages import DrawnConfidence
from proteus_cli.serving.requests.data_plane import DataPlane, DataPlaneOptions, make_data_plane
from proteus_cli.serving.requests.families import FamilyFiles, ServedFamily, served_families
from proteus_cli.serving.requests.samples.writer import SampleWriter
from proteus_cli.serving.rest.endpoints import Endpoints
from proteus_cli.serving.server.adapting import Adaptation
from proteus_cli.serving.server.deployment import Deployment
from proteus_cli.serving.telemetry.metrics import LoopLag, Metrics
from proteus_cli.serving.telemetry.telemetry import Sources, Telemetry
from proteus_cli.serving.transport.connections import Connections

if TYPE_CHECKING:
    from proteus_cli.domain.profile import Profile

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
        if deployment.settings.emulate:
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
            cluster = cluster_devices(hardware, deployment.hosts, devices, slots, profiles)
            hardware = await stack.enter_async_context(cluster)
        yield hardware


@asynccontextmanager
async def open_data_plane(
    deployment: Deployment,
    hardware: Hardware,
    profiles: ProfileStore,
    drift: Drift | None,
    sample_writer: SampleWriter | None,
    watch: RequestWatch | None,
) -> AsyncIterator[DataPlane]:
    """All devices, which host nothing yet; lost ones are looked for and taken back. Raises `DeviceUnavailable`."""
    settings, devices = deployment.settings, [device.id for device in deployment.devices]
    slots = slots_of(devices, deployment.profiles)
    if hardware.is_emulated:
        log.warning("devices are emulated (%s): no time of theirs is a measurement", hardware.platform)
    controller = Controller(
        deployment.catalog.slo_s(),
        slots,
        deployment.policy,
        dispatch_ahead_s=DISPATCH_AHEAD_S,
        max_unavailable_frac=settings.max_unavailable,
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
        files=None if deployment.settings.emulate else ModelFiles(hardware.models, profiles),
        memory_of=hardware.memory_of,
        drift=drift,
        confidence=DrawnConfidence(np.random.default_rng(0)) if hardware.is_emulated else None,
        sample_writer=sample_writer,
        watch=watch,
        options=DataPlaneOptions(
            settings.non_finite == "refuse", settings.max_timeout_s,
            is_emulated=hardware.is_emulated, tunes_slots=not settings.fixed_slots,
            keep_answers_s=settings.feedback_s,
        ),
    )  # fmt: skip
    if profiles.live_accuracy:
        plane.families.use(profiles.values())
    try:
        recovery = Recovery(plane.fleet, plane.controller, profiles, plane.clock, hardware.is_reachable)
        tuning = SlotTuning(plane.controller, plane.fleet, plane.clock)
        async with running(recovery.run), running(tuning.run):
            yield plane
    finally:
        plane.fleet.close()


def _memory(deployment: Deployment) -> Mapping[str, DeviceMemory]:
    """The memory of devices that may have standbys: their profiles know memory."""
    if not deployment.has_standbys:
        return {}
    targets, rules, keys = deployment.catalog.slo_targets(), deployment.plan.rules, deployment.catalog.keys
    memory = device_memory(deployment.memory_bytes, deployment.profiles, targets, rules, keys)
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
class Observed:
    """The views of the running server."""

    telemetry: Telemetry
    metrics: Metrics


@asynccontextmanager
async def open_telemetry(
    deployment: Deployment, hardware: Hardware, plane: DataPlane, adaptation: Adaptation, connections: Connections
) -> AsyncIterator[Observed]:
    """Reads the state of the server, and samples it once a second until the context is left."""
    sources = Sources(
        plane,
        adaptation.control_loop,
        deployment.replanning,
        solver=adaptation.solver.state if adaptation.solver is not None else None,
        journal=adaptation.journal,
        recalibration=adaptation.recalibration,
        links=hardware.links,
        feedback=adaptation.feedback,
        shifts=adaptation.shifts,
        rollouts=adaptation.rollouts,
    )
    lag, telemetry = LoopLag(), Telemetry(sources, plane.clock)
    async with running(lag.watch), running(telemetry.run):
        yield Observed(telemetry, Metrics(sources, connections, lag))


def make_endpoints(
    hardware: Hardware,
    plane: DataPlane,
    profiles: ProfileStore,
    adaptation: Adaptation,
    observed: Observed,
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
        refresh=adaptation.live_catalog.refresh if adaptation.live_catalog else None,
    )

    endpoints = Endpoints(
        models, observed.metrics, observed.telemetry, adaptation.manual_plans, adaptation.conditions,
        adaptation.live_catalog, adaptation.feedback, adaptation.rollouts,
    )  # fmt: skip
    return models, endpoints
