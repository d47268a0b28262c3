"""The roll-out of a plan: which device loads when, so that no family loses more of its capacity than it can miss."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from proteus_cli.control.decision import Host, Load
from proteus_cli.control.dispatch.workers import WorkerEvent, WorkerPhase, WorkerState
from proteus_cli.domain.catalog import VariantKey

MAX_UNAVAILABLE_FRAC = 0.5  # of a family's capacity; at more, one wrong plan takes a family out of service


@dataclass(slots=True)
class DeviceRollout:
    """One device on its way: what it hosts now, what the plan wants there, and the ``load`` that it is in."""

    hosts_now: tuple[Host, ...] = ()
    hosts_wanted: tuple[Host, ...] = ()
    load: Load | None = None

    @property
    def is_complete(self) -> bool:
        """Nothing has to be loaded."""
        return keys(self.hosts_wanted) <= keys(self.hosts_now)

    @property
    def hosted(self) -> tuple[Host, ...]:
        """What the device has queries queued for: during a load, what it will host; before that, what it hosts."""
        return self.hosts_wanted if self.load is not None or self.is_complete else self.hosts_now


class Rollout:
    """Steps all devices from what they host to what the plan wants, and moves their workers between phases.

    Engines that fit beside those that serve are loaded by the driver before the plan is adopted: such a device switches
    at once. Other devices load *in place*: they free what they have, load, and serve nothing meanwhile. Each end of a
    load may start others. A load that fails ends the roll-out: no further device starts.
    """

    def __init__(self, workers: Mapping[str, WorkerState], max_unavailable_frac: float) -> None:
        self._workers, self._max_unavailable_frac = workers, max_unavailable_frac
        self._devices = {device: DeviceRollout() for device in workers}
        self._demand_qps: Mapping[str, float] = {}
        self._has_failed = False

    @property
    def hosted(self) -> tuple[Host, ...]:
        """All hosts that queries are queued for; on a lost device, what the plan wants there, for its return."""
        available = self._available()
        return tuple(
            host
            for device, each in self._devices.items()
            for host in (each.hosted if device in available else each.hosts_wanted)
        )

    def hosted_on(self, device: str) -> tuple[Host, ...]:
        """What a device has loaded; during a load in place, what it had before."""
        return self._devices[device].hosts_now

    def begin(
        self, hosted: Iterable[Host], demand_qps: Mapping[str, float], in_place: Collection[str]
    ) -> tuple[Load, ...]:
        """Start towards a new plan; returns the first loads. A load for the old plan goes on if it is still wanted."""
        self._demand_qps, self._has_failed = demand_qps, False
        wanted: dict[str, tuple[Host, ...]] = dict.fromkeys(self._devices, ())
        for host in hosted:
            wanted[host.device] += (host,)
        for device, each in self._devices.items():
            worker = self._workers[device]
            if each.load is not None and keys(each.hosts_wanted) != keys(wanted[device]):
                each.hosts_now, each.load = (), None
                worker.on(WorkerEvent.LOAD_ENDED)
            each.hosts_wanted = wanted[device]
            if worker.is_serving and device not in in_place:
                each.hosts_now = each.hosts_wanted
        return self._advance()

    def loaded(self, load: Load, engines: Collection[VariantKey]) -> tuple[Load, ...] | None:
        """A load has ended and left ``engines`` on the device; returns the next loads.

        Where the load was given up, as its device is lost or a later plan wants other engines, nothing changes on this
        device; loads that waited for it may start, else None is returned.
        """
        each = self._devices[load.device]
        if each.load is not load:
            return self._advance() or None
        each.hosts_now, each.load = tuple(host for host in each.hosts_wanted if host.key in engines), None
        self._workers[load.device].on(WorkerEvent.LOAD_ENDED)
        self._has_failed = self._has_failed or not each.is_complete
        return self._advance()

    def device_lost(self, device: str) -> None:
        """Nothing is loaded on the device any more."""
        self._devices[device].hosts_now, self._devices[device].load = (), None
        self._workers[device].on(WorkerEvent.DEVICE_LOST)

    def device_recovered(self, device: str, hosted: tuple[Host, ...] | None) -> tuple[Load, ...]:
        """The device serves what it has loaded, ``hosted``; None: it has nothing, and loads what the plan wants."""
        self._workers[device].on(WorkerEvent.DEVICE_RECOVERED)
        if hosted is not None:
            self._devices[device].hosts_wanted = self._devices[device].hosts_now = hosted
        return self._advance()

    def _advance(self) -> tuple[Load, ...]:
        """Start the loads that may start now, and switch the devices that need none."""
        available, loads = self._available(), list[Load]()
        if not self._has_failed:
            for device in next_to_load(available, self._demand_qps, self._max_unavailable_frac):
                each = available[device]
                each.load = Load(device, each.hosts_wanted)
                loads.append(each.load)
                self._workers[device].on(WorkerEvent.LOAD_STARTED)
        for each in available.values():
            if each.load is None and each.is_complete:
                each.hosts_now = each.hosts_wanted
        return tuple(loads)

    def _available(self) -> dict[str, DeviceRollout]:
        return {
            device: each
            for device, each in self._devices.items()
            if self._workers[device].phase is not WorkerPhase.LOST
        }


def next_to_load(
    devices: Mapping[str, DeviceRollout], demand_qps: Mapping[str, float], max_unavailable_frac: float
) -> list[str]:
    """The devices that start to load now, those first whose family has the least of what it needs.

    A device leaves a family only where the other devices carry the family's demand. Where not even all devices carry
    it, the change itself is what helps: the more is missing, the larger the part of the family's capacity that may be
    unavailable at once, up to ``max_unavailable_frac``. Where all wait for each other, the device goes that is missed
    least.
    """
    capacity = _Capacity.of(devices.values(), demand_qps)
    waiting = [device for device, each in devices.items() if not each.is_complete and each.load is None]
    waiting.sort(key=lambda device: min(capacity.ratio(host.family) for host in devices[device].hosts_wanted))
    starting = []
    for device in waiting:
        if all(capacity.can_miss(host, max_unavailable_frac) for host in devices[device].hosts_now):
            starting.append(device)
            capacity.leave(devices[device])
    if not starting and waiting and not any(each.load is not None for each in devices.values()):
        starting = [max(waiting, key=lambda device: capacity.ratio_without(devices[device]))]
    return starting


@dataclass(slots=True)
class _Capacity:
    """By family, in queries per second: ``available`` now, in ``total`` if no device were loading, and the demand."""

    available: dict[str, float]
    total: dict[str, float]
    demand_qps: Mapping[str, float]

    @classmethod
    def of(cls, devices: Iterable[DeviceRollout], demand_qps: Mapping[str, float]) -> "_Capacity":
        available: dict[str, float] = {}
        total: dict[str, float] = {}
        for each in devices:
            is_loading = each.load is not None
            for host in each.hosts_now if is_loading else each.hosted:
                total[host.family] = total.get(host.family, 0.0) + host.capacity_qps
                available[host.family] = available.get(host.family, 0.0) + host.capacity_qps * (not is_loading)
        return cls(available, total, demand_qps)

    def ratio(self, family: str, without_qps: float = 0.0) -> float:
        """Available capacity over demand of a family."""
        demand_qps = self.demand_qps.get(family, 0.0)
        return (self.available.get(family, 0.0) - without_qps) / demand_qps if demand_qps > 0 else math.inf

    def ratio_without(self, device: DeviceRollout) -> float:
        """The lowest ratio among a device's families once the device leaves them."""
        return min((self.ratio(host.family, host.capacity_qps) for host in device.hosts_now), default=math.inf)

    def can_miss(self, host: Host, max_unavailable_frac: float) -> bool:
        """Whether a family can do without a host for a while, or gains if the host changes soon."""
        total_qps = self.total[host.family]
        left_qps = self.available[host.family] - host.capacity_qps
        if left_qps < (1 - max_unavailable_frac) * total_qps * (1 - 1e-9):
            return False
        if self.ratio(host.family, host.capacity_qps) >= 1:
            return True
        served_frac = total_qps / self.demand_qps[host.family]
        return served_frac < 1 and left_qps >= served_frac * total_qps

    def leave(self, device: DeviceRollout) -> None:
        for host in device.hosts_now:
            self.available[host.family] -= host.capacity_qps


def keys(hosted: Sequence[Host]) -> frozenset[VariantKey]:
    """Which variants these are."""
    return frozenset(host.key for host in hosted)
