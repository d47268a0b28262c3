"""The live view of `proteus serve` in a terminal: a thread draws a frame each second, and new log lines above it.

The threads that log only append to a buffer, so a terminal that is slow, or stopped by Ctrl-S, never blocks them. A
frame fits its terminal: devices without a problem are left out, and the last row counts what does not fit.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from proteus_cli.reporting import tables
from proteus_cli.units import UNKNOWN, counted, format_duration, mark_estimate

if TYPE_CHECKING:
    from proteus_cli.serving.telemetry.state import DeviceState, FamilyState, ServerState

FRAME_EVERY_S = 1.0
MAX_LINES = 1000
JOIN_TIMEOUT_S = 1.0
WIDE_COLUMNS = 78
MAX_EVENTS = 4
MIN_LINES_FOR_EVENTS, MIN_LINES_FOR_DEVICES, MIN_LINES_FOR_LEGEND = 9, 6, 20
MAX_VARIANTS = 3  # named in the row of a host
HIGH_FRAC = 0.01  # of violations
LEGEND = "demand, answers: per second · viol.: SLO violations · budget: error budget used"

Row = tuple[Sequence[str], str]
"""Cells, and a style."""

log = logging.getLogger("proteus.view")


class HoldableStream:
    """A stream that forwards to another, and while it is held keeps the newest `MAX_LINES` lines instead."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock, self._holds = stream, threading.Lock(), False
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._left_out = 0

    def write(self, text: str) -> int:
        with self._lock:
            if not self._holds:
                return self._stream.write(text)
            self._left_out += len(self._lines) == MAX_LINES
            self._lines.append(text)
        return len(text)

    def flush(self) -> None:
        with self._lock:
            if not self._holds:
                self._stream.flush()

    def hold(self) -> None:
        """Keep lines from now on."""
        with self._lock:
            self._holds = True

    def take(self) -> list[str]:
        """Return the lines that were kept, and forget them. The first says how many older ones were left out."""
        with self._lock:
            lines, left_out = list(self._lines), self._left_out
            self._lines.clear()
            self._left_out = 0
        return [f"… {counted(left_out, 'line')} left out\n", *lines] if left_out else lines

    def release(self) -> None:
        """Forward the lines that were kept, and all later ones."""
        left = self.take()
        with self._lock:
            self._holds = False
        for text in left:
            self.write(text)
        self.flush()


class _Terminal(Console):
    """Never hides the cursor: a second Ctrl-C ends the process at once, and would leave it hidden."""

    def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002 - the signature of rich
        return False


class LiveView:
    """Draws on ``stdout``; ``log_stream`` takes the log, where that goes to the same terminal and tells of events."""

    def __init__(
        self, stdout: TextIO, log_stream: HoldableStream | None = None, every_s: float = FRAME_EVERY_S
    ) -> None:
        self._console = _Terminal(file=stdout, force_terminal=True, highlight=False, emoji=False, markup=False)
        self._log_stream, self._every_s = log_stream, every_s
        self._stop = threading.Event()

    @contextmanager
    def __call__(self, now: Callable[[], "ServerState"]) -> Iterator[None]:
        """Show what ``now`` returns, in a thread of its own, until the context is left."""
        if self._log_stream is not None:
            self._log_stream.hold()
        thread = threading.Thread(target=self._run, args=(now,), name="live view", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(JOIN_TIMEOUT_S)
            if self._log_stream is not None:
                self._log_stream.release()

    def _run(self, now: Callable[[], "ServerState"]) -> None:
        try:
            self._draw(now)
        except Exception:  # the server must not end with its view
            log.exception("a bug has ended the live view")
            if self._log_stream is not None:
                self._log_stream.release()

    def _draw(self, now: Callable[[], "ServerState"]) -> None:
        console = self._console
        with Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        ) as live:
            while True:
                lines = self._log_stream.take() if self._log_stream is not None else []
                live.update(frame(now(), *console.size, has_events=self._log_stream is None), refresh=not lines)
                if lines:
                    console.print(Text("".join(lines)), end="", soft_wrap=True)  # and the frame below them
                if self._stop.wait(self._every_s):
                    return


# --- frames


