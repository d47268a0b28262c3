"""The serving side of one device: asks the controller, and obeys."""

import asyncio
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from proteus_cli.control.breaker import BreakerEvent, hang_timeout_s
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Delegate, Drop, Idle, Launch, WaitUntil, WakeOthers
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.request import Request
from proteus_cli.errors import DeviceLost, EngineBroken
from proteus_cli.serving.devices.executor import Batch, BatchResult, Executor

Clock = Callable[[], float]

# Waking a thread, and the loop again, takes about as long; a batch that takes no longer runs at once, on the loop.
INLINE_S = 50e-6

# Under load the loop comes round this late, or later: so much work is given to a device before it needs it.
DISPATCH_AHEAD_S = 2e-3


HANDOVER_S = 1e-3  # to a device's own process, on a machine that is not overrun


class ResultSink(Protocol):
    """Where requests end."""

    def answered(self, launch: Launch, started_s: float, result: BatchResult) -> None: ...

    def dropped(self, request: Request) -> None: ...

    def failed(self, launch: Launch, error: Exception) -> None: ...

    def interrupted(self, request: Request) -> bool:
        """Its batch came to nothing, as the device is lost. Whether it should be run again."""
        ...


LossReport = Callable[[str, BreakerEvent, str], None]
"""Is told a device, what happened to it, and why."""

_TROUBLE: dict[type[Exception], BreakerEvent] = {DeviceLost: BreakerEvent.DIED, EngineBroken: BreakerEvent.BROKE}


class Worker:
    """Drives the decisions of one device on the running event loop; ``clock`` is that of the controller.

    Where a batch says that it isn't the request's fault but the device's, the batch still counts as running, and
    ``report`` is told: whoever that is can `take_back` what runs.
    ``timer_s`` is the resolution of the loop's timers: shorter waits are rounded up to it, as they would spin.
    Batches that should take `INLINE_S` at most run at once, on the loop, where the executor ``runs_inline``.
    """

    def __init__(
        self,
        device: str,
        controller: Controller,
        executor: Executor,
        results: ResultSink,
        clock: Clock,
        others: Mapping[str, "Worker"],
        report: LossReport,
        timer_s: float,
    ) -> None:
        self.device = device
        self.busy_s = 0.0  # with any batch, as of when the last one ended
        self.batches = self.rows = 0  # that were answered
        self._running: dict[int, tuple[Launch, float]] = {}  # with the start of each, in order
        self._ended_s = self._counted_s = 0.0
        self._timer_s = timer_s
        self._controller, self._results, self._clock, self._others = controller, results, clock, others
        self._report = report
        self._timer: asyncio.TimerHandle | None = None
        self._wake_s = math.inf
        self.use(executor)

    def use(self, executor: Executor) -> None:
        """Run batches there from now on."""
        self.executor = executor
        self._inline_s = INLINE_S if executor.runs_inline else 0.0

    def ask(self) -> None:
        """Ask what to do, and do it, until there is nothing more to do now.

        A moment that was waited for is not missed because the timer or the loop is late: it is still asked for then.
        The margin of each deadline covers that; told the later time, the controller would give the request up.
        """
        wake_s, self._wake_s = self._wake_s, math.inf
        while True:
            now_s = min(self._clock(), wake_s)
            match self._controller.decide(self.device, now_s):
                case Launch() as launch:
                    self._launch(launch, self._clock())
                case Drop(requests=requests):
                    for request in requests:
                        self._results.dropped(request)
                case WakeOthers(devices=others):
                    for other in others:
                        self._others[other].ask()
                case Delegate(to=other):
                    self._others[other].ask()
                case WaitUntil(at_s=at_s):
                    self._wake_s = at_s
                    self._wake_in(at_s - now_s)
                    return
                case Idle():
                    return

    def is_hung(self, now_s: float) -> bool:
        """The batch that runs should have ended long ago."""
        if not self._running:
            return False
        launch, started_s = next(iter(self._running.values()))
        takes_s = launch.hosted.latency(launch.rows) * self._controller.slowdown_of(self.device)
        return now_s - max(started_s, self._ended_s) > hang_timeout_s(takes_s)

    @property
    def is_busy(self) -> bool:
        """A batch was submitted that has not ended."""
        return bool(self._running)

    def take_back(self) -> list[Launch]:
        """What runs is void: nobody is told of it any more."""
        launches = [launch for launch, _ in self._running.values()]
        self._running.clear()
        return launches

    def _wake_in(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(delay_s, self._timer_s), self.ask)

    def _launch(self, launch: Launch, now_s: float) -> None:
        """Start a batch; a short one is done when this returns."""
        hosted = launch.hosted
        if not self._running:
            self._counted_s = now_s
        parts = [(request.rows, request.payload.run()) for request in launch.requests]
        batch = Batch(VariantKey(hosted.family, hosted.variant), parts, launch.rows)
        try:
            slowdown_of = self._controller.slowdown_of
            if not self._running and hosted.latency(launch.rows) * slowdown_of(self.device) <= self._inline_s:
                self._end(launch, now_s, self.executor.run(batch))
            else:
                self.executor.submit(batch, partial(self._finished, launch))
                self._running[id(launch)] = launch, now_s
        except Exception as error:  # noqa: BLE001 - closed, not loaded, a model that fails: its requests must end
            self._end(launch, now_s, error)

    def _finished(self, launch: Launch, result: BatchResult | Exception) -> None:
        running = self._running.pop(id(launch), None)
        if running is None:  # it was taken back
            return
        self._end(launch, max(self._ended_s, running[1]) if launch.is_ahead else running[1], result)
        self.ask()

    def _end(self, launch: Launch, started_s: float, result: BatchResult | Exception) -> None:
        trouble = _TROUBLE.get(type(result)) if isinstance(result, Exception) else None
        if trouble is not None:
            self._running[id(launch)] = launch, started_s
            self._report(self.device, trouble, str(result))
            return
        self._ended_s = self._clock()
        took_s = self._ended_s - started_s
        self.busy_s += self._ended_s - self._counted_s
        self._counted_s = self._ended_s
        if isinstance(result, Exception):
            self._controller.finished(launch, None)
            self._results.failed(launch, result)
        else:
            self.batches += 1
            self.rows += launch.rows
            self._controller.finished(launch, _service_s(launch, took_s, result))
            self._results.answered(launch, started_s, result)


def _service_s(launch: Launch, took_s: float, result: BatchResult) -> float | None:
    """What a batch says of the pace of its device.

    Nothing where it had to be split. Behind another, all the time since that ended; else what the model took, as a
    late loop says nothing about the device, and what its process stood still beside that.
    """
    if result.failures:
        return None
    stood_s = result.elapsed_s - result.compute_s
    return took_s if launch.is_ahead else result.compute_s + max(0.0, stood_s - HANDOVER_S)
