"""Who changes the plan when: the demand, a person, and neither over the other."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from builders import hosted, make_placement, make_plan, make_request
from looping import loop_around, parts
from msgspec.structs import replace
from virtual_loop import VirtualLoop

from proteus_cli.control.controller import Controller
from proteus_cli.control.policies import live_policy_named
from proteus_cli.control.replanning.replan_rules import ReplanRequest
from proteus_cli.domain.catalog import VariantKey, VariantsByDevice
from proteus_cli.domain.device import Outages
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_record import EngineChange
from proteus_cli.errors import EngineError, NoFeasiblePlan
from proteus_cli.serving.adaptation.control_loop import HOLD_S
from proteus_cli.serving.adaptation.plan_journal import PlanChange

SLOW, FAST = (
    make_plan(
        make_placement("cpu0", "a", variant, rate_qps=qps, capacity_qps=qps * 1.2),
        demand_qps={"a": qps},
        devices=("cpu0", "cpu1"),
    )
    for variant, qps in (("a-l", 10.0), ("a-s", 1000.0))
)
EVERY_S = 0.001


class Fleet:
    """Adopts plans as the real one does, and loads nothing."""

    def __init__(self, world: "World") -> None:
        self.workers = {"cpu0": None, "cpu1": None}
        self.loader = SimpleNamespace(
            labels={VariantKey(variant[0], variant): variant for variant in ("a-l", "a-s", "b-s")}
        )
        self.fails = False
        self._world = world

    async def deploy(self, plan: Plan, before_switch: Callable[[], None] = lambda: None) -> tuple[EngineChange, ...]:
        await asyncio.sleep(0)
        if self.fails:
            raise EngineError("the model can't be loaded")
        hosts = [
            hosted(p.device, p.family, p.variant, latency_s={1: 0.01}, capacity_qps=p.capacity_qps)
            for p in plan.placements
        ]
        before_switch()
        self._world.controller.adopt(plan, hosts, self._world.now_s)
        return ()


class Journal:
    """Remembers where the plans in force came from."""

    def __init__(self) -> None:
        self.origins: list[str] = []

    def began(self, _plan: Plan, change: PlanChange, *_: Any) -> None:
        self.origins.append(change.origin)

    def written_by_now(self) -> Future[None]:
        done = Future[None]()
        done.set_result(None)
        return done


class World:
    """A controller on a clock that is set by hand, and the loop around it."""

    def __init__(self, *answers: Plan | Exception) -> None:
        self.now_s = 100.0
        self.controller = Controller({"a": 0.1, "b": 0.1}, {"cpu0": 1, "cpu1": 1}, live_policy_named("proteus"))
        self.fleet = Fleet(self)
        self.journal = Journal()
        self.control_loop = loop_around(parts(self.controller, self.fleet, lambda: self.now_s), journal=self.journal)
        self.asked: list[ReplanRequest] = []
        self.answers = list(answers)
        self.before_answer: Callable[[], Awaitable[Any]] | None = None
        self.is_hurried = asyncio.Event()

    def end_early(self) -> None:
        self.is_hurried.set()

    async def __call__(self, wanted: ReplanRequest, current: Plan, standbys: VariantsByDevice) -> Plan:
        self.asked.append(wanted)
        if self.before_answer is not None:
            await self.before_answer()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def arrive(self, qps: float, lasts_s: float = 1.0) -> None:
        """Requests of that second, up to now."""
        for number in range(round(qps * lasts_s)):
            self.controller.offer(make_request(number, at_s=self.now_s), self.now_s + number / qps)
        self.now_s += lasts_s + 0.1

    async def turns(self) -> None:
        for _ in range(20):
            await asyncio.sleep(EVERY_S)


def run(world: World, story: Callable[[World], "asyncio.Future[None]"] | Callable[[World], object]) -> None:
    async def scene() -> None:
        await world.control_loop.start(SLOW, "start", "the first")
        loop = asyncio.create_task(world.control_loop.run(EVERY_S, world))
        try:
            await story(world)  # type: ignore[misc]
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scene())


def test_a_higher_demand_is_planned_for_during_the_pause_after_a_failure() -> None:
    async def story(world: World) -> None:
        world.arrive(100.0)
        await world.turns()
        assert len(world.asked) == 1, "the same isn't tried again at once"
        assert world.control_loop.totals.failed["infeasible"] == 1
        world.arrive(1000.0)
        await world.turns()
        assert len(world.asked) == 2
        assert world.controller.plan is FAST
        assert world.controller.replanning.backoff.failures == 0

    world = World(NoFeasiblePlan("none"), FAST)
    run(world, story)
    assert world.journal.origins == ["start", "demand"]
    assert world.control_loop.failures[0].message == "none"


def test_the_same_change_is_tried_again_after_the_pause() -> None:
    async def story(world: World) -> None:
        world.arrive(100.0)
        await world.turns()
        world.arrive(100.0)
        await world.turns()
        assert world.controller.plan is FAST

    run(World(NoFeasiblePlan("none"), FAST), story)


def test_a_plan_that_was_solved_while_a_person_applied_another_is_dropped() -> None:
    world = World(FAST)
    theirs = make_plan(make_placement("cpu1", "a", "a-l"), demand_qps={"a": 10.0}, devices=("cpu0", "cpu1"))

    async def story(world: World) -> None:
        world.before_answer = lambda: asyncio.ensure_future(world.control_loop.apply(theirs, "request", "by hand"))
        world.arrive(1000.0)
        await world.turns()
        assert world.asked
        assert world.controller.plan is theirs

    run(world, story)
    assert world.journal.origins == ["start", "request"]


def test_a_plan_of_a_person_is_held_unless_a_device_is_lost() -> None:
    async def story(world: World) -> None:
        await world.control_loop.apply(SLOW, "file", "by hand")
        world.arrive(1000.0)
        await world.turns()
        assert world.asked == []
        world.controller.device_lost("cpu1", ())
        await world.turns()
        assert [wanted.without for wanted in world.asked] == [Outages(devices=frozenset({"cpu1"}))]

    run(World(FAST), story)


def test_a_plan_that_is_solved_when_a_drain_begins_is_dropped() -> None:
    world = World(FAST)

    async def drain(world: World) -> None:
        world.controller.replanning.hold(world.now_s + 10.0)

    async def story(world: World) -> None:
        world.before_answer = lambda: drain(world)
        world.arrive(1000.0)
        await world.turns()
        assert len(world.asked) == 1
        assert world.controller.plan is SLOW

    run(world, story)
    assert world.journal.origins == ["start"]


ONLY_B = make_plan(
    make_placement("cpu0", "b", "b-s", rate_qps=1000.0, capacity_qps=1200.0),
    demand_qps={"a": 0.5, "b": 1000.0},
    devices=("cpu0", "cpu1"),
)


@pytest.mark.parametrize(("queries", "expected"), [(0, ONLY_B), (1, FAST)])
def test_a_plan_without_a_silent_family_is_dropped_where_that_is_asked_for(queries: int, expected: Plan) -> None:
    """Nobody asks `a` anything for long, and much of `b`, so it is planned without `a`; then its first query comes."""
    world = World(ONLY_B, FAST)

    async def first(world: World) -> None:
        world.before_answer = None
        for number in range(queries):
            world.controller.offer(make_request(number, at_s=world.now_s), world.now_s)

    async def story(world: World) -> None:
        world.before_answer = lambda: first(world)
        for number in range(1000):
            world.controller.dispatch.count_refused("b", 1, world.now_s + number / 1000, 1.0)
        world.now_s += 1.1
        await world.turns()
        assert world.controller.plan is expected

    run(world, story)


def test_re_planning_goes_on_after_the_hold() -> None:
    async def story(world: World) -> None:
        await world.control_loop.apply(SLOW, "file", "by hand")
        world.now_s += HOLD_S
        world.arrive(1000.0)
        await world.turns()
        assert world.controller.plan is FAST

    run(World(FAST), story)


def test_a_lost_device_is_planned_around_after_a_first_failure() -> None:
    """A device is lost only once: the reason is remembered until a plan without it is in force."""

    async def story(world: World) -> None:
        world.controller.device_lost("cpu1", ())
        await world.turns()
        assert len(world.asked) == 1
        world.now_s += 2.0
        await world.turns()
        assert [wanted.reason for wanted in world.asked] == ["cpu1 was lost"] * 2
        assert world.controller.plan is FAST
        world.now_s += 2.0
        await world.turns()
        assert len(world.asked) == 2

    run(World(NoFeasiblePlan("none"), FAST), story)


def test_a_plan_that_only_moves_shares_is_in_force_and_not_told() -> None:
    shares = replace(SLOW, placements=(replace(SLOW.placements[0], rate_qps=5.0, max_batch=2),))

    async def story(world: World) -> None:
        world.controller.replanning.ask("the catalog has changed", world.now_s)
        await world.turns()
        assert world.controller.plan is shares
        assert world.control_loop.totals.made == 0
        assert not world.control_loop.changes

    world = World(shares)
    run(world, story)
    assert world.journal.origins == ["start"]


def test_an_engine_that_cannot_be_loaded_and_a_bug_leave_the_plan_in_force() -> None:
    async def story(world: World) -> None:
        world.fleet.fails = True
        world.arrive(100.0)
        await world.turns()
        world.fleet.fails = False
        world.arrive(1000.0)
        await world.turns()
        assert world.controller.plan is SLOW
        failed = world.control_loop.totals.failed
        assert (failed["engine"], failed["bug"]) == (1, 1)

    run(World(FAST, ZeroDivisionError()), story)


def test_a_plan_of_a_person_that_cannot_be_loaded_is_an_error_and_changes_nothing() -> None:
    async def story(world: World) -> None:
        world.fleet.fails = True
        with pytest.raises(EngineError):
            await world.control_loop.apply(FAST, "request", "by hand")
        assert world.controller.plan is SLOW
        assert world.controller.replanning.held_until_s == 0.0

    run(World(), story)


@pytest.mark.parametrize("fails", [False, True])
def test_all_parts_use_a_changed_world_in_one_order(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, fails: bool
) -> None:
    """Where the plan cannot be put in force anew, another one is asked for all the same."""

    async def story(world: World) -> None:
        control_loop, replanning = world.control_loop, world.controller.replanning
        order = list[str]()
        monkeypatch.setattr(control_loop._plane.families, "use", lambda _: order.append("families"))
        monkeypatch.setattr(world.controller, "use_profiles", lambda _: order.append("controller"))
        monkeypatch.setattr(world.fleet, "apply", lambda _: order.append("fleet"), raising=False)
        planner: Any = SimpleNamespace(follow=lambda _: order.append("planner"), of_now=lambda plan: plan)
        monkeypatch.setattr(control_loop, "planner", planner)
        monkeypatch.setattr(replanning, "ask", lambda reason, _: order.append(reason))
        world.fleet.fails = fails
        await control_loop.changed("it is slower", {}, lambda _: FAST)
        assert order == ["families", "controller", "fleet", "planner", "it is slower"]
        assert world.controller.plan is (SLOW if fails else FAST)
        await control_loop.changed("devices join", asks=False)
        assert order[5:] == ["planner"]

    run(World(), story)
    assert ("kept the plan: the model can't be loaded" in caplog.text) == fails
