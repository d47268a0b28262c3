"""The serving side of one device: asks the controller what to do, and does it."""

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from proteus_cli.backends.base import Part
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Drop, Effects, Idle, Launch, WaitUntil
from proteus_cli.control.devices.breaker import BreakerEvent, overdue
from proteus_cli.control.devices.slowness import counted_s
from proteus_cli.control.slot_tuner import SlotTuner
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.request import Request
from proteus_cli.errors import DeviceLost, EngineBroken
from proteus_cli.serving.devices.executor import Batch, BatchResult, Executor

Clock = Callable[[], float]

INLINE_S = 50e-6  # a batch that takes no longer runs on the event loop: waking a thread and the loop takes as long
DISPATCH_AHEAD_S = 2e-3  # under load, a turn of the event loop takes this long: the device gets its next batch earlier
IPC_S = 1e-3  # to a device's own process and back, on a machine that is not overloaded


class ResultSink(Protocol):
    """Has the inputs of requests, and takes their results."""

    def started(self, launch: Launch) -> Sequence[Part]:
        """A batch starts; returns what it is made of."""
        ...

    def answered(self, launch: Launch, started_s: float, result: BatchResult) -> None:
        """A batch is done; also what has left it is in the result."""
        ...

    def left(self, launch: Launch, started_s: float, parts: Sequence[int], result: BatchResult) -> None:
        """Some requests of a batch, by place, have their result before its end."""
        ...

    def dropped(self, requests: Sequence[Request]) -> None:
        """Give up requests that nobody can answer in time, or at all."""
        ...

    def failed(self, launch: Launch, error: Exception) -> None:
        """A batch failed with an error, and its requests with it."""
        ...

    def has_ended(self, request: Request) -> bool:
        """No batch is to answer a request of a batch that runs, any more."""
        ...

    def device_lost(self, effects: Effects) -> None:
        """The device that ran requests is lost."""
        ...


LossReport = Callable[[str, BreakerEvent, str, VariantKey], None]
"""Called with a device, what happened to it, why, and which variant it ran."""

_DEVICE_FAILURES: dict[type[Exception], BreakerEvent] = {
    DeviceLost: BreakerEvent.DIED,
    EngineBroken: BreakerEvent.BROKE,
}


