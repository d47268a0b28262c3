"""The serving side of one device: asks the controller, and obeys."""

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from proteus_cli.backends.base import Arrays
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Drop, HandOver, Hosted, Idle, Launch, WaitUntil
from proteus_cli.domain.request import Request
from proteus_cli.serving.executor import BatchResult, Executor

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """One request's rows of a batch: the outputs, who made them, when they started and how long that took."""

    hosted: Hosted
    outputs: Arrays
    batch_rows: int
    started_s: float
    compute_s: float


class Endings(Protocol):
    """Where requests end."""

    def answered(self, request: Request, answer: Answered) -> None: ...

    def dropped(self, request: Request) -> None: ...

    def failed(self, request: Request, error: BaseException) -> None: ...


class Lane:
    """Drives the decisions of one device on the running event loop; ``clock`` is that of the controller.

    ``timer_s`` is the resolution of the loop's timers: shorter waits are rounded up to it, as they would spin.
    """

    def __init__(
        self,
        device: str,
        controller: Controller,
        executor: Executor,
        endings: Endings,
        clock: Clock,
        others: Mapping[str, "Lane"],
        timer_s: float,
    ) -> None:
        self.device, self.executor = device, executor
        self._timer_s = timer_s
        self._controller, self._endings, self._clock, self._others = controller, endings, clock, others
        self._timer: asyncio.TimerHandle | None = None
        self._wake_s = math.inf

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
                    self._launch(launch, now_s)
                case Drop(requests=requests):
                    for request in requests:
                        self._endings.dropped(request)
                case HandOver(to=other):
                    self._others[other].ask()
                case WaitUntil(at_s=at_s):
                    self._wake_s = at_s
                    self._wake_in(at_s - now_s)
                    return
                case Idle():
                    return

    def _wake_in(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(delay_s, self._timer_s), self.ask)

    def _launch(self, launch: Launch, now_s: float) -> None:
        key = (launch.hosted.family, launch.hosted.variant)
        try:
            future = self.executor.submit(key, [request.payload.inputs for request in launch.requests])
        except (RuntimeError, KeyError) as error:  # closed, or not loaded: the batch must end all the same
            self._controller.finished(launch, None)
            for request in launch.requests:
                self._endings.failed(request, error)
            return
        future.add_done_callback(partial(self._finished, launch, now_s))

    def _finished(self, launch: Launch, started_s: float, future: "asyncio.Future[BatchResult]") -> None:
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        self._controller.finished(launch, self._clock() - started_s if error is None else None)
        if error is not None:
            for request in launch.requests:
                self._endings.failed(request, error)
        else:
            self._answer(launch, started_s, future.result())
        self.ask()

    def _answer(self, launch: Launch, started_s: float, result: BatchResult) -> None:
        first = 0
        for request in launch.requests:
            rows = slice(first, first + request.rows)
            outputs = {name: values[rows] for name, values in result.outputs.items()}
            answer = Answered(launch.hosted, outputs, launch.rows, started_s, result.compute_s)
            self._endings.answered(request, answer)
            first += request.rows
