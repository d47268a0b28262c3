"""The real server in this process: all of its planes on emulated devices, and clients without sockets.

Only the ends are replaced: connections get their bytes from `Client`, and time is the loop's, which jumps.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from builders import make_catalog, make_family, make_measured, make_placement, make_plan, make_profile

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.control.controller import Controller
from proteus_cli.control.policies import live_policy_named, with_replanning
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.catalog_changes import CatalogContent
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.request import Outcome
from proteus_cli.serving.adaptation.catalog_reading import ServedCatalog
from proteus_cli.serving.adaptation.plan_inputs import ProfileStore
from proteus_cli.serving.devices.emulated import EmulatedExecutor
from proteus_cli.serving.devices.executor import OnLost
from proteus_cli.serving.devices.hardware import NO_MODEL, EmulatedHardware
from proteus_cli.serving.lifecycle import LifecycleEvent
from proteus_cli.serving.oip.tensors import DATATYPES
from proteus_cli.serving.requests.data_plane import DataPlane, DataPlaneOptions, make_data_plane
from proteus_cli.serving.requests.families import ServedFamily
from proteus_cli.serving.server.adapting import open_adaptation
from proteus_cli.serving.server.assembly import make_endpoints, open_telemetry
from proteus_cli.serving.server.deployment import Deployment
from proteus_cli.serving.server.front_ends import Protocols, make_protocols, open_connections
from proteus_cli.serving.settings import ServeSettings
from proteus_cli.serving.transport.connections import Connections
from proteus_cli.serving.transport.tokens import Tokens

if TYPE_CHECKING:
    from fuzzing.in_process.loop import WatchedLoop

DEVICE = "cpu0"
MAX_ROWS = 16
LARGE = 4096
"""Values in a row of `large`: a request of `MAX_ROWS` rows has 65,536."""

READ_BYTES = 256 * 1024
"""What uvloop reads at once, unless the protocol has a buffer of its own."""

MAX_KEPT_BYTES = 4 * 2**20
"""Of what a client is sent: enough to check it, and no memory that could be taken for the server's."""

SETTLES_WITHIN_S = 120.0  # longer than any timeout of a connection
_STEP_S = 0.01


def _spec(name: str, datatype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, np.dtype(DATATYPES[datatype]), shape)


SIGNATURES = {
    "large": Signature((_spec("x", "FP32", LARGE),), (_spec("y", "FP32", 2),)),
    "small": Signature((_spec("x", "FP32", 2), _spec("k", "INT64", 1)), (_spec("y", "FP32", 2), _spec("m", "BOOL"))),
    "kinds": Signature(tuple(_spec(name.lower(), name, 2) for name in DATATYPES), (_spec("y", "FP64", 1),)),
}


class LoggedBugs(logging.Handler):
    """Keeps the exceptions whose tracebacks the server logs: each is a bug."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.found.append(record.exc_info[1])


@dataclass(frozen=True, kw_only=True)
class _JumpingHardware(EmulatedHardware):
    """Emulated devices whose batches take the loop's time."""

    def open_device(self, device: str, on_lost: OnLost) -> EmulatedExecutor:
        loop = asyncio.get_running_loop()
        return EmulatedExecutor(self.profiles[device], self.signatures, loop.time, loop.call_at, on_lost)


class _AnyPlan:
    """A `PlanSource` to which every plan is current; nothing else is asked of it."""

    def require_current(self, plan: Plan) -> None: ...


