"""Devices and engines that come and go, loads of standbys, and how dispatch learns what each device hosts."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import replace

from proteus_cli.control.decision import (
    NO_EFFECTS,
    ChangeState,
    Effects,
    HostedVariant,
    Launch,
    Load,
    StandbyEnd,
    StandbyLoad,
    keys,
)
from proteus_cli.control.dispatch.dispatch import Dispatch
from proteus_cli.control.dispatch.family import FamilyState
from proteus_cli.control.dispatch.workers import WorkerState
from proteus_cli.control.topology.plan_change import ChangingDevice, PlanChange
from proteus_cli.control.topology.standbys import RETRY_S, DeviceMemory, next_standby
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Outages, host_of
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import VariantProfile
from proteus_cli.domain.request import Request

MAX_LOADING_FRAC = 0.1
"""The part of a device's time that loads of standbys take, and of a machine's devices that load one at a time.

At least one device may load. A load takes cores, or bandwidth, from the batches that run meanwhile."""

GIVING_WAY_FRAC = 0.1
"""The part of a busy core that a load gets that gives way to batches."""

LOOK_S = 1.0  # after a look that found no standby to load; a look takes up to a millisecond on 40 devices


class Topology:
    """Devices and engines that come and go, and the standbys that they load beside the planned variants.

    ``change`` is the way to the plan in force. ``outages`` are the devices and engines that plans do without. Methods
    with the name of a method of `Controller` are documented there.
    """

    def __init__(
        self,
        families: Mapping[str, FamilyState],
        workers: Mapping[str, WorkerState],
        dispatch: Dispatch,
        max_unavailable_frac: float,
    ) -> None:
        self._families, self._workers, self._dispatch = families, workers, dispatch
        self.change = PlanChange(workers, max_unavailable_frac, self._standbys_changed)
        self.outages = Outages()
        self._warm = list[tuple[str, HostedVariant]]()
        self._failed_until_s: dict[tuple[str, str, str], float] = {}
        self._looks_again_s = 0.0

    @property
    def devices(self) -> Collection[str]:
        """All devices that there are, lost or not."""
        return self._workers.keys()

    # --- standbys

    def next_standby(self, now_s: float) -> Effects:
        """A standby to load now, if any. The driver asks every `ASK_S`, and again while there is one.

        While engines load beside the active ones, standbys stay: the next plan may count on them.
        """
        change = self.change
        if now_s < self._looks_again_s or change.state is ChangeState.LOADING_BESIDE:
            return NO_EFFECTS
        self._failed_until_s = {engine: until_s for engine, until_s in self._failed_until_s.items() if until_s > now_s}
        found = next_standby(
            change.memory,
            {device: keys(each.hosts_now) for device, each in change.devices.items()},
            {device: each.resident | each.loading for device, each in change.devices.items()},
            self._free_to_load(now_s),
            self._failed_until_s.keys() | self.outages.engines,
            change.pinned,
        )
        if found is None:
            self._looks_again_s = now_s + LOOK_S
            return NO_EFFECTS
        device, key = found
        change.trim(device, also_needed=frozenset({key}))
        load = StandbyLoad(device, key, now_s)
        change.devices[device].standby_load = load
        return Effects(ask=self._standbys_changed(), keep=change.keep_of(device), standby=load)

    def _free_to_load(self, now_s: float) -> list[str]:
        """The devices that may load a standby now: of each machine a tenth, or one.

        They host all planned variants, have a free slot, and do not rest after a load.
        """
        devices = self.change.devices
        loading = Counter(host_of(device) for device, each in devices.items() if each.standby_load is not None)
        there = Counter(map(host_of, devices))
        return [
            device
            for device in self.change.unchanging
            if devices[device].standby_load is None and devices[device].rests_until_s <= now_s
            if loading[host_of(device)] < max(1, int(MAX_LOADING_FRAC * there[host_of(device)]))
            if self._workers[device].free > 0
        ]

    def standby_ended(self, load: StandbyLoad, how: StandbyEnd, now_s: float, *, gave_way: bool = False) -> Effects:
        """The load of a standby has ended. If the plan has changed meanwhile, its variant may be freed."""
        each = self.change.devices[load.device]
        if each.standby_load is load:
            each.standby_load = None
            taken_s = (now_s - load.start_s) * (GIVING_WAY_FRAC if gave_way else 1.0)
            each.rests_until_s = now_s + taken_s * (1 / MAX_LOADING_FRAC - 1)
            match how:
                case StandbyEnd.LOADED:
                    self.change.add_standby(load.device, load.key)
                case StandbyEnd.FAILED:
                    self._failed_until_s[load.device, *load.key] = now_s + RETRY_S
                case StandbyEnd.NO_MEMORY:
                    self.change.memory_short(load.device, now_s)
                case StandbyEnd.GIVEN_UP:
                    pass
        return Effects(ask=self._standbys_changed(), keep=self.change.keep_of(load.device))

    def memory_short(self, device: str, now_s: float) -> Effects:
        """A device has too little memory: it gives up its standbys, and gets none for a while."""
        self.change.memory_short(device, now_s)
        return Effects(ask=self._standbys_changed(), keep=self.change.keep_of(device))

    def share(self, device: str, servers: int) -> None:
        """``servers`` share a device: standbys that load from now on may take this server's part of its memory."""
        if device in self.change.memory:
            self.change.memory[device] = replace(self.change.memory[device], servers=servers)
            self._looks_again_s = 0.0

    def use_memory(self, memory: Mapping[str, DeviceMemory]) -> Effects:
        """Replace the memory of the devices that may have standbys.

        A device that ``memory`` leaves out loads no standby. The next plan gives up standbys that are no longer
        loadable.
        """
        for device, before in self.change.memory.items():
            now = memory.get(device) or replace(before, loadable={})
            self.change.memory[device] = replace(now, servers=before.servers)
        return Effects(ask=self._standbys_changed())

    def loads_began(self, devices: Iterable[str]) -> None:
        """Engines are being loaded on devices, whose batches may take longer until `loads_ended`."""
        for device in devices:
            self._workers[device].load_began()

    def loads_ended(self, devices: Iterable[str]) -> None:
        """These loads are over, and no longer slow batches down."""
        for device in devices:
            self._workers[device].load_ended()
            self._dispatch.count_capacity(self._workers[device])

    # --- plans, devices and engines

    def adopt(self, plan: Plan, hosted: Sequence[HostedVariant], in_place: Collection[str]) -> Effects:
        self._dispatch.cascades.use(plan, hosted)
        return self._rehost(self.change.adopt(plan, hosted, in_place))

    def loaded(self, load: Load, engines: Collection[VariantKey]) -> Effects:
        loads = self.change.loaded(load, engines)
        return NO_EFFECTS if loads is None else self._rehost(loads)

    def add_device(self, device: str, slots: int, memory: DeviceMemory | None) -> None:
        """Add a device that serves and hosts no variant; without its ``memory``, it has no standbys."""
        self._dispatch.add_worker(device, slots)
        self.change.devices[device] = ChangingDevice()
        if memory is not None:
            self.change.memory[device] = memory
        self._looks_again_s = 0.0

    def device_lost(
        self, device: str, running: Sequence[Launch] = (), has_ended: Callable[[Request], bool] = lambda _: False
    ) -> Effects:
        self.outages = replace(self.outages, devices=self.outages.devices | {device})
        before = self.change.hosted
        self.change.device_lost(device)
        self._dispatch.count_capacity(self._workers[device])
        has_changed = self.change.hosted != before  # it was to change to another variant
        unfit = self._host() if has_changed or self._dispatch.loses_new_version() else ()
        for family in self._families.values():
            family.was_lost = family.was_lost or family.base.is_lost
        lost = self._dispatch.requeue(running, has_ended)
        given_up = self._dispatch.give_up_lost()  # perhaps some that have just been queued again
        waits_no_more = set(given_up)
        requeued = tuple(request for request in lost.requeued if request not in waits_no_more)
        dropped = (*unfit, *lost.dropped, *given_up)
        return replace(lost, ask=tuple(self._workers), dropped=dropped, requeued=requeued)

    def device_recovered(self, device: str, hosted: tuple[HostedVariant, ...] | None) -> Effects:
        self.outages = replace(self.outages, devices=self.outages.devices - {device})
        effects = self._rehost(self.change.device_recovered(device, hosted))
        return replace(effects, keep=self.change.keep_of(device))

    def engine_failed(self, device: str, key: VariantKey) -> Effects:
        self.outages = replace(self.outages, engines=self.outages.engines | {(device, *key)})
        self.change.devices[device].standbys -= {key}
        return Effects(ask=self._standbys_changed())

    def engine_recovered(self, device: str, key: VariantKey) -> None:
        self.outages = replace(self.outages, engines=self.outages.engines - {(device, *key)})
        self._looks_again_s = 0.0

    def probation(
        self,
        device: str,
        hostable: Sequence[VariantProfile],
        load_s: Callable[[VariantProfile], float] = lambda measured: measured.load_s,
    ) -> tuple[Mapping[VariantKey, int], Sequence[VariantKey]]:
        """The engines that a lost device loads and runs before `device_recovered`: one of them must work.

        The device tries all engines that it hosted before its loss, each with a batch of the given rows. If none works,
        it tries the others one after another, the shortest load first, with a row each. Broken engines are left out,
        and engines that are not ``hostable`` any more.
        """
        broken = {VariantKey(*key) for on, *key in self.outages.engines if on == device}
        usable = [each.key for each in sorted(hostable, key=load_s) if each.key not in broken]
        before = self.change.devices[device].hosted_before_loss
        hosted = {host.key: host.max_batch for host in before if host.key in usable}
        return hosted, [key for key in usable if key not in hosted]

    def broken_with(
        self, device: str, key: VariantKey, loaded: Callable[[str], Container[VariantKey]]
    ) -> tuple[str, ...]:
        """The devices on which an engine counts as broken once it has failed on ``device``.

        If it works on no other device, the model is to blame, and it counts as broken on all. It works on devices that
        have it ``loaded``, for this plan or the next, as the driver knows.
        """
        works_elsewhere = any(key in loaded(other) for other in self.change.usable - {device})
        return (device,) if works_elsewhere else tuple(self._workers)

    def is_needed(self, hostable: Iterable[VariantProfile]) -> bool:
        """Whether a lost device is to be retried soon: a family that it can host has lost all of its devices."""
        return any(self._families[each.family].is_lost for each in hostable)

    def forget_variants(self, keys: Collection[VariantKey]) -> None:
        engines = frozenset(each for each in self.outages.engines if VariantKey(*each[1:]) not in keys)
        self.outages = replace(self.outages, engines=engines)

    def _standbys_changed(self) -> tuple[str, ...]:
        """Tell dispatch if standbys have changed; returns the workers to ask."""
        self._looks_again_s = 0.0
        if self._standbys() == self._warm:
            return ()
        unhosted = self._host()
        assert not unhosted  # noqa: S101 - what is active has not changed, and it may answer all that waits
        return tuple(self._workers)

    def _rehost(self, loads: tuple[Load, ...]) -> Effects:
        """Tell dispatch that active hosts have changed. These loads start, and replace loads of standbys there."""
        self._looks_again_s = 0.0
        for load in loads:
            self.change.devices[load.device].standby_load = None
        unhosted = (*self._host(), *self._dispatch.give_up_lost())
        for family in self._families.values():
            if family.hosts and not family.base.is_lost:
                family.was_lost = False
        return Effects(ask=tuple(self._workers), dropped=unhosted, load=loads)

    def _host(self) -> Sequence[Request]:
        """Have the active hosts, and the standbys, share the requests that wait; returns as `Dispatch.host`."""
        self._warm = self._standbys()
        return self._dispatch.host(self.change.hosted, [replace(host, device=device) for device, host in self._warm])

    def _standbys(self) -> list[tuple[str, HostedVariant]]:
        """The standbys on devices that host their family, by device, each as it serves on some device."""
        change, families = self.change, defaultdict[str, set[str]](set)
        if not change.standbys:
            return []
        for host in change.hosted:
            families[host.device].add(host.family)
        return [
            (device, host)
            for device, standbys in change.standbys.items()
            if device in change.memory
            for host in change.memory[device].hosts_of(standbys, families[device])
        ]
