"""The change from the plan in force to the next one: one state machine, which server and simulator obey alike.

A change loads new engines beside the active ones, on every device with enough memory. Then it switches. The other
devices load *in place*: they stop serving, free their engines, and load. A *complete* device hosts all variants that
the plan places there. A *waiting* device lacks some, or has them as standbys. A *loading* device does not serve until
its load ends (`ChangingDevice.load`). The worker of a *lost* device is in the phase `WorkerPhase.LOST`.

Where all devices can switch, they do so at one instant. While any device loads in place, the others wait: a device
activates or loads only if its families can do without it (`next_to_change`). The end of a load may start others.

The states of the change itself, and the states that may follow each, are in `TRANSITIONS`. The driver begins a change,
does the loads that `Effects` ask for, and reports their ends. ::

    effects = change.begin(hosted, profiles, free_bytes)
    effects = change.loaded_beside(failures, now_s)
    controller.adopt(plan, hosted, now_s, change.in_place)
    effects = change.loaded_in_place(failures)

If a load beside fails, the earlier plan stays in force. If memory is short, the device gives up its standbys and loads
in place. If a load in place fails, the driver begins a change back to the earlier plan; that change does not go back
again. The loss of a device is no failure: the change goes on without it.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import MappingProxyType

from proteus_cli.control.decision import (
    NO_EFFECTS,
    ChangeState,
    Effects,
    FailedLoad,
    HostedVariant,
    Keep,
    Load,
    StandbyLoad,
    keys,
)
from proteus_cli.control.devices.worker_phase import WorkerEvent, WorkerPhase
from proteus_cli.control.dispatch.workers import WorkerState
from proteus_cli.control.topology.standbys import RETRY_S, DeviceMemory
from proteus_cli.domain.catalog import NO_VARIANTS, VariantKey, VariantsByDevice
from proteus_cli.domain.device import host_of
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import OutOfDeviceMemory

KEPT_FREE_FRAC = 0.1  # of the free memory of a host: for batches, and for other programs


_BEGUN = frozenset({ChangeState.LOADING_BESIDE, ChangeState.LOADING_IN_PLACE})  # in place: no engine loads beside
TRANSITIONS: Mapping[ChangeState, frozenset[ChangeState]] = {
    ChangeState.DONE: _BEGUN,
    ChangeState.FAILED: _BEGUN,
    ChangeState.LOADING_BESIDE: frozenset({ChangeState.SWITCHING, ChangeState.FAILED}),
    ChangeState.SWITCHING: frozenset({ChangeState.LOADING_IN_PLACE, ChangeState.FAILED}),
    ChangeState.LOADING_IN_PLACE: _BEGUN | {ChangeState.DONE, ChangeState.FAILED, ChangeState.GOING_BACK},
    ChangeState.GOING_BACK: _BEGUN,
}


@dataclass(slots=True)
class ChangingDevice:
    """A device on its way from ``hosts_now`` to ``hosts_wanted``, by a ``load`` in place where it needs one.

    Its ``standbys`` are loaded beside what it hosts, and ``standby_load`` loads another. ``hosted_before_loss`` is what
    it hosted when it was last lost. No standby loads until ``rests_until_s``.
    """

    hosts_now: tuple[HostedVariant, ...] = ()
    hosts_wanted: tuple[HostedVariant, ...] = ()
    load: Load | None = None
    standbys: frozenset[VariantKey] = frozenset()
    standby_load: StandbyLoad | None = None
    rests_until_s: float = 0.0
    hosted_before_loss: tuple[HostedVariant, ...] = ()

    @property
    def is_complete(self) -> bool:
        """The device hosts all that the plan wants there."""
        return self.hosts_wanted is self.hosts_now or keys(self.hosts_wanted) <= keys(self.hosts_now)

    @property
    def resident(self) -> frozenset[VariantKey]:
        """All that is loaded; during a load in place, also what it loads."""
        return self.standbys | keys(self.hosts_now if self.load is None else self.hosts_wanted)

    @property
    def loading(self) -> frozenset[VariantKey]:
        """The standby that the device loads."""
        return NO_VARIANTS if self.standby_load is None else frozenset({self.standby_load.key})

    @property
    def needs_load(self) -> bool:
        """Some of what the plan wants is not loaded; else its standbys need only be activated."""
        return not keys(self.hosts_wanted) <= self.resident

    @property
    def hosted(self) -> tuple[HostedVariant, ...]:
        """The hosts that queries are queued for: during a load the wanted ones, before it the active ones."""
        return self.hosts_wanted if self.load is not None or self.is_complete else self.hosts_now


class PlanChange:
    """All devices on their way to the latest plan. It also moves their workers between phases.

    ``plan`` is in force. ``in_place`` are the devices that must load in place. ``failures`` are the loads that failed.
    ``back_to`` is the plan that was in force before the change, if it placed anything. Devices with ``memory`` may have
    standbys; ``pinned`` variants make way for no other standby, only for a plan. ``standbys_changed`` tells dispatch
    that standbys have changed, and returns the workers to ask.
    """

    def __init__(
        self,
        workers: Mapping[str, WorkerState],
        max_unavailable_frac: float,
        standbys_changed: Callable[[], tuple[str, ...]],
    ) -> None:
        self._workers, self._max_unavailable_frac = workers, max_unavailable_frac
        self._standbys_changed = standbys_changed
        self.devices = dict[str, ChangingDevice]()
        self.memory, self.pinned = dict[str, DeviceMemory](), NO_VARIANTS
        self.plan: Plan | None = None
        self.state, self._may_go_back = ChangeState.DONE, True
        self.in_place: frozenset[str] = frozenset()
        self.failures: Sequence[FailedLoad] = ()
        self.back_to: Plan | None = None
        self._demand_qps: Mapping[str, float] = {}
        self._has_failed = False

    # --- the steps of a change, in order

    def begin(
        self,
        hosted: Sequence[HostedVariant],
        profiles: Mapping[str, Profile] = MappingProxyType({}),
        free_bytes: Mapping[str, int] = MappingProxyType({}),
        in_place: Collection[str] = (),
    ) -> Effects:
        """Load ``hosted`` beside what serves where there is memory, but not on the devices ``in_place``.

        Memory is as ``profiles`` by device say, and ``free_bytes`` by host, where they are known. The effects cancel
        loads of standbys that are in the way, and free what devices do not keep.
        """
        self._may_go_back = self.state is not ChangeState.GOING_BACK
        self._to(ChangeState.LOADING_BESIDE)
        self.failures, of_plan = [], self._by_device(hosted)
        self.back_to = self.plan if self.plan is not None and self.plan.placements else None
        cancel = tuple(
            each.standby_load
            for device, each in self.devices.items()
            if each.standby_load is not None
            for wanted in [keys(of_plan[device])]
            if each.standby_load.key not in wanted and wanted != keys(each.hosts_now)
        )
        beside = {device: keys(hosts) for device, hosts in of_plan.items() if hosts and device not in in_place}
        for device, wanted in beside.items():
            if self.devices[device].load is None and not wanted <= self.devices[device].resident:
                self.trim(device, wanted)
        ask = self._standbys_changed() if beside else ()
        self.in_place = frozenset(in_place) | self._without_room(beside, profiles, free_bytes)
        loading = self.usable - self.in_place
        return Effects(
            beside=tuple(host for host in hosted if host.device in loading), keep=self.keep, ask=ask, cancel=cancel
        )

    def loaded_beside(self, failures: Iterable[FailedLoad], now_s: float) -> Effects:
        """The loads beside what serves have ended, with these failures."""
        self.failures = list(failures)
        short = {failed.device for failed in self.failures if isinstance(failed.error, OutOfDeviceMemory)}
        full = frozenset(d for d in short if self.devices[d].hosts_now or self.devices[d].standbys)
        if any(failed.device not in full for failed in self.failures):
            return self.give_up()
        self._to(ChangeState.SWITCHING)
        self.failures, self.in_place = [], self.in_place | full
        for device in full:
            self.memory_short(device, now_s)
        return Effects(ask=self._standbys_changed() if full else (), keep=self.keep_of(*full))

    def adopt(self, plan: Plan, hosted: Sequence[HostedVariant], in_place: Collection[str]) -> tuple[Load, ...]:
        """Put the plan in force; returns the first loads in place.

        A load for the earlier plan goes on if it is still wanted.
        """
        self._to(ChangeState.LOADING_IN_PLACE)
        self.plan, self._demand_qps, self._has_failed = plan, plan.demand_qps, False
        wanted = self._by_device(hosted)
        for device, each in self.devices.items():
            if each.load is not None and keys(each.hosts_wanted) != keys(wanted[device]):
                each.hosts_now, each.load = (), None
                self._workers[device].on(WorkerEvent.LOAD_ENDED)
            each.hosts_wanted = wanted[device]
        is_stepwise = bool(in_place) or any(each.load is not None for each in self.devices.values())
        for device, each in self.devices.items():
            if self._workers[device].is_serving and device not in in_place:
                if is_stepwise:
                    each.standbys |= keys(each.hosts_wanted) - keys(each.hosts_now)
                else:
                    self._switch(device)
        return self._advance()

    def loaded(self, load: Load, engines: Collection[VariantKey]) -> tuple[Load, ...] | None:
        """A load in place has ended and left ``engines`` on the device; returns the next loads.

        A load that was given up leaves its device as it is, but its end may start loads that waited for it. Returns
        None if hosts and loads are the same as before. After a failed load, no further device starts a load or
        activates a standby.
        """
        each = self.devices[load.device]
        if each.load is not load:
            before = self.hosted
            loads = self._advance()
            return loads if loads or self.hosted != before else None
        each.hosts_now, each.load = tuple(host for host in each.hosts_wanted if host.key in engines), None
        each.standbys &= frozenset(engines)
        self._workers[load.device].on(WorkerEvent.LOAD_ENDED)
        self._has_failed = self._has_failed or not each.is_complete
        return self._advance()

    def loaded_in_place(self, failures: Sequence[FailedLoad]) -> Effects:
        """All loads in place have ended, with these failures. Devices free no engines in `ChangeState.GOING_BACK`."""
        self.failures = list(failures)
        if failures and self._may_go_back and self.back_to is not None:
            self._to(ChangeState.GOING_BACK)
            return NO_EFFECTS
        self._to(ChangeState.FAILED if failures else ChangeState.DONE)
        return Effects(keep=self.keep)

    def give_up(self) -> Effects:
        """End the change before the switch; the earlier plan stays in force."""
        self._to(ChangeState.FAILED)
        return Effects(keep=self.keep)

    # --- what devices have

    def hosted_on(self, device: str) -> tuple[HostedVariant, ...]:
        """The active hosts of a device; during a load in place, the hosts before it."""
        return self.devices[device].hosts_now

    def resident_on(self, device: str) -> frozenset[VariantKey]:
        """All that a device has loaded, or loads in place: what is active, and its standbys."""
        return self.devices[device].resident

    @property
    def hosted(self) -> tuple[HostedVariant, ...]:
        """All hosts that queries are queued for; on a lost device, what the plan wants there, for its return."""
        usable = self.usable
        return tuple(
            host
            for device, each in self.devices.items()
            for host in (each.hosted if device in usable else each.hosts_wanted)
        )

    @property
    def standbys(self) -> dict[str, frozenset[VariantKey]]:
        """The standbys of the devices that have any."""
        return {device: each.standbys for device, each in self.devices.items() if each.standbys}

    @property
    def usable(self) -> AbstractSet[str]:
        """The devices that are not lost."""
        return self._usable().keys()

    @property
    def unchanging(self) -> tuple[str, ...]:
        """The devices that host what the plan wants there."""
        return tuple(device for device, each in self._usable().items() if each.load is None and each.is_complete)

    @property
    def keep(self) -> tuple[Keep, ...]:
        """The engines that each device keeps loaded."""
        return self.keep_of(*self.usable)

    def keep_of(self, *devices: str) -> tuple[Keep, ...]:
        """The engines that each device keeps loaded."""
        return tuple(Keep(device, self.devices[device].resident) for device in devices)

    def spare_on(self, device: str) -> frozenset[VariantKey]:
        """The standbys of a device that the change is not to activate."""
        each = self.devices[device]
        return each.standbys if self._has_failed else each.standbys - keys(each.hosts_wanted)

    # --- what changes beside the plan

    def device_lost(self, device: str) -> None:
        """The device has lost all engines."""
        each = self.devices[device]
        self.devices[device] = ChangingDevice(
            hosts_wanted=each.hosts_wanted, rests_until_s=each.rests_until_s, hosted_before_loss=each.hosts_now
        )
        self._workers[device].on(WorkerEvent.DEVICE_LOST)

    def device_recovered(self, device: str, hosted: tuple[HostedVariant, ...] | None) -> tuple[Load, ...]:
        """The device serves what it has loaded, ``hosted``; None: it has nothing, and loads what the plan wants."""
        self._workers[device].on(WorkerEvent.DEVICE_RECOVERED)
        if hosted is not None:
            self.devices[device].hosts_wanted = self.devices[device].hosts_now = hosted
        return self._advance()

    def add_standby(self, device: str, key: VariantKey) -> None:
        """A device has loaded a standby; nothing changes where the variant is active there by now."""
        each = self.devices[device]
        each.standbys |= {key} - each.resident
        self.trim(device)

    def memory_short(self, device: str, now_s: float) -> None:
        """A device gives its standbys up, and gets no others for `RETRY_S`."""
        each = self.devices[device]
        each.standbys, each.standby_load = each.standbys - self.spare_on(device), None
        each.rests_until_s = now_s + RETRY_S

    def trim(self, device: str, also_needed: frozenset[VariantKey] = NO_VARIANTS) -> None:
        """Give standbys up that leave no memory for what is active, and for what is ``also_needed``."""
        each = self.devices[device]
        spared = each.standbys & also_needed
        each.standbys = self._kept(device, keys(each.hosts_now) | also_needed) | spared

    # --- steps

    def _to(self, state: ChangeState) -> None:
        if state not in TRANSITIONS[self.state]:
            raise RuntimeError(f"a plan change that is {self.state} cannot be {state}")
        self.state = state

    def _without_room(
        self, wanted: VariantsByDevice, profiles: Mapping[str, Profile], free_bytes: Mapping[str, int]
    ) -> set[str]:
        """The devices without memory for the ``wanted`` variants beside the loaded ones.

        The CPUs of a host share its memory: the ones with the smallest need come first.
        """
        full = set[str]()
        left_bytes = {host: free * (1 - KEPT_FREE_FRAC) for host, free in free_bytes.items()}
        needed_bytes, has_any = dict[str, int](), dict[str, bool]()
        for device in wanted.keys() & profiles.keys():
            each, profile = self.devices[device], profiles[device]
            resident = each.resident | (each.loading & wanted[device])
            has_any[device] = bool(resident)
            memory_bytes, missing = profile.device.memory_bytes, wanted[device] - resident
            if resident and missing and memory_bytes and profile.needed_bytes(wanted[device] | resident) > memory_bytes:
                full.add(device)
            elif profile.device.kind == "cpu" and host_of(device) in left_bytes:
                needed_bytes[device] = profile.needed_bytes(missing)
        for device in sorted(needed_bytes, key=lambda device: (needed_bytes[device], device)):
            left_bytes[host_of(device)] -= needed_bytes[device]
            if has_any[device] and needed_bytes[device] and left_bytes[host_of(device)] < 0:
                full.add(device)
        return full

    def _advance(self) -> tuple[Load, ...]:
        """Start the loads that may start now, and switch the devices that need none."""
        usable, loads = self._usable(), list[Load]()
        may_go_on = not self._has_failed
        while may_go_on:
            starting = next_to_change(usable, self._demand_qps, self._max_unavailable_frac)
            activated = [device for device in starting if not usable[device].needs_load]
            for device in activated:
                self._switch(device)
            if not activated:  # else others may start, now that these serve
                loads += map(self._start, starting)
                break
        for device in self.unchanging:
            self._switch(device)
        return tuple(loads)

    def _start(self, device: str) -> Load:
        each = self.devices[device]
        wanted = keys(each.hosts_wanted)
        each.standbys = self._kept(device, wanted)
        each.load = Load(device, each.hosts_wanted, each.standbys | (each.resident & wanted))
        self._workers[device].on(WorkerEvent.LOAD_STARTED)
        return each.load

    def _switch(self, device: str) -> None:
        """Activate the planned variants, which are loaded. The replaced ones stand by, as far as memory lasts."""
        each = self.devices[device]
        each.standbys = self._kept(device, keys(each.hosts_wanted))
        each.hosts_now = each.hosts_wanted

    def _kept(self, device: str, needed: frozenset[VariantKey]) -> frozenset[VariantKey]:
        """The standbys that a device keeps of its loaded variants, beside the ``needed`` ones."""
        memory = self.memory.get(device)
        return NO_VARIANTS if memory is None else memory.kept(self.devices[device].resident, needed, self.pinned)

    def _by_device(self, hosted: Iterable[HostedVariant]) -> dict[str, tuple[HostedVariant, ...]]:
        wanted: dict[str, tuple[HostedVariant, ...]] = dict.fromkeys(self.devices, ())
        for host in hosted:
            wanted[host.device] += (host,)
        return wanted

    def _usable(self) -> dict[str, ChangingDevice]:
        return {
            device: each for device, each in self.devices.items() if self._workers[device].phase is not WorkerPhase.LOST
        }


def next_to_change(
    devices: Mapping[str, ChangingDevice], demand_qps: Mapping[str, float], max_unavailable_frac: float
) -> list[str]:
    """The devices that activate standbys now; if there are none, the devices that start to load.

    Devices of the family with the least capacity over demand come first. A device leaves a family only if the other
    devices carry the family's demand. If all devices together do not carry it, part of its capacity may be unavailable
    at once: the more is missing, the larger the part, up to ``max_unavailable_frac``. If all devices wait for each
    other, the one with the least effect changes first.
    """
    waiting = [device for device, each in devices.items() if not each.is_complete and each.load is None]
    if not waiting:
        return []
    capacity = _Capacity(devices.values(), demand_qps)
    waiting.sort(key=lambda device: min(capacity.ratio(host.family) for host in devices[device].hosts_wanted))
    waiting.sort(key=lambda device: devices[device].needs_load)
    starting = list[str]()
    for device in waiting:
        each = devices[device]
        if each.needs_load and starting and not devices[starting[0]].needs_load:
            break
        if capacity.can_miss(each, max_unavailable_frac if each.needs_load else 1.0):
            starting.append(device)
            capacity.leave(each)
    if not starting and waiting and not any(each.load is not None for each in devices.values()):
        return [max(waiting, key=lambda device: capacity.ratio_without(devices[device]))]
    return starting


class _Capacity:
    """By family, in queries per second: ``available`` now, in ``total`` if no device were loading, and the demand."""

    def __init__(self, devices: Iterable[ChangingDevice], demand_qps: Mapping[str, float]) -> None:
        self.available, self.total = defaultdict[str, float](float), defaultdict[str, float](float)
        self.demand_qps = demand_qps
        for each in devices:
            for host in each.hosts_now if each.load is not None else each.hosted:
                self.total[host.family] += host.capacity_qps
                self.available[host.family] += host.capacity_qps if each.load is None else 0.0

    def ratio(self, family: str, lost_qps: float = 0.0) -> float:
        """The capacity of a family over its demand, without ``lost_qps``."""
        demand_qps = self.demand_qps.get(family, 0.0)
        return (self.available[family] - lost_qps) / demand_qps if demand_qps > 0 else math.inf

    def ratio_without(self, device: ChangingDevice) -> float:
        """The lowest ratio among the families that lose capacity once a device changes."""
        lost_qps = _lost_qps(device).items()
        return min((self.ratio(family, qps) for family, qps in lost_qps if qps > 0), default=math.inf)

    def can_miss(self, device: ChangingDevice, max_unavailable_frac: float) -> bool:
        """Whether each family can do without what it loses once a device changes, or gains if the device does soon."""
        for family, lost_qps in _lost_qps(device).items():
            left_qps, total_qps = self.available[family] - lost_qps, self.total[family]
            if lost_qps <= 0:
                continue
            if left_qps < (1 - max_unavailable_frac) * total_qps * (1 - 1e-9):
                return False
            if self.ratio(family, lost_qps) < 1:
                served_frac = total_qps / self.demand_qps[family]
                if served_frac >= 1 or left_qps < served_frac * total_qps:
                    return False
        return True

    def leave(self, device: ChangingDevice) -> None:
        """The device changes."""
        for family, qps in _lost_qps(device).items():
            self.available[family] -= qps
            self.total[family] -= 0.0 if device.needs_load else qps


def _lost_qps(device: ChangingDevice) -> dict[str, float]:
    """The capacity that each family loses when a device activates or loads its wanted hosts; a gain is negative."""
    lost = defaultdict[str, float](float)
    for host in device.hosts_now:
        lost[host.family] += host.capacity_qps
    for host in () if device.needs_load else device.hosts_wanted:
        lost[host.family] -= host.capacity_qps
    return lost
