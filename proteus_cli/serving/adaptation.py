"""The control loop: demand changes, the plan follows, the data path never waits."""

import asyncio
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait

from proteus_cli.control.controller import Controller
from proteus_cli.control.replanning import Replan
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.outages import NONE_OUT, Outages
from proteus_cli.domain.plan import Plan
from proteus_cli.errors import ProteusError
from proteus_cli.serving.fleet import Fleet
from proteus_cli.serving.lane import Clock
from proteus_cli.serving.logs import fields

log = logging.getLogger("proteus.adaptation")

Replanner = Callable[[Demand, Plan, Outages], Plan]
Solver = Callable[[Demand, Plan, Outages], Awaitable[Plan]]

HISTORY = 1000
PAUSE_AFTER_FAILURE_S = 5.0
TRIES = 2
WITHIN_S = 30.0  # far beyond a solve's own time limit: only a process that hangs takes longer

_replan_here: Replanner | None = None  # set in the solver's process only


@dataclass(frozen=True, slots=True)
class Change:
    """A change of plan that happened: unix time, why, seconds to solve and in all, variants loaded."""

    unix_s: float
    reason: str
    solve_s: float
    total_s: float
    swaps: int


@dataclass(slots=True)
class ChangeTotals:
    """All changes of plan since the start, and when the plan in force was adopted (unix time)."""

    made: int = 0
    failed: int = 0
    swaps: int = 0
    solve_s: float = 0.0
    total_s: float = 0.0
    unix_s: float = field(default_factory=time.time)

    def add(self, change: Change) -> None:
        self.made += 1
        self.swaps += change.swaps
        self.solve_s += change.solve_s
        self.total_s += change.total_s
        self.unix_s = change.unix_s


class SolverProcess:
    """Runs the planner in a process of its own, so that a solve never holds the GIL of the data path."""

    def __init__(self, replan: Replanner) -> None:
        self._replan = replan
        self._pool = self._start()

    async def __call__(self, demand: Demand, current: Plan, without: Outages = NONE_OUT) -> Plan:
        """Raises `ProteusError` where there is no plan. A process that died is started anew, and asked once more."""
        loop = asyncio.get_running_loop()
        for _ in range(TRIES):
            try:
                async with asyncio.timeout(WITHIN_S):
                    return await loop.run_in_executor(self._pool, _replan_in_process, demand, current, without)
            except BrokenProcessPool:
                log.warning("the solver's process died; starting another")
                self._pool = self._start()
            except TimeoutError:
                self.close()
                self._pool = self._start()
                raise ProteusError(f"The solver did not answer within {WITHIN_S:g} s; started another.") from None
        raise ProteusError(f"The solver's process died {TRIES} times in a row.")

    def close(self) -> None:
        """End the process at once, whatever it does."""
        processes = list((self._pool._processes or {}).values())  # noqa: SLF001 - before the pool forgets them
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()

    def _start(self) -> ProcessPoolExecutor:
        # "spawn", as a fork would copy locks that threads of ONNX Runtime hold.
        return ProcessPoolExecutor(1, get_context("spawn"), _start_process, (self._replan,))


def _start_process(replan: Replanner) -> None:
    global _replan_here  # noqa: PLW0603 - the one way to hand a pool's process something once
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server decides
    _replan_here = replan
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A server that is killed can't stop this process: it would wait for its next task for good."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _replan_in_process(demand: Demand, current: Plan, without: Outages) -> Plan:
    if _replan_here is None:
        raise RuntimeError("the process was not started by `_start_process`")
    return _replan_here(demand, current, without)


class Adaptation:
    """Asks the controller a few times a second whether the plan still fits, and changes it where it doesn't."""

    def __init__(self, controller: Controller, fleet: Fleet, solver: Solver, clock: Clock) -> None:
        self._controller, self._fleet, self._solver, self._clock = controller, fleet, solver, clock
        self.changes: deque[Change] = deque(maxlen=HISTORY)
        self.totals = ChangeTotals()

    async def run(self, every_s: float) -> None:
        """Until cancelled. A plan that can't be made or loaded is logged, and what serves goes on serving."""
        while True:
            await asyncio.sleep(every_s)
            wanted = self._controller.replan(self._clock())
            if wanted is None:
                continue
            try:
                await self._change(wanted)
            except ProteusError as error:
                self._controller.kept_plan()
                self.totals.failed += 1
                log.error("kept the plan: %s", error.message)  # noqa: TRY400 - the message says it all
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
            except Exception:  # a bug of ours must not end adaptation for the life of the server
                self.totals.failed += 1
                log.exception("kept the plan, because of a bug")
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)

    async def warm_up(self) -> None:
        """Have the solver's process import and compile before it is needed. Raises `ProteusError`."""
        plan = self._controller.plan
        await self._solver(plan.demand_qps, plan, NONE_OUT)

    async def _change(self, wanted: Replan) -> None:
        start_s = self._clock()
        before = self._controller.plan
        plan = await self._solver(wanted.demand_qps, before, wanted.without)
        await self._fleet.deploy(plan)
        change = Change(
            unix_s=time.time(),
            reason=wanted.reason,
            solve_s=plan.solver.solve_s,
            total_s=self._clock() - start_s,
            swaps=plan.swaps_from(before),
        )
        self.changes.append(change)
        self.totals.add(change)
        log.info(
            "new plan after %.0f ms, %d loads: %s", change.total_s * 1e3, change.swaps, change.reason,
            extra=fields(
                reason=change.reason, solve_s=change.solve_s, total_s=round(change.total_s, 6), swaps=change.swaps,
                hosts=hosts(plan),
            ),
        )  # fmt: skip


def hosts(plan: Plan) -> dict[str, list[str]]:
    """The variants on each device."""
    found: dict[str, list[str]] = {}
    for placement in plan.placements:
        found.setdefault(placement.device, []).append(placement.variant)
    return found
