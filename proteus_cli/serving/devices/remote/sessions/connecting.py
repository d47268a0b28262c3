"""A connection to an agent, until that has answered: welcomed, or refused."""

import asyncio
import ssl
import time

from proteus_cli import __version__
from proteus_cli.domain.cluster import CONNECT_S
from proteus_cli.errors import DeviceUnavailable
from proteus_cli.serving.devices.executor import settle
from proteus_cli.serving.devices.remote.channel.address import AgentAddress
from proteus_cli.serving.devices.remote.channel.channel import FrameChannel
from proteus_cli.serving.devices.remote.channel.frames import FrameParser
from proteus_cli.serving.devices.remote.channel.messages import (
    FROM_AGENT,
    PROTOCOL,
    ConnectionRefused,
    FromAgent,
    Hello,
    Inquiry,
    Inventory,
    Welcome,
)
from proteus_cli.serving.devices.remote.sessions.session import AgentSession
from proteus_cli.serving.devices.remote.sessions.uploads import KnownModels


async def connect(address: AgentAddress, server: str, epoch: int, known: KnownModels | None = None) -> AgentSession:
    """A session with an agent; ``server`` and ``epoch`` as in `Hello`. Raises as `_greeted` does."""
    channel, inventory, _ = await _greeted(address, Hello(PROTOCOL, __version__, server, epoch))
    return AgentSession(address, channel, inventory, known or KnownModels())


async def ask(address: AgentAddress) -> Inventory:
    """The devices of an agent, whether it serves or not. Raises as `_greeted` does."""
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
    channel.owner = greeting = Greeting(address)
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


class Greeting:
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
