"""One foreground process: opens everything, serves until told to stop, drains, closes in reverse."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proteus_cli import __version__
from proteus_cli.control.controller import Controller
from proteus_cli.control.drift import Drift
from proteus_cli.control.hosting import slots_of
from proteus_cli.control.policies import Policy
from proteus_cli.control.transition import MOST_AWAY_FRAC
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.device import Device
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile, best_accuracy
from proteus_cli.domain.record import Origin
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import BackendUnavailable
from proteus_cli.serving import oip
from proteus_cli.serving.adaptation import Adaptation, hosts
from proteus_cli.serving.by_hand import ByHand, PlanSource, Served
from proteus_cli.serving.connections import Connections
from proteus_cli.serving.dataplane import DataPlane
from proteus_cli.serving.executor import EngineKey
from proteus_cli.serving.fleet import Fleet
from proteus_cli.serving.grpc.http2 import Http2Connection
from proteus_cli.serving.grpc.limits import Limits
from proteus_cli.serving.grpc.service import GrpcFrontEnd
from proteus_cli.serving.hardware import Hardware, made_up, of_this_machine
from proteus_cli.serving.history import History, Now
from proteus_cli.serving.http.connection import HttpConnection
from proteus_cli.serving.http.front_end import HttpFrontEnd
from proteus_cli.serving.http.limits import HttpLimits
from proteus_cli.serving.http.pages import Pages
from proteus_cli.serving.lag import LoopLag
from proteus_cli.serving.lane import RUNWAY_S
from proteus_cli.serving.lifecycle import Event, Lifecycle, StoppedEarly, unless
from proteus_cli.serving.listening import ALPN, admits, admits_call, is_local, listen, most_connections, url_of
from proteus_cli.serving.logs import fields
from proteus_cli.serving.metrics import Metrics
from proteus_cli.serving.model_files import ModelFiles
from proteus_cli.serving.models import Models
from proteus_cli.serving.plan_history import Adopted, PlanHistory
from proteus_cli.serving.recovery import Recovery
from proteus_cli.serving.reprofiling import Reprofiling
from proteus_cli.serving.solver import Replanner, SolverProcess
from proteus_cli.serving.status import Server, status
from proteus_cli.serving.tls import accepting
from proteus_cli.serving.tokens import Tokens

if TYPE_CHECKING:
    from proteus_cli.serving.tracing import Tracing

log = logging.getLogger("proteus.server")

# A lane's thread needs the GIL for a moment after each batch; the default of 5 ms is a long wait within an SLO.
GIL_SWITCH_S = 0.0005
GARBAGE_OBJECTS = 20_000
BODIES = 16  # large bodies of the largest size that may be in memory at once
SMALL_BODY = 2**20  # bodies up to here are taken where none of that size makes sense, too
GOODBYE_S = 2.0
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where to listen (port 0 picks a free one), limits on clients, and how long draining may take.

    ``grpc_port``: None is no gRPC. ``refuses_non_finite``: requests and answers with NaN or infinity are errors.
    With ``tls``, nothing else is spoken; with ``tokens``, all but `OPEN` needs one. Traces go to the URL ``otlp``, of
    ``otlp_sample`` (a fraction) of the requests that bring no decision about it.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    max_body_bytes: int = 64 * 2**20
    max_connections: int = 4096
    drain_timeout_s: float = 10.0
    refuses_non_finite: bool = False
    tls: Callable[[Sequence[str]], ssl.SSLContext] | None = None  # by the protocols that it offers
    tokens: Tokens | None = None
    otlp: str | None = None
    otlp_sample: float = 0.01


@dataclass(frozen=True, slots=True)
class Deployment:
    """What to serve: a plan, and all that changes of plan may bring. ``models`` are ONNX files by engine.

    Where devices are ``emulated``, only those of the models that are there; none is run. Devices other than GPUs run in
    threads of the server, or ``in_processes`` of their own. ``source`` is where plans come from that people apply.
    ``built`` is where engines for GPUs are kept. ``replanning`` is the re-planning as it was asked for; a solve takes
    ``solve_limit_s`` at most. No more of a family's capacity than ``most_away_frac`` is away at once while devices
    change what they host. What a profile is wrong in for ``drift_after_s`` is re-estimated (0: never), and written back
    where the server ``records``. ``history`` is None where none is kept. ``origin`` and ``reason`` are those of the
    plan.
    """

    plan: Plan
    catalog: Catalog
    profiles: Mapping[str, Profile]
    devices: Sequence[Device]
    models: Mapping[EngineKey, Path]
    policy: Policy
    replan: Replanner
    source: PlanSource
    built: Path
    emulated: bool = False
    replanning: str = "auto"
    solve_limit_s: float = 2.0
    drift_after_s: float = 60.0
    records: bool = False
    history: PlanHistory | None = None
    origin: Origin = "start"
    reason: str = "the plan that the server was started with"
    in_processes: bool = False
    most_away_frac: float = MOST_AWAY_FRAC


View = Callable[[Callable[[], Now]], AbstractContextManager[None]]
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
            runner = stack.enter_context(asyncio.Runner(loop_factory=_loop_factory()))
            runner.run(_serve(deployment, options, listeners, announce, view, tracing))
    except StoppedEarly:
        log.info("stopped before it was ready")
    else:
        log.info("drained, stopped")


def _tracing(options: ServerOptions) -> AbstractContextManager["Tracing | None"]:
    if options.otlp is None:
        return nullcontext()
    try:
        from proteus_cli.serving.tracing import tracing_to  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise BackendUnavailable(
            "Traces need OpenTelemetry, which is not installed.", hint="pip install 'proteus-serving[otlp]'"
        ) from error
    return tracing_to(options.otlp, options.otlp_sample)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop  # noqa: PLC0415 - not there on every platform
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


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
        async with _hardware(deployment) as hardware:
            await _serve_on(hardware, deployment, options, listeners, announce, view, tracing, stop)


@asynccontextmanager
async def _hardware(deployment: Deployment) -> AsyncIterator[Hardware]:
    catalog, models, in_processes = deployment.catalog, deployment.models, deployment.in_processes
    if deployment.emulated:
        with made_up(deployment.profiles, catalog, models, in_processes=in_processes) as hardware:
            yield hardware
    else:
        devices = {device.id: device for device in deployment.devices}
        built, slots = deployment.built, slots_of(devices, deployment.profiles)
        async with of_this_machine(devices, catalog, models, built, slots, in_processes=in_processes) as hardware:
            yield hardware


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
    controller = Controller(deployment.catalog.slo_s(), slots, deployment.policy, runway_s=RUNWAY_S)
    if hardware.is_emulated:
        log.warning("devices are emulated (%s): no time that is told of them is a measurement", hardware.platform)
    plane = DataPlane(
        deployment.catalog,
        controller,
        lifecycle,
        clock,
        signatures=hardware.signatures,
        most_rows=_most_rows(deployment),
        best_accuracy=best_accuracy(deployment.profiles.values()),
        refuses_non_finite=options.refuses_non_finite,
        is_emulated=hardware.is_emulated,
    )
    async with (
        _fleet(deployment, hardware, controller, plane, profiles) as fleet,
        _adapting(deployment, plane, fleet, stop) as (adaptation, solver),
        _reprofiling(deployment, plane, adaptation, solver, profiles) as reprofiling,
    ):
        platform = hardware.platform
        models = Models(plane, platform=platform, devices=deployment.devices, stubs=hardware.stubs)
        samples = History(plane, clock, adaptation.changes, partial(_breakers, fleet))
        server = Server(
            plane=plane,
            fleet=fleet,
            adaptation=adaptation,
            devices={device.id: device for device in deployment.devices},
            samples=samples,
            replan=deployment.replanning,
            solver=solver.state if solver is not None else None,
            history=deployment.history,
            reprofiling=reprofiling,
        )
        async with (
            _watching(lag.watch()),
            _watching(samples.run()),
            _connections(options) as connections,
        ):
            by_hand = ByHand(
                adaptation,
                lifecycle,
                deployment.source,
                Served(deployment.policy.name, deployment.catalog, profiles, hardware.models),
                solver,
                deployment.history,
                is_guarded=options.tokens is not None,
            )
            pages = Pages(
                plane,
                models,
                Metrics(server, connections, lag),
                platform=platform,
                status=lambda: status(server),
                by_hand=by_hand,
                history=samples,
                needs_token=options.tokens is not None,
            )
            protocols = _protocols(plane, models, pages, options, connections, platform, tracing)
            async with AsyncExitStack() as stack:
                for name, listener in listeners.items():
                    tls = options.tls(ALPN[name]) if options.tls is not None else None
                    await stack.enter_async_context(accepting(listener, protocols[name], tls))
                stack.enter_context(_hanging_up(by_hand.hang_up))
                _keep_what_is_loaded()
                lifecycle.on(Event.WARMED_UP)
                _say_ready(listeners, options, controller.plan, announce, is_emulated=hardware.is_emulated)
                with view(lambda: samples.now) if view is not None else nullcontext():
                    await stop.wait()
                    stop_s = clock() + options.drain_timeout_s
                    lifecycle.on(Event.STOPPED)
                    connections.is_draining = True
                    await _drain(plane, stop_s)
            await connections.close(max(GOODBYE_S, stop_s - clock()))
        lifecycle.on(Event.EMPTIED)
        _say_endings(plane)


def _protocols(
    plane: DataPlane,
    models: Models,
    pages: Pages,
    options: ServerOptions,
    connections: Connections,
    platform: str,
    tracing: "Tracing | None",
) -> dict[str, Callable[[], asyncio.BaseProtocol]]:
    """What makes a connection, by the scheme of its URL."""
    body_bytes, tokens = min(options.max_body_bytes, _largest_body(plane)), options.tokens
    http = HttpFrontEnd(plane, pages, max_body_bytes=body_bytes, tracing=tracing)
    grpc = GrpcFrontEnd(
        plane,
        models=models,
        platform=platform,
        max_message_bytes=body_bytes,
        authorized=partial(admits_call, tokens) if tokens is not None else None,
        tracing=tracing,
    )
    limits = HttpLimits(body_bytes=body_bytes)
    lets_in = partial(admits, tokens) if tokens is not None else None
    return {
        "http": lambda: HttpConnection(http, limits, connections, lets_in),
        "grpc": lambda: Http2Connection(grpc, Limits(), connections),
    }


def _breakers(fleet: Fleet) -> dict[str, tuple[str, str]]:
    """State and reason by device, for `History`."""
    return {device: (breaker.state.value, breaker.reason or "") for device, breaker in fleet.breakers.items()}


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
    if options.tokens is None and not all(map(is_local, listeners.values())):
        log.warning("whoever reaches this machine may ask; `--auth-tokens` keeps strangers out")
    urls = [url_of(name, listener, is_safe=options.tls is not None) for name, listener in listeners.items()]
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


def _most_rows(deployment: Deployment) -> dict[str, int]:
    """The largest batch that any variant of a family was measured with."""
    most = dict.fromkeys(deployment.catalog.names, 1)
    for measured in (variant for profile in deployment.profiles.values() for variant in profile.variants):
        if measured.family in most and measured.points:
            most[measured.family] = max(most[measured.family], measured.points[-1].batch)
    return most


def _largest_body(plane: DataPlane) -> int:
    """What the largest request of any family may need."""
    needed = (oip.most_bytes(signature, plane.most_rows[family]) for family, signature in plane.signatures.items())
    return max(SMALL_BODY, *needed)


@asynccontextmanager
async def _fleet(
    deployment: Deployment,
    hardware: Hardware,
    controller: Controller,
    plane: DataPlane,
    profiles: Mapping[str, Profile],
) -> AsyncIterator[Fleet]:
    fleet = Fleet(
        controller,
        {device.id: hardware.executor(device) for device in deployment.devices},
        plane,
        plane.clock,
        models=hardware.models,
        profiles=profiles,
        signatures=plane.signatures,
        files=None if deployment.emulated else ModelFiles(hardware.models, deployment.profiles),
        inline_s=hardware.inline_s,
        most_away_frac=deployment.most_away_frac,
    )
    plane.lanes = fleet.lanes
    devices = {device.id: device for device in deployment.devices}
    recovery = Recovery(fleet, controller, lambda device: hardware.executor(devices[device]), profiles, plane.clock)
    try:
        async with _watching(recovery.run()):
            yield fleet
    finally:
        fleet.close()


@asynccontextmanager
async def _adapting(
    deployment: Deployment, plane: DataPlane, fleet: Fleet, stop: asyncio.Event
) -> AsyncIterator[tuple[Adaptation, SolverProcess | None]]:
    """Put the plan in force and let it follow the demand, with a solver that gets ready meanwhile.

    Raises `StoppedEarly`, and `EngineError` where the plan can't be put in force.
    """
    rule, history = deployment.policy.replanning, deployment.history
    async with AsyncExitStack() as stack:
        solver = None
        if rule is not None:
            solver = stack.enter_context(contextlib.closing(SolverProcess(deployment.replan, deployment.solve_limit_s)))
            solver.warm_up(deployment.plan)
        adaptation = Adaptation(plane.controller, fleet, plane.clock, _journal(history, plane))
        await unless(stop, adaptation.start(deployment.plan, deployment.origin, deployment.reason))
        if history is not None:
            stack.callback(lambda: history.stopped(plane.tallies()))
        if rule is not None and solver is not None:
            await stack.enter_async_context(_watching(solver.watch()))
            await stack.enter_async_context(_watching(adaptation.run(rule.every_s, solver)))
        yield adaptation, solver


@asynccontextmanager
async def _reprofiling(
    deployment: Deployment,
    plane: DataPlane,
    adaptation: Adaptation,
    solver: SolverProcess | None,
    profiles: dict[str, Profile],
) -> AsyncIterator[Reprofiling | None]:
    """Compare what batches take with ``profiles``; leaving writes what is to be recorded."""
    if not deployment.drift_after_s:
        yield None
        return
    plane.drift = Drift(profiles, now_s=plane.clock(), after_s=deployment.drift_after_s)
    reprofiling = Reprofiling(
        plane.drift,
        profiles,
        plane.controller,
        adaptation,
        solver,
        deployment.source,
        plane.clock,
        record=deployment.source.record if deployment.records else None,
    )
    async with _watching(reprofiling.watch()):
        yield reprofiling
    reprofiling.write()


def _journal(history: PlanHistory | None, plane: DataPlane) -> Callable[[Adopted], None] | None:
    if history is None:
        return None
    return lambda adopted: history.began(adopted, plane.tallies())


@asynccontextmanager
async def _watching(watch: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
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


@asynccontextmanager
async def _connections(options: ServerOptions) -> AsyncIterator[Connections]:
    """Look after connections; leaving closes them."""
    connections = Connections(
        most=most_connections(options.max_connections), most_body_bytes=BODIES * options.max_body_bytes
    )
    async with _watching(connections.watch()):
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
