"""Corrected capacities come to the plan that is in force when they do, not to the one of before."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from builders import hosted, make_measured, make_placement, make_plan, make_profile, near
from looping import loop_around, parts

from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Effects
from proteus_cli.control.devices.slowness import Correction, Estimate
from proteus_cli.control.policies import PROTEUS
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_record import EngineChange
from proteus_cli.errors import EngineError
from proteus_cli.serving.adaptation.plan_inputs import LivePlanner, ProfileStore
from proteus_cli.serving.adaptation.recalibration import Recalibration

CORRECTION = Correction("cpu0", "a", "s", (Estimate(4, 2.0, 100),))
PROFILES = {name: make_profile(name, make_measured("a", "s", 0.8, {4: 0.04})) for name in ("cpu0", "cpu1")}


def plan_of(*devices: str) -> Plan:
    placed = (make_placement(device, "a", "s", max_batch=4, rate_qps=10.0, capacity_qps=100.0) for device in devices)
    return make_plan(*placed, devices=("cpu0", "cpu1"))


FIRST, BY_HAND = plan_of("cpu0"), plan_of("cpu0", "cpu1")


class OneDrift:
    """Has one correction, once, at the second look."""

    after_s = 0.001

    def __init__(self) -> None:
        self._due = [(), (CORRECTION,)]

    def due(self, _: float) -> Sequence[Correction]:
        return self._due.pop(0) if self._due else ()

    def corrected(self, *_: object) -> None:
        pass


class SlowFleet:
    """Adopts a plan some turns of the event loop after it was asked to; ``goes_on`` lets it."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.workers: dict[str, None] = dict.fromkeys(PROFILES)
        self.loader = SimpleNamespace(labels={("a", "s"): "s"})
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.fails = False
        self.applied = list[Effects]()
        self.apply = self.applied.append

    async def deploy(self, plan: Plan, before_switch: Callable[[], None] = lambda: None) -> tuple[EngineChange, ...]:
        await self.goes_on.wait()
        if self.fails:
            raise EngineError("it can't be loaded")
        hosts = [hosted(p.device, p.family, p.variant, latency_s={4: 0.04}) for p in plan.placements]
        before_switch()
        self._controller.adopt(plan, hosts, 0.0)
        return ()


class Scene:
    """A server with its first plan in force; ``planned_with`` are the plans whose rules the solver was given."""

    def __init__(self) -> None:
        self.controller = Controller({"a": 0.1}, dict.fromkeys(PROFILES, 1), PROTEUS)
        self.fleet, self.planned_with = SlowFleet(self.controller), list[Plan]()
        source: Any = SimpleNamespace(inputs=dict, replanner=lambda plan, _: plan)
        solver: Any = SimpleNamespace(use=self.planned_with.append)
        drift: Any = OneDrift()
        profiles = ProfileStore(PROFILES)
        plane = parts(self.controller, self.fleet, lambda: 0.0)
        self.control_loop = loop_around(plane, planner=LivePlanner(source, profiles, solver))
        self.recalibration = Recalibration(drift, profiles, plane, self.control_loop, source, is_recording=False)


def test_a_plan_that_comes_into_force_meanwhile_stays_and_is_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        scene = Scene()
        controller, control_loop, recalibration = scene.controller, scene.control_loop, scene.recalibration
        is_asked, changed = asyncio.Event(), control_loop.changed

        def changed_and_tell(*given: Any) -> Awaitable[Any]:
            is_asked.set()
            return changed(*given)

        monkeypatch.setattr(control_loop, "changed", changed_and_tell)
        await control_loop.start(FIRST, "start", "the first")
        scene.fleet.goes_on.clear()
        by_hand = asyncio.create_task(control_loop.apply(BY_HAND, "request", "by hand"))
        watching = asyncio.create_task(recalibration.watch())
        async with asyncio.timeout(20):
            await is_asked.wait()
            for _ in range(20):  # turns: the correction waits for the plan by hand, or, wrongly, has its own by now
                await asyncio.sleep(0)
            scene.fleet.goes_on.set()
            await by_hand
            while len(control_loop.changes) < 2:
                await asyncio.sleep(0.001)
        watching.cancel()
        assert [change.origin for change in control_loop.changes] == ["request", "drift"]
        assert {p.device: p.capacity_qps for p in controller.plan.placements} == {"cpu0": near(50.0), "cpu1": 100.0}
        assert scene.planned_with == [FIRST, BY_HAND], "the next plans are made with the corrected times"
        assert len(scene.fleet.applied) == 1, "what the corrected times change is done"

    asyncio.run(story())


def test_recalibration_goes_on_where_a_corrected_plan_cannot_be_loaded(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        scene = Scene()
        await scene.control_loop.start(FIRST, "start", "the first")
        scene.fleet.fails = True
        watching = asyncio.create_task(scene.recalibration.watch())
        async with asyncio.timeout(20):
            while "kept the plan: it can't be loaded" not in caplog.text and not watching.done():
                await asyncio.sleep(0.001)
        assert not watching.done()
        watching.cancel()
        assert scene.planned_with == [FIRST], "the next plan is made with the corrected times"

    asyncio.run(story())
