"""``proteus serve``: one process opens everything in order, serves until stopped, drains, and closes in reverse."""

import asyncio
import contextlib
import gc
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import uvloop

from proteus_cli import __version__
from proteus_cli.control.devices.slowness import Drift
from proteus_cli.domain.catalog_changes import CatalogContent
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import ArtefactError, BackendUnavailable
from proteus_cli.serving.adaptation.catalog_reading import ServedCatalog
from proteus_cli.serving.adaptation.control_loop import hosts
from proteus_cli.serving.adaptation.manual_plans import ManualPlans
from proteus_cli.serving.adaptation.plan_inputs import ProfileStore
from proteus_cli.serving.adaptation.shifts import Shifts
from proteus_cli.serving.lifecycle import (
    LifecycleEvent,
    StoppedEarly,
    reloading_on_hangup,
    running,
    stopping_on_signals,
)
from proteus_cli.serving.logs import fields
from proteus_cli.serving.requests.data_plane import DataPlane
from proteus_cli.serving.requests.samples.writer import SampleWriter
from proteus_cli.serving.server.adapting import open_adaptation
from proteus_cli.serving.server.assembly import (
    make_endpoints,
    open_data_plane,
    open_hardware,
    open_telemetry,
)
from proteus_cli.serving.server.deployment import Deployment
from proteus_cli.serving.server.front_ends import accepting_on, make_protocols, open_connections
from proteus_cli.serving.service_manager import ServiceManager
from proteus_cli.serving.settings import ServeSettings
from proteus_cli.serving.telemetry.state import ServerState
from proteus_cli.serving.transport.listening import is_loopback, listen, url_of

if TYPE_CHECKING:
    from proteus_cli.serving.telemetry.tracing import Tracing

log = logging.getLogger("proteus.server")

GIL_SWITCH_S = 0.0005
"""A device's thread needs the GIL for a moment after each batch; Python's default of 5 ms is long within an SLO."""

GARBAGE_OBJECTS = 20_000
"""New objects before a garbage collection: requests leave no cycles behind, so there is little to find."""

MIN_CLOSE_S = 2.0
"""Seconds that connections have at least to send their last answers."""

View = Callable[[Callable[[], ServerState]], AbstractContextManager[None]]
"""Shows the states that it asks for, until its context is left, in a thread of its own."""


def serve(deployment: Deployment, announce: Callable[[str], None], view: View | None = None) -> None:
    """Serve until SIGTERM or SIGINT.

    Once requests are taken, ``announce`` is called with the URLs, HTTP first. It gets the word ``emulated``, too, where
    no time of a device is a measurement. ``view`` shows what happens until all requests have ended.

    Raises `ServerError` where a port can't be had, `EngineError` where a model can't be loaded, `BackendUnavailable`
    where traces are wanted without OpenTelemetry.
    """
    settings = deployment.settings
    sys.setswitchinterval(GIL_SWITCH_S)
    try:
        with contextlib.ExitStack() as stack:
            tracing = stack.enter_context(_tracing(settings))
            listeners = {"http": stack.enter_context(contextlib.closing(listen(settings.host, settings.port)))}
            if settings.grpc_port is not None:
                listeners["grpc"] = stack.enter_context(contextlib.closing(listen(settings.host, settings.grpc_port)))
            runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
            runner.run(_serve(deployment, listeners, announce, view, tracing))
    except StoppedEarly:
        log.info("stopped before it was ready")
    else:
        log.info("drained, stopped")


