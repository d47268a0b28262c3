"""``proteus devices``: what models can run on here."""

from proteus_cli.cli import console
from proteus_cli.cli.options import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption


def devices(*, workspace: WorkspaceOption = DEFAULT_WORKSPACE, json: JsonOption = False) -> None:
    """Show this machine's devices. The section `devices` of proteus.toml can cut the cores otherwise."""
    from rich.table import Table

    from proteus_cli.backends.discovery import discover
    from proteus_cli.settings import read_settings
    from proteus_cli.units import format_size

    found = discover(read_settings(workspace).devices)
    if json:
        console.show_json(found)
        return
    table = Table("device", "type", "cores", "memory", "profiled", "name")
    for device in found:
        is_profiled = (workspace / "profiles" / f"{device.id}.json").is_file()
        table.add_row(
            device.id,
            device.type,
            " ".join(map(str, device.cores)) or "–",
            format_size(device.memory_bytes),
            "yes" if is_profiled else "no",
            device.name,
        )
    console.show(table)
