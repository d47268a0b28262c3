"""What `proteus doctor --cluster` finds of the hosts of a cluster."""

import asyncio
from collections.abc import Iterator, Mapping

from proteus_cli import __version__
from proteus_cli.cli.workflows.cluster.hosts import agents_of
from proteus_cli.diagnosis import Finding, printable_finding
from proteus_cli.domain.profile.profile import Profile
from proteus_cli.errors import ArtefactError, DeviceUnavailable, ProteusError
from proteus_cli.serving.devices.remote.channel.address import AgentAddress
from proteus_cli.serving.devices.remote.channel.messages import Inventory
from proteus_cli.serving.devices.remote.links.host_list import HostList
from proteus_cli.serving.devices.remote.sessions.connecting import probe
from proteus_cli.store import Workspace
from proteus_cli.units import counted, format_duration, format_size

Probed = tuple[Inventory, float] | ProteusError
"""What an agent has, and the round trip to it in seconds; or why that is not known."""


def diagnose_cluster(hosts: HostList, workspace: Workspace) -> list[Finding]:
    """Whether each host can be reached, what it has, and which of its devices are measured."""
    try:
        agents = agents_of(hosts)
    except ProteusError as error:
        return [printable_finding(Finding("cluster", "missing", error.message, error.hint))]
    probed = asyncio.run(_probe_all(agents))
    found = [each for name, agent in agents.items() for each in _host(agent, probed[name], workspace)]
    return [printable_finding(each) for each in (*found, *_strays(agents, workspace))]


async def _probe_all(agents: Mapping[str, AgentAddress]) -> dict[str, Probed]:
    return dict(zip(agents, await asyncio.gather(*map(_probe, agents.values())), strict=True))


async def _probe(agent: AgentAddress) -> Probed:
    try:
        return await probe(agent)
    except DeviceUnavailable as error:
        return error
    except OSError as error:
        return DeviceUnavailable(
            f"{agent} can't be reached: {str(error) or 'no answer'}", hint="is `proteus agent` running there?"
        )


def _host(agent: AgentAddress, probed: Probed, workspace: Workspace) -> Iterator[Finding]:
    what = f"host {agent.name}"
    if isinstance(probed, ProteusError):
        yield Finding(what, "missing", probed.message, probed.hint)
        return
    inventory, round_trip_s = probed
    serves = f"serves {counted(len(inventory.servers), 'server')}" if inventory.servers else "serves nobody"
    free = f"{format_size(inventory.free_bytes)} of memory and {format_size(inventory.free_disk_bytes)} of disk free"
    yield Finding(
        what, "ok", f"{agent.host}:{agent.port}, there and back in {format_duration(round_trip_s)}, {serves}, {free}"
    )
    yield _versions(agent.name, inventory.versions)
    for device in inventory.devices:
        yield _device(f"{agent.name}/{device.id}", inventory, workspace)


def _versions(host: str, versions: Mapping[str, str]) -> Finding:
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    if versions.get("proteus") == __version__:
        return Finding(f"versions on {host}", "ok", found)
    return Finding(
        f"versions on {host}", "optional", found, f"here it is proteus {__version__}; install the same everywhere"
    )


def _device(name: str, inventory: Inventory, workspace: Workspace) -> Finding:
    (device,) = (each for each in inventory.devices if each.id == name.rpartition("/")[2])
    size = counted(len(device.cores), "core") if device.kind == "cpu" else format_size(device.memory_bytes)
    found, hint = f"{size}, {device.name}", f"`proteus profile --cluster … --device {name}` measures it"
    try:
        profile = _profile_of(name, workspace)
    except ArtefactError as error:
        return Finding(name, "optional", f"{found}; {error.message}", error.hint)
    if profile is None:
        return Finding(name, "optional", f"{found}; no profile", hint)
    if not profile.device.is_like(device):
        return Finding(name, "missing", f"{found}; the profile is of another one: {profile.device.name}", hint)
    return Finding(name, "ok", f"{found}; measured")


def _profile_of(device: str, workspace: Workspace) -> Profile | None:
    return workspace.profile(device) if workspace.profile_path(device).is_file() else None


def _strays(agents: Mapping[str, AgentAddress], workspace: Workspace) -> Iterator[Finding]:
    """Profiles of hosts that the cluster does not have."""
    for directory in sorted(workspace.profiles_dir.glob("*/")):
        if directory.name not in agents and any(directory.glob("*.json")):
            yield Finding(
                f"host {directory.name}", "optional", "has profiles, and is not in the cluster",
                f"plans for its devices can't be served; remove {directory} if it is gone for good",
            )  # fmt: skip
