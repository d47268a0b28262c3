"""What `proteus doctor --cluster` finds of the hosts of a cluster."""

from collections.abc import Iterator, Mapping

from proteus_cli import __version__
from proteus_cli.cli.workflows.cluster.hosts import ReachedHost, agents_of, reached_at
from proteus_cli.cli.workflows.diagnosis import Finding, printable_finding
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import ArtefactError, DeviceUnavailable, ProteusError
from proteus_cli.input_files import looking
from proteus_cli.serving.devices.remote.channel.address import AgentAddress
from proteus_cli.serving.devices.remote.channel.messages import Inventory
from proteus_cli.serving.devices.remote.links.host_list import HostList
from proteus_cli.store import Workspace
from proteus_cli.units import counted, format_duration, format_size


def diagnose_cluster(hosts: HostList, workspace: Workspace) -> list[Finding]:
    """Whether each host can be reached, what it has, and which of its devices are measured."""
    try:
        agents = agents_of(hosts)
    except ProteusError as error:
        return [printable_finding(Finding("cluster", "missing", error.message, error.hint))]
    found = [each for name, reached in reached_at(agents).items() for each in _host(agents[name], reached, workspace)]
    return [printable_finding(each) for each in (*found, *_strays(agents, workspace))]


def _host(agent: AgentAddress, reached: ReachedHost | DeviceUnavailable, workspace: Workspace) -> Iterator[Finding]:
    what = f"host {agent.name}"
    if isinstance(reached, DeviceUnavailable):
        yield Finding(what, "missing", reached.message, reached.hint)
        return
    inventory, round_trip_s = reached.inventory, reached.round_trip_s
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


@looking()
def _profile_of(device: str, workspace: Workspace) -> Profile | None:
    """None where it has none. Raises `ArtefactError`."""
    return workspace.profile(device) if workspace.profile_path(device).is_file() else None


def _strays(agents: Mapping[str, AgentAddress], workspace: Workspace) -> Iterator[Finding]:
    """Profiles of hosts that the cluster does not have."""
    for directory in sorted(workspace.profiles_dir.glob("*/")):
        if directory.name not in agents and any(directory.glob("*.json")):
            yield Finding(
                f"host {directory.name}", "optional", "has profiles, and is not in the cluster",
                f"plans for its devices can't be served; remove {directory} if it is gone for good",
            )  # fmt: skip
