"""The server's side of one connection with an agent, from its answer to `Hello` on."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from proteus_cli.backends.free_memory import HostMemory
from proteus_cli.domain.catalog import Family
from proteus_cli.errors import HostLost
from proteus_cli.serving.devices.executor import OnLost, settle
from proteus_cli.serving.devices.process.spec import EmulatedSpec
from proteus_cli.serving.devices.remote.channel.address import AgentAddress
from proteus_cli.serving.devices.remote.channel.channel import FrameChannel
from proteus_cli.serving.devices.remote.channel.messages import (
    AbandonMeasuring,
    BatchLeft,
    BatchRan,
    Beat,
    ConnectionRefused,
    DevicesShared,
    FromAgent,
    FromDevice,
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
from proteus_cli.serving.devices.remote.sessions.crossings import Crossings
from proteus_cli.serving.devices.remote.sessions.executor import RemoteExecutor
from proteus_cli.serving.devices.remote.sessions.looks import Looks
from proteus_cli.serving.devices.remote.sessions.round_trips import RoundTrips
from proteus_cli.serving.devices.remote.sessions.signs_of_life import SignsOfLife
from proteus_cli.serving.devices.remote.sessions.uploads import KnownModels, Uploads
from proteus_cli.serving.logs import fields

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
        """Grows with whatever comes from the agent."""
        return self.channel.bytes_received

    @property
    def bytes_sent(self) -> int:
        """Grows with whatever goes to the agent."""
        return self.channel.bytes_sent

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
        """Seconds until so many bytes are back from the agent. One at a time. Raises `HostLost`."""
        self._require_open()
        content = bytes(size)
        self._echoed, self._echo_sent_s = asyncio.get_running_loop().create_future(), time.monotonic()
        self.send(Ping(self._echo_sent_s), [content])
        return await self._echoed

    def _require_open(self) -> None:
        if self.loss is not None:
            raise HostLost(self.loss.message, hint=self.loss.hint)

    def forget(self, opening: int) -> None:
        """Nothing is to be told to the executor of this number any more."""
        self._executors.pop(opening, None)

    async def watch(self, looks: Looks) -> None:
        """Look for signs of life, and measure round trips, until the session ends.

        A host that is measured is busy, and serves nobody: it may be silent for longer.
        """
        signs = SignsOfLife(self)
        signs.ping()  # so that the round trip is known at once
        with looks.at(signs):
            await self.has_ended.wait()

    # --- the channel's owner

    def received(self, message: FromAgent, behind: memoryview) -> None:
        if not isinstance(message, BatchRan | BatchLeft):
            self._told(message, behind)
        elif (executor := self._executors.get(message.opening)) is not None:
            executor.ran(message, behind) if isinstance(message, BatchRan) else executor.left(message, behind)

    def _told(self, message: FromAgent, behind: memoryview) -> None:
        match message:
            case FromDevice(opening=opening) if opening in self._executors:
                self._executors[opening].told(message)
            case Beat(memory=memory):
                self.memory = memory
            case Pong(sent_s=sent_s):
                self._answered(sent_s)
            case ModelState():
                if not self._uploads.state(message):
                    self.ended("what it says of a model does not fit what it was sent")
            case DevicesShared(servers=servers):
                self.shared = servers
            case Measuring(number=number, line=line) if number in self._measuring:
                self._measuring[number].say(line)
            case Measured(number=number, error=error) if number in self._measuring:
                settle(self._measuring[number].content, bytes(behind) if error is None else error.error())
            case Welcome() | ConnectionRefused():
                self.ended("it says what it has said before")

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
        lost, self._executors = self._executors, {}
        self.loss = HostLost(f"host {self._address} is lost: {reason}", why=reason)
        log.error("%s", self.loss, extra=fields(host=self._address.name, devices=len(lost), reason=reason))
        for measurement in self._measuring.values():
            settle(measurement.content, self.loss)
        settle(self._echoed, self.loss)
        for executor in lost.values():
            executor.lost(self.loss)

    def close(self) -> None:
        """End the session from this side; what was sent before arrives."""
        self._end()
        self.channel.close(flush=True)
        self._uploads.close()

    def _end(self) -> None:
        self.is_open = False
        self.has_ended.set()
