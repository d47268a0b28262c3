"""Devices and hosts that fail and come back, in virtual time: found out, given up, and taken back as by a live server.

What the failures of a run do, and what the server makes of it:

* A device is lost at once.
* A host is lost with all of its devices, at once, as its connection ends.
* A lost host is tried again at the pauses of `ConnectionPauses`. Its devices wait for that.
* A lost device is tried again when its `Breaker` says so, which is looked at every `CHECK_EVERY_S`. Where it can't be
  opened, it has failed its probation. Else it is opened, loads what it hosted, runs a batch of each, and serves again.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from proteus_cli.control.devices.breaker import CHECK_EVERY_S, Breaker, BreakerEvent, BreakerState
from proteus_cli.domain.cluster import ConnectionPauses
from proteus_cli.domain.report import Loss
from proteus_cli.simulation.conditions import Failure
from proteus_cli.simulation.events import Events
from proteus_cli.simulation.fleet import SimulatedFleet


@dataclass(slots=True)
class _FailingDevice:
    """A device that can't be opened until ``shut_until_s``; ``life`` counts its losses, as in `SimulatedDevice`."""

    shut_until_s: float = -math.inf
    breaker: Breaker = field(default_factory=Breaker)
    life: int = 0


@dataclass(slots=True)
class _Link:
    """The connection with a host, made at ``since_s``, which can't be reached until ``away_until_s``."""

    devices: tuple[str, ...]
    is_connected: bool = True
    since_s: float = 0.0
    away_until_s: float = -math.inf
    pauses: ConnectionPauses = field(default_factory=ConnectionPauses)


@dataclass(slots=True)
class _OpenLoss:
    """A loss, and which of its devices do not serve again yet."""

    what: str
    devices: int
    at_s: float
    away: set[str]
    back_s: float | None = None


class Losses:
    """Plays the ``failures`` of a run on a fleet. ``found`` are the losses, in order.

    ``open_requests``: how many have not ended; infinite while more may come.
    """

    def __init__(
        self,
        failures: Sequence[Failure],
        events: Events,
        fleet: SimulatedFleet,
        open_requests: Callable[[], float],
    ) -> None:
        self._events, self._fleet, self._open_requests = events, fleet, open_requests
        self._devices = {device: _FailingDevice() for failure in failures for device in failure.devices}
        self._links = {failure.host: _Link(failure.devices) for failure in failures if failure.host}
        self._link_of = {device: link for link in self._links.values() for device in link.devices}
        self._losses: list[_OpenLoss] = []
        for failure in failures:
            events.at(failure.from_s, self._begin, failure)
        if failures:
            events.at(CHECK_EVERY_S, self._check)

    @property
    def found(self) -> list[Loss]:
        return [Loss(each.what, each.devices, each.at_s, each.back_s) for each in self._losses]

    # --- what fails

    def _begin(self, now_s: float, failure: Failure) -> None:
        if failure.host:
            self._disconnect(now_s, failure.host, failure.until_s)
            return
        for device in failure.devices:
            each = self._devices[device]
            each.shut_until_s = max(each.shut_until_s, failure.until_s)
            self._lose(now_s, (device,), device)

    # --- what the server makes of it: hosts

    def _disconnect(self, now_s: float, host: str, until_s: float) -> None:
        link = self._links[host]
        link.away_until_s = max(link.away_until_s, until_s)
        if link.is_connected:
            link.is_connected = False
            self._events.at(now_s + link.pauses.next_s(now_s - link.since_s), self._connect, host)
            self._lose(now_s, link.devices, f"host {host}")

    def _connect(self, now_s: float, host: str) -> None:
        link = self._links[host]
        if now_s >= link.away_until_s:
            link.is_connected, link.since_s = True, now_s
        elif link.away_until_s < math.inf:
            self._events.at(now_s + link.pauses.next_s(), self._connect, host)

    # --- what the server makes of it: devices

    def _lose(self, now_s: float, devices: Sequence[str], what: str) -> None:
        lost = []
        for device in devices:
            each = self._devices[device]
            if each.breaker.is_closed:
                lost.append(device)
            if each.breaker.state is not BreakerState.OPEN:
                each.breaker.on(BreakerEvent.DIED, now_s)
                each.life += 1
        if lost:
            self._losses.append(_OpenLoss(what, len(lost), now_s, set(lost)))
            self._fleet.lose(lost, now_s)

    def _check(self, now_s: float) -> None:
        """Look for devices to be tried again."""
        for device, each in self._devices.items():
            if each.breaker.state is BreakerState.OPEN and self._is_to_retry(device, each, now_s):
                self._retry(device, each, now_s)
        if self._goes_on():
            self._events.at(now_s + CHECK_EVERY_S, self._check)

    def _is_to_retry(self, device: str, each: _FailingDevice, now_s: float) -> bool:
        link = self._link_of.get(device)
        is_reachable = link is None or link.is_connected
        return is_reachable and now_s >= each.breaker.retry_s(is_needed=self._fleet.is_needed(device))

    def _retry(self, device: str, each: _FailingDevice, now_s: float) -> None:
        each.breaker.on(BreakerEvent.RETRIED, now_s)
        if now_s < each.shut_until_s:
            each.breaker.on(BreakerEvent.DIED, now_s)
        else:
            self._events.at(now_s + self._fleet.try_out_s(device, now_s), self._tried_out, device, each.life)

    def _tried_out(self, now_s: float, device: str, life: int) -> None:
        each = self._devices[device]
        if each.life != life:
            return
        rest_s = self._fleet.load_rest_s(device)
        if rest_s > 0:
            self._events.at(now_s + rest_s, self._tried_out, device, life)
            return
        each.breaker.on(BreakerEvent.PASSED, now_s)
        for loss in self._losses:
            if device in loss.away:
                loss.away.remove(device)
                loss.back_s = loss.back_s if loss.away else now_s
        self._fleet.recover(device, now_s)

    def _goes_on(self) -> bool:
        """Whether it still makes a difference to look."""
        left = self._open_requests()
        if left in {0, math.inf}:
            return left > 0
        return bool(self._events) or any(map(self._can_change, self._devices, self._devices.values()))

    def _can_change(self, device: str, each: _FailingDevice) -> bool:
        """The device may come back."""
        if each.breaker.is_closed:
            return False
        link = self._link_of.get(device)
        return max(each.shut_until_s, link.away_until_s if link is not None else -math.inf) < math.inf
