"""``proteus devices``: the devices of this machine, or of a cluster."""

from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from proteus_cli.cli import console
from proteus_cli.cli.command_line.command import Command, Group
from proteus_cli.cli.command_line.defaults import require_cluster, require_no_flags
from proteus_cli.cli.options import cluster as cluster_options
from proteus_cli.cli.options import common

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from proteus_cli.backends.nvml import Readings
    from proteus_cli.cli.workflows.cluster.hosts import ReachedHost
    from proteus_cli.domain.device import Device, GpuFacts
    from proteus_cli.serving.devices.remote.links.host_list import HostList


app = typer.Typer(cls=Group, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def devices(
    context: typer.Context,
    *,
    cluster: cluster_options.Cluster = None,
    cluster_key: cluster_options.ClusterKey = None,
    workspace_dir: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
) -> None:
    """List the devices of this machine, or with --cluster of all hosts of a cluster.

    The section `devices` of proteus.toml defines which cores make a device; on a host, that of its agent does.
    """
    if context.invoked_subcommand is not None:
        require_no_flags(context, "the list of devices")
        return
    from proteus_cli.cli.workflows.cluster.hosts import host_list

    require_cluster(context, cluster)
    if cluster is None:
        _show_local(workspace_dir, json=json)
    else:
        _show_cluster(workspace_dir, host_list(cluster, cluster_key, workspace_dir), json=json)


@app.command(cls=Command)
def forget(name: common.HostOrDevice, *, workspace_dir: common.Workspace = common.WORKSPACE) -> None:
    """Remove the profiles of a host or a device. Plans that were made from them have to be made again."""
    from proteus_cli.store import Workspace

    console.say(f"removed the profiles of {', '.join(Workspace(workspace_dir).forget(name))}")


def _show_local(workspace_dir: "Path", *, json: bool) -> None:
    from proteus_cli.backends.discovery import discover
    from proteus_cli.backends.nvml import readings_of
    from proteus_cli.settings import read_settings

    found = discover(read_settings(workspace_dir).devices)
    readings = {device.id: readings_of(device) for device in found if device.kind == "gpu"}
    if json:
        console.show_json([_with_readings(device, readings) for device in found])
        return
    _show_table(found, workspace_dir)
    for device in found:
        if device.gpu is not None:
            console.show(f"{device.id}: {', '.join(_facts(device.gpu, readings[device.id]))}")


def _show_cluster(workspace_dir: "Path", hosts: "HostList", *, json: bool) -> None:
    from proteus_cli.cli.views.inventory_tables import inventory_tables
    from proteus_cli.cli.workflows.cluster.hosts import inventories
    from proteus_cli.errors import DeviceUnavailable

    found = inventories(hosts)
    known = {host: each for host, each in found.items() if not isinstance(each, DeviceUnavailable)}
    unknown = {host: each for host, each in found.items() if isinstance(each, DeviceUnavailable)}
    if json:
        console.show_json({host: _as_json(each) for host, each in known.items()})
    else:
        console.show(inventory_tables(known, partial(_profiled, workspace_dir), list(unknown)))
    for error in unknown.values():
        console.warn(f"{error.message} ({error.hint})" if error.hint else error.message)
    if not known:
        raise DeviceUnavailable("No host of the cluster can be used.", hint="the warnings say why")


def _show_table(devices: "Sequence[Device]", workspace_dir: "Path") -> None:
    from proteus_cli.reporting.tables import table, text
    from proteus_cli.units import UNKNOWN, format_size

    rows = table(*map(text, ("device", "type", "core ids", "memory", "profiled", "name")))
    for device in devices:
        rows.add_row(
            device.id,
            device.type,
            " ".join(map(str, device.cores)) or UNKNOWN,
            format_size(device.memory_bytes),
            _profiled(workspace_dir, device.id, device),
            device.name,
        )
    console.show(rows)


def _profiled(workspace_dir: "Path", name: str, device: "Device") -> str:
    """Whether the workspace has a profile of a device by its ``name`` there, and whether that is of this hardware."""
    from proteus_cli.errors import ArtefactError
    from proteus_cli.store import Workspace

    workspace = Workspace(workspace_dir)
    if not workspace.profile_path(name).is_file():
        return "no"
    try:
        return "yes" if workspace.profile(name).device.is_like(device) else "on other hardware"
    except ArtefactError:  # the commands that use the profile say what is wrong with it, as `proteus doctor` does
        return "unreadable"


def _with_readings(device: "Device", readings: "dict[str, Readings | None]") -> Any:
    """A device as JSON; a GPU also with its present readings from NVML."""
    import msgspec

    return {**msgspec.to_builtins(device), "readings": readings[device.id]} if device.id in readings else device


def _as_json(host: "ReachedHost") -> Any:
    import msgspec

    return {**msgspec.to_builtins(host.inventory), "round_trip_s": round(host.round_trip_s, 6)}


def _facts(gpu: "GpuFacts", now: "Readings | None") -> list[str]:
    """The properties of a GPU, and its present power and clocks, as far as they are known."""
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
