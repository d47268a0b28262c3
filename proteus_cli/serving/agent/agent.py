"""The agent's process: listens for servers, and serves them until it is stopped."""

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from socket import socket

import uvloop

from proteus_cli import __version__
from proteus_cli.backends.free_memory import free_bytes
from proteus_cli.domain.device import Device
from proteus_cli.errors import DeviceUnavailable
from proteus_cli.serving.agent.claim import AgentRecord, claimed
from proteus_cli.serving.agent.door import accepting
from proteus_cli.serving.agent.hosted_device import HostedDevice, HostedEmulation, HostedProcess, Tell
from proteus_cli.serving.agent.keeping import ends_with
from proteus_cli.serving.agent.measuring import Measurer
from proteus_cli.serving.agent.models import ModelStore, half_of_disk
from proteus_cli.serving.agent.session import ServerSession
from proteus_cli.serving.agent.sharing import SharedDevices, SharedOpening
from proteus_cli.serving.devices.emulated import TimerThread
from proteus_cli.serving.devices.hardware import process_specs
from proteus_cli.serving.devices.process.messages import EmulatedSpec, GpuSpec, RemoteUse, SentError
from proteus_cli.serving.devices.remote.channel.channel import FrameChannel
from proteus_cli.serving.devices.remote.channel.frames import MAX_MESSAGE_BYTES, MAX_TENSOR_BYTES, FrameParser
from proteus_cli.serving.devices.remote.channel.handing_over import TOKEN_BYTES
from proteus_cli.serving.devices.remote.channel.messages import (
    FIRST_TO_AGENT,
    MAX_FIRST_BYTES,
    MAX_SERVERS,
    PROTOCOL,
    TO_AGENT,
    ConnectionRefused,
    Hello,
    Inquiry,
    Inventory,
    OpenDevice,
    ToAgent,
    Welcome,
)
from proteus_cli.serving.devices.remote.channel.tls import cluster_tls
from proteus_cli.serving.lifecycle import running, stopping_on_signals
from proteus_cli.serving.logs import fields
from proteus_cli.serving.service_manager import ServiceManager

FIRST_MESSAGE_S = 5.0
"""For a server to say `Hello`."""

MAX_GREETING = 64
"""Connections that have not said `Hello` yet; one more closes the oldest."""

log = logging.getLogger("proteus.agent")


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """The devices of an agent, and the directories of its models and built engines.

    ``key``: the file of the cluster's key; None on loopback only.

    ``name``: of its host; empty where it has none. ``keeper``: the process that keeps the agent, if one does. An agent
    that ``emulates`` has no devices. Its models may take ``max_models_bytes``, by default half of what the disk has for
    them.
    """

    devices: Sequence[Device]
    state: Path
    key: Path | None
    name: str = ""
    keeper: int | None = None
    emulates: bool = False
    max_models_bytes: float | None = None


