"""Hosts that a `hosts.toml` lists, which may change while a server runs."""

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator
from ipaddress import ip_address
from pathlib import Path

from proteus_cli.errors import ProteusError, UsageError
from proteus_cli.input_files import SETTINGS, read_bytes
from proteus_cli.serving.devices.remote.channel.address import AgentAddress, Agents
from proteus_cli.serving.devices.remote.channel.tls import cluster_tls
from proteus_cli.store import read_hosts, split_address

LOOK_S = 2.0
"""Between two looks at the file. Its content counts once two looks in a row have seen the same."""

log = logging.getLogger("proteus.cluster")


class HostsFile:
    """A `HostList`: the file at ``path``."""

    fixed = True

    def __init__(self, path: Path, look_s: float = LOOK_S) -> None:
        self._path, self._look_s = path, look_s

    def __str__(self) -> str:
        return str(self._path)

    def read(self) -> Agents:
        """The hosts as they are listed now. Raises `ArtefactError`, `UsageError` where a key is missing."""
        listed = read_hosts(self._path)
        tls = cluster_tls(self._path.parent / listed.key, listens=False) if listed.key is not None else None
        agents = {}
        for name, host in listed.hosts.items():
            where, port = split_address(host.address)
            if tls is None and not _is_loopback(where):
                raise UsageError(
                    f"`{self._path}` has no key, and host `{name}` ({host.address}) is another machine.",
                    hint='`proteus cluster key` makes one; name it: key = "cluster.pem"',
                )
            agents[name] = AgentAddress(name, where, port, tls)
        return agents

    async def changes(self) -> AsyncGenerator[Agents, None]:
        """See `HostList.changes`. Raises as `read` does. A thread reads: disks and name servers can be slow."""
        known = seen = await asyncio.to_thread(self._content)
        yield await asyncio.to_thread(self.read)
        while True:
            await asyncio.sleep(self._look_s)
            before, seen = seen, await asyncio.to_thread(self._content)
            if seen != before or seen == known:
                continue
            known = seen
            try:
                agents = await asyncio.to_thread(self.read)
            except ProteusError as error:
                log.warning("the hosts stay as they were: %s", error.message)
                continue
            log.info("`%s` has changed: %s", self._path, ", ".join(agents))
            yield agents

    def _content(self) -> bytes | None:
        try:
            return read_bytes(self._path, SETTINGS, hint="")
        except ProteusError:  # `read` says what is wrong
            return None


def _is_loopback(host: str) -> bool:
    """Whether a name or an address leads to this machine; not where it leads nowhere."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ip_address(str(each[4][0]).partition("%")[0]).is_loopback for each in found)
