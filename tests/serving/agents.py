"""Agents in this process, on loopback, and links to them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvloop

from proteus_cli.domain.device import Device
from proteus_cli.serving.agent.agent import Agent, AgentSettings
from proteus_cli.serving.agent.door import accepting
from proteus_cli.serving.agent.session import ServerSession
from proteus_cli.serving.cluster.new_key import write_key
from proteus_cli.serving.devices.emulated import TimerThread
from proteus_cli.serving.devices.executor import OnLost
from proteus_cli.serving.devices.process.messages import EmulatedSpec
from proteus_cli.serving.devices.remote.channel.address import AgentAddress
from proteus_cli.serving.devices.remote.channel.tls import cluster_tls
from proteus_cli.serving.devices.remote.links.link import AgentLink
from proteus_cli.serving.devices.remote.sessions.executor import RemoteExecutor
from proteus_cli.serving.lifecycle import running
from proteus_cli.serving.transport.listening import listen

CPU = Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,))
PATIENCE_S = 30.0


@dataclass(frozen=True)
class RunningAgent:
    """An agent that listens; ``address`` is where a server finds it as host `a`."""

    agent: Agent
    address: AgentAddress
    state: Path

    @property
    def session(self) -> ServerSession:
        """The only one."""
        (session,) = self.agent.sessions.values()
        return session


def key_of(directory: Path, name: str = "cluster.pem") -> Path:
    """The key in a directory, made where there is none."""
    path = directory / name
    if not path.exists():
        write_key(path)
    return path


@asynccontextmanager
async def running_agent(
    directory: Path,
    devices: Sequence[Device] = (CPU,),
    *,
    has_key: bool = True,
    port: int = 0,
    host: str = "127.0.0.1",
    name: str = "",
    timer: TimerThread | None = None,
) -> AsyncIterator[RunningAgent]:
    """With a ``timer`` it emulates devices."""
    listener = listen(host, port)
    key = key_of(directory) if has_key else None
    agent = Agent(AgentSettings(devices, directory / "state", key, name), timer)
    client = cluster_tls(key_of(directory), listens=False) if has_key else None
    address = AgentAddress("a", host, listener.getsockname()[1], client)
    try:
        async with accepting(listener, agent.accept, agent.hand_over, agent.tls):
            yield RunningAgent(agent, address, directory / "state")
    finally:
        agent.close()


@asynccontextmanager
async def linked(address: AgentAddress, *, emulates: bool = False) -> AsyncIterator[AgentLink]:
    """A link that has been tried once."""
    link = AgentLink(address, emulates=emulates)
    async with running(link.run):
        await link.tried()
        yield link


def remote_device(
    link: AgentLink, on_lost: OnLost = print, device: Device = CPU, emulated: EmulatedSpec | None = None
) -> RemoteExecutor:
    """A device that the agent has, or emulates, opened anew."""
    named = msgspec.structs.replace(device, id=f"{link.address.name}/{device.id}")
    executor = link.open_device(named, 1, on_lost, emulated)
    assert isinstance(executor, RemoteExecutor)
    return executor


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not what():
            await asyncio.sleep(0.005)


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test on the event loop that servers and agents use."""

    async def in_loop() -> None:
        await test()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(in_loop())
