"""What the hosts of a cluster have, in a terminal; many that are alike share a row."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from rich.console import Group, RenderableType
from rich.table import Table

from proteus_cli.reporting.tables import name, number, table, text
from proteus_cli.units import UNKNOWN, format_duration, format_size

if TYPE_CHECKING:
    from proteus_cli.cli.workflows.cluster.hosts import ReachedHost
    from proteus_cli.domain.device import Device

_EACH_UP_TO = 24
"""Devices that have a row each; of more, those of a host that are alike share one, and so do hosts."""

Each = TypeVar("Each")
Shown = TypeVar("Shown", bound=Hashable)


def inventory_tables(
    hosts: Mapping[str, "ReachedHost"], profiled: Callable[[str, "Device"], str], unknown: Sequence[str]
) -> RenderableType:
    """The devices of each host, if any, then a row for each host; those of ``unknown`` can't be reached.

    ``profiled`` says of an id like ``b/cpu0``, and the device, whether it is.
    """
    is_small = sum(len(host.inventory.devices) for host in hosts.values()) <= _EACH_UP_TO
    devices = _devices(hosts, profiled, is_small=is_small)
    below = _hosts(hosts, unknown, is_small=is_small)
    return Group(devices, "", below) if devices.row_count else below


def _devices(hosts: Mapping[str, "ReachedHost"], profiled: Callable[[str, "Device"], str], *, is_small: bool) -> Table:
    is_shared = any(host.inventory.shared for host in hosts.values())
    servers = [number("servers")] if is_shared else []
    cores = "core ids" if is_small else "cores"
    rows = table(*map(text, ("host", "device", "type", cores, "memory", "profiled")), *servers, text("name"))

    def cells(host: str, device: "Device") -> tuple[str, ...]:
        shared = [str(hosts[host].inventory.shared.get(device.id, UNKNOWN))] if is_shared else []
        cores = " ".join(map(str, device.cores)) if is_small else str(len(device.cores) or "")
        is_profiled = profiled(f"{host}/{device.id}", device)
        return device.type, cores or UNKNOWN, format_size(device.memory_bytes), is_profiled, *shared, device.name

    def of_host(host: str) -> tuple[tuple[str, ...], ...]:
        devices = hosts[host].inventory.devices
        if is_small:
            return tuple((f"{host}/{device.id}", *cells(host, device)) for device in devices)
        alike = _alike(devices, lambda device: cells(host, device))
        return tuple((_several([device.id for device in group]), *shown) for shown, group in alike)

    groups = [(of_host(host), [host]) for host in hosts] if is_small else _alike(hosts, of_host)
    for devices, named in groups:
        who = _several(named)
        for device in devices:
            rows.add_row(who, *device)
            who = ""
    return rows


def _hosts(hosts: Mapping[str, "ReachedHost"], unknown: Sequence[str], *, is_small: bool) -> RenderableType:
    rows = table(name("host"), text("state"), number("round trip"), number("memory free"), text("versions"))

    def cells(host: str) -> tuple[str, str]:
        inventory = hosts[host].inventory
        serves = f"serves {', '.join(inventory.servers)}" if inventory.servers else "serves nobody"
        serves = f"emulates devices, {serves}" if inventory.emulates else serves
        return serves, ", ".join(f"{software} {version}" for software, version in inventory.versions.items())

    groups = [(cells(host), [host]) for host in hosts] if is_small else _alike(hosts, cells)
    for (serves, versions), named in groups:
        free = min(hosts[host].inventory.free_bytes for host in named)
        away = format_duration(max(hosts[host].round_trip_s for host in named))
        least, most = ("≥ ", "≤ ") if len(named) > 1 else ("", "")
        room = f"{least}{format_size(free)}" if free else UNKNOWN
        rows.add_row(_several(named), serves, f"{most}{away}", room, versions)
    for host in unknown:
        rows.add_row(host, "can't be used: see below", UNKNOWN, UNKNOWN, UNKNOWN)
    return rows


def _alike(each: Iterable[Each], shown: Callable[[Each], Shown]) -> list[tuple[Shown, list[Each]]]:
    """Those that are shown alike, in the order of the first of each."""
    groups: dict[Shown, list[Each]] = {}
    for one in each:
        groups.setdefault(shown(one), []).append(one)
    return list(groups.items())


def _several(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} × {names[0]} …"
