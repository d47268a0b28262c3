"""Devices and hosts that fail and come back, in virtual time, by the rules of a live server.

* A device is lost at once, and a host with all of its devices, as its connection ends.
* A lost host is tried again at the pauses of `ConnectionPauses`. Its devices wait for that.
* A lost device is tried again when its `Breaker` says so, which is checked every `CHECK_EVERY_S`. If it can't be
  opened, it has failed its probation. Else it is opened, loads what it hosted, runs a batch of each, and serves again.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from proteus_cli.control.decision import HostedVariant, keys
from proteus_cli.control.devices.breaker import CHECK_EVERY_S, Breaker, BreakerEvent, BreakerState
from proteus_cli.control.topology.hosting import hosted_by
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.cluster import ConnectionPauses
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.domain.report import Loss
from proteus_cli.simulation.conditions import Failure
from proteus_cli.simulation.fleet import Fleet


@dataclass(slots=True)
class _FailingDevice:
    """A device that can't be opened until ``shut_until_s``, with what is ``loaded`` during its probation.

    ``life`` counts its losses, as in `SimulatedDevice`.
    """

    shut_until_s: float = -math.inf
    breaker: Breaker = field(default_factory=Breaker)
    life: int = 0
    loaded: frozenset[VariantKey] = frozenset()


@dataclass(slots=True)
class _Link:
    """The connection with a host, made at ``since_s``, which can't be reached until ``away_until_s``."""

    devices: tuple[str, ...]
    is_connected: bool = True
    since_s: float = 0.0
    away_until_s: float = -math.inf
    pauses: ConnectionPauses = field(default_factory=ConnectionPauses)


class Losses:
    """Plays the ``failures`` of a run on a fleet. ``found`` are the losses, in order."""

    def __init__(self, failures: Sequence[Failure], fleet: Fleet, profiles: Mapping[str, Profile]) -> None:
        self._fleet, self._events, self._controller = fleet, fleet.events, fleet.controller
        self._profiles = profiles
        self._devices = {device: _FailingDevice() for failure in failures for device in failure.devices}
        self._links = {failure.host: _Link(failure.devices) for failure in failures if failure.host}
        self._link_of = {device: link for link in self._links.values() for device in link.devices}
        self.found, self._away = list[Loss](), list[set[str]]()  # by loss, the devices that are not back
        for failure in failures:
            self._events.at(failure.from_s, self._begin, failure)
        if failures:
            self._events.at(CHECK_EVERY_S, self._check)

    # --- failures

    def _begin(self, now_s: float, failure: Failure) -> None:
        if failure.host:
            link = self._links[failure.host]
            link.away_until_s = max(link.away_until_s, failure.until_s)
            if link.is_connected:
                link.is_connected = False
                self._events.at(now_s + link.pauses.next_s(now_s - link.since_s), self._connect, link)
                self._lose(now_s, link.devices, f"host {failure.host}")
            return
        for device in failure.devices:
            each = self._devices[device]
            each.shut_until_s = max(each.shut_until_s, failure.until_s)
            self._lose(now_s, (device,), device)

    def _connect(self, now_s: float, link: _Link) -> None:
        if now_s >= link.away_until_s:
            link.is_connected, link.since_s = True, now_s
        elif link.away_until_s < math.inf:
            self._events.at(now_s + link.pauses.next_s(), self._connect, link)

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
            self.found.append(Loss(what, len(lost), now_s, None))
            self._away.append(set(lost))
            self._fleet.lose(lost, now_s)

    # --- recovery

    def _check(self, now_s: float) -> None:
        """Try devices again that are due."""
        for device, each in self._devices.items():
            if each.breaker.state is BreakerState.OPEN and self._is_due(device, each, now_s):
                each.breaker.on(BreakerEvent.RETRIED, now_s)
                if now_s < each.shut_until_s:
                    each.breaker.on(BreakerEvent.DIED, now_s)
                else:
                    self._events.at(now_s + self._try_out_s(device, each, now_s), self._tried_out, device, each.life)
        if self._goes_on():
            self._events.at(now_s + CHECK_EVERY_S, self._check)

    def _is_due(self, device: str, each: _FailingDevice, now_s: float) -> bool:
        link = self._link_of.get(device)
        if link is not None and not link.is_connected:
            return False
        is_needed = self._controller.topology.is_needed(self._hostable_on(device))
        return now_s >= each.breaker.retry_s(is_needed=is_needed)

    def _try_out_s(self, device: str, each: _FailingDevice, now_s: float) -> float:
        """Begin the probation of a device, whose engines all work; returns the seconds that it takes."""
        conditions, hostable = self._fleet.conditions, self._hostable_on(device)
        hosted, others = self._controller.topology.probation(device, hostable, conditions.load_s)
        rows = hosted or dict.fromkeys(others[:1], 1)
        each.loaded = frozenset(rows)
        ready_s = self._loading_s(device, rows)
        batches_s = sum(self._fleet.times.of(device, *key)[0](count) for key, count in rows.items())
        return ready_s + batches_s * conditions.slow.factor_at(now_s + ready_s)

    def _tried_out(self, now_s: float, device: str, life: int) -> None:
        """Load the rest of what the plan in force wants on the device; then it serves again."""
        each, planned = self._devices[device], self._planned_on(device)
        if each.life != life:
            return
        rest = keys(planned) - each.loaded
        each.loaded |= rest
        rest_s = self._loading_s(device, rest)
        if rest_s > 0:
            self._events.at(now_s + rest_s, self._tried_out, device, life)
            return
        each.breaker.on(BreakerEvent.PASSED, now_s)
        for place, away in enumerate(self._away):
            if away == {device}:
                self.found[place] = replace(self.found[place], back_s=now_s)
            away.discard(device)
        self._fleet.apply(self._controller.device_recovered(device, now_s, planned), now_s)

    def _hostable_on(self, device: str) -> list[VariantProfile]:
        return [each for each in self._profiles[device].variants if each.points]

    def _planned_on(self, device: str) -> tuple[HostedVariant, ...]:
        """The hosts that the plan in force wants on a device."""
        hosted = hosted_by(self._controller.plan, self._profiles, self._controller.attainment)
        return tuple(host for host in hosted if host.device == device)

    def _loading_s(self, device: str, wanted: Iterable[VariantKey]) -> float:
        """Seconds to load variants one after another."""
        return sum(self._fleet.conditions.load_s(self._fleet.times.measured(device, *key)) for key in wanted)

    def _goes_on(self) -> bool:
        """Whether further checks can change anything."""
        fleet = self._fleet
        is_done = fleet.is_over and fleet.arrived == len(fleet.result.ended)
        return not is_done and (not fleet.is_over or bool(self._events) or any(map(self._can_return, self._devices)))

    def _can_return(self, device: str) -> bool:
        each, link = self._devices[device], self._link_of.get(device)
        away_s = link.away_until_s if link is not None else -math.inf
        return not each.breaker.is_closed and max(each.shut_until_s, away_s) < math.inf
