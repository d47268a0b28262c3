"""One foreground process: opens everything, serves until told to stop, drains, closes in reverse."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

import uvloop

from proteus_cli import __version__
from proteus_cli.control.controller import Controller
from proteus_cli.control.hosting import slots_of
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import best_accuracy
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import BackendUnavailable
from proteus_cli.serving.adaptation.control_loop import hosts
from proteus_cli.serving.adaptation.manual_plans import ManualPlans, PlanRequirements
from proteus_cli.serving.devices.hardware import Hardware
from proteus_cli.serving.fleet.worker import DISPATCH_AHEAD_S
from proteus_cli.serving.grpc.service import GrpcHandler
from proteus_cli.serving.http1.connection import ALPN as HTTP_1
from proteus_cli.serving.http1.connection import HttpConnection
from proteus_cli.serving.http1.known_heads import KnownHeads
from proteus_cli.serving.http1.limits import HttpLimits
from proteus_cli.serving.http2.connection import ALPN as HTTP_2
from proteus_cli.serving.http2.connection import Http2Connection
from proteus_cli.serving.http2.limits import Http2Limits
from proteus_cli.serving.lifecycle import Lifecycle, LifecycleEvent, StoppedEarly
from proteus_cli.serving.logs import fields
from proteus_cli.serving.oip import tensors as oip
from proteus_cli.serving.oip.repository import ModelRepository
from proteus_cli.serving.requests.dataplane import DataPlane
from proteus_cli.serving.rest.endpoints import Endpoints
from proteus_cli.serving.rest.handler import RestHandler
from proteus_cli.serving.rest.openapi import document
from proteus_cli.serving.rest.routes import ROUTES
from proteus_cli.serving.server.assembly import adapting, fleet_of, hardware_of, reprofiling, watching
from proteus_cli.serving.server.deployment import Deployment, ServerOptions
from proteus_cli.serving.telemetry.loop_lag import LoopLag
from proteus_cli.serving.telemetry.metrics import Metrics
from proteus_cli.serving.telemetry.sampler import MetricsSampler
from proteus_cli.serving.telemetry.snapshot import Snapshot
from proteus_cli.serving.telemetry.status import StatusSources
from proteus_cli.serving.transport.connections import Connections
from proteus_cli.serving.transport.listening import is_loopback, listen, max_connections, url_of
from proteus_cli.serving.transport.tls import accepting

if TYPE_CHECKING:
    from proteus_cli.serving.telemetry.tracing import Tracing

log = logging.getLogger("proteus.server")

# A lane's thread needs the GIL for a moment after each batch; the default of 5 ms is a long wait within an SLO.
ALPN = {"http": HTTP_1, "grpc": HTTP_2}
GIL_SWITCH_S = 0.0005
GARBAGE_OBJECTS = 20_000
BODIES = 16  # large bodies of the largest size that may be in memory at once
SMALL_BODY = 2**20  # bodies up to here are taken where none of that size makes sense, too
GOODBYE_S = 2.0
INTERRUPTED = 130


View = Callable[[Callable[[], Snapshot]], AbstractContextManager[None]]
"""Shows what it is handed, from entering to leaving; from another thread, as nothing here may wait for it."""


def serve(
    deployment: Deployment, options: ServerOptions, announce: Callable[[str], None], view: View | None = None
) -> None:
    """Serve until SIGTERM or SIGINT; ``announce`` is told the URLs, HTTP first, once requests are taken.

    Behind them stands ``emulated`` where no time that is told of the devices is a measurement. From then on, until all
    is drained, ``view`` shows what happens.

    Raises `ServerError` where a port can't be had, `EngineError` where a model can't be loaded, `BackendUnavailable`
    where traces are wanted without OpenTelemetry.
    """
    sys.setswitchinterval(GIL_SWITCH_S)
    try:
        with contextlib.ExitStack() as stack:
            tracing = stack.enter_context(_tracing(options))
            listeners = {"http": stack.enter_context(contextlib.closing(listen(options.host, options.port)))}
            if options.grpc_port is not None:
                listeners["grpc"] = stack.enter_context(contextlib.closing(listen(options.host, options.grpc_port)))
            runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
            runner.run(_serve(deployment, options, listeners, announce, view, tracing))
    except StoppedEarly:
        log.info("stopped before it was ready")
    else:
        log.info("drained, stopped")


def _tracing(options: ServerOptions) -> AbstractContextManager["Tracing | None"]:
    if options.otlp is None:
        return nullcontext()
    try:
        from proteus_cli.serving.telemetry.tracing import tracing_to  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise BackendUnavailable(
            "Traces need OpenTelemetry, which is not installed.", hint="pip install 'proteus-serving[otlp]'"
        ) from error
    return tracing_to(options.otlp, options.otlp_sample)


async def _serve(
    deployment: Deployment,
    options: ServerOptions,
    listeners: Mapping[str, socket.socket],
    announce: Callable[[str], None],
    view: View | None,
    tracing: "Tracing | None",
) -> None:
    stop = asyncio.Event()
    with _stopping_on_signals(stop):
        async with hardware_of(deployment) as hardware:
            await _serve_on(hardware, deployment, options, listeners, announce, view, tracing, stop)


async def _serve_on(
    hardware: Hardware,
    deployment: Deployment,
    options: ServerOptions,
    listeners: Mapping[str, socket.socket],
    announce: Callable[[str], None],
    view: View | None,
    tracing: "Tracing | None",
    stop: asyncio.Event,
) -> None:
    profiles = dict(deployment.profiles)  # as they are known to be now, for all who plan and serve
    clock = time.monotonic  # of the loop's kind, but finer: uvloop's counts in milliseconds
    lifecycle, lag = Lifecycle(), LoopLag()
    log.info("starting", extra=fields(version=__version__, pid=os.getpid(), devices=list(deployment.plan.devices)))
    slots = slots_of((device.id for device in deployment.devices), deployment.profiles)
    controller = Controller(deployment.catalog.slo_s(), slots, deployment.policy, dispatch_ahead_s=DISPATCH_AHEAD_S)
    if hardware.is_emulated:
        log.warning("devices are emulated (%s): no time that is told of them is a measurement", hardware.platform)
    plane = DataPlane(
        deployment.catalog,
        controller,
        lifecycle,
        clock,
        signatures=hardware.signatures,
        max_rows=_max_rows(deployment),
        best_accuracy=best_accuracy(deployment.profiles.values()),
        refuses_non_finite=options.refuses_non_finite,
        is_emulated=hardware.is_emulated,
    )
    async with (
        fleet_of(deployment, hardware, controller, plane, profiles) as fleet,
        adapting(deployment, plane, fleet, stop) as (adaptation, solver),
        reprofiling(deployment, plane, adaptation, solver, profiles) as reprofiled,
    ):
        platform = hardware.platform
        models = ModelRepository(plane, platform=platform, devices=deployment.devices, stubs=hardware.stubs)
        samples = MetricsSampler(plane, clock, adaptation.changes, fleet.states)
        server = StatusSources(
            plane=plane,
            fleet=fleet,
            adaptation=adaptation,
            devices={device.id: device for device in deployment.devices},
            samples=samples,
            replan=deployment.replanning,
            solver=solver.state if solver is not None else None,
            history=deployment.history,
            reprofiling=reprofiled,
        )
        async with (
            watching(lag.watch()),
            watching(samples.run()),
            _connections(options) as connections,
        ):
            by_hand = ManualPlans(
                adaptation,
                lifecycle,
                deployment.source,
                PlanRequirements(deployment.policy.name, deployment.catalog, profiles, hardware.models),
                solver,
                deployment.history,
                is_guarded=options.tokens is not None,
            )
            openapi = document(ROUTES, plane.signatures, needs_token=options.tokens is not None)
            endpoints = Endpoints(models, Metrics(server, connections, lag), server, by_hand, openapi)
            protocols = _protocols(plane, models, endpoints, options, connections, tracing)
            async with AsyncExitStack() as stack:
                for name, listener in listeners.items():
                    tls = options.tls([ALPN[name]]) if options.tls is not None else None
                    await stack.enter_async_context(accepting(listener, protocols[name], tls))
                stack.enter_context(_hanging_up(by_hand.hang_up))
                _keep_what_is_loaded()
                lifecycle.on(LifecycleEvent.WARMED_UP)
                _say_ready(listeners, options, controller.plan, announce, is_emulated=hardware.is_emulated)
                with view(lambda: samples.now) if view is not None else nullcontext():
                    await stop.wait()
                    stop_s = clock() + options.drain_timeout_s
                    lifecycle.on(LifecycleEvent.STOPPED)
                    connections.is_draining = True
                    await _drain(plane, stop_s)
            await connections.close(max(GOODBYE_S, stop_s - clock()))
        lifecycle.on(LifecycleEvent.EMPTIED)
        _say_endings(plane)


def _protocols(
    plane: DataPlane,
    models: ModelRepository,
    endpoints: Endpoints,
    options: ServerOptions,
    connections: Connections,
    tracing: "Tracing | None",
) -> dict[str, Callable[[], asyncio.BaseProtocol]]:
    """What makes a connection, by the scheme of its URL."""
    body_bytes, tokens = min(options.max_body_bytes, _largest_body(plane)), options.tokens
    http = RestHandler(plane, endpoints, max_body_bytes=body_bytes, tokens=tokens, tracing=tracing)
    grpc = GrpcHandler(
        plane,
        models=models,
        max_message_bytes=body_bytes,
        tokens=tokens,
        tracing=tracing,
    )
    limits, known_heads = HttpLimits(body_bytes=body_bytes), KnownHeads()
    return {
        "http": lambda: HttpConnection(http, connections, known_heads, limits),
        "grpc": lambda: Http2Connection(grpc, Http2Limits(), connections),
    }


def _keep_what_is_loaded() -> None:
    """Leave all that is there out of garbage collections: looking at it took 60 ms, in which nobody is answered.

    Requests leave no cycles behind, so the rest may be looked at seldom.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS, 10, 10)


