"""The server's side of the channel to one agent: connected, watched, and connected again."""

import asyncio
import logging
import ssl
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import msgspec

from proteus_cli import __version__
from proteus_cli.backends.free_memory import HostMemory
from proteus_cli.domain.arrays import Buffer
from proteus_cli.domain.connection import BEAT_S, CONNECT_S, MAX_SILENT, ConnectionPauses
from proteus_cli.domain.device import Device
from proteus_cli.errors import DeviceUnavailable, HostLost
from proteus_cli.serving.devices.executor import Executor, OnLost, settle
from proteus_cli.serving.devices.process.spec import EmulatedSpec
from proteus_cli.serving.devices.remote.absent import AbsentExecutor
from proteus_cli.serving.devices.remote.channel import FrameChannel
from proteus_cli.serving.devices.remote.crossings import Crossings
from proteus_cli.serving.devices.remote.executor import RemoteExecutor
from proteus_cli.serving.devices.remote.frames import FrameParser
from proteus_cli.serving.devices.remote.link_state import LinkState, PastSessions
from proteus_cli.serving.devices.remote.looks import Looks
from proteus_cli.serving.devices.remote.messages import (
    FROM_AGENT,
    PROTOCOL,
    BatchRan,
    Beat,
    ConnectionRefused,
    DevicesShared,
    FromAgent,
    FromDevice,
    Hello,
    Inquiry,
    Inventory,
    Measured,
    MeasureDevices,
    Measuring,
    ModelState,
    Ping,
    Pong,
    Welcome,
)
from proteus_cli.serving.devices.remote.round_trips import RoundTrips
from proteus_cli.serving.devices.remote.uploads import KnownModels, Uploads
from proteus_cli.serving.logs import fields

MAX_SILENT_MEASURING = 100
"""As `MAX_SILENT`, of a host that is measured."""

PING_S = 1.0
"""Between two measurements of the round trip of an idle connection; the agent hears of the server so often, too."""

_NOT_YET = "it is not connected yet"

log = logging.getLogger("proteus.cluster")


@dataclass(frozen=True, slots=True)
class AgentAddress:
    """Where an agent listens, and the name of its host in ids of devices. Without ``tls`` only on this machine."""

    name: str
    host: str
    port: int
    tls: ssl.SSLContext | None

    def __str__(self) -> str:
        return f"{self.name} ({self.host}:{self.port})"


