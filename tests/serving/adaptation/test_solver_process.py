"""The planner in a process of its own: it dies, hangs, and ends, and the server is none the worse."""

import asyncio
import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from builders import make_placement, make_plan
from virtual_loop import VirtualLoop

from proteus_cli.backends.affinity import CAN_GIVE_WAY
from proteus_cli.control.replanning.replan_rules import ReplanRequest
from proteus_cli.domain.catalog import VariantsByDevice
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.device import Outages
from proteus_cli.domain.plan import Plan
from proteus_cli.errors import SolverLost
from proteus_cli.interruption import INTERRUPTION
from proteus_cli.serving.adaptation import solver as solver_process
from proteus_cli.serving.adaptation.solver import (
    MAX_STARVED,
    SLACK_S,
    SolverDied,
    SolverProcess,
    SolverState,
    in_time,
)
from proteus_cli.serving.adaptation.solver_child import NICE
from proteus_cli.serving.child_process import waited_s

pytestmark = pytest.mark.from_nothing

PLAN = make_plan(make_placement("cpu0", "a", "a-s"), demand_qps={"a": 1.0}, devices=("cpu0",))
ASKED = ReplanRequest({"a": 1.0}, "asked")
SOON_S = 20.0
LIMIT_S = 30.0


def answer(demand: Demand, current: Plan, without: Outages, standbys: VariantsByDevice, measured: object = ()) -> Plan:
    return current


def buggy(demand: Demand, current: Plan, without: Outages, standbys: VariantsByDevice, measured: object = ()) -> Plan:
    raise ZeroDivisionError


def always(
    found: Plan, demand: Demand, current: Plan, without: Outages, standbys: VariantsByDevice, measured: object = ()
) -> Plan:
    return found


def never(
    started: Path, demand: Demand, current: Plan, without: Outages, standbys: VariantsByDevice, measured: object = ()
) -> Plan:
    started.touch()
    time.sleep(600)
    return current


def noting(
    notes: Path, demand: Demand, current: Plan, without: Outages, standbys: VariantsByDevice, measured: object = ()
) -> Plan:
    """Notes the nice value of its thread, and whether what assigns variants to devices is imported."""
    niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    with notes.open("a", encoding="ascii") as file:
        file.write(f"{niceness} {'scipy.optimize' in sys.modules}\n")
    return current


def until_ended_early(
    started: Path, demand: Demand, current: Plan, without: Outages, standbys: VariantsByDevice, measured: object = ()
) -> Plan:
    started.touch()
    while not INTERRUPTION.is_asked:
        time.sleep(0.01)
    return current


def _pid(solver: SolverProcess) -> int:
    assert solver.state.pid is not None
    return solver.state.pid


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):  # a thread that has ended
        return ""


def _is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _gone_soon(process: int) -> bool:
    stop_s = time.monotonic() + SOON_S
    while _is_alive(process) and time.monotonic() < stop_s:
        time.sleep(0.05)
    return not _is_alive(process)


def test_a_process_that_died_is_replaced_and_the_solve_is_repeated() -> None:
    async def run() -> Plan:
        solver = SolverProcess(answer, LIMIT_S)
        try:
            await solver(ASKED, PLAN, {})
            os.kill(_pid(solver), signal.SIGKILL)
            return await solver(ASKED, PLAN, {})
        finally:
            solver.close()

    assert asyncio.run(run()) == PLAN


def test_what_is_left_of_a_job_that_could_not_be_sent_is_collected_without_a_complaint() -> None:
    """A complaint would end this test as an error."""

    async def run() -> None:
        solver = SolverProcess(answer, LIMIT_S)
        try:
            await solver(ASKED, PLAN, {})
            os.kill(_pid(solver), signal.SIGKILL)
            ended = os.WEXITED | os.WNOWAIT  # with all of its threads
            await asyncio.to_thread(os.waitid, os.P_PID, _pid(solver), ended)
            assert await solver(ASKED, PLAN, {}) == PLAN
        finally:
            solver.close()

    asyncio.run(run())
    gc.collect()


def test_the_solver_is_one_process_with_none_beside_it() -> None:
    """A resource tracker, as `multiprocessing` starts, could be killed by itself."""

    def children() -> set[int]:
        return {int(child) for task in Path("/proc/self/task").iterdir() for child in _text(task / "children").split()}

    async def run() -> None:
        before = children()
        solver = SolverProcess(answer, LIMIT_S)
        try:
            await solver(ASKED, PLAN, {})
            assert children() - before == {_pid(solver)}
            os.kill(_pid(solver), signal.SIGKILL)
            await solver(ASKED, PLAN, {})
            assert children() - before == {_pid(solver)}
        finally:
            solver.close()
        assert children() == before

    asyncio.run(run())


