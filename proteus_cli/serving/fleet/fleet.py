"""The devices of a server.

`Fleet` changes from one plan to the next without losing a request, and goes on serving when a device is lost.

It is one long class: a change of plan, a loss and a return each touch engines, workers and the plan in force together,
in an order that loses no request. How a device is opened, tried out and watched has modules beside it.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from proteus_cli.backends.base import Signature
from proteus_cli.backends.free_memory import HostMemory
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import ChangeState, Effects, FailedLoad, HostedVariant, Keep, Load, keys
from proteus_cli.control.devices.breaker import NEW, Breaker, BreakerEvent, BreakerState
from proteus_cli.control.slot_tuner import SlotTuner
from proteus_cli.control.topology.hosting import hosted_by
from proteus_cli.control.topology.standbys import DeviceMemory
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device, by_host, host_of
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_record import EngineChange
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.errors import DeviceLost, HostLost
from proteus_cli.serving.devices.executor import AbsentExecutor, Executor, OpenExecutor
from proteus_cli.serving.fleet.broken_engines import BrokenEngines
from proteus_cli.serving.fleet.loading import HURRIED_S, UNHURRIED_S, GivesWay, Loader, SharedLook
from proteus_cli.serving.fleet.model_files import ModelFiles
from proteus_cli.serving.fleet.standbys import StandbyLoader
from proteus_cli.serving.fleet.worker import Clock, ResultSink, WatchedWorker, Worker, Workers
from proteus_cli.serving.logs import fields

# uvloop's timers count in milliseconds. Workers round their waits up to that, as shorter ones would spin; a load in
# place checks at that interval whether its device is idle.
TIMER_RESOLUTION_S = 0.001

log = logging.getLogger("proteus.fleet")


class Fleet:
    """The devices of a server by id: their workers, what is loaded on them, and whether they can be used.

    ``breakers``: one per device.
    ``broken_engines``: one breaker per engine that ever failed on a device.
    ``away``: the devices whose breakers are not closed.
    ``breaker_changes``: how often a breaker changed. Where hundreds of devices serve, it saves asking them all.
    ``tuners``: one per device of several slots, where the fleet ``tunes_slots``.
    ``lost_with_host``: the devices that are lost as their host is, each with the reason.
    ``lost_by_variant``: the devices that are lost as a variant failed there, each with that variant.
    """

    def __init__(
        self,
        controller: Controller,
        workers: Workers,
        devices: Iterable[str],
        open_device: OpenExecutor,
        results: ResultSink,
        clock: Clock,
        *,
        models: Mapping[VariantKey, Path],
        profiles: Mapping[str, Profile],
        signatures: Mapping[str, Signature],
        files: ModelFiles | None = None,
        timer_s: float = TIMER_RESOLUTION_S,
        memory_of: Callable[[str], HostMemory] = lambda _: HostMemory(),
        tunes_slots: bool = False,
    ) -> None:
        self._controller, self._results, self._clock, self._profiles = controller, results, clock, profiles
        self._change = controller.change
        self._open_device, self._timer_s, self._memory_of = open_device, timer_s, memory_of
        self.loader = Loader(models, profiles, signatures, files, clock)
        self.breakers: dict[str, Breaker] = {}
        self.away: dict[str, None] = {}
        self.breaker_changes = 0
        self.lost_with_host: dict[str, str] = {}
        self.lost_by_variant: dict[str, VariantKey] = {}
        self._gives_way = SharedLook(controller.replanning.loads_give_way, clock)
        self._changing = asyncio.Lock()
        self.workers = workers.by_device
        self.tuners: dict[str, SlotTuner] = {}
        self._tunes_slots = tunes_slots
        self.broken_engines = BrokenEngines(controller, self.loader, self.workers, clock, self.apply)
        for device in devices:
            self._add(device, self.open_device(device))
        self.standbys = StandbyLoader(
            controller,
            self.loader,
            self.workers,
            profiles,
            clock,
            memory_of,
            self.apply,
        )

    def add_device(self, device: str, memory: DeviceMemory | None = None) -> None:
        """Add a device whose profile is known. `recovery.Recovery` tries it out like a lost device.

        ``memory`` as in `Controller.add_device`.
        """
        self._controller.add_device(device, self._profiles[device].slots, memory)
        self._add(device, AbsentExecutor(device, HostLost(NEW)), is_new=True)

    def _add(self, device: str, executor: Executor, *, is_new: bool = False) -> None:
        self.loader.add_device(device)
        changed = partial(self._breaker_changed, device)
        self.breakers[device] = Breaker(since_s=self._clock(), is_new=is_new, on_change=changed)
        changed()
        make_worker: Callable[..., Worker] = Worker
        slots = self._profiles[device].slots if device in self._profiles else 1
        if self._tunes_slots and slots > 1:
            tuner = self.tuners[device] = SlotTuner(slots, self._clock())
            make_worker = partial(WatchedWorker, tuner)
        self.workers[device] = make_worker(
            device,
            self._controller,
            executor,
            self._results,
            self._clock,
            self.workers,
            self._batch_failed,
            self._timer_s,
        )

    def _breaker_changed(self, device: str) -> None:
        self.breaker_changes += 1
        if self.breakers[device].is_closed:
            self.away.pop(device, None)
        else:
            self.away[device] = None

    def open_device(self, device: str) -> Executor:
        """Open a device; its executor reports a loss to `lose`. Raises `DeviceUnavailable`."""
        return self._open_device(device, lambda loss: self._device_died(device, loss))

    @property
    def is_changing(self) -> bool:
        """Whether a plan is being put in force, or a device comes back."""
        return self._changing.locked()

    def share(self, device: str, servers: int) -> None:
        """Share a device: ``servers`` have it open, this one included."""
        self.workers[device].servers = servers
        self._controller.topology.share(device, servers)

    def use_slots(self, device: str, slots: int) -> None:
        """Have a device run at most ``slots`` batches at once; running ones go on."""
        self.apply(self._controller.dispatch.use_slots(device, slots, self._clock()))

    async def deploy(self, plan: Plan, before_switch: Callable[[], None] = lambda: None) -> tuple[EngineChange, ...]:
        """Put a plan in force: load its engines, switch, free the others. Returns the engines that came to each device.

        Raises `EngineError` where an engine cannot be loaded. If that happens beside the serving engines, or before all
        models have arrived, the plan stays as it is. If it happens in place, the earlier plan is deployed again. An
        error of ``before_switch`` ends the change, and the plan stays as it is.
        """
        async with self._changing:
            before = {device: self._change.hosted_on(device) for device in self.workers}
            loaded_before = {device: self.loader.load_times_s(device) for device in self.workers}
            await self._require_models(plan)
            await self._deploy(plan, before_switch)
            return tuple(self._engine_changes(before, loaded_before))

    def close(self) -> None:
        """Free all engines. Batches that run are finished first."""
        for worker in self.workers.values():
            worker.executor.close()

    def hostable_on(self, device: str) -> list[VariantProfile]:
        """The variants that a device can host. A profile may be older than the catalog, and name others, too."""
        measured = self._profiles[device].variants
        return [each for each in measured if each.points and each.key in self.loader.models]

    def device(self, name: str) -> Device:
        """The device with the id ``name``, by its profile."""
        return self._profiles[name].device

    def retry_s(self, device: str) -> float | None:
        """When a lost device is opened again; None where it is not lost, or is tried out now."""
        breaker = self.breakers[device]
        if breaker.state is not BreakerState.OPEN:
            return None
        return breaker.retry_s(is_needed=self._controller.topology.is_needed(self.hostable_on(device)))

    # --- plans

    async def _require_models(self, plan: Plan) -> None:
        """Wait for the models of what is not loaded. Raises `EngineError` where one does not come in time.

        Before the first plan no engine could serve meanwhile: then the loads wait, each for its own model.
        """
        in_force = self._change.plan
        if in_force is None or not in_force.placements:
            return
        failures = await self.loader.late_models(
            (each.device, self.workers[each.device].executor, each.key) for each in plan.placements
        )
        self.broken_engines.all_failed(failures)
        if failures:
            raise failures[0].error

    async def _deploy(self, plan: Plan, before_switch: Callable[[], None] = lambda: None) -> None:
        """As `deploy`, step by step of `PlanChange`."""
        change, hosted = self._change, hosted_by(plan, self._profiles, self._controller.attainment)
        try:
            self.apply(effects := change.begin(hosted, self._profiles, self._free_bytes()))
            effects = change.loaded_beside(await self._load(effects.beside, self._gives_way), self._clock())
            if change.state is ChangeState.SWITCHING:
                before_switch()
        except BaseException:
            self.apply(change.give_up())
            raise
        self.apply(effects)
        if change.state is ChangeState.SWITCHING:
            switch = self._controller.adopt(plan, hosted, self._clock(), change.in_place)
            self.apply(change.loaded_in_place(await self._follow(switch)))
        failures, back_to = change.failures, change.back_to
        if back_to is not None:  # else there is nothing to plan around
            self.broken_engines.all_failed(failures)
            if change.state is ChangeState.GOING_BACK:
                await self._deploy(back_to)
        if failures:
            raise failures[0].error

    def _engine_changes(
        self, before: Mapping[str, Sequence[HostedVariant]], loaded_before: Mapping[str, Mapping[VariantKey, float]]
    ) -> Iterator[EngineChange]:
        """The engines that are active and were not ``before``; an engine was warm where no load came since."""
        for device in self._usable():
            load_s = self.loader.load_times_s(device)
            for key in sorted(keys(self._change.hosted_on(device)) - keys(before[device])):
                was_warm = loaded_before[device].get(key) == load_s[key]
                yield EngineChange(device, *key, load_s=None if was_warm else round(load_s[key], 6))

    def _free_bytes(self) -> dict[str, int]:
        """The free memory of the hosts of CPUs, where it is known."""
        hosts = {host_of(device) for device, profile in self._profiles.items() if profile.device.kind == "cpu"}
        free_bytes = {host: self._memory_of(host).free_bytes for host in hosts}
        return {host: free for host, free in free_bytes.items() if free is not None}

    async def _follow(self, effects: Effects) -> list[FailedLoad]:
        """Apply effects, and do the loads in place that they start, until there are no more; returns what failed."""
        self.apply(effects)
        self.broken_engines.passed(chain.from_iterable(map(self._change.hosted_on, self._usable())))
        return list(chain.from_iterable(await asyncio.gather(*map(self._load_in_place, effects.load))))

    def apply(self, effects: Effects) -> None:
        """Do what a change of the controller's state asks for, but for loads."""
        self.standbys.cancel(effects.cancel)
        self._free(effects.keep)
        self._results.dropped(effects.dropped)
        self._ask(effects.ask)

    def _ask(self, devices: Iterable[str]) -> None:
        for device in devices:
            self.workers[device].ask()

    async def _load_in_place(self, load: Load) -> list[FailedLoad]:
        """One step of a plan change; and the steps that start when it has ended."""
        device, failures = load.device, list[FailedLoad]()
        while self.workers[device].is_busy:
            await asyncio.sleep(TIMER_RESOLUTION_S)
        if self.breakers[device].is_closed:
            self.loader.keep_only(device, self.workers[device].executor, load.keeps)
            failures = await self._load(load.hosts)
        effects = self._controller.loaded(load, self.loader.loaded(device), self._clock())
        return failures + await self._follow(effects)

    async def _load(self, hosts: Iterable[HostedVariant], gives_way: GivesWay = lambda: False) -> list[FailedLoad]:
        """Load engines concurrently. A device that is lost meanwhile is given up (`lose`) and not returned.

        The new plan goes ahead without such a device. Returns the other failures. ``gives_way`` as in `Loader.load`.
        """
        limit_s = HURRIED_S if self._controller.placements else UNHURRIED_S
        wanted, failures = dict[str, list[HostedVariant]](), list[FailedLoad]()
        for host in hosts:
            wanted.setdefault(host.device, []).append(host)
        loads = [self._load_on(device, on_device, limit_s, gives_way) for device, on_device in wanted.items()]
        for failed in chain.from_iterable(await asyncio.gather(*loads)):
            if isinstance(failed.error, HostLost):
                self._device_died(failed.device, failed.error)
            elif isinstance(failed.error, DeviceLost):
                self.lose(failed.device, BreakerEvent.HUNG, failed.error.message)
            else:
                failures.append(failed)
        return failures

    async def _load_on(
        self, device: str, hosts: Sequence[HostedVariant], limit_s: float, gives_way: GivesWay
    ) -> list[FailedLoad]:
        """Load engines on a device, whose batches may take longer until that is done."""
        loading = {device} if any(host.key not in self.loader.loaded(device) for host in hosts) else ()
        if loading:
            await self.standbys.ended_on(device, gives_way)
        executors = {device: self.workers[device].executor}
        self._controller.topology.loads_began(loading)
        try:
            return await self.loader.load_all(hosts, executors, self.broken_engines.proof_s, limit_s, gives_way)
        finally:
            self._controller.topology.loads_ended(loading)

    def _free(self, keep: Iterable[Keep]) -> None:
        """Free what devices do not keep."""
        for each in keep:
            self.loader.keep_only(each.device, self.workers[each.device].executor, each.keys)

    def _usable(self) -> list[str]:
        return [device for device, breaker in self.breakers.items() if breaker.is_closed]

    # --- losses and recoveries

    def _batch_failed(self, device: str, event: BreakerEvent, reason: str, running: VariantKey) -> None:
        """A batch of a variant has failed by a fault of the device, or of the variant's engine there."""
        if event is BreakerEvent.BROKE:
            self.lost_by_variant[device], reason = running, f"{self.loader.labels[running]}: {reason}"
        self.lose(device, event, reason)

    def forget_losses_by(self, key: VariantKey) -> None:
        """Devices that were given up because a variant failed there do not count against it from now on."""
        self.lost_by_variant = {device: by for device, by in self.lost_by_variant.items() if by != key}

    def _device_died(self, device: str, loss: DeviceLost) -> None:
        """Lose a device. Where its host is lost, the log has one line for the host, and none for its devices."""
        why = loss.why if isinstance(loss, HostLost) else ""
        if why and self.breakers[device].is_closed:
            self.lost_with_host[device] = why
        self.lose(device, BreakerEvent.DIED, loss.message, logging.DEBUG if why else logging.ERROR)

    def lose(self, device: str, event: BreakerEvent, reason: str, level: int = logging.ERROR) -> None:
        """Give a device up. The controller decides what becomes of the requests that ran there."""
        breaker, worker = self.breakers[device], self.workers[device]
        if not breaker.is_closed:
            return
        breaker.on(event, self._clock(), reason)
        told = fields(device=device, event=event.value, reason=reason)
        log.log(level, "%s %s: %s", device, event, reason, extra=told)
        worker.executor.abandon()
        self.loader.forget(device)
        self.standbys.cancel_on(device)
        effects = self._controller.device_lost(device, worker.take_back(), self._results.has_ended)
        self._results.device_lost(effects)
        asyncio.get_running_loop().call_soon(self._ask, effects.ask)  # a worker may be carrying decisions out now

    async def recover(self, device: str, executor: Executor) -> None:
        """A lost device works again, with the engines loaded on ``executor``. Raises `EngineError` if it does not."""
        async with self._changing:
            of_plan = hosted_by(self._controller.plan, self._profiles, self._controller.attainment)
            wanted = [host for host in of_plan if host.device == device]
            failures = await self.loader.load_all(wanted, {device: executor}, self.broken_engines.proof_s, HURRIED_S)
            for failed in failures:
                if isinstance(failed.error, DeviceLost):
                    raise failed.error
            self.broken_engines.all_failed(failures)
            loaded = self.loader.loaded(device)
            self.workers[device].use(executor)
            self.breakers[device].on(BreakerEvent.PASSED, self._clock())
            self.lost_by_variant.pop(device, None)
            was_lost_with_host = self.lost_with_host.pop(device, None) is not None
            hosted = tuple(host for host in wanted if host.key in loaded)
            effects = self._controller.device_recovered(device, self._clock(), hosted)
            self.broken_engines.all_failed(await self._follow(effects))
        self._log_recovery(device, with_host=was_lost_with_host)

    def _log_recovery(self, device: str, *, with_host: bool) -> None:
        """The devices that were lost with their host have one line, once all are back."""
        what = "is back" if self.breakers[device].opened else "has joined"
        log.log(logging.DEBUG if with_host else logging.INFO, "%s %s", device, what, extra=fields(device=device))
        host = host_of(device)
        if with_host and host not in by_host(self.lost_with_host):
            log.info("all devices of host %s are back", host, extra=fields(host=host))