class Agent:
    """Welcomes servers. Each has one of the ``sessions``, by its id; a newer one of the same server replaces it.

    With a ``timer``, it emulates devices.
    """

    def __init__(self, settings: AgentSettings, timer: TimerThread | None = None) -> None:
        """Raises `ArtefactError` where the key can't be used."""
        self._key, self._timer = settings.key, timer
        self.tls = cluster_tls(settings.key, listens=True) if settings.key is not None else None
        self.sessions: dict[str, ServerSession] = {}
        self._shared, self._is_telling = SharedDevices(self._sharing_changed), False
        built, slots = settings.state / "engines" / "built", {device.id: 1 for device in settings.devices}
        self._specs = process_specs(settings.devices, built, slots, in_processes=True)
        self._expected: dict[bytes, HostedDevice] = {}  # by the token of the connection that they wait for
        self._found, self._name = tuple(settings.devices), settings.name
        models, limit_bytes = settings.state / "models", settings.max_models_bytes
        self._remote = RemoteUse(str(models.absolute()), str(settings.key.absolute()) if settings.key else None)
        self._models = ModelStore(models, half_of_disk(models) if limit_bytes is None else limit_bytes)
        self._measurer = Measurer(self._found, settings.state / "profiling")
        self._versions = {"proteus": __version__, "onnxruntime": metadata.version("onnxruntime")}
        self._greeting: dict[_Greeting, None] = {}  # oldest first

    def accept(self) -> asyncio.BaseProtocol:
        """The protocol of a new connection."""
        return FrameChannel(FIRST_TO_AGENT, FrameParser(MAX_FIRST_BYTES, 0), self._greet)

    def _greet(self, channel: FrameChannel[ToAgent]) -> None:
        """A connection is there; where there is a key, it has shown that. Wait for its first message."""
        if len(self._greeting) >= MAX_GREETING:
            next(iter(self._greeting)).ended("too many connections say nothing")
        self._greeting[_Greeting(self, channel)] = None

    def close(self) -> None:
        """End all sessions; the connections of their servers close."""
        for greeting in list(self._greeting):
            greeting.ended("the agent stops")
        for session in list(self.sessions.values()):
            session.end("the agent stops")

    def leaves(self, greeting: "_Greeting") -> None:
        """A connection has greeted, or ended."""
        self._greeting.pop(greeting, None)

    def welcome(self, hello: Hello | Inquiry, channel: FrameChannel[ToAgent]) -> None:
        """Start a session, or say what there is. Raises `DeviceUnavailable` where the server can't be served."""
        if hello.protocol != PROTOCOL:
            raise DeviceUnavailable(
                f"This agent (proteus {__version__}) speaks version {PROTOCOL} of the protocol, the server (proteus "
                f"{hello.version}) speaks version {hello.protocol}.",
                hint="install the same version of proteus on all machines of the cluster",
            )
        if isinstance(hello, Inquiry):
            channel.send(Welcome(self._inventory()))
            channel.close(flush=True)
            return
        before = self.sessions.get(hello.server)
        if before is not None:
            if hello.epoch <= before.hello.epoch:
                raise DeviceUnavailable("A newer connection of this server has replaced this one.")
            before.end("a newer connection of the same server replaces it")
        elif len(self.sessions) >= MAX_SERVERS:
            raise DeviceUnavailable(
                f"This agent serves {MAX_SERVERS} servers, as many as it may: {', '.join(self._servers())}.",
                hint="stop some of them, or start another agent",
            )
        channel.decode_with(TO_AGENT, MAX_MESSAGE_BYTES, MAX_TENSOR_BYTES)
        channel.send(Welcome(self._inventory()))
        self.sessions[hello.server] = ServerSession(
            hello, channel, self._open, self._expect, self._shared, self._models, self._measurer, self._ended
        )
        log.info("server %s is connected", channel.peer, extra=fields(server=hello.server, epoch=hello.epoch))

    def hand_over(self, token: bytes, connection: socket) -> bool:
        """Hand a connection to the device that waits for it; False where none does."""
        device = self._expected.pop(token, None)
        if device is not None:
            device.connect(connection)
        return device is not None

    def _expect(self, device: HostedDevice) -> bytes:
        """The token of the connection for a device; it is used once."""
        token = secrets.token_bytes(TOKEN_BYTES)
        self._expected[token] = device
        return token

    def _open(
        self, command: OpenDevice, emulated: EmulatedSpec | None, opening: SharedOpening, tell: Tell
    ) -> HostedDevice:
        """Open a device of the host, or an ``emulated`` one. Raises `DeviceUnavailable`."""
        if self._timer is not None:
            if emulated is None:
                raise DeviceUnavailable(f"This agent emulates devices, and `{command.device}` is to be a real one.")
            return HostedEmulation(command.device, emulated, self._timer, self.tls, opening, tell)
        spec = self._specs.get(command.device)
        if spec is None or emulated is not None:
            raise DeviceUnavailable(f"This host has no device `{command.device}`.")
        if isinstance(spec, GpuSpec):
            spec = GpuSpec(spec.device, spec.built, command.slots)
        return HostedProcess(spec, self._remote, opening, tell)

    def _inventory(self) -> Inventory:
        return Inventory(
            self._found,
            self._versions,
            free_bytes() or 0,
            self._servers(),
            emulates=self._timer is not None,
            name=self._name,
            free_disk_bytes=self._models.free_disk_bytes,
            shared=self._shared.shared_by(),
        )

    def _servers(self) -> tuple[str, ...]:
        return tuple(session.peer for session in self.sessions.values())

    def _sharing_changed(self) -> None:
        """Tell all servers, once what happens now is over: a device that is opened anew was not given up."""
        if not self._is_telling:
            self._is_telling = True
            asyncio.get_running_loop().call_soon(self._tell_shared)

    def _tell_shared(self) -> None:
        self._is_telling = False
        for session in self.sessions.values():
            session.tell_shared()

    def _ended(self, session: ServerSession, reason: str) -> None:
        told = fields(server=session.hello.server, epoch=session.hello.epoch)
        log.info("server %s is gone: %s", session.peer, reason, extra=told)
        if self.sessions.get(session.hello.server) is session:
            del self.sessions[session.hello.server]


class _Greeting:
    """Owns a connection until its first message."""

    def __init__(self, agent: Agent, channel: FrameChannel[ToAgent]) -> None:
        self._agent, self._channel = agent, channel
        channel.owner = self
        self._timer = asyncio.get_running_loop().call_later(FIRST_MESSAGE_S, self.ended, "it said nothing")

    def received(self, message: ToAgent, _behind: memoryview) -> None:
        self._leave()
        assert isinstance(message, Hello | Inquiry)  # noqa: S101 - the decoder knows no other
        try:
            self._agent.welcome(message, self._channel)
        except DeviceUnavailable as error:
            log.warning("refused %s: %s", self._channel.peer, error.message)
            self._channel.send(ConnectionRefused(SentError.of(error)))
            self._channel.close(flush=True)

    def ended(self, reason: str) -> None:
        self._leave()
        log.info("a connection from %s was no server's: %s", self._channel.peer, reason)
        self._channel.close()

    def _leave(self) -> None:
        self._timer.cancel()
        self._agent.leaves(self)


def run_agent(settings: AgentSettings, listener: socket, announce: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT, or as `ends_with` says. Raises as `claimed` does."""
    host, port = listener.getsockname()[:2]
    with (
        claimed(settings.state, AgentRecord(os.getpid(), host, port, __version__)),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(settings, listener, announce))


async def _serve(settings: AgentSettings, listener: socket, announce: Callable[[], None]) -> None:
    stop, manager = asyncio.Event(), ServiceManager.of(os.environ)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(stopping_on_signals(stop))
        timer = stack.enter_context(TimerThread()) if settings.emulates else None
        agent = stack.enter_context(contextlib.closing(Agent(settings, timer)))
        await stack.enter_async_context(running(manager.watch))
        await stack.enter_async_context(accepting(listener, agent.accept, agent.hand_over, agent.tls))
        if settings.emulates:
            log.warning("devices are emulated: no time of theirs is a measurement")
        names = [device.id for device in settings.devices]
        log.info("ready", extra=fields(version=__version__, pid=os.getpid(), devices=names))
        manager.ready(f"ready with {', '.join(names) or 'emulated devices'}")
        announce()
        async with ends_with(settings.keeper, stop, is_serving=lambda: bool(agent.sessions)):
            await stop.wait()
        manager.stopping("stopping")
    log.info("stopped")
