"""The steps of a plan change: which device loads when, so that no family loses more capacity than it can miss."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from proteus_cli.control.decision import Host, Keep, Load
from proteus_cli.control.devices.worker_phase import WorkerEvent, WorkerPhase
from proteus_cli.control.dispatch.workers import WorkerState
from proteus_cli.control.topology.standbys import Replica, Standbys
from proteus_cli.domain.catalog import VariantKey

MAX_UNAVAILABLE_FRAC = 0.5  # of a family's capacity; at more, one wrong plan takes a family out of service


@dataclass(slots=True)
class ChangingDevice:
    """One device on its way: what it hosts now, what the plan wants there, and the ``load`` that it is in.

    Its ``standbys`` are loaded beside what it hosts. ``hosted_before_loss`` is what it hosted when it was last lost.
    """

    hosts_now: tuple[Host, ...] = ()
    hosts_wanted: tuple[Host, ...] = ()
    load: Load | None = None
    standbys: frozenset[VariantKey] = frozenset()
    hosted_before_loss: tuple[Host, ...] = ()

    @property
    def is_complete(self) -> bool:
        """The device hosts all that the plan wants there."""
        return keys(self.hosts_wanted) <= keys(self.hosts_now)

    @property
    def resident(self) -> frozenset[VariantKey]:
        """All that is loaded, and during a load, what it loads."""
        return self.standbys | keys(self.hosts_now if self.load is None else self.hosts_wanted)

    @property
    def needs_load(self) -> bool:
        """Some of what the plan wants is not loaded; else its standbys need only be activated."""
        return not keys(self.hosts_wanted) <= self.resident

    @property
    def hosted(self) -> tuple[Host, ...]:
        """What the device has queries queued for: during a load, what it will host; before that, what it hosts."""
        return self.hosts_wanted if self.load is not None or self.is_complete else self.hosts_now


class PlanSteps:
    """Steps all devices from what they host to what the plan wants, and moves their workers between phases.

    Engines that fit beside those that serve are loaded by the driver before the plan is adopted: where that is so of
    all, all devices switch at once. Other devices load *in place*: they free what they have, load, and serve nothing
    meanwhile. While any does, what was loaded beside stands by, and like all standbys that the plan wants, it is
    activated once its device can be missed. Each end of a load may start others. A load that fails ends the change: no
    further device starts, or activates anything.
    """

    def __init__(
        self, workers: Mapping[str, WorkerState], max_unavailable_frac: float, standbys: Standbys | None = None
    ) -> None:
        self._workers, self._max_unavailable_frac = workers, max_unavailable_frac
        self._standbys = standbys or Standbys()
        self._devices = {device: ChangingDevice() for device in workers}
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
        """What a device has active; during a load in place, what it had before."""
        return self._devices[device].hosts_now

    def resident_on(self, device: str) -> frozenset[VariantKey]:
        """All that a device has loaded, or is loading: what is active, and its standbys."""
        return self._devices[device].resident

    def hosted_before_loss(self, device: str) -> tuple[Host, ...]:
        """What a device had active when it was last lost."""
        return self._devices[device].hosted_before_loss

    def spare_on(self, device: str) -> frozenset[VariantKey]:
        """The standbys of a device but those that it is to activate yet, in the change that goes on."""
        each = self._devices[device]
        return each.standbys if self._has_failed else each.standbys - keys(each.hosts_wanted)

    @property
    def standbys(self) -> dict[str, frozenset[VariantKey]]:
        """The standbys of the devices that have any."""
        return {device: each.standbys for device, each in self._devices.items() if each.standbys}

    @property
    def usable(self) -> AbstractSet[str]:
        """The devices that are not lost."""
        return self._available().keys()

    def keep_of(self, *devices: str) -> tuple[Keep, ...]:
        """What each of these devices keeps loaded."""
        return tuple(Keep(device, self._devices[device].resident) for device in devices)

    @property
    def unchanging(self) -> tuple[str, ...]:
        """The devices that host what the plan wants there."""
        return tuple(device for device, each in self._available().items() if each.load is None and each.is_complete)

    def add_device(self, device: str) -> None:
        """A device that hosts nothing, and of which no plan wants anything yet."""
        self._devices[device] = ChangingDevice()

    def add_standby(self, device: str, key: VariantKey) -> None:
        """A device has loaded a standby; nothing changes where the variant is active there by now."""
        each = self._devices[device]
        each.standbys |= {key} - each.resident

    def trim(self, device: str, also_needed: Collection[VariantKey] = ()) -> None:
        """Give standbys up that leave no memory for what is active, and for what is ``also_needed``."""
        each = self._devices[device]
        needed = keys(each.hosts_now).union(also_needed)
        each.standbys = self._standbys.kept(device, each.resident, needed, self._replicas())

    def give_up_standbys(self, device: str, keys: Collection[VariantKey]) -> None:
        """Give these standbys of a device up; variants that do not stand by there are passed over."""
        self._devices[device].standbys -= frozenset(keys)

    def make_room(self, hosted: Iterable[Host]) -> None:
        """Give standbys up that leave no memory to load ``hosted`` beside what is active."""
        wanted, replicas = self._by_device(hosted), self._replicas()
        for device, each in self._devices.items():
            needed = keys(each.hosts_now) | keys(wanted[device])
            if each.load is None and not needed <= each.resident:
                spared = self._standbys.kept(device, each.resident, needed, replicas)
                each.standbys = spared | (each.standbys & keys(wanted[device]))

    def begin(
        self, hosted: Sequence[Host], demand_qps: Mapping[str, float], in_place: Collection[str]
    ) -> tuple[Load, ...]:
        """Start towards a new plan; returns the first loads. A load for the old plan goes on if it is still wanted."""
        self._demand_qps, self._has_failed = demand_qps, False
        self._standbys.adopted(hosted)
        wanted, replicas = self._by_device(hosted), self._replicas()
        for device, each in self._devices.items():
            if each.load is not None and keys(each.hosts_wanted) != keys(wanted[device]):
                each.hosts_now, each.load = (), None
                self._workers[device].on(WorkerEvent.LOAD_ENDED)
            each.hosts_wanted = wanted[device]
        is_stepwise = bool(in_place) or any(each.load is not None for each in self._devices.values())
        for device, each in self._devices.items():
            if self._workers[device].is_serving and device not in in_place:
                if is_stepwise:
                    each.standbys |= keys(each.hosts_wanted) - keys(each.hosts_now)
                else:
                    self._switch(device, each, replicas)
        return self._advance()

    def loaded(self, load: Load, engines: Collection[VariantKey]) -> tuple[Load, ...] | None:
        """A load has ended and left ``engines`` on the device; returns the next loads.

        A load may have been given up, as its device is lost or a later plan wants other engines. Then nothing changes
        on this device: the loads that waited for it are returned, or None where no other device changes, either.
        """
        each = self._devices[load.device]
        if each.load is not load:
            before = self.hosted
            loads = self._advance()
            return loads if loads or self.hosted != before else None
        each.hosts_now, each.load = tuple(host for host in each.hosts_wanted if host.key in engines), None
        each.standbys &= frozenset(engines)
        self._workers[load.device].on(WorkerEvent.LOAD_ENDED)
        self._has_failed = self._has_failed or not each.is_complete
        return self._advance()

    def device_lost(self, device: str) -> None:
        """Nothing is loaded on the device any more."""
        each = self._devices[device]
        each.hosted_before_loss, each.hosts_now, each.load, each.standbys = each.hosts_now, (), None, frozenset()
        self._workers[device].on(WorkerEvent.DEVICE_LOST)

    def device_recovered(self, device: str, hosted: tuple[Host, ...] | None) -> tuple[Load, ...]:
        """The device serves what it has loaded, ``hosted``; None: it has nothing, and loads what the plan wants."""
        self._workers[device].on(WorkerEvent.DEVICE_RECOVERED)
        if hosted is not None:
            self._devices[device].hosts_wanted = self._devices[device].hosts_now = hosted
        return self._advance()

    def _advance(self) -> tuple[Load, ...]:
        """Start the loads that may start now, and switch the devices that need none."""
        available, loads, replicas = self._available(), list[Load](), self._replicas()
        may_go_on = not self._has_failed
        while may_go_on:
            starting = next_to_change(available, self._demand_qps, self._max_unavailable_frac)
            activated = [device for device in starting if not available[device].needs_load]
            for device in activated:
                self._switch(device, available[device], replicas)
            if not activated:  # else others may start, now that these serve
                loads += [self._start(device, available[device], replicas) for device in starting]
                break
        for device, each in available.items():
            if each.load is None and each.is_complete:
                self._switch(device, each, replicas)
        return tuple(loads)

    def _start(self, device: str, each: ChangingDevice, replicas: Mapping[Replica, int]) -> Load:
        wanted = keys(each.hosts_wanted)
        each.standbys = self._standbys.kept(device, each.resident, wanted, replicas)
        each.load = Load(device, each.hosts_wanted, each.standbys | (each.resident & wanted))
        self._workers[device].on(WorkerEvent.LOAD_STARTED)
        return each.load

    def _switch(self, device: str, each: ChangingDevice, replicas: Mapping[Replica, int]) -> None:
        """All that the plan wants there is loaded: activate it. What it replaces stands by, as far as memory lasts."""
        loaded, wanted = each.resident, keys(each.hosts_wanted)
        each.hosts_now, each.standbys = each.hosts_wanted, self._standbys.kept(device, loaded, wanted, replicas)

    def _replicas(self) -> Counter[Replica]:
        return self._standbys.replicas({device: each.resident for device, each in self._devices.items()})

    def _by_device(self, hosted: Iterable[Host]) -> dict[str, tuple[Host, ...]]:
        wanted: dict[str, tuple[Host, ...]] = dict.fromkeys(self._devices, ())
        for host in hosted:
            wanted[host.device] += (host,)
        return wanted

    def _available(self) -> dict[str, ChangingDevice]:
        return {
            device: each
            for device, each in self._devices.items()
            if self._workers[device].phase is not WorkerPhase.LOST
        }


def next_to_change(
    devices: Mapping[str, ChangingDevice], demand_qps: Mapping[str, float], max_unavailable_frac: float
) -> list[str]:
    """The devices that activate standbys now, if there are any; else those that start to load.

    Those go first whose family has the least of what it needs. A device leaves a family only where the other devices
    carry the family's demand. Where not even all devices carry it, the change itself is what helps: the more is
    missing, the larger the part of the family's capacity that may be unavailable at once, up to
    ``max_unavailable_frac``. Where all wait for each other, the device goes that is missed least.
    """
    capacity = _Capacity.of(devices.values(), demand_qps)
    waiting = [device for device, each in devices.items() if not each.is_complete and each.load is None]
    waiting.sort(key=lambda device: min(capacity.ratio(host.family) for host in devices[device].hosts_wanted))
    activating = [device for device in waiting if not devices[device].needs_load]
    starting = []
    for device in activating:
        if capacity.can_activate(devices[device]):
            starting.append(device)
            capacity.activate(devices[device])
    if starting:
        return starting
    for device in waiting:
        each = devices[device]
        if each.needs_load and all(
            capacity.can_miss(host.family, host.capacity_qps, max_unavailable_frac) for host in each.hosts_now
        ):
            starting.append(device)
            capacity.leave(each)
    if not starting and waiting and not any(each.load is not None for each in devices.values()):
        starting = [max(activating + waiting, key=lambda device: capacity.ratio_without(devices[device]))]
    return starting


@dataclass(slots=True)
class _Capacity:
    """By family, in queries per second: ``available`` now, in ``total`` if no device were loading, and the demand."""

    available: dict[str, float]
    total: dict[str, float]
    demand_qps: Mapping[str, float]

    @classmethod
    def of(cls, devices: Iterable[ChangingDevice], demand_qps: Mapping[str, float]) -> "_Capacity":
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

    def ratio_without(self, device: ChangingDevice) -> float:
        """The lowest ratio among the families that lose capacity once a device has activated or begins to load."""
        return min(
            (self.ratio(family, lost) for family, lost in _lost_qps(device).items() if lost > 0), default=math.inf
        )

    def can_miss(self, family: str, qps: float, max_unavailable_frac: float) -> bool:
        """Whether a family can do without so much for a while, or gains if a host of it changes soon."""
        total_qps, left_qps = self.total[family], self.available[family] - qps
        if left_qps < (1 - max_unavailable_frac) * total_qps * (1 - 1e-9):
            return False
        if self.ratio(family, qps) >= 1:
            return True
        served_frac = total_qps / self.demand_qps[family]
        return served_frac < 1 and left_qps >= served_frac * total_qps

    def can_activate(self, device: ChangingDevice) -> bool:
        """Whether each family can do without what it loses as a device activates its standbys."""
        lost_qps = _lost_qps(device)
        return all(lost <= 0 or self.can_miss(family, lost, 1.0) for family, lost in lost_qps.items())

    def leave(self, device: ChangingDevice) -> None:
        for host in device.hosts_now:
            self.available[host.family] -= host.capacity_qps

    def activate(self, device: ChangingDevice) -> None:
        for family, lost in _lost_qps(device).items():
            self.available[family] = self.available.get(family, 0.0) - lost
            self.total[family] = self.total.get(family, 0.0) - lost


def _lost_qps(device: ChangingDevice) -> dict[str, float]:
    """What each family loses, or gains (below 0), when a device activates what the plan wants, or begins to load it."""
    lost: dict[str, float] = {}
    for host in device.hosts_now:
        lost[host.family] = lost.get(host.family, 0.0) + host.capacity_qps
    for host in () if device.needs_load else device.hosts_wanted:
        lost[host.family] = lost.get(host.family, 0.0) - host.capacity_qps
    return lost


def keys(hosted: Iterable[Host]) -> frozenset[VariantKey]:
    """Which variants these are."""
    return frozenset([host.key for host in hosted])
