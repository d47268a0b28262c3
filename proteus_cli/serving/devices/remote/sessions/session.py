"""The server's side of one connection with an agent, from its answer to `Hello` on."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Protocol

from proteus_cli.backends.free_memory import HostMemory
from proteus_cli.domain.catalog import Family
from proteus_cli.domain.cluster import BEAT_S, CONNECT_S, MAX_SILENT
from proteus_cli.errors import HostLost
from proteus_cli.serving.devices.executor import OnLost, settle
from proteus_cli.serving.devices.process.messages import EmulatedSpec, ServerEvent
from proteus_cli.serving.devices.remote.channel.address import AgentAddress
from proteus_cli.serving.devices.remote.channel.channel import FrameChannel
from proteus_cli.serving.devices.remote.channel.handing_over import MAGIC
from proteus_cli.serving.devices.remote.channel.messages import (
    AbandonDevice,
    AbandonMeasuring,
    Beat,
    ConnectionRefused,
    DeviceEnded,
    DevicesShared,
    DeviceStarted,
    FromAgent,
    Inventory,
    Measured,
    MeasureDevices,
    MeasureOptions,
    Measuring,
    ModelState,
    Ping,
    Pong,
    Welcome,
)
from proteus_cli.serving.devices.remote.sessions.crossings import Crossings, RoundTrips
from proteus_cli.serving.devices.remote.sessions.executor import RemoteExecutor
from proteus_cli.serving.devices.remote.sessions.uploads import KnownModels, Uploads
from proteus_cli.serving.logs import fields

PING_BEATS = 10
"""Beats between two pings of an agent, one a second: a ping measures the round trip on an idle connection, and tells
the agent that the server lives. Few are pinged at once, as answers that come together seem to take longer."""


class Watched(Protocol):
    """A connection that is looked at."""

    def look(self) -> None:
        """See whether something has come since the last look."""
        ...

    def ping(self) -> None:
        """Send a `Ping`."""
        ...


class Looks:
    """Looks at all connections each `BEAT_S`, and pings each once in `PING_BEATS`, while there are any."""

    def __init__(self) -> None:
        self._turns: list[dict[Watched, None]] = [{} for _ in range(PING_BEATS)]
        self._turn = 0
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def at(self, watched: Watched) -> Iterator[None]:
        """Look at a connection until left."""
        turn = min(self._turns, key=len)
        turn[watched] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BEAT_S, self._look)
        try:
            yield
        finally:
            del turn[watched]

    def _look(self) -> None:
        """A late timer moves the looks that follow, so a held-up event loop looks once and not many times in a row."""
        self._timer = None
        self._turn = (self._turn + 1) % PING_BEATS
        for number, turn in enumerate(self._turns):
            for watched in list(turn):
                watched.look()
                if number == self._turn:
                    watched.ping()
        if any(self._turns):
            self._timer = asyncio.get_running_loop().call_later(BEAT_S, self._look)


MAX_SILENT_MEASURING = 100
"""As `MAX_SILENT`, for a host that is measured."""

log = logging.getLogger("proteus.cluster")


@dataclass(frozen=True, slots=True)
class _Measurement:
    content: asyncio.Future[bytes]
    say: Callable[[str], object]


class AgentSession:
    """One connection with an agent, from its answer to `Hello` on. It ends once; then all its executors are lost.

    ``is_open`` until ``has_ended`` is set. ``shared``: how many servers have a device of the agent open, where that is
    more than this one. ``is_measuring``: the agent measures devices, and serves with none.
    """

    def __init__(
        self, address: AgentAddress, channel: FrameChannel[FromAgent], inventory: Inventory, known: KnownModels
    ) -> None:
        self.inventory = inventory
        self.memory = HostMemory(inventory.free_bytes or None)
        self.has_ended, self.is_open = asyncio.Event(), True
        self.loss: HostLost | None = None
        self.ended_s = 0.0  # by `time.monotonic`
        self._address, self.channel = address, channel
        self._openings = count()
        self._executors: dict[int, RemoteExecutor] = {}
        self._past_sent = self._past_received = 0  # over connections to devices that have ended
        self._seen, self._silent = -1, 0  # the first look may come at once, and counts for nothing
        self.send = channel.send
        self._uploads = Uploads(self.send, known)
        self.round_trips = RoundTrips()
        self.shared: Mapping[str, int] = {}
        self._measurements = count()
        self._measuring: dict[int, _Measurement] = {}
        self._echoed: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._echo_sent_s = 0.0
        self.crossings = Crossings()
        channel.owner = self

    @property
    def is_measuring(self) -> bool:
        """Whether the agent measures for this server, which has none of its devices open."""
        return bool(self._measuring) and not self._executors

    @property
    def bytes_received(self) -> int:
        """Grows with whatever comes from the agent and its devices."""
        on_devices = sum(each.channel.bytes_received for each in self._executors.values())
        return self.channel.bytes_received + self._past_received + on_devices

    @property
    def bytes_sent(self) -> int:
        """Grows with whatever goes to the agent and its devices."""
        on_devices = sum(each.channel.bytes_sent for each in self._executors.values())
        return self.channel.bytes_sent + self._past_sent + on_devices

    @property
    def round_trip_s(self) -> float:
        """To the agent and back, at present; 0 before the first measurement."""
        return self.round_trips.shortest_s

    def open_device(
        self, device: str, slots: int, on_lost: OnLost, emulated: EmulatedSpec | None = None
    ) -> RemoteExecutor:
        """Open a device by the id that it has at the agent, or an ``emulated`` one."""
        opening = next(self._openings)
        executor = RemoteExecutor(f"{self._address.name}/{device}", opening, self, on_lost)
        self._executors[opening] = executor
        executor.open(device, slots, emulated)
        return executor

    def send_ahead(self, models: Iterable[Path]) -> None:
        """Send models that may be loaded later."""
        self._uploads.send_ahead(models)

    def forget_models(self, models: Iterable[Path]) -> None:
        """The agent need not keep these models for this server any more."""
        self._uploads.forget(models)

    def sent_model(self, model: Path) -> "asyncio.Future[str]":
        """The digest of a model, once the agent has it; `EngineError` where it can't be sent."""
        return self._uploads.send(model)

    async def measure(
        self, families: tuple[Family, ...], options: MeasureOptions, say: Callable[[str], object]
    ) -> bytes:
        """The profiles, as JSON, as `MeasureDevices` has it; ``say`` is told how far it is.

        Cancelled, it ends at the agent, too. Raises what the agent raises, `HostLost`.
        """
        self._require_open()
        number = next(self._measurements)
        measurement = self._measuring[number] = _Measurement(asyncio.get_running_loop().create_future(), say)
        try:
            self.send(MeasureDevices(number, families, options))
            return await measurement.content
        finally:
            del self._measuring[number]
            if measurement.content.cancelled():
                self.send(AbandonMeasuring(number))

    async def echo(self, size: int) -> float:
        """Seconds until bytes are back from the agent. One at a time. Raises `HostLost`."""
        self._require_open()
        content = bytes(size)
        self._echoed, self._echo_sent_s = asyncio.get_running_loop().create_future(), time.monotonic()
        self.send(Ping(self._echo_sent_s), [content])
        return await self._echoed

    def _require_open(self) -> None:
        if self.loss is not None:
            raise HostLost(self.loss.message, hint=self.loss.hint)

    def forget(self, opening: int) -> None:
        """The executor of this number needs its device no more."""
        executor = self._executors.pop(opening, None)
        if executor is not None:
            self._past_sent += executor.channel.bytes_sent
            self._past_received += executor.channel.bytes_received
            self.send(AbandonDevice(opening))

    async def connect_to_device(self, channel: FrameChannel[ServerEvent], token: bytes) -> None:
        """Have a channel connect to the process of a device, by the token of the agent. Raises `OSError`."""
        loop, address = asyncio.get_running_loop(), self._address
        async with asyncio.timeout(CONNECT_S):
            found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            family, kind, protocol, _, where = found[0]
            with socket.socket(family, kind, protocol) as said:
                said.setblocking(False)
                await loop.sock_connect(said, where)
                await loop.sock_sendall(said, MAGIC + token)
                connection = said.dup()  # uvloop has a descriptor either watched or in a transport for a while
        name = None if address.tls is None else address.host
        await loop.create_connection(lambda: channel, sock=connection, ssl=address.tls, server_hostname=name)

    async def watch(self, looks: Looks) -> None:
        """Look for signs of life, and measure round trips, until the session ends.

        A host that is measured is busy, and serves nobody: it may be silent for longer.
        """
        self.ping()  # so that the round trip is known at once
        with looks.at(self):
            await self.has_ended.wait()

    def look(self) -> None:
        """Look whether anything came from the host since the last look; end the session after too many without.

        On a host whose cores are busy, devices may answer while the agent is late.
        """
        received = self.bytes_received
        if received != self._seen:
            self._seen, self._silent = received, 0
            return
        self._silent += 1
        allowed = MAX_SILENT_MEASURING if self.is_measuring else MAX_SILENT
        if self._silent >= allowed:
            self.ended(f"nothing came from it for {allowed * BEAT_S * 1e3:.0f} ms")

    def ping(self) -> None:
        """Send a `Ping`, whose answer measures the round trip."""
        self.send(Ping(time.monotonic()))

    # --- the channel's owner

    def received(self, message: FromAgent, behind: memoryview) -> None:
        match message:
            case DeviceStarted() | DeviceEnded():
                if message.opening in self._executors:
                    self._executors[message.opening].told(message)
            case Beat(memory=memory):
                self.memory = memory
            case Pong(sent_s=sent_s):
                self._answered(sent_s)
            case ModelState():
                if not self._uploads.state(message):
                    self.ended("what it says of a model does not fit what it was sent")
            case DevicesShared(servers=servers):
                self.shared = servers
            case Measuring() | Measured():
                self._measured(message, behind)
            case Welcome() | ConnectionRefused():
                self.ended("it says what it has said before")

    def _measured(self, message: Measuring | Measured, behind: memoryview) -> None:
        measurement = self._measuring.get(message.number)
        if measurement is None:
            return
        if isinstance(message, Measuring):
            measurement.say(message.line)
        else:
            settle(measurement.content, bytes(behind) if message.error is None else message.error.error())

    def _answered(self, sent_s: float) -> None:
        now_s = time.monotonic()
        if sent_s == self._echo_sent_s:
            settle(self._echoed, now_s - sent_s)
        else:
            self.round_trips.add(now_s - sent_s, now_s)

    def ended(self, reason: str) -> None:
        if not self.is_open:
            return
        self._end()
        self.ended_s = time.monotonic()
        self.channel.close()
        self._uploads.close()
        lost = list(self._executors.values())
        self.loss = HostLost(f"host {self._address} is lost: {reason}", why=reason)
        log.error("%s", self.loss, extra=fields(host=self._address.name, devices=len(lost), reason=reason))
        for measurement in self._measuring.values():
            settle(measurement.content, self.loss)
        settle(self._echoed, self.loss)
        for executor in lost:
            executor.host_lost(self.loss)

    def close(self) -> None:
        """End the session from this side; what was sent before arrives."""
        self._end()
        for executor in self._executors.values():
            executor.channel.close()
        self.channel.close(flush=True)
        self._uploads.close()

    def _end(self) -> None:
        self.is_open = False
        self.has_ended.set()
