"""Several changes of conditions and of plans at once, in virtual time: each counts as a whole, or not at all."""

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from conditioned import conditions_of, patch_body
from looping import loop_around, parts
from short_forms import parse_condition
from virtual_loop import VirtualLoop

from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_record import EngineChange
from proteus_cli.errors import EngineError, Unprocessable
from proteus_cli.serving.adaptation.conditions import FamilyConditions, LiveConditions

if TYPE_CHECKING:
    from proteus_cli.control.controller import Controller
    from proteus_cli.domain.conditions import Condition


AT_SECOND = parse_condition("exit >= 2")


class Fleet:
    """Each deployment takes a second; those that are to fail do so at their end. ``seen``: what counted meanwhile."""

    def __init__(self, fails: list[bool]) -> None:
        self.workers: dict[str, None] = {}
        self.loader = SimpleNamespace(labels={})
        self.controller: Controller | None = None
        self.seen: list[Condition | None] = []
        self._fails = fails

    async def deploy(self, plan: Plan, before_switch: Callable[[], None] = lambda: None) -> tuple[EngineChange, ...]:
        assert self.controller is not None
        self.seen.append(self.controller.dispatch.stop_when.get("a"))
        await asyncio.sleep(1)
        if self._fails.pop(0):
            raise EngineError("no memory")
        return ()


class World:
    def __init__(self, *fails: bool) -> None:
        fleet: Any = Fleet(list(fails))
        loop: Any = SimpleNamespace()
        self.conditions, self.controller = conditions_of(loop)
        fleet.controller = self.controller
        self.control_loop = loop_around(parts(self.controller, fleet, asyncio.get_running_loop().time))
        loop.redeploy, self.seen = self.control_loop.redeploy, fleet.seen

    @property
    def reasons(self) -> list[str]:
        return [change.reason for change in self.control_loop.changes]


def patch(conditions: LiveConditions, stop_when: str | None) -> Coroutine[Any, Any, FamilyConditions]:
    return conditions.from_client("a", patch_body(stop_when))


def played(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scenario())


def test_a_change_that_fails_takes_back_no_later_one() -> None:
    async def scenario() -> None:
        world = World(True, False)
        first = asyncio.ensure_future(patch(world.conditions, "exit >= 1"))
        second = asyncio.ensure_future(patch(world.conditions, "exit >= 2"))
        with pytest.raises(Unprocessable):
            await first
        assert (await second).stop_when == AT_SECOND
        assert (world.controller.dispatch.stop_when, world.seen) == (
            {"a": AT_SECOND},
            [parse_condition("exit >= 1"), AT_SECOND],
        )
        assert world.reasons == ["a stops when exit >= 2"]

    played(scenario)


def test_a_change_that_is_taken_back_while_it_waits_is_taken_back_behind_it() -> None:
    async def scenario() -> None:
        world = World(False, False)
        await asyncio.gather(patch(world.conditions, "exit >= 2"), patch(world.conditions, None))
        assert (world.controller.dispatch.stop_when, world.seen) == ({}, [AT_SECOND, None])

    played(scenario)


def test_a_condition_counts_once_the_change_of_plan_before_it_has_ended() -> None:
    async def scenario() -> None:
        world = World(False, False)
        plan = asyncio.ensure_future(world.control_loop.apply(world.controller.plan, "request", "by hand"))
        await asyncio.sleep(0.5)
        change = asyncio.ensure_future(patch(world.conditions, "exit >= 2"))
        await asyncio.sleep(0.25)
        assert world.controller.dispatch.stop_when == {}
        await asyncio.gather(plan, change)
        assert world.reasons == ["by hand", "a stops when exit >= 2"]

    played(scenario)


def test_a_change_whose_client_is_gone_before_it_is_in_force_has_changed_nothing() -> None:
    async def scenario() -> None:
        world = World(False)
        change = asyncio.ensure_future(patch(world.conditions, "exit >= 2"))
        await asyncio.sleep(0.5)
        assert world.controller.dispatch.stop_when == {"a": AT_SECOND}
        change.cancel()
        with pytest.raises(asyncio.CancelledError):
            await change
        assert world.controller.dispatch.stop_when == {}

    played(scenario)