class AgentSession:
    """One connection with an agent, from its answer to `Hello` on. It ends once; then all its executors are lost.

    ``shared``: how many servers have a device of the agent open, where that is more than this one.
    """

    def __init__(
        self, address: AgentAddress, channel: FrameChannel[FromAgent], inventory: Inventory, known: KnownModels
    ) -> None:
        self.inventory = inventory
        self.memory = HostMemory(inventory.free_bytes or None)
        self.has_ended = asyncio.Event()
        self.loss: HostLost | None = None
        self.ended_s = 0.0  # by `time.monotonic`
        self._address, self._channel = address, channel
        self._openings = count()
        self._executors: dict[int, RemoteExecutor] = {}
        self._uploads = Uploads(self.send, known)
        self.round_trips = RoundTrips()
        self._say: Callable[[str], object] = lambda _: None
        self.shared: Mapping[str, int] = {}
        self._measured: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._echoed: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._echo_sent_s = 0.0
        self.crossings = Crossings()
        self._is_measuring = False
        channel.owner = self

    @property
    def bytes_received(self) -> int:
        """Grows with whatever comes from the agent."""
        return self._channel.bytes_received

    @property
    def bytes_sent(self) -> int:
        return self._channel.bytes_sent

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

    def send(self, message: msgspec.Struct, behind: Sequence[Buffer] = ()) -> None:
        """Raises `UnreadableFrame` where it is too large."""
        self._channel.send(message, behind)

    def send_ahead(self, models: Iterable[Path]) -> None:
        """Send models that may be loaded later."""
        self._uploads.send_ahead(models)

    def sent_model(self, model: Path) -> "asyncio.Future[str]":
        """The digest of a model, once the agent has it; `EngineError` where it can't be sent."""
        return self._uploads.send(model)

    async def measure(self, command: MeasureDevices, say: Callable[[str], object]) -> bytes:
        """The profiles, as JSON, of devices that are not open; ``say`` is told how far it is. One at a time.

        Raises what the agent raises, `HostLost`.
        """
        if self.loss is not None:
            raise HostLost(self.loss.message, hint=self.loss.hint)
        self._measured, self._say = asyncio.get_running_loop().create_future(), say
        self._is_measuring = True
        try:
            self.send(command)
            return await self._measured
        finally:
            self._is_measuring = False

    async def echo(self, size: int) -> float:
        """Seconds until so many bytes are back from the agent. One at a time. Raises `HostLost`."""
        content = bytes(size)
        self._echoed, self._echo_sent_s = asyncio.get_running_loop().create_future(), time.monotonic()
        self.send(Ping(self._echo_sent_s), [content])
        return await self._echoed

    def forget(self, opening: int) -> None:
        """Nothing is to be told to the executor of this number any more."""
        self._executors.pop(opening, None)

    async def watch(self, looks: Looks) -> None:
        """Look for signs of life, and measure round trips, until the session ends.

        A host that is measured is busy, and serves nobody: it may be silent for longer.
        """
        loop = asyncio.get_running_loop()
        seen, silent = -1, 0  # the first look may come at once, and counts for nothing

        def look() -> None:
            nonlocal seen, silent
            received = self._channel.bytes_received
            if received != seen:
                seen, silent = received, 0
                return
            silent += 1
            allowed = MAX_SILENT_MEASURING if self._is_measuring else MAX_SILENT
            if silent >= allowed:
                self.ended(f"nothing came from it for {allowed * BEAT_S * 1e3:.0f} ms")

        def ping() -> None:  # each session at a time of its own: answers that come together would seem to take longer
            nonlocal pinging
            self.send(Ping(time.monotonic()))
            pinging = loop.call_later(PING_S, ping)

        pinging: asyncio.Handle = loop.call_soon(ping)
        try:
            with looks.calling(look):
                await self.has_ended.wait()
        finally:
            pinging.cancel()

    # --- the channel's owner

    def received(self, message: FromAgent, behind: memoryview) -> None:
        match message:
            case BatchRan() | FromDevice():
                if message.opening in self._executors:
                    self._executors[message.opening].told(message, behind)
            case Beat(memory=memory):
                self.memory = memory
            case Pong(sent_s=sent_s):
                self._answered(sent_s)
            case ModelState():
                self._uploads.state(message)
            case DevicesShared(servers=servers):
                self.shared = servers
            case Measuring(line=line):
                self._say(line)
            case Measured(error=error):
                settle(self._measured, bytes(behind) if error is None else error.error())
            case Welcome() | ConnectionRefused():
                self.ended("it says what it has said before")

    def _answered(self, sent_s: float) -> None:
        now_s = time.monotonic()
        if sent_s == self._echo_sent_s:
            settle(self._echoed, now_s - sent_s)
        else:
            self.round_trips.add(now_s - sent_s, now_s)

    def ended(self, reason: str) -> None:
        if self.has_ended.is_set():
            return
        self.has_ended.set()
        self.ended_s = time.monotonic()
        self._channel.close()
        self._uploads.close()
        lost, self._executors = self._executors, {}
        self.loss = HostLost(f"host {self._address} is lost: {reason}", why=reason)
        log.error("%s", self.loss, extra=fields(host=self._address.name, devices=len(lost), reason=reason))
        settle(self._measured, self.loss)
        settle(self._echoed, self.loss)
        for executor in lost.values():
            executor.lost(self.loss)

    def close(self) -> None:
        """End the session from this side; what was sent before arrives."""
        self.has_ended.set()
        self._channel.close(flush=True)
        self._uploads.close()


class _Greeting:
    """Owns a channel until the agent has answered `Hello`."""

    def __init__(self, address: AgentAddress) -> None:
        self._address = address
        self.answer: asyncio.Future[Inventory] = asyncio.get_running_loop().create_future()

    def received(self, message: FromAgent, _behind: memoryview) -> None:
        if isinstance(message, Welcome):
            settle(self.answer, message.inventory)
        elif isinstance(message, ConnectionRefused):
            settle(
                self.answer,
                DeviceUnavailable(f"Host {self._address}: {message.error.message}", hint=message.error.hint),
            )

    def ended(self, reason: str) -> None:
        settle(self.answer, ConnectionError(reason))


async def connect(address: AgentAddress, server: str, epoch: int, known: KnownModels | None = None) -> AgentSession:
    """A session with an agent; ``server`` and ``epoch`` as in `Hello`. Raises as `_greeted` does."""
    channel, inventory, _ = await _greeted(address, Hello(PROTOCOL, __version__, server, epoch))
    return AgentSession(address, channel, inventory, known or KnownModels())


async def ask(address: AgentAddress) -> Inventory:
    """What an agent has, whether it serves or not. Raises as `_greeted` does."""
    return (await probe(address))[0]


async def probe(address: AgentAddress) -> tuple[Inventory, float]:
    """As `ask`, and how many seconds passed until the answer came, over a connection that was there."""
    channel, inventory, took_s = await _greeted(address, Inquiry(PROTOCOL, __version__))
    channel.close()
    return inventory, took_s


async def _greeted(address: AgentAddress, hello: Hello | Inquiry) -> tuple[FrameChannel[FromAgent], Inventory, float]:
    """A channel to an agent that has answered, and the seconds until it did.

    Raises `DeviceUnavailable` where the agent refuses, `OSError` where it is not there.
    """
    channel: FrameChannel[FromAgent] = FrameChannel(FROM_AGENT, FrameParser())
    channel.owner = greeting = _Greeting(address)
    is_welcome = False
    try:
        async with asyncio.timeout(CONNECT_S):
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: channel, address.host, address.port, ssl=address.tls)
        sent_s = time.monotonic()
        channel.send(hello)
        async with asyncio.timeout(CONNECT_S):
            inventory = await greeting.answer
        took_s = time.monotonic() - sent_s
        is_welcome = True
    except ssl.SSLCertVerificationError as error:
        raise DeviceUnavailable(
            f"The agent of host {address} has another key than this server.",
            hint="copy one file of `proteus cluster key` to both machines",
        ) from error
    finally:
        if not is_welcome:
            channel.close()
    return channel, inventory, took_s


