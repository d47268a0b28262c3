"""A list of hosts, followed."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager

from agents import PATIENCE_S

from proteus_cli.serving.devices.remote.channel.address import HostList


class Followed:
    """What a list says, value after value: hosts and their addresses."""

    def __init__(self) -> None:
        self._values: asyncio.Queue[Mapping[str, str]] = asyncio.Queue()

    async def next(self) -> Mapping[str, str]:
        return await asyncio.wait_for(self._values.get(), PATIENCE_S)

    @property
    def is_quiet(self) -> bool:
        return self._values.empty()

    async def follow(self, hosts: HostList) -> None:
        async with aclosing(hosts.changes()) as changes:
            async for agents in changes:
                assert all(agent.name == name for name, agent in agents.items())
                self._values.put_nowait({name: f"{agent.host}:{agent.port}" for name, agent in agents.items()})


@asynccontextmanager
async def following(hosts: HostList) -> AsyncIterator[Followed]:
    followed = Followed()
    task = asyncio.create_task(followed.follow(hosts))
    try:
        yield followed
    finally:
        if task.done():
            task.result()  # raises what has ended it
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
