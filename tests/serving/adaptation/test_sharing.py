"""A server counts on its part of devices that others share, and on all of them again."""

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from builders import make_measured, make_placement, make_plan, make_profile, near
from looping import loop_around, parts

from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import EngineError
from proteus_cli.serving.adaptation.plan_inputs import LivePlanner, ProfileStore
from proteus_cli.serving.adaptation.sharing import Sharing

DEVICES = ("a/cpu0", "a/cpu1", "cpu0")


class World:
    """All that counts with it, in one; ``servers`` by device is what its agent says; one ``is_away``."""

    def __init__(self) -> None:
        measured = {device: make_profile(device, make_measured("f", "v", 0.9, {1: 0.01})) for device in DEVICES}
        self.profiles = ProfileStore(measured)
        plan = make_plan(*(make_placement(device, "f", "v", capacity_qps=100.0) for device in DEVICES), devices=DEVICES)
        self.servers = {"a/cpu0": 1, "a/cpu1": 1}
        self.is_away = False
        self.workers = dict.fromkeys(DEVICES)
        self.reasons: list[str] = []
        replanning = SimpleNamespace(ask=lambda reason, _now_s: self.reasons.append(reason))
        self.controller = SimpleNamespace(plan=plan, replanning=replanning, use_profiles=lambda _: None)
        self.shared: dict[str, int] = {}
        self.planned_with: list[float] = []
        self.fails = False
        this: Any = self
        planner = LivePlanner(this, self.profiles, this)
        control_loop = loop_around(parts(self.controller, self, lambda: 0.0), planner=planner)
        self.sharing = Sharing(self.told, self.profiles, this, control_loop)

    def told(self) -> dict[str, dict[str, int]]:
        shared = {device.removeprefix("a/"): count for device, count in self.servers.items() if count > 1}
        return {} if self.is_away else {"a": shared}

    def share(self, device: str, servers: int) -> None:
        self.shared[device] = servers

    def apply(self, _: object) -> None:
        pass

    async def deploy(self, plan: Plan) -> None:
        if self.fails:
            raise EngineError("it can't be loaded")
        self.controller.plan = plan

    def replanner(self, plan: Plan, profiles: Mapping[str, Profile]) -> float:
        assert plan is self.controller.plan
        return profiles["a/cpu0"].variants[0].points[0].mean_s

    def inputs(self) -> dict[str, str]:
        """Plans are made of no files here."""
        return {}

    def use(self, replanner: float) -> None:
        self.planned_with.append(replanner)

    def looks(self) -> list[float]:
        asyncio.run(self.sharing.look())
        return [placement.capacity_qps for placement in self.controller.plan.placements]


def test_capacities_follow_the_number_of_servers_and_each_change_asks_for_a_plan() -> None:
    world = World()
    assert world.looks() == [100.0, 100.0, 100.0]
    assert world.reasons == []
    world.servers |= {"a/cpu0": 2, "a/cpu1": 2}
    assert world.looks() == [50.0, 50.0, 100.0]
    assert world.shared == {"a/cpu0": 2, "a/cpu1": 2}
    world.servers |= {"a/cpu0": 1}
    assert world.looks() == [100.0, 50.0, 100.0]
    assert world.looks() == [100.0, 50.0, 100.0]
    assert world.reasons == ["2 devices are shared by 2 servers", "a/cpu0 is this server's alone"]
    assert world.planned_with == [near(0.02), near(0.01)]


def test_while_a_host_is_away_nothing_changes() -> None:
    world = World()
    world.servers |= {"a/cpu0": 2}
    world.looks()
    world.is_away, world.servers = True, {"a/cpu0": 1, "a/cpu1": 2}
    assert world.looks() == [50.0, 100.0, 100.0]
    assert len(world.reasons) == 1
    world.is_away = False
    assert world.looks() == [100.0, 50.0, 100.0]


def test_a_device_that_joins_is_counted_with_from_then_on() -> None:
    world = World()
    world.servers["a/cpu0"] = 2
    del world.workers["a/cpu0"]
    assert world.looks() == [100.0, 100.0, 100.0]
    world.workers["a/cpu0"] = None
    assert world.looks() == [50.0, 100.0, 100.0]


def test_capacities_that_cannot_be_put_in_force_still_ask_for_a_plan(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.fails, world.servers["a/cpu0"] = True, 2
    world.looks()
    assert "kept the plan: it can't be loaded" in caplog.text
    assert world.reasons == ["a/cpu0 is shared by 2 servers"]
    assert world.planned_with == [near(0.02)]
