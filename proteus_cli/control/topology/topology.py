"""What there is to serve with: devices and engines that can be used, the plan in force, and what each device hosts."""

from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import replace

from proteus_cli.control.decision import NO_EFFECTS, Effects, Host, Launch, Load, StandbyEnd, StandbyLoad
from proteus_cli.control.dispatch.dispatch import Dispatch
from proteus_cli.control.dispatch.family import FamilyState
from proteus_cli.control.dispatch.workers import WorkerState
from proteus_cli.control.topology.hosting import device_memory
from proteus_cli.control.topology.plan_steps import PlanSteps
from proteus_cli.control.topology.probation import Probation
from proteus_cli.control.topology.standbys import DeviceMemory, Standbys
from proteus_cli.control.topology.warming import Warming
from proteus_cli.domain.attainment import SloTarget
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Outages
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.domain.request import Request
from proteus_cli.domain.rules import Rules


class Topology:
    """Devices and engines that come and go, and the plan changes on them.

    What concerns one part alone is asked of it: ``steps``, what each device hosts, and ``warming``, loads of standbys.
    ``outages`` are the devices and engines that plans do without. While a plan ``loads_beside`` what serves, standbys
    stay as they are, as it may count on them.
    Methods that `Controller` has, too, under the same name, do what it says of them.
    """

    def __init__(
        self,
        families: Mapping[str, FamilyState],
        workers: dict[str, WorkerState],
        dispatch: Dispatch,
        max_unavailable_frac: float,
    ) -> None:
        """``workers`` is empty yet; all parts of the controller see there what `add_device` adds."""
        self._families, self._workers, self._dispatch = families, workers, dispatch
        self._standbys = Standbys()
        self.steps = PlanSteps(workers, max_unavailable_frac, self._standbys)
        self.warming = Warming(workers, self.steps, self._standbys)
        self.plan: Plan | None = None
        self.outages = Outages()
        self.loads_beside = False
        self._overflow: Mapping[Host, Host] = {}
        self._foreign: Sequence[Host] = ()
        self._warm: Sequence[Host] = ()

    @property
    def devices(self) -> Collection[str]:
        """All devices that there are, lost or not."""
        return self._workers.keys()

    @property
    def hosted(self) -> tuple[Host, ...]:
        return self.steps.hosted

    @property
    def standbys(self) -> Mapping[str, frozenset[VariantKey]]:
        """The standbys of the devices that have any: plans may place them without a load."""
        return self.steps.standbys

    def hosted_on(self, device: str) -> tuple[Host, ...]:
        """What a device has active; during a load in place, what it had before."""
        return self.steps.hosted_on(device)

    def next_standby(self, now_s: float) -> Effects:
        """A standby to load now, if any; to be asked for every `ASK_S`, and again while there is one."""
        found = None if self.loads_beside else self.warming.next(now_s, self.outages.engines)
        if found is None:
            return NO_EFFECTS
        return Effects(ask=self._use_standbys(), keep=self.steps.keep_of(found.device), standby=found)

    def standby_ended(self, load: StandbyLoad, how: StandbyEnd, now_s: float, *, gave_way: bool = False) -> Effects:
        """The load of a standby has ended. Where a plan has changed meanwhile, what it loaded may be freed."""
        self.warming.ended(load, how, now_s, gave_way=gave_way)
        return Effects(ask=self._use_standbys(), keep=self.steps.keep_of(load.device))

    def memory_short(self, device: str, now_s: float) -> Effects:
        """A device has too little memory: it gives up its standbys, and gets none for a while."""
        self.warming.memory_short(device, now_s)
        return Effects(ask=self._use_standbys(), keep=self.steps.keep_of(device))

    def make_room(self, hosted: Sequence[Host]) -> Effects:
        """Give standbys up, so that ``hosted`` can be loaded beside what is active."""
        self.steps.make_room(hosted)
        self.warming.changed()
        return Effects(ask=self._use_standbys())

    def loads_began(self, devices: Iterable[str]) -> None:
        """Engines are being loaded on devices, whose batches may take longer until `loads_ended`."""
        for device in devices:
            self._workers[device].load_began()

    def loads_ended(self, devices: Iterable[str]) -> None:
        """These loads are over, and what batches took longer with them."""
        for device in devices:
            self._workers[device].load_ended()
            self._dispatch.count_capacity(self._workers[device])

    def share(self, device: str, servers: int) -> None:
        """So many servers share a device: standbys that load from now on may take this server's part of its memory."""
        self._standbys.share(device, servers)
        self.warming.changed()

    @property
    def memory_limits(self) -> Mapping[str, int]:
        """What variants may take of each device that may have standbys, in bytes."""
        return self._standbys.limits

    def use_memory(self, memory: Mapping[str, DeviceMemory]) -> Effects:
        """Replace what the devices that may have standbys can load, and in how many bytes, by device.

        On a device that ``memory`` leaves out, no standby may be loaded. Standbys that may not be loaded any more are
        given up with the next plan.
        """
        self._standbys.use(memory)
        self.warming.changed()
        return Effects(ask=self._use_standbys())

    def use_profiles(self, profiles: Mapping[str, Profile], targets: Mapping[str, SloTarget], rules: Rules) -> Effects:
        known, placeable = self._standbys.known, self._standbys.placeable
        memory = device_memory(self.memory_limits, profiles, targets, rules, known)
        return self.use_memory({device: each.placing_only(placeable) for device, each in memory.items()})

    def pin_standbys(self, keys: Collection[VariantKey]) -> None:
        """Keep these variants where they stand by: no other standby replaces them."""
        self._standbys.pinned = frozenset(keys)

    def adopt(self, plan: Plan, hosted: Sequence[Host], in_place: Collection[str]) -> Effects:
        self.plan = plan
        self._dispatch.cascades.use(plan, hosted)
        return self._rehost(self.steps.begin(hosted, plan.demand_qps, in_place))

    def loaded(self, load: Load, engines: Collection[VariantKey]) -> Effects:
        loads = self.steps.loaded(load, engines)
        return NO_EFFECTS if loads is None else self._rehost(loads)

    def add_device(self, worker: WorkerState, memory: DeviceMemory | None) -> None:
        """A device that serves, and hosts nothing; without its ``memory``, nothing stands by there."""
        self._workers[worker.device] = worker
        self.steps.add_device(worker.device)
        if memory is not None:
            self._standbys.add_device(worker.device, memory)
        self.warming.changed()

    def device_lost(
        self, device: str, running: Sequence[Launch] = (), has_ended: Callable[[Request], bool] = lambda _: False
    ) -> Effects:
        self.outages = replace(self.outages, devices=self.outages.devices | {device})
        before = self.steps.hosted
        self.steps.device_lost(device)
        self.warming.give_up(device)
        self._dispatch.count_capacity(self._workers[device])
        has_changed = self.steps.hosted != before  # it was to change to another variant
        unfit = self._host() if has_changed or self._dispatch.loses_twins() else ()
        for family in self._families.values():
            family.was_lost = family.was_lost or family.base.is_lost
        lost = self._dispatch.requeue(running, has_ended)
        given_up = self._dispatch.give_up_lost()  # perhaps some that have just been queued again
        waits_no_more = set(given_up)
        requeued = tuple(request for request in lost.requeued if request not in waits_no_more)
        dropped = (*unfit, *lost.dropped, *given_up)
        return replace(lost, ask=tuple(self._workers), dropped=dropped, requeued=requeued)

    def device_recovered(self, device: str, hosted: tuple[Host, ...] | None) -> Effects:
        self.outages = replace(self.outages, devices=self.outages.devices - {device})
        effects = self._rehost(self.steps.device_recovered(device, hosted))
        return replace(effects, keep=self.steps.keep_of(device))

    def engine_failed(self, device: str, key: VariantKey) -> Effects:
        self.outages = replace(self.outages, engines=self.outages.engines | {(device, *key)})
        self.warming.engine_failed(device, key)
        return Effects(ask=self._use_standbys())

    def engine_recovered(self, device: str, key: VariantKey) -> None:
        self.outages = replace(self.outages, engines=self.outages.engines - {(device, *key)})
        self.warming.changed()

    def probation(
        self,
        device: str,
        hostable: Sequence[VariantProfile],
        load_s: Callable[[VariantProfile], float] = lambda measured: measured.load_s,
    ) -> Probation:
        """What a lost device must show before `device_recovered`, of what it can host now."""
        broken = {VariantKey(*key) for on, *key in self.outages.engines if on == device}
        return Probation(self.steps.hosted_before_loss(device), hostable, broken, load_s)

    def broken_with(
        self, device: str, key: VariantKey, loaded: Callable[[str], Container[VariantKey]]
    ) -> tuple[str, ...]:
        """On which devices an engine that failed on one counts as broken: on all where it works on no other.

        Then the model is to blame. It works where it is ``loaded``, as the driver knows, also for a plan to come.
        """
        works_elsewhere = any(key in loaded(other) for other in self.steps.usable - {device})
        return (device,) if works_elsewhere else tuple(self._workers)

    def is_needed(self, hostable: Iterable[VariantProfile]) -> bool:
        """Whether a lost device is to be retried soon: a family that it can host has lost all of its devices."""
        return any(self._families[each.family].is_lost for each in hostable)

    def forget_variants(self, keys: Collection[VariantKey]) -> None:
        engines = frozenset(each for each in self.outages.engines if VariantKey(*each[1:]) not in keys)
        self.outages = replace(self.outages, engines=engines)

    def _use_standbys(self) -> tuple[str, ...]:
        """Standbys have changed: from now on, those that there are answer the overflow. Returns the workers to ask."""
        now = self._overflow_of(), (*self._foreign_of(), *self._warm_of())
        if _known_to_dispatch(*now) == _known_to_dispatch(self._overflow, (*self._foreign, *self._warm)):
            return ()
        unhosted = self._host()
        assert not unhosted  # noqa: S101 - what is active has not changed, and it may answer all that waits
        return tuple(self._workers)

    def _rehost(self, loads: tuple[Load, ...]) -> Effects:
        self.warming.changed()
        for load in loads:
            self.warming.give_up(load.device)
        unhosted = (*self._host(), *self._dispatch.give_up_lost())
        for family in self._families.values():
            if family.hosts and not family.base.is_lost:
                family.was_lost = False
        return Effects(ask=tuple(self._workers), dropped=unhosted, load=loads)

    def _host(self) -> Sequence[Request]:
        """Have what is hosted now share what waits, each host with its standby for the overflow; returns as `host`."""
        self._overflow, self._foreign, self._warm = overflow, foreign, warm = (
            self._overflow_of(), self._foreign_of(), self._warm_of(),
        )  # fmt: skip
        hosted = [replace(h, overflow=overflow[h]) if h in overflow else h for h in self.steps.hosted]
        return self._dispatch.host(hosted, foreign, warm)

    def _overflow_of(self) -> dict[Host, Host]:
        standbys = self.steps.standbys
        mine = [host for host in self.steps.hosted if host.device in standbys]
        found = {host: self._standbys.overflow_of(host, standbys[host.device]) for host in mine}
        return {host: each for host, each in found.items() if each is not None}

    def _foreign_of(self) -> Sequence[Host]:
        hosted_on = self._hosted_on()
        standbys = self.steps.standbys.items()
        return [
            host for device, keys in standbys for host in self._standbys.foreign_on(device, keys, hosted_on[device])
        ]

    def _warm_of(self) -> Sequence[Host]:
        """The standbys on devices that host their family."""
        families = {device: {host.family for host in hosts} for device, hosts in self._hosted_on().items()}
        standbys = [(device, keys) for device, keys in self.steps.standbys.items() if device in families]
        return [host for device, keys in standbys for host in self._standbys.warm_on(device, keys, families[device])]

    def _hosted_on(self) -> defaultdict[str, list[Host]]:
        found = defaultdict[str, list[Host]](list)
        for host in self.steps.hosted:
            found[host.device].append(host)
        return found


def _known_to_dispatch(overflow: Mapping[Host, Host], foreign: Iterable[Host]) -> Collection[object]:
    """What dispatch knows of standbys."""
    hosts = [*overflow.items(), *((host.device, host) for host in foreign)]
    return {(of, each.key, each.latency, each.accuracy, each.max_batch) for of, each in hosts}
