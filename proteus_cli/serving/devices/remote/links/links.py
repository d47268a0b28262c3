"""The links to all agents of a cluster, as the list of its hosts changes."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, ItemsView, Iterator, Mapping
from contextlib import aclosing
from functools import partial

from proteus_cli.serving.devices.remote.channel.address import AgentAddress, Agents
from proteus_cli.serving.devices.remote.links.link import AgentLink, ServerIdentity
from proteus_cli.serving.lifecycle import supervised
from proteus_cli.serving.logs import fields

log = logging.getLogger("proteus.cluster")


class AgentLinks(Mapping[str, AgentLink]):
    """The links to agents, by the names of their hosts.

    A list says whom to connect to; a connection says who serves. A host that is no longer listed serves on until its
    connection ends, and is then left alone. A list that is empty for a while therefore takes no host out of service. A
    host that is listed with another address is connected to there once its connection has ended. One that is listed
    again knows this server as the same one, so what it still has of an earlier connection is replaced.
    """

    def __init__(self, make_link: Callable[[AgentAddress, ServerIdentity], AgentLink]) -> None:
        self._make_link = make_link
        self._identities = defaultdict[str, ServerIdentity](ServerIdentity)
        self._links: dict[str, AgentLink] = {}
        self._tasks: dict[AgentLink, asyncio.Task[None]] = {}
        self._is_closed = False

    def __getitem__(self, host: str) -> AgentLink:
        return self._links[host]

    def __iter__(self) -> Iterator[str]:
        return iter(self._links)

    def __len__(self) -> int:
        return len(self._links)

    def items(self) -> ItemsView[str, AgentLink]:  # as that of `Mapping`, but without a call for each host
        return self._links.items()

    def use(self, agents: Agents) -> None:
        """Have links to these hosts, which are all that there are now."""
        for host, address in agents.items():
            link = self._links.get(host)
            if link is None:
                self._start(address)
            else:
                link.address, link.is_listed = address, True
        for host in self._links.keys() - agents.keys():
            self._unlist(host)

    async def follow(self, sources: Iterator[AsyncGenerator[Agents, None]]) -> None:
        """Use each list that comes from the next source. After an error in one, the source that follows goes on."""
        async with aclosing(next(sources)) as changes:
            async for agents in changes:
                self.use(agents)

    async def close(self) -> None:
        """End all connections."""
        self._is_closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, address: AgentAddress) -> None:
        link = self._links[address.name] = self._make_link(address, self._identities[address.name])
        self._tasks[link] = asyncio.create_task(supervised(link.run))
        self._tasks[link].add_done_callback(partial(self._ended, link))

    def _unlist(self, host: str) -> None:
        link = self._links[host]
        if link.is_listed:
            then = "it serves until its connection ends" if link.is_connected else "it is not connected"
            log.info("host %s is not listed any more; %s", link.address, then, extra=fields(host=host))
        link.is_listed = False
        if not link.is_connected:
            del self._links[host]
            self._tasks[link].cancel()

    def _ended(self, link: AgentLink, task: "asyncio.Task[None]") -> None:
        del self._tasks[link]
        host = link.address.name
        if self._links.get(host) is link and not task.cancelled():
            del self._links[host]
            if link.is_listed and not self._is_closed:  # again, at the moment of its end
                self._start(link.address)