def _say_ready(
    listeners: Mapping[str, socket.socket],
    options: ServerOptions,
    plan: Plan,
    announce: Callable[[str], None],
    *,
    is_emulated: bool,
) -> None:
    if options.tokens is None and not all(map(is_loopback, listeners.values())):
        log.warning("whoever reaches this machine may ask; `--auth-tokens` keeps strangers out")
    urls = [url_of(name, listener, uses_tls=options.tls is not None) for name, listener in listeners.items()]
    log.info("ready at %s", " ".join(urls), extra=fields(urls=urls, hosts=hosts(plan)))
    announce(" ".join([*urls, "emulated"] if is_emulated else urls))


@contextlib.contextmanager
def _stopping_on_signals(stop: asyncio.Event) -> Iterator[None]:
    """The first SIGTERM or SIGINT sets ``stop``, a second one ends the process at once."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(INTERRUPTED)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _hanging_up(told: Callable[[], None]) -> Iterator[None]:
    """SIGHUP is told, instead of ending the process."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, told)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # one that comes while the server drains is too late


def _max_rows(deployment: Deployment) -> dict[str, int]:
    """The largest batch that any variant of a family was measured with."""
    most = dict.fromkeys(deployment.catalog.names, 1)
    for measured in (variant for profile in deployment.profiles.values() for variant in profile.variants):
        if measured.family in most and measured.points:
            most[measured.family] = max(most[measured.family], measured.points[-1].batch)
    return most


