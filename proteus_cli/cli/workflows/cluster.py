"""The agents of a cluster, from a `hosts.toml`, and their key."""

import asyncio
import socket
from ipaddress import ip_address
from pathlib import Path

from proteus_cli.domain.hosts import split_address
from proteus_cli.errors import ArtefactError, DeviceUnavailable, UsageError
from proteus_cli.serving.devices.remote.link import AgentAddress, ask
from proteus_cli.serving.devices.remote.messages import Inventory
from proteus_cli.serving.transport.cluster_key import cluster_tls, new_key
from proteus_cli.store import read_hosts, write_new


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


def write_key(path: Path) -> None:
    """Write a `new_key`, which only its owner may read. Raises `ArtefactError` where there is a file already."""
    content = new_key()
    try:
        write_new(path, content, 0o600)
    except FileExistsError:
        raise ArtefactError(
            f"`{path}` is there already.", hint="a cluster has one key; remove the file first to replace it"
        ) from None
    except OSError as error:
        raise ArtefactError(f"Can't write `{path}`: {error.strerror}.", hint="name another place") from error


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