class AgentLink:
    """Keeps a session with one agent: connects, and when the session ends connects again, until `run` is cancelled.

    Each session begins to send the ``models`` that the agent does not have. A server that ``emulates`` its devices
    needs agents that do, too, and any other needs agents that have devices. While the host ``is_listed`` no more, no
    session follows the last one. Sessions go to the ``address`` that holds when they begin.
    """

    def __init__(
        self,
        address: AgentAddress,
        models: Collection[Path] = (),
        known: KnownModels | None = None,
        looks: Looks | None = None,
        *,
        emulates: bool = False,
    ) -> None:
        """``known`` is what all links of a server know of their models; ``looks`` is theirs together, too."""
        self.address, self._models, self._emulates = address, models, emulates
        self._known, self._looks = known or KnownModels(), looks or Looks()
        self.is_listed = True
        self.session: AgentSession | None = None
        self._server, self._epochs = uuid.uuid4().hex, count(1)
        self._why: HostLost | DeviceUnavailable = HostLost(f"host {address} is not connected yet", why=_NOT_YET)
        self._tried = asyncio.Event()
        self._past = PastSessions()

    @property
    def state(self) -> LinkState:
        return self._past.state(f"{self.address.host}:{self.address.port}", self.session, self._loss_now())

    async def tried(self) -> Inventory | None:
        """Wait for the end of the first try; what the agent has, or None where it can't be reached.

        Raises `DeviceUnavailable` where the agent refuses this server.
        """
        await self._tried.wait()
        if isinstance(self._why, DeviceUnavailable):
            raise self._why
        return self.session.inventory if self.session is not None else None

    @property
    def is_connected(self) -> bool:
        return self.session is not None and not self.session.has_ended.is_set()

    async def run(self) -> None:
        """Connect, again and again, until cancelled or the host is not listed any more."""
        pauses = ConnectionPauses()
        while self.is_listed:
            session_s = 0.0
            try:
                session = await connect(self.address, self._server, next(self._epochs), self._known)
                self._require_fit(session)
            except (OSError, DeviceUnavailable) as error:
                self._failed(error)
            else:
                began_s = time.monotonic()
                await self._keep(session)
                session_s = time.monotonic() - began_s
            await asyncio.sleep(pauses.next_s(session_s))

    def open_device(
        self, device: Device, slots: int, on_lost: OnLost, emulated: EmulatedSpec | None = None
    ) -> Executor:
        """Open a device of the host; ``device`` is the one that was measured. It is lost where it is not there now.

        A link that emulates opens what is ``emulated`` under that id.
        """
        name = device.id.removeprefix(f"{self.address.name}/")
        if self.session is None:
            return AbsentExecutor(device.id, self._loss_now())
        if emulated is not None:
            return self.session.open_device(name, slots, on_lost, emulated)
        found = next((each for each in self.session.inventory.devices if each.id == name), None)
        if found is None or not found.is_like(device):
            what = "is not there any more" if found is None else f"is another one now: {found.name}"
            return AbsentExecutor(device.id, HostLost(f"{device.id} {what}"))
        return self.session.open_device(name, slots, on_lost)

    def _loss_now(self) -> HostLost:
        """Why there is no session."""
        why = self._why
        return why if isinstance(why, HostLost) else HostLost(why.message, hint=why.hint, why=why.message)

    def _require_fit(self, session: AgentSession) -> None:
        """Raise `DeviceUnavailable`, after closing the session, unless both ends emulate devices or neither does."""
        if session.inventory.emulates == self._emulates:
            return
        session.close()
        if self._emulates:
            what = "has devices of its own, and emulates none"
            hint = "start the agent with `--emulate`, or leave out `--cluster`"
        else:
            what, hint = "emulates devices", "start the agent without `--emulate`, or the server with it"
        raise DeviceUnavailable(f"The agent of host {self.address} {what}.", hint=hint)

    async def _keep(self, session: AgentSession) -> None:
        """Until the session ends."""
        self.session = session
        log.info("connected to host %s", self.address, extra=fields(host=self.address.name))
        self._past.since_s = time.monotonic()
        self._tried.set()
        session.send_ahead(self._models)
        try:
            await session.watch(self._looks)
            self._why = session.loss or self._why
        finally:
            self._past.add(session)
            session.close()
            self.session = None

    def _failed(self, error: OSError | DeviceUnavailable) -> None:
        why: HostLost | DeviceUnavailable
        if isinstance(error, DeviceUnavailable):
            why = error
        else:
            what = f"can't be reached: {str(error) or 'no answer'}"
            why = HostLost(f"host {self.address} {what}", why=f"it {what}")
        if why.message != self._why.message:
            log.warning("%s", why.message, extra=fields(host=self.address.name))
        self._why = why
        self._tried.set()