async def _serve(
    deployment: Deployment,
    listeners: Mapping[str, socket.socket],
    announce: Callable[[str], None],
    view: View | None,
    tracing: "Tracing | None",
) -> None:
    log.info("starting", extra=fields(version=__version__, pid=os.getpid(), devices=list(deployment.plan.devices)))
    stop, profiles, manager = asyncio.Event(), ProfileStore(deployment.profiles), ServiceManager.of(os.environ)
    drift_after_s = deployment.settings.drift_after_s
    drift = Drift(profiles.alone, after_s=drift_after_s) if drift_after_s else None
    writer = SampleWriter(deployment.samples, time.time) if deployment.samples is not None else None
    served = ServedCatalog(CatalogContent.served(deployment.catalog, deployment.digests))
    shifts = None
    if deployment.references is not None:
        shifts = Shifts(profiles, served, deployment.references, np.random.default_rng())
    with stopping_on_signals(stop), writer.running() if writer is not None else nullcontext():
        async with (
            running(manager.watch),
            open_hardware(deployment) as hardware,
            open_data_plane(deployment, hardware, profiles, drift, writer, shifts) as plane,
            open_adaptation(deployment, hardware, plane, profiles, served, drift, shifts, stop) as adaptation,
            open_connections(deployment.settings) as connections,
            open_telemetry(deployment, hardware, plane, adaptation, connections) as observed,
        ):
            models, endpoints = make_endpoints(hardware, plane, profiles, adaptation, observed)
            is_local = is_loopback(listeners["http"])
            protocols = make_protocols(plane, models, endpoints, deployment, connections, tracing, is_local=is_local)
            async with accepting_on(listeners, protocols, deployment.certificate):
                with reloading_on_hangup(partial(_reload, deployment, adaptation.manual_plans)):
                    _tune_garbage_collection()
                    plane.lifecycle.on(LifecycleEvent.WARMED_UP)
                    manager.ready(_announce(listeners, deployment, plane, announce))
                    with view(observed.telemetry.shown()) if view is not None else nullcontext():
                        await stop.wait()
                        stop_s = plane.clock() + deployment.settings.drain_timeout_s
                        plane.lifecycle.on(LifecycleEvent.STOPPED)
                        manager.stopping("draining")
                        connections.begin_drain()
                        await _drain(plane, stop_s)
            await connections.close(max(MIN_CLOSE_S, stop_s - plane.clock()))
            plane.lifecycle.on(LifecycleEvent.EMPTIED)
            _log_outcomes(plane)


def _reload(deployment: Deployment, plans: ManualPlans) -> None:
    """Read certificate, tokens, catalog and plan file again. An unusable file leaves the earlier one in use."""
    for what, credentials in (("certificate", deployment.certificate), ("tokens", deployment.tokens)):
        if credentials is None:
            continue
        try:
            credentials.reload()
        except ArtefactError as error:
            log.error("SIGHUP: kept the %s: %s", what, error.message, extra=fields(hint=error.hint))  # noqa: TRY400
        else:
            log.info("SIGHUP: read the %s again", what)
    plans.reload()


def _tracing(settings: ServeSettings) -> AbstractContextManager["Tracing | None"]:
    if settings.otlp is None:
        return nullcontext()
    try:
        from proteus_cli.serving.telemetry.tracing import tracing_to  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise BackendUnavailable(
            "Traces need OpenTelemetry, which is not installed.",
            hint="pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http",
        ) from error
    return tracing_to(settings.otlp, settings.otlp_sample)


def _tune_garbage_collection() -> None:
    """Leave out all objects that exist now: to visit them took 60 ms, in which no request is answered."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS, 10, 10)


def _announce(
    listeners: Mapping[str, socket.socket], deployment: Deployment, plane: DataPlane, announce: Callable[[str], None]
) -> str:
    """Say that requests are taken, and at which URLs; returns what was announced."""
    if deployment.tokens is None and not all(map(is_loopback, listeners.values())):
        log.warning("every client that reaches this address may send requests; `--auth-tokens` asks for tokens")
    urls = [url_of(name, listener, uses_tls=deployment.certificate is not None) for name, listener in listeners.items()]
    log.info("ready", extra=fields(urls=urls, hosts=hosts(plane.controller.plan)))
    ready = " ".join([*urls, "emulated"] if plane.is_emulated else urls)
    announce(ready)
    return f"ready {ready}"


async def _drain(plane: DataPlane, stop_s: float) -> None:
    """Let requests end under the plan in force; requests still queued at ``stop_s`` are dropped."""
    plane.controller.replanning.hold(stop_s)  # no more arrive, and a plan for that would host other variants
    in_flight = plane.results.in_flight_count
    log.info("draining: %d requests inside", in_flight, extra=fields(inside=in_flight))
    while plane.results.in_flight_count and plane.clock() < stop_s:
        await asyncio.sleep(0.01)
    plane.results.dropped(plane.controller.dispatch.forget_all())


def _log_outcomes(plane: DataPlane) -> None:
    outcomes = {str(outcome): plane.counts.of_outcome(outcome) for outcome in Outcome}
    told = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.items() if count) or "none"
    log.info("requests by how they ended: %s", told, extra=fields(**outcomes))