class Worker:
    """Carries out the decisions for one device on the running event loop; ``clock`` is the controller's.

    A batch that fails by a fault of the device counts as running until `take_back`; ``report`` is called. Waits are
    rounded up to ``timer_s``, the resolution of the loop's timers, as shorter ones would spin. Batches that should take
    `INLINE_S` at most run on the event loop, where the executor ``runs_inline``. ``servers`` servers share the device.
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
        self.servers = 1
        self.busy_s = 0.0  # with any batch, until the end of the last one
        self.batches = self.rows = 0  # of batches with results
        self.waited_s = 0.0  # for turns of other servers, on their agent
        self.running: dict[int, tuple[Launch, float]] = {}  # batches with their start, in order
        self._gone: dict[int, set[int]] = {}  # of these, the places of requests that have left
        self._ended_s = self._counted_s = 0.0
        self._timer_s = timer_s
        self._controller, self._results, self._clock, self._others = controller, results, clock, others
        self._report = report
        self._timer: asyncio.TimerHandle | None = None
        self.wake_s = math.inf  # what the timer is set to
        self.use(executor)

    def use(self, executor: Executor) -> None:
        """Run batches on this executor from now on."""
        self.executor = executor
        self._inline_s = INLINE_S if executor.runs_inline else 0.0

    def ask(self) -> None:
        """Ask for decisions and obey them, here and at the workers that these wake, until there is nothing more to do.

        When a timer fires late, the decision is still made for the time it was set to. Told the later time, the
        controller would drop a request that can just be in time. The margin of each deadline covers the delay.
        """
        to_ask: list[tuple[Worker, float | None]] = [(self, None)]  # a stack: each of thousands may wake the next
        while to_ask:
            worker, wake_s = to_ask.pop()
            if wake_s is None:  # not asked yet
                wake_s, worker.wake_s = worker.wake_s, math.inf
            now_s = min(self._clock(), wake_s)
            match self._controller.decide(worker.device, now_s):
                case Launch() as launch:
                    worker.run(launch)
                    to_ask.append((worker, wake_s))
                    to_ask += [(self._others[other], None) for other in reversed(launch.wake)]
                case Drop(requests=requests):
                    self._results.dropped(requests)
                    to_ask.append((worker, wake_s))
                case WaitUntil(at_s=at_s):
                    worker.wait_until(at_s, now_s)
                case Idle():
                    pass

    def overdue(self, now_s: float) -> Launch | None:
        """The oldest batch, if it should have ended long ago."""
        slowdown = self._controller.slowdown_of(self.device)
        return overdue(self.running, self._ended_s, now_s, slowdown, self.servers)

    @property
    def is_busy(self) -> bool:
        """A submitted batch has not ended."""
        return bool(self.running)

    def take_back(self) -> list[Launch]:
        """Return the running batches; their ends mean nothing from now on."""
        launches = [launch for launch, _ in self.running.values()]
        self.running.clear()
        self._gone.clear()
        return launches

    def wait_until(self, at_s: float, now_s: float) -> None:
        """Ask again at a time, unless asked before."""
        self.wake_s = at_s
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(at_s - now_s, self._timer_s), self.ask)

    def run(self, launch: Launch) -> None:
        """Start a batch; one that runs inline has ended when this returns."""
        hosted, now_s = launch.hosted, self._clock()
        if not self.running:
            self._counted_s = now_s
        parts = self._results.started(launch)
        bounds = self._controller.dispatch.exit_bounds(launch) if hosted.exits else None
        slowdown_of = self._controller.slowdown_of
        is_inline = not self.running and hosted.latency(launch.rows) * slowdown_of(self.device) <= self._inline_s
        leaving = None if bounds is None or is_inline else partial(self._left, launch)  # inline, all end at once
        batch = Batch(hosted.key, parts, launch.rows, bounds, hosted.others, leaving)
        try:
            if is_inline:
                self._end(launch, now_s, self.executor.run(batch))
            else:
                self.executor.submit(batch, partial(self._finished, launch))
                self.running[id(launch)] = launch, now_s
        except Exception as error:  # noqa: BLE001 - closed, not loaded, a model that fails: its requests must end
            self._end(launch, now_s, error)

    def _finished(self, launch: Launch, result: BatchResult | Exception) -> None:
        running = self.running.pop(id(launch), None)
        if running is None:  # taken back
            return
        begun_s = self._begun_s(launch, running[1])
        self._end(launch, begun_s, result, ahead_s=begun_s - running[1])
        self.ask()

    def _left(self, launch: Launch, parts: Sequence[int], result: BatchResult) -> None:
        """Parts have left a batch, which may have been taken back."""
        running = self.running.get(id(launch))
        if running is not None:
            self._gone.setdefault(id(launch), set()).update(parts)
            self._came(launch, result)
            self._results.left(launch, self._begun_s(launch, running[1]), parts, result)

    def _begun_s(self, launch: Launch, submitted_s: float) -> float:
        return max(self._ended_s, submitted_s) if launch.is_ahead else submitted_s

    def _came(self, launch: Launch, result: BatchResult) -> None:
        """Answers of a batch that may be cut short are here."""
        if result.ended_s:
            way_s = max(0.0, self._clock() - result.ended_s - launch.hosted.way_s(launch.rows))
            self._controller.dispatch.answers_came(launch, way_s)

    def _end(self, launch: Launch, started_s: float, result: BatchResult | Exception, ahead_s: float = 0.0) -> None:
        """A batch is over, which was submitted ``ahead_s`` before its start."""
        gone = self._gone.pop(id(launch), ())
        failure = _DEVICE_FAILURES.get(type(result)) if isinstance(result, Exception) else None
        if failure is not None:
            self.running[id(launch)] = launch, started_s
            self._report(self.device, failure, str(result), launch.hosted.key)
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
            self.waited_s += result.waited_s
            may_be_cut = bool(result.notes) and launch.hosted.cuts
            on_way_s = min(ahead_s, launch.hosted.way_s(launch.rows)) if may_be_cut else 0.0  # while another ran
            service_s = _service_s(launch, took_s + on_way_s, result, self.servers)
            if may_be_cut:
                exits = result.notes[0]  # in the order of `exits.runner.NOTES`
                if len(gone) < len(launch.requests):
                    self._came(launch, result)
                self._controller.finished(launch, service_s, exits)
            else:
                self._controller.finished(launch, service_s)
            self._results.answered(launch, started_s, result)


def _service_s(launch: Launch, took_s: float, result: BatchResult, servers: int) -> float | None:
    """The seconds that a batch counts for the slowdown of its device; None where it had to be split.

    For a batch submitted ahead, the time since the one before it ended. Else the model's own time, as a late event loop
    says nothing about the device, plus the time that the device's process stood still. On a shared device, it is
    compared with this server's part of the device.
    """
    if result.failures:
        return None
    if launch.is_ahead and not result.waited_s:
        return servers * took_s
    stood_s = result.elapsed_s - result.waited_s - result.compute_s
    return counted_s(result.compute_s + max(0.0, stood_s - IPC_S), result.waited_s, servers)


class WatchedWorker(Worker):
    """A `Worker` whose batches a `SlotTuner` watches; other workers pay nothing for that."""

    def __init__(self, tuner: SlotTuner, *of_worker: Any) -> None:
        super().__init__(*of_worker)
        self._tuner = tuner
        self._exposures: dict[int, tuple[float, ...]] = {}  # what the tuner gave when running batches began

    def take_back(self) -> list[Launch]:
        self._exposures.clear()
        self._tuner.lost(self._clock())
        return super().take_back()

    def run(self, launch: Launch) -> None:
        self._exposures[id(launch)] = self._tuner.began(self._clock())
        super().run(launch)

    def _end(self, launch: Launch, started_s: float, result: BatchResult | Exception, ahead_s: float = 0.0) -> None:
        super()._end(launch, started_s, result, ahead_s)
        if id(launch) in self.running:  # it failed with its device, which is to be lost
            return
        exposure = self._exposures.pop(id(launch), None)
        if exposure is not None:  # else taken back
            is_whole = not isinstance(result, Exception) and not result.failures
            work_s = launch.hosted.mean_latency(launch.rows) if is_whole else None
            self._tuner.ended(exposure, work_s, self._ended_s)


class Workers:
    """The workers by device, which `Fleet` adds.

    ``last_devices`` are the last devices named in this turn of the event loop; None where none were.
    """

    def __init__(self) -> None:
        self.by_device = dict[str, Worker]()
        self.last_devices: Iterable[str] | None = None
        self._to_ask: dict[str, None] = {}

    def ask_soon(self, devices: Iterable[str]) -> None:
        """Have workers ask for work once all requests that have arrived by now are admitted, to share a batch."""
        self.last_devices = devices
        for device in devices:
            if not self._to_ask:
                asyncio.get_running_loop().call_soon(self._ask)
            self._to_ask[device] = None

    def run(self, check: Launch) -> None:
        """Run a background request on its device, which is idle (`Dispatch.launch_if_idle`)."""
        self.by_device[check.hosted.device].run(check)

    def _ask(self) -> None:
        asked, self._to_ask, self.last_devices = self._to_ask, {}, None
        for device in asked:
            self.by_device[device].ask()
