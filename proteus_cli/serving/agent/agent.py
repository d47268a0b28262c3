"""The agent's process: listens for servers, and serves one at a time until it is stopped."""

import asyncio
import contextlib
import logging
import os
import ssl
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
from proteus_cli.serving.agent.keeping import ends_with
from proteus_cli.serving.agent.measuring import Measurer
from proteus_cli.serving.agent.models import ModelStore
from proteus_cli.serving.agent.session import ServerSession
from proteus_cli.serving.core_claims import warning_of_shared
from proteus_cli.serving.devices.hardware import process_specs
from proteus_cli.serving.devices.process.messages import SentError
from proteus_cli.serving.devices.remote.channel import FrameChannel
from proteus_cli.serving.devices.remote.frames import MAX_MESSAGE_BYTES, MAX_TENSOR_BYTES, FrameParser
from proteus_cli.serving.devices.remote.messages import (
    FIRST_TO_AGENT,
    MAX_FIRST_BYTES,
    PROTOCOL,
    TO_AGENT,
    ConnectionRefused,
    Hello,
    Inquiry,
    Inventory,
    ToAgent,
    Welcome,
)
from proteus_cli.serving.logs import fields
from proteus_cli.serving.signals import stopping_on_signals
from proteus_cli.serving.transport.tls import accepting

FIRST_MESSAGE_S = 5.0
"""For a server to say `Hello`."""

MAX_GREETING = 64
"""Connections that have not said `Hello` yet; one more closes the oldest."""

log = logging.getLogger("proteus.agent")


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """What an agent has: its devices; and where it keeps models and built engines. ``tls`` None: on loopback only.

    ``name``: of its host; empty where it has none. ``keeper``: the process that keeps the agent, if one does.
    """

    devices: Sequence[Device]
    state: Path
    tls: ssl.SSLContext | None
    name: str = ""
    keeper: int | None = None


class Agent:
    """Welcomes servers. Sessions are values of `server`, one at a time; a newer one of the same server replaces it."""

    def __init__(self, settings: AgentSettings) -> None:
        self.session: ServerSession | None = None
        built, slots = settings.state / "engines" / "built", {device.id: 1 for device in settings.devices}
        self._specs = process_specs(settings.devices, built, slots, in_processes=True)
        self._devices, self._models = tuple(settings.devices), settings.state / "models"
        self._measurer = Measurer(self._devices, settings.state / "profiling")
        self._name = settings.name
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
        for greeting in list(self._greeting):
            greeting.ended("the agent stops")
        if self.session is not None:
            self.session.end("the agent stops")

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
        if self.session is not None:
            now = self.session.hello
            if now.server != hello.server:
                raise DeviceUnavailable(
                    f"This agent serves another server, which is connected from {self.session.peer}.",
                    hint="an agent serves one at a time; stop the other one, or start a second agent",
                )
            if hello.epoch <= now.epoch:
                raise DeviceUnavailable("A newer connection of this server has replaced this one.")
            self.session.end("a newer connection of the same server replaces it")
        channel.decode_with(TO_AGENT, MAX_MESSAGE_BYTES, MAX_TENSOR_BYTES)
        channel.send(Welcome(self._inventory()))
        self.session = ServerSession(hello, channel, self._specs, ModelStore(self._models), self._measurer, self._ended)
        log.info("server %s is connected", channel.peer, extra=fields(server=hello.server, epoch=hello.epoch))

    def _inventory(self) -> Inventory:
        server = self.session.peer if self.session is not None else ""
        return Inventory(self._devices, self._versions, free_bytes() or 0, server, self._name)

    def _ended(self, session: ServerSession, reason: str) -> None:
        log.info("server %s is gone: %s", session.peer, reason, extra=fields(server=session.hello.server))
        if self.session is session:
            self.session = None


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
    cores = [core for device in settings.devices for core in device.cores]
    with (
        claimed(settings.state, AgentRecord(os.getpid(), host, port, __version__)),
        warning_of_shared(cores),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(settings, listener, announce))


async def _serve(settings: AgentSettings, listener: socket, announce: Callable[[], None]) -> None:
    stop, agent = asyncio.Event(), Agent(settings)
    with stopping_on_signals(stop), contextlib.closing(agent):
        async with accepting(listener, agent.accept, settings.tls):
            log.info(
                "ready", extra=fields(version=__version__, pid=os.getpid(), devices=[d.id for d in settings.devices])
            )
            announce()
            async with ends_with(settings.keeper, stop, is_serving=lambda: agent.session is not None):
                await stop.wait()
    log.info("stopped")
