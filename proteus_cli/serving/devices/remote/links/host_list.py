"""The interface to whoever lists the hosts of a cluster; `serving/cluster` has those that there are."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from typing import Protocol

from proteus_cli.serving.devices.remote.channel.address import AgentAddress

Agents = Mapping[str, AgentAddress]
"""Where the agents of a cluster are, by the names of their hosts."""


class HostList(Protocol):
    """Lists the hosts of a cluster; as a text, as its user named it.

    Where it is ``fixed``, a host that is not listed does not exist; else it may come.
    """

    fixed: bool

    def changes(self) -> AsyncGenerator[Agents, None]:
        """All hosts that there are now, then again all each time that they change, until closed.

        A host that is not listed any more may serve on: its connection says whether it does.
        Raises `ProteusError` before the first, where the list can't be had. Later problems are logged, and the last
        list holds.
        """
        ...


def agents_of(hosts: HostList) -> Agents:
    """The addresses of the agents of all current hosts. Raises as `HostList.changes` does."""

    async def first() -> Agents:
        async with aclosing(hosts.changes()) as changes:
            return await anext(changes)

    return asyncio.run(first())


def known_hosts(hosts: HostList | None) -> Collection[str] | None:
    """The hosts that a plan may use; None: any, since hosts may come later. Raises as `HostList.changes` does."""
    if hosts is None:
        return ()
    return agents_of(hosts) if hosts.fixed else None
