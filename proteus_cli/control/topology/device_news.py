"""What people are told of devices that are lost and come back: once for the devices of a host that share its fate.

A host is lost where its agent can't be reached, or where all of its devices, several, are lost at once for one reason.
Then nothing is told of these devices until some serve again and none is being tried out: the host is back. What of
them comes later is told together, too. All other devices are told of one by one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from proteus_cli.control.topology.breaker import BreakerState
from proteus_cli.domain.device import by_host
from proteus_cli.units import counted, format_duration

_TOLD = {BreakerState.OPEN: "lost", BreakerState.HALF_OPEN: "on probation", BreakerState.CLOSED: "serves again"}


@dataclass(frozen=True, slots=True)
class DeviceHealth:
    """A device's breaker, and why it is not closed. ``host_loss``: why the whole host was lost, with this device."""

    breaker: BreakerState
    reason: str = ""
    host_loss: str = ""


@dataclass(frozen=True, slots=True)
class News:
    """What happened to devices, and why."""

    text: str
    reason: str


@dataclass(slots=True)
class _HostOutage:
    """A host that was lost: when, the devices that do not serve again yet, and whether it was told that it is back."""

    since_s: float
    away: set[str]
    is_back: bool = False


class DeviceNews:
    """Compares the devices with what they were at the last look; at the first one, with ``devices`` that all serve."""

    def __init__(self, devices: Iterable[str]) -> None:
        self._breakers = dict.fromkeys(devices, BreakerState.CLOSED)
        self._outages: dict[str, _HostOutage] = {}

    def look(self, devices: Mapping[str, DeviceHealth], now_s: float) -> list[News]:
        """What has changed since the last look; ``devices`` are all, by id."""
        before, self._breakers = self._breakers, {device: now.breaker for device, now in devices.items()}
        changed = [
            device for device, now in devices.items() if now.breaker is not before.get(device, BreakerState.CLOSED)
        ]
        hosts, news = by_host(devices), list[News]()
        for host, of_host in by_host(changed).items():
            if host:
                known = {device: devices[device] for device in hosts[host]}
                news += self._of_host(host, known, of_host, now_s)
            else:
                news += [_alone(device, devices[device]) for device in of_host]
        return news

    def _of_host(
        self, host: str, known: Mapping[str, DeviceHealth], changed: Sequence[str], now_s: float
    ) -> list[News]:
        """``known`` are all devices of the host."""
        news, outage = list[News](), self._outages.get(host)
        away = outage.away if outage is not None else set[str]()
        together, why = _lost_together(known, changed)
        if not together <= away and (outage is None or outage.is_back):
            news.append(News(f"host {host} is lost: {counted(len(together - away), 'device')}", why))
            outage = self._outages[host] = _HostOutage(now_s, away)
        away |= together
        news += [_alone(device, known[device]) for device in changed if device not in away]
        arrived = {device for device in away if known[device].breaker is BreakerState.CLOSED}
        is_any_tried_out = any(known[device].breaker is BreakerState.HALF_OPEN for device in away)
        if outage is not None and arrived and not is_any_tried_out:
            news.append(_back(host, outage, len(arrived), now_s))
            outage.is_back = True
            away -= arrived
            if not away:
                del self._outages[host]
        return news


def _lost_together(known: Mapping[str, DeviceHealth], changed: Iterable[str]) -> tuple[set[str], str]:
    """Which of the devices that changed were lost with their host, and why."""
    lost = {device: known[device] for device in changed if known[device].breaker is BreakerState.OPEN}
    with_host = {device: now.host_loss for device, now in lost.items() if now.host_loss}
    if with_host:
        return set(with_host), next(iter(with_host.values()))
    reasons = {now.reason for now in lost.values()}
    is_whole = len(lost) > 1 and not any(now.breaker is BreakerState.CLOSED for now in known.values())
    return (set(lost), reasons.pop()) if is_whole and len(reasons) == 1 else (set(), "")


def _alone(device: str, now: DeviceHealth) -> News:
    return News(f"{device}: {_TOLD[now.breaker]}", now.reason)


def _back(host: str, outage: _HostOutage, arrived: int, now_s: float) -> News:
    if outage.is_back:
        return News(f"host {host}: {counted(arrived, 'more device serves', 'more devices serve')} again", "")
    count = counted(len(outage.away), "device")
    shown = count if arrived == len(outage.away) else f"{arrived} of {count}"
    return News(f"host {host} is back: {shown}", f"it was away for {format_duration(now_s - outage.since_s)}")