def _largest_body(plane: DataPlane) -> int:
    """What the largest request of any family may need."""
    needed = (oip.max_bytes(signature, plane.max_rows[family]) for family, signature in plane.signatures.items())
    return max(SMALL_BODY, *needed)


@asynccontextmanager
async def _connections(options: ServerOptions) -> AsyncIterator[Connections]:
    """Look after connections; leaving closes them."""
    connections = Connections(
        max_connections=max_connections(options.max_connections), max_body_bytes=BODIES * options.max_body_bytes
    )
    async with watching(connections.watch_timeouts()):
        try:
            yield connections
        finally:
            await connections.close(0.0)


async def _drain(plane: DataPlane, stop_s: float) -> None:
    """Let what is inside end; what is left in the queues at ``stop_s`` is given up."""
    log.info("draining: %d requests inside", plane.inside, extra=fields(inside=plane.inside))
    while plane.inside and plane.clock() < stop_s:
        await asyncio.sleep(0.01)
    for request in plane.controller.forget_all():
        plane.dropped(request)


def _say_endings(plane: DataPlane) -> None:
    counts = plane.counts.values()
    ended = {str(outcome): sum(family.of_outcome(outcome) for family in counts) for outcome in Outcome}
    log.info("requests by how they ended", extra=fields(**ended))