def frame(now: "ServerState", columns: int, lines: int, *, has_events: bool = True) -> RenderableType:
    """A picture of the server that fits a terminal of this size, with one line to spare.

    Events have at most a sixth of the lines. Families have at least half of the rest, and what devices leave.
    """
    is_wide = columns >= WIDE_COLUMNS
    head = _head(now)
    legend = [Text(LEGEND, "dim", no_wrap=True)] if is_wide and lines >= MIN_LINES_FOR_LEGEND else []
    events = list(now.events[-min(MAX_EVENTS, lines // 6) :]) if has_events and lines >= MIN_LINES_FOR_EVENTS else []
    left, of_devices = lines - 1 - len(head) - len(legend) - (len(events) + 1 if events else 0), 0
    of_families = min(len(now.families), left - 1)
    if left >= MIN_LINES_FOR_DEVICES:
        left -= 3  # two heads and a blank line
        wanted = len(now.devices) + len({*now.hosts, *(of.host for of in now.devices.values())} if now.hosts else ())
        of_families = min(len(now.families), max(left - wanted, (left + 1) // 2))
        of_devices = left - of_families
    families = [_family(name, of) for name, of in now.families.items()]
    numbers = ("demand", "answers", "viol.", "budget", "acc.", "of best", "p99", "SLO")
    parts: list[RenderableType] = [
        *head,
        _table(
            [tables.name("family"), *map(tables.number, numbers)],
            families,
            of_families,
            () if is_wide else (2, 4, 5, 8),
        ),
        *legend,
    ]
    if of_devices:
        state = tables.name("state")
        state.max_width = columns // 2 if now.hosts or not is_wide else None  # names need room, too
        header = [*map(tables.name, ("device", "hosts")), *map(tables.number, ("busy", "batch")), state]
        parts += ["", _table(header, _device_rows(now, of_devices), of_devices, () if is_wide else (3,))]
    for event in reversed(events):
        style = "bold red" if event.kind == "device" else ""
        parts.append(
            _line(
                (f"{_ago(now.uptime_s - event.at_s):>7} ago  {event.kind}  ", "dim"), (event.text, style),
                (f" · {event.reason}" if event.reason else "", "dim"),
            )
        )  # fmt: skip
    if events:
        parts.insert(-len(events), "")
    return Group(*parts)


def _head(now: "ServerState") -> list[Text]:
    style = {"ready": "bold green", "draining": "bold yellow"}.get(now.state, "bold red")
    lost_hosts = {name for name, host in now.hosts.items() if host.state == "lost"}
    lost = sum(of.breaker == "open" and of.host not in lost_hosts for of in now.devices.values())
    broken = len({variant for device in now.devices.values() for variant in device.broken})
    wrong = f" · {counted(len(lost_hosts), 'HOST', 'HOSTS')} LOST" if lost_hosts else ""
    wrong += (f" · {lost} LOST" if lost else "") + (f" · {broken} BROKEN" if broken else "")
    about = f" · policy {now.policy} · up {_ago(now.uptime_s)} · {now.inside:,} in flight"
    lines = [_line(("proteus ", "bold"), (now.state, style), (wrong, "bold red"), (about, ""))]
    if now.emulated:
        lines.append(_line(("EMULATED devices: times are those of their profiles", "bold yellow")))
    return lines


def _line(*parts: tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _table(columns: Sequence[Column], rows: Sequence[Row], count: int, narrow: Sequence[int]) -> Table:
    """A table of at most ``count`` rows, without the columns at the places ``narrow``."""
    kept = [place for place in range(len(columns)) if place not in narrow]
    shown = tables.table(*(columns[place] for place in kept), has_line=False)  # each line counts
    for cells, style in rows if len(rows) <= count else rows[: count - 1]:
        shown.add_row(*(Text(cells[place]) for place in kept), style=style)
    if len(rows) > count:
        shown.add_row(Text(f"… {len(rows) - count + 1} more"), style="dim")
    return shown


def _family(name: str, of: "FamilyState") -> Row:
    """The budget is the part used of the error budget of the last 15 minutes; `!` marks a missed target."""
    is_late, is_high = of.p99_s is not None and of.p99_s > of.slo_s, (of.violations or 0.0) > HIGH_FRAC
    used, met = of.recent_attainment.error_budget_used, of.recent_attainment.met
    cells = (
        name, _rate(of.demand_qps), _rate(of.throughput_qps), _percent(of.violations) + "!" * is_high,
        UNKNOWN if used is None else f"{used:,.0%}{'' if met else '!'}",
        mark_estimate(_percent(of.accuracy), estimated=of.estimated),
        mark_estimate(_percent(of.relative_accuracy), estimated=of.estimated),
        (UNKNOWN if of.p99_s is None else format_duration(of.p99_s)) + "!" * is_late, format_duration(of.slo_s),
    )  # fmt: skip
    return cells, "red" if is_late or is_high else ""


def _rate(qps: float) -> str:
    return f"{qps:,.0f}" if qps >= 10 or not qps else f"{qps:.1f}"  # noqa: PLR2004


def _percent(fraction: float | None) -> str:
    return UNKNOWN if fraction is None else f"{fraction:.1%}"


def _ago(seconds: float) -> str:
    whole = max(0, int(seconds))
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if whole >= size:
            return f"{whole // size} {unit}"
    return f"{whole} s"


# --- devices, and the hosts of a cluster

_STATES = {"open": "LOST", "half-open": "being tried out", "closed": "working"}
"""By state of the breaker, in the order in which devices are listed."""


def _device_rows(now: "ServerState", count: int) -> list[Row]:
    """A row for each device under its host; if these are more than ``count``, for hosts and devices with a problem.

    Lost devices and hosts come first, and the devices of a lost host have no row.
    """
    ranked = sorted(now.devices.items(), key=lambda named: list(_STATES).index(named[1].breaker))
    if not now.hosts:
        return [_device(name, of) for name, of in ranked]
    found: list[tuple[int, Row]] = []
    few: list[tuple[int, Row]] = []
    for host in dict.fromkeys((*(of.host for of in now.devices.values()), *now.hosts)):
        devices = {f"  {name}": of for name, of in ranked if of.host == host}
        is_lost = host in now.hosts and now.hosts[host].state == "lost"
        rank = 0 if is_lost else 1 + all(map(_is_well, devices.values()))
        head = (rank, _host(now, host, list(devices.values())))
        shown = {} if is_lost else devices
        found += [head, *((rank, _device(name, of)) for name, of in shown.items())]
        few += [head, *((rank, _device(name, of)) for name, of in shown.items() if not _is_well(of))]
    rows = found if len(found) <= count else few
    return [row for _, row in sorted(rows, key=lambda ranked: ranked[0])]


def _is_well(of: "DeviceState") -> bool:
    return of.breaker == "closed" and not of.broken


def _host(now: "ServerState", name: str, devices: Sequence["DeviceState"]) -> Row:
    """The state is like ``"connected, 7 of 8 devices work, 0.4 ms away"``, or ``"LOST 12 s ago, 8 devices: …"``."""
    counts = Counter(variant for device in devices for variant in device.variants).most_common()
    hosted = ", ".join(f"{count} × {each}" if count > 1 else each for each, count in counts[:MAX_VARIANTS])
    hosted += " …" if len(counts) > MAX_VARIANTS else ""
    working, host = sum(of.breaker == "closed" for of in devices), now.hosts.get(name)
    every, label, style = counted(len(devices), "device"), f"host {name}", "bold"
    state = every if working == len(devices) else f"{working} of {every} work"
    if host is None:
        label = "this machine"
    elif host.state == "lost":
        ago = "" if host.state_s is None else f" {format_duration(host.state_s)} ago"
        state, style = f"LOST{ago}, {every}" + (f": {host.reason}" if host.reason else ""), "bold red"
    else:
        away = "" if host.round_trip_s is None else f", {format_duration(host.round_trip_s)} away"
        state = f"connected, {state}{_shared(host.servers)}{away}"
    return _cells(label, hosted, devices, state, style)


def _device(name: str, of: "DeviceState") -> Row:
    """The state is like ``"LOST, again in 4 s: its process has ended"``, or ``"working; without digits-l: …"``."""
    state = _STATES[of.breaker] + _shared(of.servers)
    if of.breaker == "open" and of.retry_s is not None:
        state += f", again in {of.retry_s:.0f} s"
    if of.reason:
        state += f": {of.reason}"
    if of.broken:
        state += f"; without {', '.join(of.broken)}"
    if len(of.broken) == 1:
        state += f": {next(iter(of.broken.values()))}"
    style = "bold red" if of.breaker == "open" else "" if _is_well(of) else "yellow"
    return _cells(name, ", ".join(of.variants), [of], state, style)


def _shared(servers: int) -> str:
    return f", shared by {servers} servers" if servers > 1 else ""


def _cells(name: str, hosts: str, of: Sequence["DeviceState"], state: str, style: str) -> Row:
    loads, batches = [device.load for device in of], [device.mean_batch for device in of if device.mean_batch]
    load = f"{sum(loads) / len(loads):.1%}" if loads else UNKNOWN
    load += f" ≤ {max(loads):.0%}" if len(of) > 1 else ""
    batch = f"{sum(batches) / len(batches):.1f}" if batches else UNKNOWN
    return (name, hosts or UNKNOWN, load, batch, state), style
