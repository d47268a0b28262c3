"""The planner in a process of its own: a solve never holds the GIL of the data path, and may die or hang."""

import asyncio
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker

from proteus_cli.control.replanning.replan_rules import ReplanRequest
from proteus_cli.domain.plan import Plan
from proteus_cli.errors import SolverLost
from proteus_cli.serving.adaptation.solver_child import Job, Replanner, Solve, Use, WarmUp, serve_jobs
from proteus_cli.serving.child_process import group_signals_blocked
from proteus_cli.serving.logs import fields

log = logging.getLogger("proteus.solver")

TRIES = 2
SLACK_S = 2.0  # beyond a solve's own time limit: to be sent there and back, on a busy machine
WATCH_S = 0.2
START_WITHIN_S = 30.0  # to start a process, to import and to compile


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
    """Plans with ``replan`` in a process that was started, and warmed up, before it is needed.

    ``limit_s`` is the time limit of a solve. A process that has not answered `SLACK_S` after that hangs. Must be made
    on the main thread, as the process ends with the thread that started it.
    """

    def __init__(self, replan: Replanner, limit_s: float, *, start_within_s: float = START_WITHIN_S) -> None:
        self._replan, self._within_s, self._start_within_s = replan, limit_s + SLACK_S, start_within_s
        self.state = SolverState()
        self._warm_up_plan: Plan | None = None
        self._start()

    async def __call__(self, wanted: ReplanRequest, current: Plan) -> Plan:
        """Raises `ProteusError` where there is no plan, and `SolverLost` where no process can make one.

        A process that died or hangs is replaced, and the next one is asked once more.
        """
        start_s, self.state.is_busy = time.perf_counter(), True
        try:
            problem = ""
            for _ in range(TRIES):
                try:
                    await _result(self._ready, self._start_within_s)
                    job = Solve(wanted.demand_qps, current, wanted.without)
                    plan = await _result(self._child.do(job), self._within_s)
                    assert plan is not None  # noqa: S101 - a `Solve` has a plan as its result
                except SolverDied:
                    problem = "died"
                except TimeoutError:
                    problem = "hangs"
                else:
                    return plan
                self._replace(problem)
            raise SolverLost(f"The solver's process {problem}, and so did the one before.")
        finally:
            self.state.is_busy = False
            self.state.solves += 1
            self.state.last_unix_s, self.state.last_s = time.time(), time.perf_counter() - start_s

    def warm_up(self, plan: Plan) -> None:
        """Have this process, and those that replace it, solve for that plan's demand before they are needed."""
        self._warm_up_plan = plan
        self._ready = self._child.do(WarmUp(plan))
        self._ready.add_done_callback(self._warmed_up)

    def use(self, replan: Replanner) -> None:
        """Plan with that one from now on."""
        self._replan = replan
        self._child.do(Use(replan))

    async def watch(self) -> None:
        """Until cancelled, replace a process that died while it had nothing to do, before it is needed."""
        while True:
            await asyncio.sleep(WATCH_S)
            if not self.state.is_busy and not self._child.is_alive:
                self._replace("died")

    def close(self) -> None:
        """End the process at once, whatever it does, and wait for its end."""
        self._child.kill()
        self._child.wait()

    def _start(self) -> None:
        self._child = _Child()
        self.state.pid, self.state.is_warm = self._child.pid, False
        self._ready = self._child.do(Use(self._replan))
        if self._warm_up_plan is not None:
            self.warm_up(self._warm_up_plan)

    def _replace(self, problem: str) -> None:
        log.warning("the solver's process %s; starting another", problem, extra=fields(process=self.state.pid))
        self._child.kill()
        self.state.restarts += 1
        self._start()

    def _warmed_up(self, job: "Future[Plan | None]") -> None:
        """Called in the thread of the process that did the job."""
        if job is self._ready and not job.cancelled() and job.exception() is None:
            self.state.is_warm = True


class SolverDied(Exception):
    """The process ended before it answered."""


class _Child:
    """One process, and one thread that hands it a job after another and waits for the answer."""

    def __init__(self) -> None:
        context = get_context("spawn")  # a fork would copy locks that threads of ONNX Runtime hold
        self._connection, its_end = context.Pipe()
        self._process = context.Process(target=serve_jobs, args=(its_end,), name="solver")
        resource_tracker.ensure_running()  # the first start of a process would do so, and unblock the signals
        with group_signals_blocked():
            self._process.start()
        its_end.close()
        self.pid = self._process.pid
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="solver")

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def do(self, job: Job) -> "Future[Plan | None]":
        """The result, which may be `SolverDied` or what the job raised."""
        return self._thread.submit(self._do, job)

    def kill(self) -> None:
        """End the process, and then the thread, without waiting for either."""
        self._process.kill()
        self._thread.submit(self._reap)
        self._thread.shutdown(wait=False)

    def wait(self) -> None:
        """Wait until the process and the thread have ended, after `kill`."""
        self._thread.shutdown(wait=True)

    def _do(self, job: Job) -> Plan | None:
        try:
            self._connection.send(job)
            result: Plan | Exception | None = self._connection.recv()
        except (EOFError, OSError) as error:
            raise SolverDied from error
        if isinstance(result, Exception):
            raise result
        return result

    def _reap(self) -> None:
        self._process.join()
        self._connection.close()


async def _result(job: "Future[Plan | None]", within_s: float) -> Plan | None:
    """Raises `TimeoutError`, and what the job raises."""
    return await asyncio.wait_for(asyncio.wrap_future(job), within_s)
