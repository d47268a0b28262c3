"""The agents of a cluster, from a `hosts.toml`."""

import asyncio
import socket
from ipaddress import ip_address
from pathlib import Path

from proteus_cli.domain.hosts import split_address
from proteus_cli.errors import DeviceUnavailable, UsageError
from proteus_cli.serving.devices.remote.link import AgentAddress, ask
from proteus_cli.serving.devices.remote.messages import Inventory
from proteus_cli.serving.transport.cluster_key import cluster_tls
from proteus_cli.store import read_hosts


def agents_of(path: Path) -> tuple[AgentAddress, ...]:
    """Where the agents are that a `hosts.toml` lists. Raises `ArtefactError`, `UsageError` where a key is missing."""
    listed = read_hosts(path)
    tls = cluster_tls(path.parent / listed.key, listens=False) if listed.key is not None else None
    agents = []
    for name, host in listed.hosts.items():
        where, port = split_address(host.address)
        if tls is None and not _is_loopback(where):
            raise UsageError(
                f"`{path}` has no key, and host `{name}` ({host.address}) is another machine.",
                hint='`proteus cluster key` makes one; name it: key = "cluster.pem"',
            )
        agents.append(AgentAddress(name, where, port, tls))
    return tuple(agents)


def inventories(path: Path) -> dict[str, Inventory | DeviceUnavailable]:
    """What each host of a `hosts.toml` has, or why its agent does not say so. Raises as `agents_of` does."""
    agents = agents_of(path)

    async def all_of_them() -> list[Inventory | DeviceUnavailable]:
        return await asyncio.gather(*map(_inventory, agents))

    return dict(zip((agent.name for agent in agents), asyncio.run(all_of_them()), strict=True))


async def _inventory(agent: AgentAddress) -> Inventory | DeviceUnavailable:
    try:
        return await ask(agent)
    except DeviceUnavailable as error:
        return error
    except OSError as error:
        return DeviceUnavailable(
            f"Host {agent} can't be reached: {str(error) or 'no answer'}.", hint="is `proteus agent` running there?"
        )


def _is_loopback(host: str) -> bool:
    """Whether a name or an address leads to this machine; not where it leads nowhere."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ip_address(str(each[4][0]).partition("%")[0]).is_loopback for each in found)
