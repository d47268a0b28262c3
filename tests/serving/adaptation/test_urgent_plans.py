"""A plan that is being made does not hold up a more urgent one; the solver's process is a real one, and really slow."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import hosted, make_placement, make_plan
from looping import loop_around, parts
from virtual_loop import VirtualLoop

from proteus_cli.control.controller import Controller
from proteus_cli.control.policies import live_policy_named
from proteus_cli.control.replanning.replan_rules import ReplanRequest
from proteus_cli.domain.catalog import VariantsByDevice
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.device import Outages
from proteus_cli.domain.plan import Plan
from proteus_cli.errors import NoFeasiblePlan
from proteus_cli.interruption import INTERRUPTION
from proteus_cli.serving.adaptation.solver import SolverProcess

EVERY_S, SLOW_S = 0.2, 30.0
BURST_QPS = 500.0


def plan_for(qps: float) -> Plan:
    """It carries a fifth more."""
    placement = make_placement("cpu0", "a", "a-s", rate_qps=qps, capacity_qps=qps * 1.2)
    return make_plan(placement, demand_qps={"a": qps}, devices=("cpu0", "cpu1"))


FIRST = plan_for(10.0)


class Fleet:
    """Adopts plans at once, and loads nothing."""

    def __init__(self, controller: Controller, clock: Callable[[], float]) -> None:
        self.workers = {"cpu0": None, "cpu1": None}
        self.loader = SimpleNamespace(labels={("a", "a-s"): "a-s"})
        self._controller, self._clock = controller, clock

    async def deploy(self, plan: Plan, before_switch: Callable[[], None] = lambda: None) -> tuple[()]:
        before_switch()
        host = hosted("cpu0", latency_s={1: 0.001}, capacity_qps=plan.placements[0].capacity_qps)
        self._controller.adopt(plan, [host], self._clock())
        return ()


class SlowSolver:
    """Takes `SLOW_S`, unless it is to end early; ``early`` is what it has by then.

    To end early is called in vain so often as it ``misses``.
    """

    def __init__(self, early: Plan | Exception) -> None:
        self.asked: list[ReplanRequest] = []
        self.took_s: list[float] = []
        self._early, self._is_hurried = early, asyncio.Event()
        self.misses = 0

    async def __call__(self, wanted: ReplanRequest, _current: Plan, _standbys: VariantsByDevice) -> Plan:
        clock = asyncio.get_running_loop().time
        start_s, takes_s = clock(), 0.05 if wanted.is_urgent else SLOW_S
        self._is_hurried.clear()
        self.asked.append(wanted)
        try:
            await asyncio.wait_for(self._is_hurried.wait(), takes_s)
        except TimeoutError:
            return plan_for(max(wanted.demand_qps.values()))
        finally:
            self.took_s.append(clock() - start_s)
        if isinstance(self._early, Exception):
            raise self._early
        return self._early

    def end_early(self) -> None:
        if self.misses:
            self.misses -= 1
        else:
            self._is_hurried.set()


class World:
    """A control loop in virtual time."""

    def __init__(self, early: Plan | Exception) -> None:
        self.clock = asyncio.get_running_loop().time
        self.controller = Controller({"a": 0.1}, {"cpu0": 1, "cpu1": 1}, live_policy_named("proteus"))
        fleet: Any = Fleet(self.controller, self.clock)
        self.control_loop = loop_around(parts(self.controller, fleet, self.clock))
        self.solver = SlowSolver(early)

    async def arriving(self, qps: float, lasts_s: float) -> None:
        for _ in range(round(qps * lasts_s)):
            self.controller.dispatch.count_refused("a", 1, self.clock(), 1.0)
            await asyncio.sleep(1 / qps)

    async def until_asked(self, count: int) -> None:
        while len(self.solver.asked) < count:
            await asyncio.sleep(EVERY_S)


def play(story: Callable[[World], Awaitable[None]], early: Plan | Exception = FIRST) -> World:
    async def scene() -> World:
        world = World(early)
        await world.control_loop.start(FIRST, "start", "the first")
        await asyncio.sleep(1.0)
        loop = asyncio.create_task(world.control_loop.run(EVERY_S, world.solver))
        try:
            await story(world)
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
        return world

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(scene())


async def burst_in_a_solve(world: World) -> None:
    """A plan is being made for a reason of the driver, when a burst comes."""
    world.controller.replanning.ask("other times", world.clock())
    await world.until_asked(1)
    await world.arriving(BURST_QPS, 2.0)


def test_a_burst_ends_a_long_solve_and_is_planned_for() -> None:
    """The urgent plan answers what was asked for before, too: there is nothing left to make."""

    async def story(world: World) -> None:
        await burst_in_a_solve(world)
        assert [wanted.is_urgent for wanted in world.solver.asked[:2]] == [False, True]
        assert world.solver.took_s[0] < 2.0, "and not 30 s"
        assert world.controller.plan.capacity_qps("a") > BURST_QPS / 2
        assert "other times" not in [wanted.reason for wanted in world.solver.asked[1:]]

    assert sum(play(story).control_loop.totals.failed.values()) == 0


def test_a_solver_that_cannot_listen_yet_is_told_again() -> None:
    """Its process gets ready, is being replaced, or has not received the job."""

    async def story(world: World) -> None:
        world.solver.misses = 3
        await burst_in_a_solve(world)
        assert world.solver.took_s[0] < 2.0
        assert world.solver.asked[1].is_urgent

    play(story)


def test_what_was_found_by_then_is_put_in_force_where_it_is_enough() -> None:
    enough = plan_for(10 * BURST_QPS)
    world = play(burst_in_a_solve, early=enough)
    assert world.controller.plan is enough
    assert [wanted.reason for wanted in world.solver.asked[:1]] == ["other times"]
    assert not any(wanted.is_urgent for wanted in world.solver.asked)


def test_that_nothing_was_found_by_then_is_no_failure() -> None:
    async def story(world: World) -> None:
        await burst_in_a_solve(world)
        assert world.solver.asked[1].is_urgent
        assert world.controller.replanning.backoff.failures == 0

    assert sum(play(story, early=NoFeasiblePlan("ended")).control_loop.totals.failed.values()) == 0


def test_a_lost_device_ends_any_solve() -> None:
    async def story(world: World) -> None:
        world.controller.replanning.ask("other times", world.clock())
        await world.until_asked(1)
        world.controller.device_lost("cpu1", ())
        await world.until_asked(2)
        assert world.solver.took_s[0] < 1.0
        assert world.solver.asked[1].without == Outages(devices=frozenset({"cpu1"}))

    play(story)


def test_demand_that_rises_on_does_not_end_the_plan_for_it() -> None:
    async def story(world: World) -> None:
        await burst_in_a_solve(world)
        before = len([wanted for wanted in world.solver.asked if wanted.is_urgent])
        await world.arriving(10 * BURST_QPS, 1.0)
        solves = zip(world.solver.took_s, world.solver.asked, strict=False)
        after = [took_s for took_s, wanted in solves if wanted.is_urgent]
        assert len(after) > before
        assert after == [pytest.approx(0.05)] * len(after)

    play(story)


# --- the solver's process


def slow(
    started: Path, demand: Demand, current: Plan, without: Outages, standbys: VariantsByDevice, measured: object = ()
) -> Plan:
    """Solves until it is told to end, or for ten minutes."""
    started.touch()
    stop_s = time.monotonic() + 600
    while not INTERRUPTION.is_asked and time.monotonic() < stop_s:
        time.sleep(0.005)
    return plan_for(sum(demand.values()))


def test_a_process_that_solves_ends_early_and_solves_on(tmp_path: Path) -> None:
    started = tmp_path / "started"

    async def run() -> None:
        solver = SolverProcess(partial(slow, started), 600.0)
        try:
            solver.end_early()
            assert solver.state.ended_early == 0, "nothing runs"
            for qps in (1.0, 2.0):
                started.unlink(missing_ok=True)
                solve = asyncio.ensure_future(solver(ReplanRequest({"a": qps}, "asked"), FIRST, {}))
                while not started.exists():
                    await asyncio.sleep(0.01)
                    assert not solve.done(), "the interruption before is forgotten"
                solver.end_early()
                solver.end_early()  # it counts once
                assert (await solve).demand_qps == {"a": qps}
            assert (solver.state.ended_early, solver.state.restarts, solver.state.solves) == (2, 0, 2)
        finally:
            solver.close()

    asyncio.run(run())
