"""Hosts whose agents are pods behind a headless service of Kubernetes.

The service's name resolves to the addresses of all pods that are ready. Addresses change when pods do, so each agent is
asked for the name of its host (`proteus agent --name`). Any DNS that answers with all addresses of a name will do.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection

from proteus_cli.domain.catalog import is_name
from proteus_cli.errors import ProteusError
from proteus_cli.serving.devices.remote.channel.address import AgentAddress, Agents
from proteus_cli.serving.devices.remote.sessions.connecting import ask

LOOK_S = 2.0
"""Between two questions to the DNS; what that keeps, it may keep for longer (CoreDNS: 5 s and more)."""

log = logging.getLogger("proteus.cluster")

Resolver = Callable[[str, int], Awaitable[Collection[str]]]
"""The addresses of a name, for a port. Raises `OSError`."""


async def resolved(name: str, port: int) -> Collection[str]:
    """The addresses of a name, as the system resolves it. Raises `OSError`."""
    found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return {str(each[4][0]) for each in found}


class KubernetesService:
    """A `HostList`: the agents that listen on ``port`` behind ``service``."""

    fixed = False

    def __init__(
        self, service: str, port: int, tls: ssl.SSLContext, resolve: Resolver = resolved, look_s: float = LOOK_S
    ) -> None:
        self._service, self._port, self._tls, self._resolve, self._look_s = service, port, tls, resolve, look_s
        self._names: dict[str, str] = {}  # by address, the newest last
        self._said: dict[str, str] = {}  # by address, or the service's name: what was logged of it last

    def __str__(self) -> str:
        return f"kubernetes:{self._service}:{self._port}"

    async def changes(self) -> AsyncGenerator[Agents, None]:
        """See `HostList.changes`. A service without pods has no hosts; so does one that there isn't."""
        before: Agents | None = None
        while True:
            await self._look()
            # An old pod may answer for a while beside the new one of its host.
            agents = {name: self._address_of(name, each) for each, name in self._names.items()}
            if agents != before:
                before = agents
                yield agents
            await asyncio.sleep(self._look_s)

    def _address_of(self, name: str, address: str) -> AgentAddress:
        """An agent that says another name is asked again at the next look."""
        return AgentAddress(name, address, self._port, self._tls, lambda: self._names.pop(address, None))

    async def _look(self) -> None:
        """Ask the DNS, and each agent that is new for its name. Without an answer of the DNS all stays as it was."""
        try:
            found = set(await self._resolve(self._service, self._port))
        except OSError as error:
            self._warn(self._service, f"`{self._service}` can't be resolved: {error.strerror or error}")
            return
        self._said.pop(self._service, None)
        new = sorted(found - self._names.keys())
        names = dict(zip(new, await asyncio.gather(*map(self._name_of, new)), strict=True))
        self._names = {
            **{address: name for address, name in self._names.items() if address in found},
            **{address: name for address, name in names.items() if name is not None},
        }

    async def _name_of(self, address: str) -> str | None:
        """None where there is no name yet; the log says why."""
        try:
            name = (await ask(AgentAddress("?", address, self._port, self._tls))).name
        except ProteusError as error:
            why = error.message
        except OSError as error:
            why = f"it can't be reached: {str(error) or 'no answer'}"
        else:
            if is_name(name):
                self._said.pop(address, None)
                return name
            why = f"`{name[:100]}` is no name of a host" if name else "it has no name; start it with `--name`"
        self._warn(address, f"the agent at {address}:{self._port}, of `{self._service}`, is no host yet: {why}")
        return None

    def _warn(self, about: str, text: str) -> None:
        if self._said.get(about) != text:
            self._said[about] = text
            log.warning("%s", text)
