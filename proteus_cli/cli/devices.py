"""``proteus devices``: the devices of this machine, or of a cluster."""

from collections.abc import Hashable
from typing import TYPE_CHECKING, TypeVar

import typer

from proteus_cli.cli import console, options
from proteus_cli.cli.command_line.command import Command, Group
from proteus_cli.cli.command_line.defaults import require_cluster, require_no_flags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from rich.console import RenderableType
    from rich.table import Table

    from proteus_cli.backends.nvml import Readings
    from proteus_cli.cli.cluster import ReachedHost
    from proteus_cli.domain.device import Device, GpuFacts
    from proteus_cli.serving.devices.remote.channel.address import HostList

_EACH_UP_TO = 24
"""Maximum number of devices of a cluster that have a row each; of more, similar devices and hosts share a row."""

Each = TypeVar("Each")
Shown = TypeVar("Shown", bound=Hashable)

app = typer.Typer(cls=Group, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def devices(
    context: typer.Context,
    *,
    cluster: options.Cluster = None,
    cluster_key: options.ClusterKey = None,
    workspace_dir: options.Workspace = options.WORKSPACE,
    json: options.Json = False,
) -> None:
    """List the devices of this machine, or with --cluster of all hosts of a cluster.

    The section `devices` of proteus.toml defines which cores make a device; on a host, that of its agent does.
    """
    if context.invoked_subcommand is not None:
        require_no_flags(context, "the list of devices")
        return
    from proteus_cli.cli.cluster import host_list

    require_cluster(context, cluster)
    if cluster is None:
        _show_local(workspace_dir, json=json)
    else:
        _show_cluster(workspace_dir, host_list(cluster, cluster_key, workspace_dir), json=json)


@app.command(cls=Command)
def forget(name: options.HostOrDevice, *, workspace_dir: options.Workspace = options.WORKSPACE) -> None:
    """Remove the profiles of a host or a device. Plans that were made from them have to be made again."""
    from proteus_cli.store import Workspace

    console.say(f"removed the profiles of {', '.join(Workspace(workspace_dir).forget(name))}")


def _profiled(workspace_dir: "Path", name: str, device: "Device") -> str:
    """Whether the workspace has a profile called ``name``, and whether it was measured on this hardware."""
    from proteus_cli.errors import ArtefactError
    from proteus_cli.store import Workspace

    workspace = Workspace(workspace_dir)
    if not workspace.profile_path(name).is_file():
        return "no"
    try:
        return "yes" if workspace.profile(name).device.is_like(device) else "on other hardware"
    except ArtefactError:  # the commands that use the profile, and `proteus doctor`, report the error
        return "unreadable"


# --- this machine


def _show_local(workspace_dir: "Path", *, json: bool) -> None:
    import msgspec

    from proteus_cli.backends.discovery import discover
    from proteus_cli.backends.nvml import readings_of
    from proteus_cli.reporting.tables import table, text
    from proteus_cli.settings import read_settings
    from proteus_cli.units import UNKNOWN, format_size

    found = discover(read_settings(workspace_dir).devices)
    readings = {device.id: readings_of(device) for device in found if device.kind == "gpu"}
    if json:
        of_gpu = {device: {"readings": now} for device, now in readings.items()}
        console.show_json([msgspec.to_builtins(device) | of_gpu.get(device.id, {}) for device in found])
        return
    rows = table(*map(text, ("device", "type", "core ids", "memory", "profiled", "name")))
    for device in found:
        cores, is_profiled = " ".join(map(str, device.cores)), _profiled(workspace_dir, device.id, device)
        size = format_size(device.memory_bytes)
        rows.add_row(device.id, device.type, cores or UNKNOWN, size, is_profiled, device.name)
    console.show(rows)
    for device in found:
        if device.gpu is not None:
            console.show(f"{device.id}: {', '.join(_facts(device.gpu, readings[device.id]))}")


def _facts(gpu: "GpuFacts", now: "Readings | None") -> list[str]:
    """The properties of a GPU, and its present power and clocks where NVML reads them."""
    known = [f"compute {gpu.compute_capability}", f"{gpu.multiprocessors} multiprocessors", f"driver {gpu.driver}"]
    known += [gpu.uuid] if gpu.uuid else []
    if now is None:
        return [*known, "power and clocks unknown"]
    if now.power_w is not None:
        limit = f" of {now.power_limit_w:.0f}" if now.power_limit_w is not None else ""
        known.append(f"draws {now.power_w:.0f}{limit} W")
    known += [
        f"{what} at {mhz} MHz" for what, mhz in (("SMs", now.sm_mhz), ("memory", now.memory_mhz)) if mhz is not None
    ]
    return [*known, f"clocks held down by: {', '.join(now.slowed_by)}"] if now.slowed_by else known


# --- a cluster


def _show_cluster(workspace_dir: "Path", hosts: "HostList", *, json: bool) -> None:
    import msgspec

    from proteus_cli.cli.cluster import reached_at
    from proteus_cli.errors import DeviceUnavailable
    from proteus_cli.serving.devices.remote.channel.address import agents_of

    found = reached_at(agents_of(hosts))
    known = {host: each for host, each in found.items() if not isinstance(each, DeviceUnavailable)}
    unknown = {host: each for host, each in found.items() if isinstance(each, DeviceUnavailable)}
    if json:
        times = {host: {"round_trip_s": round(each.round_trip_s, 6)} for host, each in known.items()}
        console.show_json({host: msgspec.to_builtins(each.inventory) | times[host] for host, each in known.items()})
    else:
        console.show(cluster_tables(known, lambda name, device: _profiled(workspace_dir, name, device), list(unknown)))
    for error in unknown.values():
        console.warn(f"{error.message} ({error.hint})" if error.hint else error.message)
    if not known:
        raise DeviceUnavailable("No host of the cluster can be used.", hint="the warnings say why")


def cluster_tables(
    hosts: "Mapping[str, ReachedHost]", profiled: "Callable[[str, Device], str]", unknown: "Sequence[str]"
) -> "RenderableType":
    """A row for each device, if there are any, then a row for each host; the ``unknown`` hosts cannot be reached.

    ``profiled`` takes an id such as ``b/cpu0`` and the device. It returns the text of the column `profiled`.
    """
    from rich.console import Group as Both

    is_small = sum(len(host.inventory.devices) for host in hosts.values()) <= _EACH_UP_TO
    found = _device_table(hosts, profiled, is_small=is_small)
    below = _host_table(hosts, unknown, is_small=is_small)
    return Both(found, "", below) if found.row_count else below


def _device_table(
    hosts: "Mapping[str, ReachedHost]", profiled: "Callable[[str, Device], str]", *, is_small: bool
) -> "Table":
    from proteus_cli.reporting.tables import number, table, text
    from proteus_cli.units import UNKNOWN, format_size

    is_shared = any(host.inventory.shared for host in hosts.values())
    servers = [number("servers")] if is_shared else []
    cores = "core ids" if is_small else "cores"
    rows = table(*map(text, ("host", "device", "type", cores, "memory", "profiled")), *servers, text("name"))

    def cells(host: str, device: "Device") -> tuple[str, ...]:
        name = f"{host}/{device.id}"
        shared = [str(hosts[host].inventory.shared.get(device.id, UNKNOWN))] if is_shared else []
        cores = " ".join(map(str, device.cores)) if is_small else str(len(device.cores) or "")
        size = format_size(device.memory_bytes)
        return name * is_small, device.type, cores or UNKNOWN, size, profiled(name, device), *shared, device.name

    def of_host(host: str) -> tuple[tuple[str, ...], ...]:
        groups = _alike(hosts[host].inventory.devices, lambda device: cells(host, device))
        return tuple((own or _several([each.id for each in group]), *others) for (own, *others), group in groups)

    for of_each, named in _alike(hosts, of_host):
        for place, device in enumerate(of_each):
            rows.add_row("" if place else _several(named), *device)
    return rows


def _host_table(hosts: "Mapping[str, ReachedHost]", unknown: "Sequence[str]", *, is_small: bool) -> "Table":
    from proteus_cli.reporting.tables import name, number, table, text
    from proteus_cli.units import UNKNOWN, format_duration, format_size

    rows = table(name("host"), text("state"), number("round trip"), number("memory free"), text("versions"))

    def cells(host: str) -> tuple[str, str, str]:
        inventory = hosts[host].inventory
        serves = f"serves {', '.join(inventory.servers)}" if inventory.servers else "serves nobody"
        versions = ", ".join(f"{software} {version}" for software, version in inventory.versions.items())
        return host * is_small, f"emulates devices, {serves}" if inventory.emulates else serves, versions

    for (_, serves, versions), named in _alike(hosts, cells):
        free = min(hosts[host].inventory.free_bytes for host in named)
        away = format_duration(max(hosts[host].round_trip_s for host in named))
        least, most = ("≥ ", "≤ ") if len(named) > 1 else ("", "")
        room = f"{least}{format_size(free)}" if free else UNKNOWN
        rows.add_row(_several(named), serves, f"{most}{away}", room, versions)
    for host in unknown:
        rows.add_row(host, "can't be used: see below", UNKNOWN, UNKNOWN, UNKNOWN)
    return rows


def _alike(each: "Iterable[Each]", shown: "Callable[[Each], Shown]") -> "Iterable[tuple[Shown, list[Each]]]":
    """Groups with the same cells, in the order of the first of each."""
    groups: dict[Shown, list[Each]] = {}
    for one in each:
        groups.setdefault(shown(one), []).append(one)
    return groups.items()


def _several(names: "Sequence[str]") -> str:
    return names[0] if len(names) == 1 else f"{len(names)} × {names[0]} …"
