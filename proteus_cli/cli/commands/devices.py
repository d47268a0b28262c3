"""``proteus devices``: what models can run on here."""

from typing import TYPE_CHECKING, Any

from proteus_cli.cli import console
from proteus_cli.cli.options import common

if TYPE_CHECKING:
    from proteus_cli.backends.nvml import Readings
    from proteus_cli.domain.device import Device


def devices(*, workspace: common.Workspace = common.WORKSPACE, json: common.Json = False) -> None:
    """Show this machine's devices. The section `devices` of proteus.toml can cut the cores otherwise."""
    from rich.table import Table

    from proteus_cli.backends.discovery import discover
    from proteus_cli.backends.nvml import readings_of
    from proteus_cli.settings import read_settings
    from proteus_cli.units import format_size

    found = discover(read_settings(workspace).devices)
    readings = {device.id: readings_of(device) for device in found if device.kind == "gpu"}
    if json:
        console.show_json([_with_readings(device, readings) for device in found])
        return
    table = Table("device", "type", "cores", "memory", "profiled", "name")
    for device in found:
        is_profiled = (workspace / "profiles" / f"{device.id}.json").is_file()
        table.add_row(
            device.id,
            device.type,
            " ".join(map(str, device.cores)) or console.UNKNOWN,
            format_size(device.memory_bytes),
            "yes" if is_profiled else "no",
            device.name,
        )
    console.show(table)
    for device in found:
        if device.gpu is not None:
            console.show(f"{device.id}: {', '.join(_facts(device, readings[device.id]))}")


def _with_readings(device: "Device", readings: "dict[str, Readings | None]") -> Any:
    """A device as JSON; a GPU also with what NVML says of it now."""
    import msgspec

    return {**msgspec.to_builtins(device), "readings": readings[device.id]} if device.id in readings else device


def _facts(device: "Device", now: "Readings | None") -> list[str]:
    """What the driver says of a GPU, and how it is now, as far as that is known."""
    facts = device.gpu
    if facts is None:
        return []
    said = [f"compute {facts.compute_capability}", f"{facts.multiprocessors} multiprocessors", f"driver {facts.driver}"]
    said += [facts.uuid] if facts.uuid else []
    if now is None:
        return [*said, "power and clocks unknown"]
    if now.power_w is not None:
        limit = f" of {now.power_limit_w:.0f}" if now.power_limit_w is not None else ""
        said.append(f"draws {now.power_w:.0f}{limit} W")
    said += [
        f"{what} at {mhz} MHz" for what, mhz in (("SMs", now.sm_mhz), ("memory", now.memory_mhz)) if mhz is not None
    ]
    return [*said, f"clocks held down by: {', '.join(now.slowed_by)}"] if now.slowed_by else said
