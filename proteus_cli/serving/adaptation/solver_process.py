"""The planner in a process of its own: a solve never holds the GIL of the data path, and may die or hang."""

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import Protocol, TypeVar

from proteus_cli.control.replanning import ReplanRequest
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.outages import NONE_OUT, Outages
from proteus_cli.domain.plan import Plan
from proteus_cli.errors import ProteusError, SolverLost
from proteus_cli.serving.logs import fields

log = logging.getLogger("proteus.solver")

T = TypeVar("T")

TRIES = 2
SLACK_S = 2.0  # beyond a solve's own time limit: to be sent there and back, on a busy machine
WATCH_S = 0.2
NICE = 5
START_WITHIN_S = 30.0  # to start a process, to import and to compile


class Replanner(Protocol):
    """Makes the next plan for a demand, coming from the plan in force, without what can't be used now."""

    def __call__(self, demand: Demand, current: Plan, without: Outages, /) -> Plan: ...


@dataclass(slots=True)
class SolverState:
    """What is known of the solver: its process, whether it is at work, and how it did so far (unix time, seconds)."""

    pid: int | None = None
    is_busy: bool = False
    is_warm: bool = False
    solves: int = 0
    restarts: int = 0
    last_unix_s: float | None = None
    last_s: float | None = None


class SolverProcess:
    """Asks ``replan`` in a process that was started, and warmed up, before it is needed.

    ``limit_s`` is the time limit of a solve. A process that has not answered by then, and `SLACK_S` later, hangs.
    """

    def __init__(self, replan: Replanner, limit_s: float, *, start_within_s: float = START_WITHIN_S) -> None:
        self._replan, self._within_s, self._start_within_s = replan, limit_s + SLACK_S, start_within_s
        self.state = SolverState()
        self._warm_up: tuple[Demand, Plan] | None = None
        self._ready: Future[None]
        self._start()

    async def __call__(self, wanted: ReplanRequest, current: Plan) -> Plan:
        """Raises `ProteusError` where there is no plan, and `SolverLost` where there is nobody to make one.

        A process that died or hangs is replaced, and the next one asked once more.
        """
        start_s, self.state.is_busy = time.perf_counter(), True
        try:
            problem = ""
            for _ in range(TRIES):
                try:
                    await self._result(self._ready, self._start_within_s)
                    asked = self._pool.submit(_replan_in_process, wanted.demand_qps, current, wanted.without)
                    return await self._result(asked, self._within_s)
                except BrokenProcessPool:
                    problem = "died"
                except TimeoutError:
                    problem = "hangs"
                self._replace(problem)
            raise SolverLost(f"The solver's process {problem}, and so did the one before.")
        finally:
            self.state.is_busy = False
            self.state.solves += 1
            self.state.last_unix_s, self.state.last_s = time.time(), time.perf_counter() - start_s

    def warm_up(self, plan: Plan) -> None:
        """Have this process, and those that replace it, solve for that plan's demand before they are needed."""
        self._warm_up = plan.demand_qps, plan
        self._ready = self._pool.submit(_warm_up_in_process, *self._warm_up)
        self._ready.add_done_callback(self._warmed_up)
        self._note_pid()

    def use(self, replan: Replanner) -> None:
        """Ask that one from now on."""
        self._replan = replan
        with contextlib.suppress(BrokenProcessPool):  # the next process will have it
            self._pool.submit(_use_in_process, replan)

    async def watch(self) -> None:
        """Until cancelled, replace a process that died while it had nothing to do, before it is needed."""
        while True:
            await asyncio.sleep(WATCH_S)
            if not self.state.is_busy and self._pool._broken:  # noqa: SLF001 - it says it nowhere else
                self._replace("died")

    def close(self) -> None:
        """End the process at once, whatever it does."""
        processes = list((self._pool._processes or {}).values())  # noqa: SLF001 - before the pool forgets them
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()

    @staticmethod
    async def _result(job: "Future[T]", within_s: float) -> T:
        """Its result. Raises `TimeoutError`, and what the job raises."""
        waiter = asyncio.wrap_future(job)
        done, _ = await asyncio.wait({waiter}, timeout=within_s)
        if not done:
            raise TimeoutError
        return waiter.result()

    def _start(self) -> None:
        # "spawn", as a fork would copy locks that threads of ONNX Runtime hold.
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), _start_process, (self._replan,))
        self.state.is_warm = False
        self._ready = self._pool.submit(_nothing)
        self._note_pid()

    def _replace(self, problem: str) -> None:
        log.warning("the solver's process %s; starting another", problem, extra=fields(process=self.state.pid))
        self.close()
        self.state.restarts += 1
        self._start()
        if self._warm_up is not None:
            self.warm_up(self._warm_up[1])

    def _note_pid(self) -> None:
        self.state.pid = next(iter(self._pool._processes or {}), None)  # noqa: SLF001 - it says it nowhere else

    def _warmed_up(self, job: "Future[None]") -> None:
        """In a thread of the pool."""
        if not job.cancelled() and job.exception() is None:
            self.state.is_warm = True


def _start_process(replan: Replanner) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server decides
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as a closing terminal's does
    _use_in_process(replan)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A server that is killed can't stop this process: it would wait for its next task for good."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


_replan_here: Replanner | None = None  # set in the solver's process only


def _use_in_process(replan: Replanner) -> None:
    global _replan_here  # noqa: PLW0603 - the one way to hand a pool's process something once
    _replan_here = replan


def _replan_in_process(demand: Demand, current: Plan, without: Outages) -> Plan:
    if _replan_here is None:
        raise RuntimeError("the process was not started by `_start_process`")
    return _replan_here(demand, current, without)


def _warm_up_in_process(demand: Demand, current: Plan) -> None:
    with contextlib.suppress(ProteusError):  # what can't be planned now is said when it is needed
        _replan_in_process(demand, current, NONE_OUT)
    os.nice(NICE)  # from now on batches go first where there are too few cores; a solve is short, getting here is not


def _nothing() -> None:
    """The first task starts the process."""