class Server:
    """A server that is ready; `settle`, `check_settled` and `reset` it after each conversation."""

    def __init__(self, plane: DataPlane, connections: Connections, protocols: Protocols) -> None:
        self.plane, self.connections, self.protocols = plane, connections, protocols
        self.bugs = LoggedBugs()
        logging.getLogger("proteus").addHandler(self.bugs)
        self._admitted = self._ended = 0
        self._first_plan = plane.controller.plan
        self._count_calls(plane.results, "expect")
        self._count_calls(plane.admission, "dropped")  # given up while its tensors were read

    def _count_calls(self, owner: Any, name: str) -> None:
        """Each call of this method stands for a request that must be counted once."""
        method = getattr(owner, name)

        def counted(*args: Any, **more: Any) -> Any:
            self._admitted += 1
            return method(*args, **more)

        setattr(owner, name, counted)

    async def settle(self) -> None:
        """Until all that is ready was done, and no request is in flight."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + SETTLES_WITHIN_S
        await asyncio.sleep(_STEP_S)
        while self.plane.results.in_flight_count and loop.time() < until_s:
            await asyncio.sleep(_STEP_S)

    def check_settled(self) -> None:
        """All that must hold once all clients have gone: every request has ended once, and nothing is held."""
        if self.bugs.found:
            bugs, self.bugs.found = self.bugs.found, []
            raise bugs[0]
        assert self.plane.results.in_flight_count == 0, "a request does not end"
        assert len(self.connections) == 0, "a connection is counted that is closed"
        assert self.connections.body_bytes == 0, f"{self.connections.body_bytes} bytes stay reserved"
        ended = sum(self.plane.counts.of_outcome(o) for o in Outcome if o is not Outcome.REJECTED)
        admitted, self._admitted = self._admitted, 0
        before, self._ended = self._ended, ended
        assert admitted == ended - before, f"{admitted} requests were admitted, {ended - before} were counted"

    @property
    def has_first_plan(self) -> bool:
        return self.plane.controller.plan is self._first_plan

    def reset(self) -> None:
        """Let all models take requests, as a client may have unloaded them."""
        for family in self.plane.families.by_name.values():
            family.why_out = ""


@asynccontextmanager
async def running_server(tokens: Sequence[str] = ()) -> AsyncIterator[Server]:
    """A server of the families in `SIGNATURES`, on one device."""
    deployment = replace(_deployment(), tokens=Tokens(tokens) if tokens else None)
    loop = asyncio.get_running_loop()
    hardware = _JumpingHardware(
        platform="proteus_emulated", models=dict(deployment.models), signatures=SIGNATURES, is_emulated=True,
        profiles=dict(deployment.profiles), timer=cast("Any", None), in_processes=False,
    )  # fmt: skip
    profiles = ProfileStore(deployment.profiles)
    served = ServedCatalog(CatalogContent.served(deployment.catalog, deployment.digests))
    slo_s = deployment.catalog.slo_s()
    plane = make_data_plane(
        Controller(slo_s, {DEVICE: 1}, deployment.policy),
        [ServedFamily(name, SIGNATURES[name], slo_s[name], MAX_ROWS, 0.9) for name in SIGNATURES],
        [DEVICE], hardware.open_device, loop.time,
        models=deployment.models, profiles=profiles, options=DataPlaneOptions(is_emulated=True),
    )  # fmt: skip
    async with AsyncExitStack() as stack:
        adaptation = await stack.enter_async_context(
            open_adaptation(deployment, hardware, plane, profiles, served, None, None, asyncio.Event())
        )
        connections = await stack.enter_async_context(open_connections(deployment.settings))
        observed = await stack.enter_async_context(open_telemetry(deployment, hardware, plane, adaptation, connections))
        models, endpoints = make_endpoints(hardware, plane, profiles, adaptation, observed)
        plane.lifecycle.on(LifecycleEvent.WARMED_UP)
        yield Server(
            plane, connections, make_protocols(plane, models, endpoints, deployment, connections, None, is_local=True)
        )


def first_plan() -> Plan:
    """The plan that the server starts with."""
    return make_plan(
        *(
            make_placement(DEVICE, name, f"{name}-v", max_batch=MAX_ROWS, rate_qps=1e4, capacity_qps=1e6)
            for name in SIGNATURES
        )
    )


def _deployment() -> Deployment:
    catalog = make_catalog(*(make_family(name, {f"{name}-v": 0.9}, slo="10s") for name in SIGNATURES))
    latency_s = dict.fromkeys((1, MAX_ROWS), 0.001)
    measured = (make_measured(name, f"{name}-v", 0.9, latency_s, load_s=0.01) for name in SIGNATURES)
    profile = make_profile(DEVICE, *measured)
    return Deployment(
        plan=first_plan(), catalog=catalog, profiles={DEVICE: profile}, devices=[profile.device],
        models={VariantKey(name, f"{name}-v"): NO_MODEL for name in SIGNATURES},
        policy=with_replanning(live_policy_named("proteus"), "off"),
        source=cast("Any", _AnyPlan()), built=Path(), settings=ServeSettings(emulate=True, replan="off"),
    )  # fmt: skip


class Client(asyncio.Transport):
    """A client's end of a connection, and the transport of the server's end. Keeps the first writes of the server."""

    def __init__(self, server: Server, protocol: str) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self._kept_bytes = 0
        self._protocol = cast("Any", server.protocols[protocol]())
        self._is_buffered = isinstance(self._protocol, asyncio.BufferedProtocol)
        self._is_closed = self._is_reading_paused = False
        self._loop = cast("WatchedLoop", asyncio.get_running_loop())
        self._call(self._protocol.connection_made, self)

    async def send(self, content: bytes) -> None:
        """Send bytes that arrive in one read, or in several where the server reads less at once."""
        rest = memoryview(content)
        while rest and await self._may_send():
            rest = self._read(rest)
            await asyncio.sleep(0)

    def _read(self, content: memoryview) -> memoryview:
        if self._is_buffered:
            target = self._call(self._protocol.get_buffer, -1)
            size = min(len(target), len(content))
            target[:size] = content[:size]
            self._call(self._protocol.buffer_updated, size)
        else:
            size = min(READ_BYTES, len(content))
            self._call(self._protocol.data_received, bytes(content[:size]))
        return content[size:]

    async def _may_send(self) -> bool:
        """Wait while the server does not read; False once it has closed the connection, or has waited for too long."""
        until_s = self._loop.time() + SETTLES_WITHIN_S
        while self._is_reading_paused and not self._is_closed and self._loop.time() < until_s:
            await asyncio.sleep(_STEP_S)
        return not self._is_closed

    def _call(self, callback: Any, *args: Any) -> Any:
        return self._loop.watch.call(callback, *args)

    # asyncio.Transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self._is_closed, "written to after the end"
        if self._kept_bytes < MAX_KEPT_BYTES:
            self.writes.append(bytes(data))
            self._kept_bytes += len(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._is_closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """The server sends no more."""

    def pause_reading(self) -> None:
        self._is_reading_paused = True

    def resume_reading(self) -> None:
        self._is_reading_paused = False

    def end(self) -> None:
        """Send no more."""
        if not self._is_closed and not self._call(self._protocol.eof_received):
            self.close()

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    abort = close
