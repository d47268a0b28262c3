"""What people are told of devices that are lost, come back and join: once for those of a host that share its fate.

A host is lost where its agent can't be reached, or where all of its devices, several, are lost at once for one reason.
It joins where all of its devices, several, are new at once. Then nothing is told of these devices until some serve and
none is being tried out: the host is back, or has joined. What of them comes later is told together, too. All other
devices are told of one by one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from proteus_cli.control.devices.breaker import NEW, BreakerState
from proteus_cli.domain.device import by_host
from proteus_cli.units import counted, format_duration

_TOLD = {BreakerState.OPEN: "lost", BreakerState.HALF_OPEN: "on probation", BreakerState.CLOSED: "serves again"}
_TOLD_OF_NEW = {**_TOLD, BreakerState.OPEN: "cannot join", BreakerState.CLOSED: "has joined"}


class DeviceHealth(NamedTuple):
    """A device's breaker, and why it is not closed. ``host_loss``: why the whole host was lost, with this device.

    What ``is_new`` was never lost.
    """

    breaker: BreakerState
    reason: str = ""
    host_loss: str = ""
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class News:
    """What happened to devices, and why."""

    text: str
    reason: str = ""


@dataclass(slots=True)
class _Absence:
    """Of a host that was lost or joins: since when, the devices that do not serve yet, and what was told since.

    ``is_over``: that the host is back, or has joined; ``is_failed``: that it cannot join.
    """

    since_s: float
    away: set[str]
    is_joining: bool = False
    is_over: bool = False
    is_failed: bool = False


class DeviceNews:
    """Compares the devices with what they were at the last look; at the first one, with ``devices`` that all serve."""

    def __init__(self, devices: Iterable[str]) -> None:
        self._breakers = dict.fromkeys(devices, BreakerState.CLOSED)
        self._absences: dict[str, _Absence] = {}

    def look(self, devices: Mapping[str, DeviceHealth], now_s: float) -> list[News]:
        """What has changed since the last look; ``devices`` are all, by id."""
        before, self._breakers = self._breakers, {device: now.breaker for device, now in devices.items()}
        changed = [device for device, now in devices.items() if now.breaker is not before.get(device)]
        hosts, news = by_host(devices) if changed else {}, list[News]()
        for host, of_host in by_host(changed).items():
            known = {device: devices[device] for device in hosts[host]}
            news += self._of_host(host, known, of_host, before, now_s) if host else _alone(known, of_host, before)
        return news

    def _of_host(
        self,
        host: str,
        known: Mapping[str, DeviceHealth],
        changed: Sequence[str],
        before: Mapping[str, BreakerState],
        now_s: float,
    ) -> list[News]:
        """``known`` are all devices of the host; ``before`` is of all devices."""
        news, absence = list[News](), self._absences.get(host)
        away = absence.away if absence is not None else set[str]()
        joining = set(known) if len(known) > 1 and before.keys().isdisjoint(known) else set[str]()
        lost, why = _lost_together(known, changed, before)
        if joining:
            news.append(News(f"host {host} joins: {counted(len(joining), 'device')}"))
            absence = self._absences[host] = _Absence(now_s, away, is_joining=True)
        elif not lost <= away and (absence is None or absence.is_over):
            news.append(News(f"host {host} is lost: {counted(len(lost - away), 'device')}", why))
            absence = self._absences[host] = _Absence(now_s, away)
        away |= joining | lost
        news += _alone(known, [device for device in changed if device not in away], before)
        if absence is not None:
            news += _ended(host, absence, known, now_s)
            if not away:
                del self._absences[host]
        return news


def _lost_together(
    known: Mapping[str, DeviceHealth], changed: Iterable[str], before: Mapping[str, BreakerState]
) -> tuple[set[str], str]:
    """Which of the devices that changed were lost with their host, and why. Some may be tried out already."""
    away = {device: now for device, now in known.items() if now.breaker is not BreakerState.CLOSED}
    with_host = {device: away[device].host_loss for device in changed if device in away and away[device].host_loss}
    if with_host:
        return set(with_host), next(iter(with_host.values()))
    lost = {device for device in away if before.get(device) is BreakerState.CLOSED}
    reasons = {away[device].reason for device in lost}
    is_whole = len(lost) > 1 and len(away) == len(known)
    return (lost, reasons.pop()) if is_whole and len(reasons) == 1 else (set(), "")


def _alone(known: Mapping[str, DeviceHealth], changed: Iterable[str], before: Mapping[str, BreakerState]) -> list[News]:
    """A piece of news for each device."""
    return [
        News(f"{device}: joins")
        if device not in before
        else News(f"{device}: {(_TOLD_OF_NEW if now.is_new else _TOLD)[now.breaker]}", now.reason)
        for device, now in ((device, known[device]) for device in changed)
    ]


def _ended(host: str, absence: _Absence, known: Mapping[str, DeviceHealth], now_s: float) -> list[News]:
    """What is told as devices of an absent host have been tried out; those that serve are no longer away."""
    if any(known[device].breaker is BreakerState.HALF_OPEN for device in absence.away):
        return []
    arrived = {device for device in absence.away if known[device].breaker is BreakerState.CLOSED}
    all_of_them, was_over = counted(len(absence.away), "device"), absence.is_over
    count = all_of_them if len(arrived) == len(absence.away) else f"{len(arrived)} of {all_of_them}"
    if not arrived:
        return _failed(host, absence, known)
    absence.is_over = True
    absence.away -= arrived
    if was_over:
        return [News(f"host {host}: {counted(len(arrived), 'more device serves', 'more devices serve')}")]
    if absence.is_joining:
        return [News(f"host {host} has joined: {count}")]
    return [News(f"host {host} is back: {count}", f"it was away for {format_duration(now_s - absence.since_s)}")]


def _failed(host: str, absence: _Absence, known: Mapping[str, DeviceHealth]) -> list[News]:
    """A host that joins and cannot is told of once; one that was lost is lost until it is back."""
    is_untried = all(known[device].reason == NEW for device in absence.away)
    if not absence.is_joining or absence.is_over or absence.is_failed or is_untried:
        return []
    absence.is_failed = True
    reason = known[min(absence.away)].reason
    return [News(f"host {host} cannot join: {counted(len(absence.away), 'device')}", reason)]