class ShortLived:
    """A process that is dead whenever it is looked at."""

    is_alive = False
    pid = 1

    def do(self, _job: object) -> "Future[None]":
        done: Future[None] = Future()
        done.set_exception(SolverDied())
        return done

    def kill(self) -> None:
        pass


def _restarts(watched_s: float) -> int:
    """How often a process that dies at once is started within so long."""

    async def run() -> int:
        solver = SolverProcess(answer, LIMIT_S)
        watch = asyncio.create_task(solver.watch())
        await asyncio.sleep(watched_s)
        assert not watch.done()
        watch.cancel()
        return solver.state.restarts

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(run())


def test_a_process_that_dies_again_and_again_is_started_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver_process, "_Child", ShortLived)
    assert 5 < _restarts(60.0) < 10
    assert _restarts(660.0) - _restarts(60.0) <= 10


def test_where_no_process_can_be_started_the_watch_goes_on_and_a_solve_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(solver_process, "_Child", ShortLived)

    async def run() -> None:
        solver = SolverProcess(answer, LIMIT_S)

        def refuse() -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(solver_process, "_Child", refuse)
        watch = asyncio.create_task(solver.watch())
        await asyncio.sleep(60.0)
        with pytest.raises(SolverLost, match="Too many open files"):
            await solver(ASKED, PLAN, {})
        monkeypatch.setattr(solver_process, "_Child", ShortLived)
        await asyncio.sleep(61.0)
        assert solver.state.restarts > 0
        assert not watch.done()
        watch.cancel()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_to_the_whole_process_group_do_not_end_the_process(number: int) -> None:
    """Neither one that comes while the process starts, nor a later one."""

    async def run() -> SolverState:
        solver = SolverProcess(answer, LIMIT_S)
        try:
            os.kill(_pid(solver), number)
            await solver(ASKED, PLAN, {})
            os.kill(_pid(solver), number)
            await solver(ASKED, PLAN, {})
        finally:
            solver.close()
        return solver.state

    assert asyncio.run(run()).restarts == 0


def test_closing_leaves_no_process_and_no_thread_behind() -> None:
    """An interpreter that ends while a thread of the solver still cleans up may write a traceback."""

    async def run() -> tuple[int, set[threading.Thread]]:
        before = set(threading.enumerate())
        solver = SolverProcess(answer, LIMIT_S)
        await solver(ASKED, PLAN, {})
        solver.close()
        return _pid(solver), set(threading.enumerate()) - before

    process, threads = asyncio.run(run())
    assert threads == set()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_bug_in_the_planner_is_raised_with_the_traceback_of_its_process() -> None:
    async def run() -> None:
        solver = SolverProcess(buggy, LIMIT_S)
        try:
            await solver(ASKED, PLAN, {})
        finally:
            solver.close()

    with pytest.raises(ZeroDivisionError) as raised:
        asyncio.run(run())
    assert "in buggy" in "".join(raised.value.__notes__)


def test_the_solver_is_lost_when_two_processes_hang(tmp_path: Path) -> None:
    """A limit that is over at once, with the slack for the way there and back, twice."""

    async def run() -> SolverProcess:
        solver = SolverProcess(partial(never, tmp_path / "started"), -SLACK_S + 0.2)
        try:
            with pytest.raises(SolverLost, match="hangs, and so did the one before"):
                await solver(ASKED, PLAN, {})
            return solver
        finally:
            solver.close()

    state = asyncio.run(run()).state
    assert (state.restarts, state.is_busy, state.solves) == (2, False, 1)


def test_a_process_that_waits_for_a_core_does_not_hang() -> None:
    async def ended_in(times: float, waits_frac: float) -> bool:
        """Whether a job that takes so many times what it may is waited for."""
        loop, job = asyncio.get_running_loop(), Future[Plan | None]()
        start_s = loop.time()
        loop.call_at(start_s + times, job.set_result, PLAN)
        try:
            return await in_time(job, 1.0, lambda: waits_frac * (loop.time() - start_s)) is PLAN
        except TimeoutError:
            return False

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(ended_in(3.0, 0.9))
        assert not runner.run(ended_in(3.0, 0.5))
        assert not runner.run(ended_in(MAX_STARVED + 1.0, 1.0))


def test_waiting_for_a_core_is_read_of_any_process() -> None:
    assert waited_s(os.getpid()) > 0.0
    assert waited_s(2**22 + 1) == 0.0


