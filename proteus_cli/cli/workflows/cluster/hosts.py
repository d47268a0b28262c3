"""The hosts of a cluster, as users name who lists them."""

import asyncio
from collections.abc import Collection
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from proteus_cli.cli import console
from proteus_cli.errors import DeviceUnavailable, UsageError
from proteus_cli.serving.cluster.hosts_file import HostsFile
from proteus_cli.serving.cluster.kubernetes import KubernetesService
from proteus_cli.serving.cluster.new_key import write_key
from proteus_cli.serving.cluster.ray_nodes import RayNodes, require_ray
from proteus_cli.serving.devices.remote.channel.address import AgentAddress
from proteus_cli.serving.devices.remote.channel.messages import Inventory
from proteus_cli.serving.devices.remote.links.host_list import Agents, HostList
from proteus_cli.serving.devices.remote.sessions.connecting import probe
from proteus_cli.serving.transport.cluster_key import cluster_tls
from proteus_cli.store import split_address

KUBERNETES = "kubernetes:"
AGENT_PORT = 7000


def host_list(text: str, key: Path | None = None, workspace_dir: Path = Path()) -> HostList:
    """The list that `--cluster` names, and `--cluster-key` where the list has no key of its own.

    For Ray the key is that of the workspace, which is made where there is none: Ray takes it to the agents.
    Raises `UsageError`, `ArtefactError` where the key can't be used, `BackendUnavailable` where Ray is missing.
    """
    if is_ray(text):
        require_ray()
        return RayNodes(ray_address(text), key or _key_in(workspace_dir))
    if text.startswith(KUBERNETES):
        if key is None:
            raise UsageError(
                f"`{text}` needs the key of the cluster.", hint="`--cluster-key cluster.pem`, the file that agents have"
            )
        service, port = _service(text.removeprefix(KUBERNETES))
        return KubernetesService(service, port, cluster_tls(key, listens=False))
    if key is not None:
        raise UsageError(f"`{text}` names its key itself.", hint="leave out `--cluster-key`")
    return HostsFile(Path(text))


def known_hosts(hosts: HostList | None) -> Collection[str] | None:
    """The hosts that a plan may be for; None: any, as they may come later. Raises as `HostList.changes` does."""
    if hosts is None:
        return ()
    return agents_of(hosts) if hosts.fixed else None


def agents_of(hosts: HostList) -> Agents:
    """Where the agents of all hosts are that there are now. Raises as `HostList.changes` does."""

    async def first() -> Agents:
        async with aclosing(hosts.changes()) as changes:
            return await anext(changes)

    return asyncio.run(first())


@dataclass(frozen=True, slots=True)
class ReachedHost:
    """What the agent of a host has, and the seconds until its answer came."""

    inventory: Inventory
    round_trip_s: float


def inventories(hosts: HostList) -> dict[str, ReachedHost | DeviceUnavailable]:
    """What each host of a cluster has, or why its agent does not say so. Raises as `HostList.changes` does."""
    return reached_at(agents_of(hosts))


def reached_at(agents: Agents) -> dict[str, ReachedHost | DeviceUnavailable]:
    """What these agents have, or why they do not say so."""

    async def all_of_them() -> list[ReachedHost | DeviceUnavailable]:
        return await asyncio.gather(*map(_inventory, agents.values()))

    return dict(zip(agents, asyncio.run(all_of_them()), strict=True))


async def _inventory(agent: AgentAddress) -> ReachedHost | DeviceUnavailable:
    try:
        return ReachedHost(*await probe(agent))
    except DeviceUnavailable as error:
        return error
    except OSError as error:
        return DeviceUnavailable(
            f"Host {agent} can't be reached: {str(error) or 'no answer'}.", hint="is `proteus agent` running there?"
        )


def is_ray(text: str) -> bool:
    """Whether `--cluster` names a cluster of Ray."""
    return text in {"ray", "auto"} or text.startswith("ray://")


def ray_address(text: str) -> str:
    """The address of a cluster as Ray calls it: ``auto`` is the one that this machine is part of."""
    return "auto" if text == "ray" else text


def _key_in(workspace_dir: Path) -> Path:
    """The key of the workspace. Raises `ArtefactError`, `BackendUnavailable`."""
    path = workspace_dir / "cluster.pem"
    if not path.exists():
        write_key(path)
        console.say(f"wrote {path}: the key of the cluster, which Ray takes to its agents")
    return path


def _service(text: str) -> tuple[str, int]:
    """The name of a service and the port of its agents, 7000 unless it is given. Raises `UsageError`."""
    try:
        service, port = split_address(text if ":" in text else f"{text}:{AGENT_PORT}")
    except ValueError as error:
        raise UsageError(f"`--cluster {KUBERNETES}{text}`: {error}.", hint="kubernetes:proteus-agents:7000") from None
    if not port:
        raise UsageError(f"`--cluster {KUBERNETES}{text}`: agents listen on no port 0.", hint="leave the port out")
    return service, port
