"""The planner in a process of its own: a solve never holds the GIL of the data path, and may die or hang.

The best plan may take seconds to find, with cascades on shared devices above all. If the demand rises beyond what the
plan in force carries, or a device is lost, that plan would come too late. During a solve, `Solves` therefore asks the
controller whether another plan is more urgent. If so, the solver ends early. The plan that it has found by then is put
in force if it carries the present demand. Otherwise it is dropped, and the urgent plan is asked for at once.
"""

import asyncio
import logging
import pickle
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Pipe
from typing import Literal, Protocol

from proteus_cli.control.devices.breaker import Breaker, BreakerEvent
from proteus_cli.control.replanning.replan_rules import ReplanRequest
from proteus_cli.control.replanning.replanning import Replanning
from proteus_cli.domain.catalog import VariantsByDevice
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.device import NONE_OUT
from proteus_cli.domain.plan import Plan
from proteus_cli.errors import ProteusError, SolverLost
from proteus_cli.serving.adaptation.solver_child import END_EARLY, Replanner, SolverJob
from proteus_cli.serving.child_process import LIMITS_HINT, start_process, waited_s
from proteus_cli.serving.fleet.worker import Clock
from proteus_cli.serving.logs import fields

log = logging.getLogger("proteus.solver")

TRIES = 2
SLACK_S = 2.0  # beyond a solve's own time limit: to be sent there and back, on a busy machine
MAX_STARVED = 5
"""A process that waits for a core may take this many times as long: it does not hang."""
WATCH_S = 0.2
START_WITHIN_S = 30.0  # to start a process, to import and to compile


class PlanSolver(Protocol):
    """Makes plans, one at a time."""

    def __call__(self, wanted: ReplanRequest, current: Plan, standbys: VariantsByDevice, /) -> Awaitable[Plan]:
        """Raises `ProteusError` where there is no plan."""
        ...

    def end_early(self) -> None:
        """End the solve that runs, if any, with the best plan so far, or with a `ProteusError`.

        May be called again and again during a solve.
        """
        ...


class Solves:
    """Has a ``solver`` make plans. During a solve, it looks every ``every_s`` whether another plan is more urgent."""

    def __init__(self, solver: PlanSolver, replanning: Replanning, clock: Clock, every_s: float) -> None:
        self._solver, self._replanning, self._clock, self._every_s = solver, replanning, clock, every_s

    async def plan(self, wanted: ReplanRequest, current: Plan, standbys: VariantsByDevice) -> Plan | None:
        """The plan; None if another is more urgent now, to be asked for at once. Raises `ProteusError`."""
        solve = asyncio.ensure_future(self._solver(wanted, current, standbys))
        overtaken: str | None = None
        try:
            while not (await asyncio.wait((solve,), timeout=self._every_s))[0]:
                overtaken = overtaken or self._replanning.overtaken_by(wanted, self._clock())
                if overtaken is not None:
                    self._solver.end_early()  # again at each look: a process that is not ready yet cannot listen
        finally:
            if solve.cancel():
                await asyncio.wait((solve,))
        if overtaken is None:
            return solve.result()
        try:
            plan = solve.result()
        except ProteusError as error:
            log.info("a solve that was ended early has no plan: %s", error.message)
        else:
            if self._replanning.is_enough(wanted, plan, self._clock()):
                return plan
        log.info("ended a solve (%s), as another plan is more urgent: %s", wanted.reason, overtaken)
        self._replanning.overtaken(wanted)
        return None


@dataclass(slots=True)
class SolverState:
    """The solver's process, whether it is at work, and its solves so far (unix time, seconds).

    Some solves were ``ended_early``, as a more urgent plan was wanted.
    """

    pid: int | None = None
    is_busy: bool = False
    is_warm: bool = False
    solves: int = 0
    restarts: int = 0
    ended_early: int = 0
    last_unix_s: float | None = None
    last_s: float | None = None


