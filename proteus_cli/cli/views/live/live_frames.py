"""A frame of the live view of `proteus serve`, in the lines and columns of the terminal."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from proteus_cli.cli.views.live.device_rows import FrameRow, device_columns, device_rows, wanted_rows
from proteus_cli.domain.device import host_of
from proteus_cli.reporting import tables
from proteus_cli.units import UNKNOWN, counted, format_duration, mark_estimate

if TYPE_CHECKING:
    from proteus_cli.serving.telemetry.state import FamilyState, ServerEvent, ServerState

WIDE_COLUMNS = 78
_MAX_EVENTS = 4
_MIN_LINES_FOR_EVENTS, _MIN_LINES_FOR_DEVICES = 9, 6
_MIN_LINES_FOR_LEGEND = 20
_HIGH = 0.01  # of violations


def frame(now: "ServerState", columns: int, lines: int, *, has_events: bool = True) -> RenderableType:
    """A picture of the server that fits a terminal of this size, with one line to spare."""
    events = now.events if has_events else ()
    is_wide = columns >= WIDE_COLUMNS
    head = list(_head(now))
    legend = [Text(_LEGEND, "dim", no_wrap=True)] if is_wide and lines >= _MIN_LINES_FOR_LEGEND else []
    rows = _row_counts(lines - 1 - len(head) - len(legend), len(now.families), wanted_rows(now), len(events))
    families = [_family(name, of, is_wide=is_wide) for name, of in now.families.items()]
    parts: list[RenderableType] = [
        *head,
        _table(_family_columns(is_wide=is_wide), _truncated(families, rows.families)),
        *legend,
    ]
    if rows.devices:
        devices = device_rows(now, rows.devices, is_wide=is_wide)
        parts += ["", _table(device_columns(now, columns, is_wide=is_wide), _truncated(devices, rows.devices))]
    if rows.events:
        parts += ["", *(_event(event, now.uptime_s) for event in reversed(events[-rows.events :]))]
    return Group(*parts)


class _RowCounts(NamedTuple):
    """How many rows of each kind a frame has."""

    families: int
    devices: int
    events: int


def _row_counts(lines: int, families: int, devices: int, events: int) -> _RowCounts:
    """Rows that fit into so many lines, beside the heads of the tables and a blank line between parts.

    Events have a sixth of the lines at most. Families have half of the rest at least, and what devices leave.
    """
    events = min(_MAX_EVENTS, events, lines // 6) if lines >= _MIN_LINES_FOR_EVENTS else 0
    lines -= events + 1 if events else 0
    if lines < _MIN_LINES_FOR_DEVICES:
        return _RowCounts(min(families, lines - 1), 0, events)
    lines -= 3  # two heads and a blank line
    families = min(families, max(lines - devices, (lines + 1) // 2))
    return _RowCounts(families, lines - families, events)


def _head(now: "ServerState") -> Iterable[Text]:
    style = {"ready": "bold green", "draining": "bold yellow"}.get(now.state, "bold red")
    lost_hosts = {name for name, host in now.hosts.items() if host.state == "lost"}
    lost = sum(of.breaker == "open" and host_of(name) not in lost_hosts for name, of in now.devices.items())
    broken = len({variant for device in now.devices.values() for variant in device.broken})
    line = Text.assemble(
        ("proteus ", "bold"), (now.state, style),
        (f" · {counted(len(lost_hosts), 'HOST', 'HOSTS')} LOST" if lost_hosts else "", "bold red"),
        (f" · {lost} LOST" if lost else "", "bold red"), (f" · {broken} BROKEN" if broken else "", "bold red"),
        f" · policy {now.policy} · up {_ago(now.uptime_s)} · {now.inside:,} in flight",
        no_wrap=True, overflow="ellipsis",
    )  # fmt: skip
    yield line
    if now.emulated:
        yield Text(
            "EMULATED devices: times are those of their profiles", "bold yellow", no_wrap=True, overflow="ellipsis"
        )


# --- families

_LEGEND = "demand, answers: per second · viol.: SLO violations · budget: error budget used"


def _family_columns(*, is_wide: bool) -> Iterable[Column]:
    wide = ("demand", "answers", "viol.", "budget", "acc.", "of best", "p99", "SLO")
    return tables.name("family"), *map(tables.number, wide if is_wide else ("demand", "viol.", "of best", "p99"))


def _family(name: str, of: "FamilyState", *, is_wide: bool) -> FrameRow:
    is_late = of.p99_s is not None and of.p99_s > of.slo_s
    violations = _percent(of.violations) + ("!" if (of.violations or 0.0) > _HIGH else "")
    p99 = (UNKNOWN if of.p99_s is None else format_duration(of.p99_s)) + ("!" if is_late else "")
    style = "red" if is_late or violations.endswith("!") else ""
    if not is_wide:
        return (name, _rate(of.demand_qps), violations, _accuracy(of.relative_accuracy, of), p99), style
    cells = (
        name, _rate(of.demand_qps), _rate(of.throughput_qps), violations, _budget(of), _accuracy(of.accuracy, of),
        _accuracy(of.relative_accuracy, of), p99, format_duration(of.slo_s),
    )  # fmt: skip
    return cells, style


def _accuracy(fraction: float | None, of: "FamilyState") -> str:
    return mark_estimate(_percent(fraction), estimated=of.estimated)


def _budget(of: "FamilyState") -> str:
    """The part of the error budget of the last 15 minutes that was used; `!`: the target is missed."""
    lately = of.recent_attainment
    return (
        UNKNOWN if lately.error_budget_used is None else f"{lately.error_budget_used:,.0%}{'' if lately.met else '!'}"
    )


# --- parts


def _table(columns: Iterable[Column], rows: Sequence[FrameRow]) -> Table:
    shown = tables.table(*columns, has_line=False)  # each line counts
    for cells, style in rows:
        shown.add_row(*map(Text, cells), style=style)
    return shown


def _truncated(rows: Sequence[FrameRow], count: int) -> Sequence[FrameRow]:
    """At most so many rows, of which the last says how many are left out."""
    if len(rows) <= count:
        return rows
    return [*rows[: count - 1], ((f"… {len(rows) - count + 1} more",), "dim")]


def _event(event: "ServerEvent", now_s: float) -> Text:
    style = "bold red" if event.kind == "device" else ""
    return Text.assemble(
        (f"{_ago(now_s - event.at_s):>7} ago  ", "dim"), (f"{event.kind}  ", "dim"), (event.text, style),
        (f" · {event.reason}" if event.reason else "", "dim"),
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