def test_a_running_process_takes_another_planner() -> None:
    other = make_plan(make_placement("cpu0", "a", "a-l"), demand_qps={"a": 2.0}, devices=("cpu0",))

    async def run() -> tuple[Plan, Plan]:
        solver = SolverProcess(answer, LIMIT_S)
        try:
            before = await solver(ASKED, PLAN, {})
            solver.use(partial(always, other))
            return before, await solver(ASKED, PLAN, {})
        finally:
            solver.close()

    assert asyncio.run(run()) == (PLAN, other)


def failing_first(
    notes: Path, demand: Demand, current: Plan, without: Outages, standbys: VariantsByDevice, measured: object = ()
) -> Plan:
    if not notes.exists():
        notes.touch()
        raise ZeroDivisionError
    return current


def test_a_warm_up_that_failed_is_logged_and_plans_are_made_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> list[Plan]:
        solver = SolverProcess(partial(failing_first, tmp_path / "notes"), LIMIT_S)
        try:
            solver.warm_up(ASKED.demand_qps, PLAN)
            return [await solver(ASKED, PLAN, {}) for _ in range(2)]
        finally:
            solver.close()

    assert asyncio.run(run()) == [PLAN, PLAN]
    assert [record.getMessage() for record in caplog.records] == ["the solver's process could not be warmed up"]


def test_the_warm_up_imports_what_the_first_change_of_plan_needs(tmp_path: Path) -> None:
    async def run() -> None:
        solver = SolverProcess(partial(noting, tmp_path / "notes"), LIMIT_S)
        try:
            solver.warm_up(ASKED.demand_qps, PLAN)
            await solver(ASKED, PLAN, {})
        finally:
            solver.close()

    asyncio.run(run())
    assert [line.split()[1] for line in (tmp_path / "notes").read_text().splitlines()] == ["False", "True"]


@pytest.mark.skipif(not CAN_GIVE_WAY, reason="only Linux has a nice value for each thread")
def test_only_solves_that_no_request_waits_for_give_way_to_batches(tmp_path: Path) -> None:
    asked = [ASKED, replace(ASKED, is_routine=True), replace(ASKED, is_routine=True, is_urgent=True), ASKED]

    async def run() -> None:
        solver = SolverProcess(partial(noting, tmp_path / "notes"), LIMIT_S)
        try:
            for each in asked:
                await solver(each, PLAN, {})
        finally:
            solver.close()

    asyncio.run(run())
    found = [int(line.split()[0]) for line in (tmp_path / "notes").read_text().splitlines()]
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    assert found == [usual, min(usual + NICE, 19), usual, usual]


def test_a_solve_that_gives_way_can_be_ended_early(tmp_path: Path) -> None:
    started = tmp_path / "started"

    async def run() -> Plan:
        solver = SolverProcess(partial(until_ended_early, started), 600.0)
        try:
            question = asyncio.ensure_future(solver(replace(ASKED, is_routine=True), PLAN, {}))
            while not started.exists():
                await asyncio.sleep(0.01)
            solver.end_early()
            return await asyncio.wait_for(question, SOON_S)
        finally:
            solver.close()

    assert asyncio.run(run()) == PLAN


@pytest.mark.parametrize("is_stopped", [False, True])
def test_closing_ends_a_process_that_is_busy_or_stopped(tmp_path: Path, *, is_stopped: bool) -> None:
    started = tmp_path / "started"

    async def run() -> int:
        solver = SolverProcess(partial(never, started), 600.0)
        question = asyncio.ensure_future(solver(ASKED, PLAN, {}))
        while not started.exists():
            await asyncio.sleep(0.05)
        process = _pid(solver)
        if is_stopped:
            os.kill(process, signal.SIGSTOP)
        question.cancel()
        solver.close()
        await asyncio.gather(question, return_exceptions=True)
        return process

    assert _gone_soon(asyncio.run(run()))


def test_the_process_ends_with_a_server_that_is_killed() -> None:
    script = (
        "import asyncio, os\n"
        "from test_solver_process import ASKED, LIMIT_S, PLAN, SolverProcess, answer\n"
        "async def run():\n"
        "    solver = SolverProcess(answer, LIMIT_S)\n"
        "    await solver(ASKED, PLAN, {})\n"
        "    print(solver.state.pid, flush=True)\n"
        "    os._exit(1)\n"
        "if __name__ == '__main__':\n"
        "    asyncio.run(run())\n"
    )
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])])}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout, done.stderr
    assert _gone_soon(int(done.stdout))
