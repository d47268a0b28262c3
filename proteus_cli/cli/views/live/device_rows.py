"""The devices in a frame of the live view, those of a cluster under their hosts; many that are alike share a row."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Column

from proteus_cli.domain.device import by_host
from proteus_cli.reporting import tables
from proteus_cli.units import UNKNOWN, counted, format_duration

if TYPE_CHECKING:
    from proteus_cli.serving.telemetry.state import DeviceState, HostStatus, ServerState

FrameRow = tuple[Sequence[str], str]
"""Cells, and a style."""

_STATES = {"closed": "working", "open": "LOST", "half-open": "being tried out"}
_RANKS = tuple(reversed(_STATES))  # lost devices are listed first
_MAX_VARIANTS = 3  # that the row of a host names
_INDENT = "  "


class _HostDevices(NamedTuple):
    """The devices of a host, or, without ``host``, of this machine."""

    name: str
    host: "HostStatus | None"
    devices: Mapping[str, "DeviceState"]

    @property
    def is_lost(self) -> bool:
        return self.host is not None and self.host.state == "lost"

    @property
    def rank(self) -> int:
        """Lost hosts are listed first, then those with devices that are not well."""
        return 0 if self.is_lost else 2 if all(map(_is_well, self.devices.values())) else 1


def device_columns(now: "ServerState", columns: int, *, is_wide: bool) -> Iterable[Column]:
    """The columns for a terminal of so many ``columns``: why a host is lost must not take the room of all names."""
    batch = [tables.number("batch")] if is_wide else []
    state = tables.name("state" if is_wide else "")
    state.max_width = columns // 2 if now.hosts else None
    return (*map(tables.name, ("device", "hosts")), tables.number("busy"), *batch, state)


def wanted_rows(now: "ServerState") -> int:
    """As many as show each device, and each host."""
    hosts = {*by_host(now.devices), *now.hosts} if now.hosts else ()
    return len(now.devices) + len(hosts)


def device_rows(now: "ServerState", count: int, *, is_wide: bool) -> list[FrameRow]:
    """A row for each device, and for each host; if these are more than ``count``, less: see `_alike`, `_by_host`."""
    if now.hosts:
        return _by_host(now, count, is_wide=is_wide)
    ranked = sorted(now.devices.items(), key=lambda named: _RANKS.index(named[1].breaker))
    if len(ranked) <= count:
        return [_device(name, [of], is_wide=is_wide) for name, of in ranked]
    return _alike(ranked, is_wide=is_wide)


def _alike(ranked: Sequence[tuple[str, "DeviceState"]], *, is_wide: bool) -> list[FrameRow]:
    """A row for all devices that are alike: in what they host, in state, and in how many servers share them."""
    alike: dict[tuple[str, tuple[str, ...], tuple[str, ...], int], list[tuple[str, DeviceState]]] = {}
    for name, of in ranked:
        alike.setdefault((of.breaker, of.variants, tuple(of.broken), of.servers), []).append((name, of))
    return [_device(_named([name for name, _ in named]), [of for _, of in named], is_wide=is_wide)
            for named in alike.values()]  # fmt: skip


def _by_host(now: "ServerState", count: int, *, is_wide: bool) -> list[FrameRow]:
    """Each host that is there with its devices; or each host, and devices that are not well though their host is there.

    If these are too many, too, hosts where all is well share a row.
    """
    groups = sorted(_groups(now), key=lambda group: group.rank)
    if len(groups) + len(now.devices) <= count:
        return [row for group in groups for row in _group_rows(group, is_wide=is_wide, has_all=True)]
    rows = [row for group in groups for row in _group_rows(group, is_wide=is_wide)]
    well = [group for group in groups if group.rank == 2]  # noqa: PLR2004 - see `rank`
    if len(rows) <= count or len(well) < 2:  # noqa: PLR2004
        return rows
    others = [row for group in groups if group.rank < 2 for row in _group_rows(group, is_wide=is_wide)]  # noqa: PLR2004
    devices = [of for group in well for of in group.devices.values()]
    return [
        *others,
        _several(
            counted(len(well), "host"), devices, f"connected, {counted(len(devices), 'device')}", "", is_wide=is_wide
        ),
    ]


def _groups(now: "ServerState") -> Iterator[_HostDevices]:
    found = by_host(now.devices)
    for name in dict.fromkeys((*found, *now.hosts)):
        yield _HostDevices(name, now.hosts.get(name), {device: now.devices[device] for device in found.get(name, ())})


def _group_rows(group: _HostDevices, *, is_wide: bool, has_all: bool = False) -> Iterator[FrameRow]:
    devices = list(group.devices.values())
    style = "bold red" if group.is_lost else "bold"
    label = f"host {group.name}" if group.host is not None else "this machine"
    state = _host_state(group) if is_wide else "LOST" if group.is_lost else ""
    yield _several(label, devices, state, style, is_wide=is_wide)
    for name, of in sorted(group.devices.items(), key=lambda named: _RANKS.index(named[1].breaker)):
        if not group.is_lost and (has_all or not _is_well(of)):
            yield _device(_INDENT + name, [of], is_wide=is_wide)


def _host_state(group: _HostDevices) -> str:
    """``"connected, 8 devices, 0.4 ms away"``, or ``"LOST 12 s ago, 8 devices: nothing came from it for 500 ms"``."""
    host, devices = group.host, group.devices.values()
    working = sum(of.breaker == "closed" for of in devices)
    every = counted(len(devices), "device")
    some = every if working == len(devices) else f"{working} of {every} work"
    if host is None:
        return some
    if group.is_lost:
        ago = "" if host.state_s is None else f" {format_duration(host.state_s)} ago"
        return f"LOST{ago}, {every}" + (f": {host.reason}" if host.reason else "")
    away = "" if host.round_trip_s is None else f", {format_duration(host.round_trip_s)} away"
    return f"connected, {some}{_shared(host.servers)}{away}"


def _shared(servers: int) -> str:
    return f", shared by {servers} servers" if servers > 1 else ""


def _is_well(of: "DeviceState") -> bool:
    return of.breaker == "closed" and not of.broken


def _named(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} × {names[0]} …"


def _several(label: str, of: Sequence["DeviceState"], state: str, style: str, *, is_wide: bool) -> FrameRow:
    """A row for devices that host different variants."""
    counts = Counter(variant for device in of for variant in device.variants).most_common()
    named = [f"{count} × {variant}" if count > 1 else variant for variant, count in counts[:_MAX_VARIANTS]]
    hosts = ", ".join(named) + (" …" if len(counts) > _MAX_VARIANTS else "")
    return _cells(label, hosts or UNKNOWN, of, state, style, is_wide=is_wide)


def _device(name: str, of: Sequence["DeviceState"], *, is_wide: bool) -> FrameRow:
    """A row for devices that host the same variants."""
    first = of[0]
    style = "bold red" if first.breaker == "open" else "yellow" if not _is_well(first) else ""
    state = _state(first) if is_wide else _STATES[first.breaker] if style else ""
    return _cells(name, ", ".join(first.variants) or UNKNOWN, of, state, style, is_wide=is_wide)


def _cells(name: str, hosts: str, of: Sequence["DeviceState"], state: str, style: str, *, is_wide: bool) -> FrameRow:
    loads, batches = [device.load for device in of], [device.mean_batch for device in of if device.mean_batch]
    most = f" ≤ {max(loads):.0%}" if len(of) > 1 and is_wide else ""
    load = f"{sum(loads) / len(loads):.1%}{most}" if loads else UNKNOWN
    batch = f"{sum(batches) / len(batches):.1f}" if batches else UNKNOWN
    return ((name, hosts, load, batch, state) if is_wide else (name, hosts, load, state)), style


def _state(of: "DeviceState") -> str:
    """``"LOST, again in 4 s: its process has ended"``, or ``"working, without digits-l: it cannot be loaded"``."""
    text = _STATES[of.breaker] + _shared(of.servers)
    if of.breaker == "open" and of.retry_s is not None:
        text += f", again in {of.retry_s:.0f} s"
    if of.reason:
        text += f": {of.reason}"
    if of.broken:
        text += f"; without {', '.join(of.broken)}"
    if len(of.broken) == 1:
        text += f": {next(iter(of.broken.values()))}"
    return text
