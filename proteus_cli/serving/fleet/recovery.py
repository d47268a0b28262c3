"""Finds devices that hang, and takes lost ones back into service."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import FailedLoad
from proteus_cli.control.devices.breaker import CHECK_EVERY_S, BreakerEvent, BreakerState, HangWatch, hang_timeout_s
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import DeviceLost, EngineError, HostLost, ProteusError
from proteus_cli.serving.devices.executor import Executor
from proteus_cli.serving.fleet.fleet import Fleet
from proteus_cli.serving.fleet.worker import Clock
from proteus_cli.serving.lifecycle import count_bug

EVERY_S = CHECK_EVERY_S

log = logging.getLogger("proteus.recovery")


class Recovery:
    """Checks devices for batches that hang, and puts lost devices on probation.

    A device on probation is opened anew, loads what it hosted before, and must run one batch of each engine in time;
    then it serves again. A broken engine is only reported as recovered: the next plan that places it tries it.

    A device that is not ``is_reachable`` waits for that without a probation, which could only fail and lengthen the
    pauses.
    """

    def __init__(
        self,
        fleet: Fleet,
        controller: Controller,
        profiles: Mapping[str, Profile],
        clock: Clock,
        is_reachable: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._fleet, self._controller, self._profiles, self._clock = fleet, controller, profiles, clock
        self._is_reachable = is_reachable
        self._hangs = HangWatch(clock())
        self._probations: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Check every `EVERY_S` until cancelled."""
        try:
            while True:
                await asyncio.sleep(EVERY_S)
                self.check()
        finally:
            for probation in self._probations:
                probation.cancel()
            await asyncio.gather(*self._probations, return_exceptions=True)  # `_report` has logged any bug

    def check(self) -> None:
        """Check all devices and breakers once."""
        now_s, workers = self._clock(), self._fleet.workers
        overdue = {
            device: launch
            for device, worker in workers.items()
            if worker.running and (launch := worker.overdue(now_s)) is not None
        }
        for device in self._hangs.look(overdue, now_s):
            self._fleet.lose(device, BreakerEvent.HUNG, "a batch that should have ended long ago has not")
        for device in list(self._fleet.away):
            retry_s = self._fleet.retry_s(device)
            if retry_s is not None and now_s >= retry_s and self._is_reachable(device):
                self._fleet.breakers[device].on(BreakerEvent.RETRIED, now_s)
                self._start(device)
        for (device, key), breaker in self._fleet.broken_engines.breakers.items():
            if breaker.state is BreakerState.OPEN and now_s >= breaker.retry_s():
                breaker.on(BreakerEvent.RETRIED, now_s)
                self._controller.engine_recovered(device, key)

    def _start(self, device: str) -> None:
        probation = asyncio.create_task(self._on_probation(device))
        self._probations.add(probation)
        probation.add_done_callback(self._probations.discard)
        probation.add_done_callback(_report)

    async def _on_probation(self, device: str) -> None:
        level = logging.DEBUG if device in self._fleet.lost_with_host else logging.INFO  # its host has a line
        log.log(level, "opening %s again" if self._fleet.breakers[device].opened else "opening %s", device)
        executor: Executor | None = None
        try:
            executor = self._fleet.open_device(device)
            await self._try_out(device, executor)
            await self._fleet.recover(device, executor)
        except BaseException as error:
            if executor is not None:
                executor.abandon()
            self._fleet.loader.forget(device)
            event = BreakerEvent.DIED if isinstance(error, DeviceLost) else BreakerEvent.BROKE
            reason = error.message if isinstance(error, ProteusError) else repr(error)
            self._fleet.breakers[device].on(event, self._clock(), reason)
            if not isinstance(error, ProteusError):
                raise
            is_host_lost = isinstance(error, HostLost) and bool(error.why)
            log.log(logging.DEBUG if is_host_lost else logging.WARNING, "%s is still lost: %s", device, reason)

    async def _try_out(self, device: str, executor: Executor) -> None:
        """Load engines and run a batch of each. Raises `EngineError` where none works."""
        loader, servers = self._fleet.loader, self._fleet.workers[device].servers
        hosted, others = self._controller.topology.probation(device, self._fleet.hostable_on(device))
        works = False
        for key, rows in (*hosted.items(), *((key, 1) for key in others)):
            if works and key not in hosted:
                break
            try:
                await loader.load(device, executor, key)
                await loader.prove(executor, key, rows, hang_timeout_s(self._takes_s(device, key, rows), servers))
            except DeviceLost:
                raise
            except EngineError as error:
                self._fleet.broken_engines.failed(FailedLoad(device, key, error))
            else:
                works = True
        if not works:
            raise EngineError("no engine works on it")

    def _takes_s(self, device: str, key: VariantKey, rows: int) -> float:
        measured = self._profiles[device].of(*key)
        assert measured is not None  # noqa: S101 - else it would not have been planned
        return LatencyTable(measured.points, of=lambda point: point.p95_s)(rows)


def _report(probation: "asyncio.Task[None]") -> None:
    if not probation.cancelled() and (error := probation.exception()) is not None:
        count_bug("Recovery.run", error)
