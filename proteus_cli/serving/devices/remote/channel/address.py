"""Where the agent of a host is found."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class AgentAddress:
    """Where an agent listens, and the name of its host in ids of devices. Without ``tls`` only on this machine.

    Where the agent there has said the name itself, ``on_other_name`` is called once it says another one.
    """

    name: str
    host: str
    port: int
    tls: ssl.SSLContext | None
    on_other_name: Callable[[], object] | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.name} ({self.host}:{self.port})"


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