class SolverProcess:
    """Plans with ``replan`` in a process that was started, and warmed up, before it is needed.

    ``limit_s`` is the time limit of a solve. A process that has not answered `SLACK_S` after that hangs, if it had a
    core. Must be made on the main thread, as the process ends with the thread that started it.
    """

    def __init__(self, replan: Replanner, limit_s: float) -> None:
        self._replan, self._within_s = replan, limit_s + SLACK_S
        self.state = SolverState()
        self._is_solving = self._is_ended_early = False
        self._warm_up: SolverJob | None = None
        self._ready = Future[Plan | None]()
        self._start()

    async def __call__(self, wanted: ReplanRequest, current: Plan, standbys: VariantsByDevice) -> Plan:
        """Raises `ProteusError` if there is no plan, and `SolverLost` if no process can make one.

        A process that died or hangs is replaced, and the next one is asked once more.
        """
        start_s, self.state.is_busy, self._is_ended_early = time.perf_counter(), True, False
        how: Literal["give way", "solve"] = "give way" if wanted.is_routine and not wanted.is_urgent else "solve"
        job, problem = (how, (wanted.demand_qps, current, wanted.without, standbys)), ""
        try:
            for _ in range(TRIES):
                try:
                    await self._until_ready()
                    self._is_solving = True
                    plan = await self._in_time(self._child.do(job), self._within_s)
                    assert plan is not None  # noqa: S101 - a solve has a plan as its result
                except (SolverDied, TimeoutError) as error:
                    problem = "died" if isinstance(error, SolverDied) else "hangs"
                    self._is_solving = False
                    self._replace(problem)
                else:
                    return plan
                finally:
                    self._is_solving = False
            raise SolverLost(f"The solver's process {problem}, and so did the one before.")
        finally:
            self.state.is_busy = False
            self.state.solves += 1
            self.state.last_unix_s, self.state.last_s = time.time(), time.perf_counter() - start_s

    def end_early(self) -> None:
        """End the solve that runs, if any, with the best plan that it has found.

        It ends where the planner looks, in milliseconds in most cases, and by its time limit at the latest. A process
        that has not received the job yet misses it: call it until the solve has ended. It counts once.
        """
        if self._is_solving and self._child.is_alive:
            self._child.process.send_signal(END_EARLY)
            self.state.ended_early += not self._is_ended_early
            self._is_ended_early = True

    def warm_up(self, demand: Demand, current: Plan) -> None:
        """Have this process, and each that replaces it, solve for such a demand before it is needed."""
        self._warm_up = "warm up", (demand, current, NONE_OUT, {})
        self._prepare()

    def use(self, replan: Replanner) -> None:
        """Plan with that one from now on."""
        self._replan = replan
        self._child.do(replan)

    async def watch(self) -> None:
        """Until cancelled, replace a process that died while it had nothing to do, before it is needed.

        One that dies again and again, or cannot be started, is tried at growing distances.
        """
        breaker = Breaker()
        while True:
            await asyncio.sleep(WATCH_S)
            now_s = asyncio.get_running_loop().time()
            if self.state.is_busy or self._child.is_alive:
                continue
            if breaker.is_closed:
                breaker.on(BreakerEvent.DIED, now_s)
            elif now_s >= breaker.retry_s():
                breaker.on(BreakerEvent.RETRIED, now_s)
                try:
                    self._replace("died")
                    breaker.on(BreakerEvent.PASSED, now_s)
                except SolverLost as error:
                    breaker.on(BreakerEvent.DIED, now_s)
                    log.warning("%s", error)

    def close(self) -> None:
        """End the process at once, whatever it does, and wait for its end."""
        self._child.kill()
        self._child.thread.shutdown(wait=True)

    async def _until_ready(self) -> None:
        """A process whose warm-up failed is ready, too. Raises `SolverDied`, and `TimeoutError` if it hangs."""
        try:
            await self._in_time(self._ready, START_WITHIN_S)
        except (SolverDied, TimeoutError):
            raise
        except Exception:
            log.exception("the solver's process could not be warmed up")
            self._ready = self._child.do(self._replan)

    def _in_time(self, job: "Future[Plan | None]", within_s: float) -> Awaitable[Plan | None]:
        return in_time(job, within_s, partial(waited_s, self._child.pid))

    def _start(self) -> None:
        """Raises `SolverLost` if no process can be started; the one before stays."""
        try:
            self._child = _Child()
        except OSError as error:
            raise SolverLost(f"No process can be started for the solver: {error}", hint=LIMITS_HINT) from error
        self.state.pid, self.state.is_warm = self._child.pid, False
        self._ready = self._child.do(self._replan)
        self._prepare()

    def _prepare(self) -> None:
        if self._warm_up is not None:
            self._ready = self._child.do(self._warm_up)
            self._ready.add_done_callback(self._warmed_up)

    def _replace(self, problem: str) -> None:
        log.warning("the solver's process %s; starting another", problem, extra=fields(process=self.state.pid))
        before = self._child
        self._start()
        before.kill()
        self.state.restarts += 1

    def _warmed_up(self, job: "Future[Plan | None]") -> None:
        """Called in the thread of the process that did the job."""
        if job is self._ready and not job.cancelled() and job.exception() is None:
            self.state.is_warm = True


class SolverDied(Exception):
    """The process ended before it answered."""


class _Child:
    """One process, and one thread that hands it a job after another and waits for the answer."""

    def __init__(self) -> None:
        # Not by `multiprocessing`: its resource tracker would be another process, which may be killed as well.
        self._connection, its_end = Pipe()
        with its_end:
            self.process = start_process("proteus_cli.serving.adaptation.solver_child", its_end.fileno())
        self.pid = self.process.pid
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="solver")

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def do(self, job: SolverJob) -> "Future[Plan | None]":
        """The result, which may be `SolverDied` or what the job raised."""
        return self.thread.submit(self._do, job)

    def kill(self) -> None:
        """End the process, and then the thread, without waiting for either."""
        self.process.kill()
        self.thread.submit(self._reap)
        self.thread.shutdown(wait=False)

    def _do(self, job: SolverJob) -> Plan | None:
        try:
            # Not by `send`: where that fails, the error holds a buffer which cannot be collected without a complaint.
            self._connection.send_bytes(pickle.dumps(job))
            result: Plan | Exception | None = self._connection.recv()
        except (EOFError, OSError) as error:
            raise SolverDied from error
        if isinstance(result, Exception):
            raise result
        return result

    def _reap(self) -> None:
        self.process.wait()
        self._connection.close()


async def in_time(job: "Future[Plan | None]", within_s: float, waited: Callable[[], float]) -> Plan | None:
    """The result of a job whose process has ``within_s`` for it, without the time that it has waited for a core.

    Raises `TimeoutError` after that, and after `MAX_STARVED` times as long in all; and what the job raises.
    """
    result, loop = asyncio.wrap_future(job), asyncio.get_running_loop()
    start_s, before_s, left_s = loop.time(), waited(), within_s
    try:
        while not (await asyncio.wait((result,), timeout=left_s))[0]:
            took_s = loop.time() - start_s
            left_s = min(within_s - (took_s - (waited() - before_s)), MAX_STARVED * within_s - took_s)
            if left_s <= 0.0:
                raise TimeoutError
        return result.result()
    finally:
        result.cancel()
