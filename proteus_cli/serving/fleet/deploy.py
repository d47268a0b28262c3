"""All lanes: from one plan to the next without losing a request, and on without a device that is lost."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from proteus_cli.backends.base import Signature
from proteus_cli.control.breaker import FIRST_ENGINE_RETRY_S, Breaker, BreakerEvent, BreakerState
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Hosted
from proteus_cli.control.hosting import hosted_by
from proteus_cli.control.rollout import MAX_UNAVAILABLE_FRAC, DeviceRollout, keys, next_to_load
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import BuildCancelled, DeviceLost, EngineError, OutOfDeviceMemory
from proteus_cli.serving.devices.executor import Executor, OpenDevice
from proteus_cli.serving.fleet.loading import HURRIED_S, UNHURRIED_S, FailedLoad, Loader
from proteus_cli.serving.fleet.model_files import ModelFiles
from proteus_cli.serving.fleet.worker import Clock, ResultSink, Worker
from proteus_cli.serving.logs import fields

TIMER_S = 0.001  # uvloop counts in milliseconds

log = logging.getLogger("proteus.fleet")


class Fleet:
    """The devices of a server, by id, and what they host.

    ``breakers`` say which of them are there, ``broken`` which engines fail on which of them. Devices that must
    free what they have before they can load what comes serve nothing meanwhile: no more of them at a time than
    ``max_unavailable_frac`` of a family's capacity.
    """

    def __init__(
        self,
        controller: Controller,
        devices: Iterable[str],
        open_device: OpenDevice,
        endings: ResultSink,
        clock: Clock,
        *,
        models: Mapping[VariantKey, Path],
        profiles: Mapping[str, Profile],
        signatures: Mapping[str, Signature],
        files: ModelFiles | None = None,
        timer_s: float = TIMER_S,
        max_unavailable_frac: float = MAX_UNAVAILABLE_FRAC,
    ) -> None:
        self._controller, self._endings, self._clock = controller, endings, clock
        self._profiles, self._max_unavailable_frac = profiles, max_unavailable_frac
        self.loader = Loader(models, profiles, signatures, files)
        self.workers: dict[str, Worker] = {}
        self.breakers = {device: Breaker() for device in devices}
        self.broken: dict[tuple[str, VariantKey], Breaker] = {}
        self._changing = asyncio.Lock()
        self.hosted_before_loss: dict[str, tuple[Hosted, ...]] = {}  # when they were lost
        self._rollouts = {device: DeviceRollout() for device in self.breakers}
        self._open_device = open_device
        for device in self.breakers:
            self.workers[device] = Worker(
                device, controller, self.open_device(device), endings, clock, self.workers, self.lose, timer_s
            )

    def open_device(self, device: str) -> Executor:
        """Open a device, whose loss is reported to `lose`. Raises `DeviceUnavailable`."""
        return self._open_device(device, lambda loss: self.lose(device, BreakerEvent.DIED, loss.message))

    async def deploy(self, plan: Plan) -> None:
        """Make before break. Raises `EngineError` where an engine can't be loaded; then nothing has changed.

        Where a device has no room for what comes beside what it has, it is changed after the others, and serves nothing
        meanwhile; where that goes wrong, the plan that was in force is brought back.
        """
        async with self._changing:
            before = self._controller.plan if self._controller.placements else None
            await self._deploy(plan, before)

    def close(self) -> None:
        """Free all engines. Batches that run are finished first."""
        for worker in self.workers.values():
            worker.executor.close()

    def states(self) -> dict[str, tuple[str, str]]:
        """The state of each device's breaker, and why it isn't closed."""
        return {device: (breaker.state.value, breaker.reason or "") for device, breaker in self.breakers.items()}

    # --- changes of plan

    async def _deploy(self, plan: Plan, before: Plan | None) -> None:
        wanted = self._by_device(hosted_by(plan, self._profiles))
        in_place = {device for device in wanted if not self._has_room(device, wanted[device])}
        in_place |= await self._load_beside(wanted, in_place)
        for device, rollout in self._rollouts.items():
            rollout.next = wanted[device]
            if device not in in_place:
                rollout.now = rollout.next
        self._host(plan)
        if in_place:
            try:
                await self._change_in_place(plan)
            except EngineError:
                if before is not None:
                    await self._deploy(before, None)
                raise
        for device in self._available():
            self._free_what_is_left(device)

    def _by_device(self, hosted: Iterable[Hosted]) -> dict[str, tuple[Hosted, ...]]:
        found: dict[str, tuple[Hosted, ...]] = dict.fromkeys(self.workers, ())
        for host in hosted:
            found[host.device] += (host,)
        return found

    def _has_room(self, device: str, coming: Iterable[Hosted]) -> bool:
        """For what comes beside what it has."""
        has, comes = self.loader.loaded(device), keys(tuple(coming))
        return comes <= has or not has or self.loader.fits(device, has | comes)

    async def _load_beside(self, wanted: Mapping[str, tuple[Hosted, ...]], in_place: set[str]) -> set[str]:
        """Load what comes beside what serves; returns the devices that turned out to have no memory for that."""
        hosts = [host for device in self._available() if device not in in_place for host in wanted[device]]
        failures = self._of_engines(
            await self.loader.load_all(hosts, self._executors(), self._is_suspect, self._limit_s)
        )
        too_full = {failed.device for failed in failures if self._is_too_full(failed)}
        if any(failed.device not in too_full for failed in failures):
            for device in self._available():
                self._free_what_is_left(device)
            self._give_up(failures)
        return too_full

    def _is_too_full(self, failed: FailedLoad) -> bool:
        """It would fit once the device has freed what it has now."""
        return isinstance(failed.error, OutOfDeviceMemory) and bool(self._rollouts[failed.device].now)

    async def _change_in_place(self, plan: Plan) -> None:
        """Devices free what they have and load what comes: as many at a time as can be missed."""
        while True:
            rollouts = {device: self._rollouts[device] for device in self._available()}
            starting = next_to_load(rollouts, plan.demand_qps, self._max_unavailable_frac)
            if not starting:
                return
            for device in starting:
                rollouts[device].is_loading = True
            self._host(plan)
            await asyncio.gather(*map(self._until_idle, starting))
            for device in starting:
                if self.breakers[device].is_closed:
                    self.loader.keep_only(device, self.workers[device].executor, keys(rollouts[device].next))
            hosts = [host for device in starting if self.breakers[device].is_closed for host in rollouts[device].next]
            failures = self._of_engines(
                await self.loader.load_all(hosts, self._executors(), self._is_suspect, self._limit_s)
            )
            for device in starting:
                rollout = rollouts[device]
                rollout.is_loading = False
                there = self.loader.loaded(device)
                rollout.now = tuple(h for h in rollout.next if h.key in there)
            self._give_up(failures)
            self._host(plan)

    @property
    def _limit_s(self) -> float:
        """The least that a load may take: one that hangs must not keep all others on a plan that no longer fits."""
        return HURRIED_S if self._controller.placements else UNHURRIED_S

    async def _until_idle(self, device: str) -> None:
        while self.workers[device].is_busy:
            await asyncio.sleep(TIMER_S)

    def _of_engines(self, failures: Iterable[FailedLoad]) -> list[FailedLoad]:
        """Those that aren't because a device is lost, which is no reason not to change the plan."""
        found = []
        for failed in failures:
            if isinstance(failed.error, DeviceLost):
                self.lose(failed.device, BreakerEvent.HUNG, failed.error.message)
            else:
                found.append(failed)
        return found

    def _give_up(self, failures: Iterable[FailedLoad]) -> None:
        """Raise the first of the errors, once all are known; before the first plan there is nothing to plan around."""
        failures = list(failures)
        for failed in failures if self._controller.placements else ():
            self.engine_failed(failed)
        if failures:
            raise failures[0].error

    def _host(self, plan: Plan) -> None:
        """Have the lanes host what is loaded for a plan, from now on."""
        rollouts = self._rollouts
        hosted = [host for rollout in rollouts.values() for host in rollout.hosted]
        loading = [device for device, rollout in rollouts.items() if rollout.is_loading]
        for request in self._controller.adopt(plan, hosted, self._clock(), loading):
            self._endings.dropped(request)
        self._ask_all()
        for host in hosted:
            key = host.key
            if self._is_suspect(host.device, key):
                self.broken[host.device, key].on(BreakerEvent.PASSED, self._clock())

    def _is_suspect(self, device: str, key: VariantKey) -> bool:
        """It was broken there, and is tried again."""
        return (device, key) in self.broken and self.broken[device, key].state is BreakerState.HALF_OPEN

    def _available(self) -> list[str]:
        return [device for device, breaker in self.breakers.items() if breaker.is_closed]

    def _executors(self) -> dict[str, Executor]:
        return {device: worker.executor for device, worker in self.workers.items()}

    def _ask_all(self) -> None:
        for worker in self.workers.values():
            worker.ask()

    def _free_what_is_left(self, device: str) -> None:
        self.loader.keep_only(device, self.workers[device].executor, keys(self._rollouts[device].now))

    # --- devices that are lost, and come back

    def lose(self, device: str, event: BreakerEvent, reason: str) -> None:
        """A device is of no use any more. What ran there is run elsewhere, if there is time for that."""
        breaker, worker = self.breakers[device], self.workers[device]
        if not breaker.is_closed:
            return
        breaker.on(event, self._clock(), reason)
        log.error("%s %s: %s", device, event, reason, extra=fields(device=device, event=event.value, reason=reason))
        worker.executor.abandon()
        self.loader.forget(device)
        self.hosted_before_loss[device] = self._rollouts[device].now
        launches = worker.take_back()
        requests = [request for launch in launches for request in launch.requests]
        again = {request.id for request in requests if self._endings.interrupted(request)}
        orphans = self._controller.device_lost(device, launches)
        for request in requests:
            if request.id not in again:
                self._controller.cancel(request)
        for request in orphans:
            self._endings.dropped(request)
        asyncio.get_running_loop().call_soon(self._ask_all)

    def engine_failed(self, failed: FailedLoad) -> None:
        """An engine can't be loaded, or fails on everything: plans do without it for a while.

        On its device, or on all where none has it: then it is the model that is to blame. A build that someone stopped
        says nothing of it.
        """
        if isinstance(failed.error, BuildCancelled):
            return
        key, now_s = failed.key, self._clock()
        works_elsewhere = any(
            key in self.loader.loaded(device) for device in self._available() if device != failed.device
        )
        for device in [failed.device] if works_elsewhere else list(self.workers):
            breaker = self.broken.setdefault((device, key), Breaker(FIRST_ENGINE_RETRY_S))
            if breaker.state is not BreakerState.OPEN:
                breaker.on(BreakerEvent.BROKE, now_s, failed.error.message)
                self._controller.engine_failed(device, *key)
        log.error(
            "%s is broken%s: %s", key[1], f" on {failed.device}" if works_elsewhere else "", failed.error.message,
            extra=fields(family=key[0], variant=key[1], device=failed.device),
        )  # fmt: skip

    async def bring_back(self, device: str, executor: Executor) -> None:
        """A device works again, with what is loaded on ``executor``. Raises `EngineError`, and then it doesn't."""
        async with self._changing:
            plan = self._controller.plan
            wanted = self._by_device(hosted_by(plan, self._profiles))[device]
            failures = await self.loader.load_all(wanted, {device: executor}, self._is_suspect, HURRIED_S)
            for failed in failures:
                if isinstance(failed.error, DeviceLost):
                    raise failed.error
                self.engine_failed(failed)
            there = self.loader.loaded(device)
            rollout = self._rollouts[device]
            rollout.next = rollout.now = tuple(h for h in wanted if h.key in there)
            self.workers[device].use(executor)
            self.breakers[device].on(BreakerEvent.PASSED, self._clock())
            self._controller.device_recovered(device)
            self._host(plan)
        log.info("%s is back", device, extra=fields(device=device))
