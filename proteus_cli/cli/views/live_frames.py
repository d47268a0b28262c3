"""What the live view of `proteus serve` shows: one frame, as many lines and columns as the terminal has."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from proteus_cli.cli.console import UNKNOWN
from proteus_cli.units import format_duration

if TYPE_CHECKING:
    from proteus_cli.serving.telemetry.snapshot import DeviceSnapshot, FamilySnapshot, ServerEvent, Snapshot

WIDE_COLUMNS = 78
_MAX_EVENTS = 4
_ROOM_FOR_EVENTS, _ROOM_FOR_DEVICES = 9, 6
_HIGH = 0.01  # of violations

_BREAKERS = {"closed": "closed", "open": "LOST", "half-open": "probation"}
_RANKS = tuple(reversed(_BREAKERS))  # what is not well comes first

FrameRow = tuple[Sequence[str], str]
"""Cells, and a style."""


def frame(now: "Snapshot", columns: int, lines: int) -> RenderableType:
    """A picture of the server that fits a terminal of so many columns and lines, from which one is left free."""
    is_wide = columns >= WIDE_COLUMNS
    head = list(_head(now))
    room = lines - 1 - len(head)
    events = min(_MAX_EVENTS, len(now.events), room // 6) if room >= _ROOM_FOR_EVENTS else 0
    room -= events + 1 if events else 0
    shows_devices = room >= _ROOM_FOR_DEVICES
    room -= 3 if shows_devices else 1  # heads, and a blank line
    few = room - len(now.devices) if shows_devices else room
    max_families = min(len(now.families), max(few, (room + 1) // 2))
    families = [_family(name, of, is_wide=is_wide) for name, of in now.families.items()]
    parts: list[RenderableType] = [*head, _table(_FAMILIES[is_wide], _cut(families, max_families))]
    if shows_devices:
        most = room - max_families
        parts += ["", _table(_DEVICES[is_wide], _cut(_devices(now.devices, most, is_wide=is_wide), most))]
    if events:
        parts += ["", *(_event(event, now.at_s) for event in reversed(now.events[-events:]))]
    return Group(*parts)


def _head(now: "Snapshot") -> Iterable[Text]:
    style = {"ready": "bold green", "draining": "bold yellow"}.get(now.state, "bold red")
    lost = sum(device.breaker == "open" for device in now.devices.values())
    line = Text.assemble(
        ("proteus ", "bold"), (now.state, style), f" · {now.policy} · up {_ago(now.at_s)} · {now.inside:,} in flight",
        (f" · {lost} LOST" if lost else "", "bold red"), no_wrap=True, overflow="ellipsis",
    )  # fmt: skip
    yield line
    if now.is_emulated:
        yield Text("EMULATED devices: no time is measured", "bold yellow", no_wrap=True, overflow="ellipsis")


# --- families

_FAMILIES = {
    True: (
        ("family", "left"), ("demand qps", "right"), ("throughput", "right"), ("violations", "right"),
        ("accuracy", "right"), ("of best", "right"), ("p99", "right"), ("SLO", "right"),
    ),
    False: (("family", "left"), ("qps", "right"), ("viol.", "right"), ("acc.", "right"), ("p99", "right")),
}  # fmt: skip


def _family(name: str, of: "FamilySnapshot", *, is_wide: bool) -> FrameRow:
    is_late = of.p99_s is not None and of.p99_s > of.slo_s
    violations = _percent(of.violations) + ("!" if (of.violations or 0.0) > _HIGH else "")
    p99 = (UNKNOWN if of.p99_s is None else format_duration(of.p99_s)) + ("!" if is_late else "")
    style = "red" if is_late or violations.endswith("!") else ""
    if not is_wide:
        return (name, _rate(of.demand_qps), violations, _percent(of.relative_accuracy), p99), style
    cells = (
        name, _rate(of.demand_qps), _rate(of.throughput_qps), violations, _percent(of.accuracy),
        _percent(of.relative_accuracy), p99, format_duration(of.slo_s),
    )  # fmt: skip
    return cells, style


# --- devices

_DEVICES = {
    True: (("device", "left"), ("hosts", "left"), ("load", "right"), ("batch", "right"), ("breaker", "left")),
    False: (("device", "left"), ("hosts", "left"), ("load", "right"), ("", "left")),
}


def _devices(devices: Mapping[str, "DeviceSnapshot"], room: int, *, is_wide: bool) -> list[FrameRow]:
    """A row each; where there are too many, a row for those that host the same."""
    ranked = sorted(devices.items(), key=lambda named: _RANKS.index(named[1].breaker))
    if len(ranked) <= room:
        return [_device(name, [of], is_wide=is_wide) for name, of in ranked]
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, of in ranked:
        alike.setdefault((of.breaker, of.variants), []).append(name)
    return [
        _device(_named(names), [devices[name] for name in names], is_wide=is_wide) for names in alike.values()
    ]  # fmt: skip


def _named(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} × {names[0]} …"


def _device(name: str, of: Sequence["DeviceSnapshot"], *, is_wide: bool) -> FrameRow:
    """A row for devices that host the same."""
    loads, batches = [device.load for device in of], [device.mean_batch for device in of if device.mean_batch]
    load = _percent(sum(loads) / len(loads)) + (f" ≤ {max(loads):.0%}" if len(of) > 1 and is_wide else "")
    batch = f"{sum(batches) / len(batches):.1f}" if batches else UNKNOWN
    hosts, breaker = ", ".join(of[0].variants) or UNKNOWN, _BREAKERS[of[0].breaker]
    style = "" if of[0].breaker == "closed" else "bold red" if of[0].breaker == "open" else "yellow"
    if not is_wide:
        return (name, hosts, load, "" if of[0].breaker == "closed" else breaker), style
    reason = f": {of[0].reason}" if of[0].reason else ""
    return (name, hosts, load, batch, breaker + reason), style


# --- parts


def _table(columns: Sequence[tuple[str, str]], rows: Sequence[FrameRow]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for heading, justify in columns:
        table.add_column(heading, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    for cells, style in rows:
        table.add_row(*map(Text, cells), style=style)
    return table


def _cut(rows: Sequence[FrameRow], most: int) -> Sequence[FrameRow]:
    """At most so many, of which the last says how many there are besides."""
    if len(rows) <= most:
        return rows
    left = len(rows) - most + 1
    return [*rows[: most - 1], ((f"… {left} more",), "dim")]


def _event(event: "ServerEvent", now_s: float) -> Text:
    style = "bold red" if event.kind == "device" else ""
    return Text.assemble(
        (f"{_ago(now_s - event.at_s):>7} ago  ", "dim"), (f"{event.kind}  ", "dim"), (event.text, style),
        no_wrap=True, overflow="ellipsis",
    )  # fmt: skip


def _ago(seconds: float) -> str:
    whole = max(0, int(seconds))
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if whole >= size:
            return f"{whole // size} {unit}"
    return f"{whole} s"


def _rate(qps: float) -> str:
    return f"{qps:,.0f}" if qps >= 10 or not qps else f"{qps:.1f}"  # noqa: PLR2004


def _percent(fraction: float | None) -> str:
    return UNKNOWN if fraction is None else f"{fraction:.1%}"
