"""``proteus devices``: the devices of this machine."""

from typing import TYPE_CHECKING, Any

from proteus_cli.cli import console
from proteus_cli.cli.options import common

if TYPE_CHECKING:
    from proteus_cli.backends.nvml import Readings
    from proteus_cli.domain.device import Device, GpuFacts


def devices(*, workspace_dir: common.Workspace = common.WORKSPACE, json: common.Json = False) -> None:
    """List the devices of this machine. The section `devices` of proteus.toml defines which cores make a device."""
    from proteus_cli.backends.discovery import discover
    from proteus_cli.backends.nvml import readings_of
    from proteus_cli.settings import read_settings
    from proteus_cli.tables import table, text
    from proteus_cli.units import UNKNOWN, format_size

    found = discover(read_settings(workspace_dir).devices)
    readings = {device.id: readings_of(device) for device in found if device.kind == "gpu"}
    if json:
        console.show_json([_with_readings(device, readings) for device in found])
        return
    rows = table(*map(text, ("device", "type", "cores", "memory", "profiled", "name")))
    for device in found:
        is_profiled = (workspace_dir / "profiles" / f"{device.id}.json").is_file()
        rows.add_row(
            device.id,
            device.type,
            " ".join(map(str, device.cores)) or UNKNOWN,
            format_size(device.memory_bytes),
            "yes" if is_profiled else "no",
            device.name,
        )
    console.show(rows)
    for device in found:
        if device.gpu is not None:
            console.show(f"{device.id}: {', '.join(_facts(device.gpu, readings[device.id]))}")


def _with_readings(device: "Device", readings: "dict[str, Readings | None]") -> Any:
    """A device as JSON; a GPU also with its present readings from NVML."""
    import msgspec

    return {**msgspec.to_builtins(device), "readings": readings[device.id]} if device.id in readings else device


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
