"""Devices that join a controller while it serves."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from builders import controller_hosting, hosted, make_placement, make_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import (
    Admitted,
    Effects,
    HostedVariant,
    Idle,
    Keep,
    Launch,
    StandbyEnd,
    StandbyLoad,
    WaitUntil,
    keys,
)
from proteus_cli.control.policies import PROTEUS
from proteus_cli.control.replanning.replanning import GATHER_S
from proteus_cli.control.topology.standbys import DeviceMemory, Loadable
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import NONE_OUT, Outages
from proteus_cli.domain.request import Request

MEMORY = DeviceMemory(
    3,
    {VariantKey("a", "a-s"): Loadable(1, 1.0, 500.0), VariantKey("a", "a-l"): Loadable(1, 1.0, 130.0)},
)


def good(device: str) -> HostedVariant:
    return hosted(device, variant="a-l", latency_s={1: 0.01, 4: 0.03}, capacity_qps=130.0, accuracy=0.95)


def fast(device: str, family: str = "a") -> HostedVariant:
    return hosted(device, family, f"{family}-s", latency_s={1: 0.004, 4: 0.008}, capacity_qps=500.0)


def test_a_new_device_counts_as_lost_until_it_has_passed_its_probation() -> None:
    controller = controller_hosting(good("cpu0"), policy=PROTEUS, slots={"cpu0": 1})
    controller.add_device("b/cpu0", 1)
    assert controller.change.hosted_on("b/cpu0") == ()
    assert controller.decide("b/cpu0", 1.0) == Idle()
    assert _asked(controller, 2.0) is None, "a device on probation is nothing to plan with"
    effects = controller.device_recovered("b/cpu0", 2.0, ())
    assert effects == Effects(ask=("cpu0", "b/cpu0"), keep=(Keep("b/cpu0", frozenset()),))
    assert _asked(controller, 2.0) is None, "others may join at once"
    assert _asked(controller, 2.0 + GATHER_S) == ("b/cpu0 has joined", NONE_OUT)


def test_devices_that_come_back_one_after_another_get_one_plan() -> None:
    controller = controller_hosting(good("cpu0"), policy=PROTEUS, slots={"cpu0": 1, "cpu1": 1, "cpu2": 1})
    for device in ("cpu1", "cpu2"):
        controller.device_lost(device, ())
    assert _asked(controller, 1.0) == ("cpu1 was lost; cpu2 was lost", Outages(frozenset({"cpu1", "cpu2"})))
    assert _asked(controller, 1.9) is None
    controller.device_recovered("cpu1", 2.0, ())
    assert _asked(controller, 2.0) is None
    controller.device_recovered("cpu2", 2.3, ())
    assert _asked(controller, 2.3) is None
    assert _asked(controller, 2.5) == ("cpu1 is back; cpu2 is back", NONE_OUT)


def test_a_device_that_has_joined_is_lost_and_back_like_any_other() -> None:
    controller = controller_hosting(good("cpu0"), policy=PROTEUS, slots={"cpu0": 1})
    controller.add_device("b/cpu0", 1)
    controller.device_recovered("b/cpu0", 1.0, ())
    _asked(controller, 1.0)
    controller.device_lost("b/cpu0", ())
    assert _asked(controller, 2.0) == ("b/cpu0 was lost", Outages(frozenset({"b/cpu0"})))
    controller.device_recovered("b/cpu0", 3.0, ())
    assert _asked(controller, 3.0) == ("b/cpu0 is back", NONE_OUT)


def test_plans_made_meanwhile_do_without_a_device_on_probation() -> None:
    controller = controller_hosting(good("cpu0"), policy=PROTEUS, slots={"cpu0": 1})
    controller.add_device("b/cpu0", 1)
    controller.device_lost("cpu0", ())
    assert _asked(controller, 1.0) == ("cpu0 was lost", Outages(frozenset({"cpu0", "b/cpu0"})))


def test_no_device_joins_twice() -> None:
    controller = controller_hosting(good("cpu0"), policy=PROTEUS)
    with pytest.raises(ValueError, match="cpu0 is there already"):
        controller.add_device("cpu0", 1)


def _asked(controller: Controller, now_s: float) -> tuple[str, Outages] | None:
    """Why the controller asks for a plan now, and without what."""
    wanted = controller.replanning.decide(now_s)
    return None if wanted is None else (wanted.reason, wanted.without)


# --- as if it had always been there


@dataclass
class Both:
    """Two controllers that are told the same: ``early`` has all devices from the start, ``late`` gets one later."""

    early: Controller
    late: Controller
    devices: list[str]
    running: list[tuple[Launch, Launch]] = field(default_factory=list)
    standby: tuple[StandbyLoad, StandbyLoad] | None = None
    numbers: "count[int]" = field(default_factory=count)

    def adopt(self, hosts: Sequence[HostedVariant], now_s: float, in_place: frozenset[str] = frozenset()) -> None:
        placements = (make_placement(each.device, each.family, each.variant) for each in hosts)
        demand_qps = {"a": 100.0, "b": 100.0}
        plan = make_plan(*placements, demand_qps=demand_qps, devices=("cpu0", "b/cpu0"))
        early, late = (each.adopt(plan, hosts, now_s, in_place) for each in (self.early, self.late))
        self._apply(early, late, now_s)

    def offer(self, request: Request) -> None:
        now_s = request.arrival_s
        early, late = (each.offer(request, now_s) for each in (self.early, self.late))
        assert early == late
        for device in early.devices if isinstance(early, Admitted) else ():
            self.ask(device, now_s)

    def ask(self, device: str, now_s: float) -> None:
        while True:
            early, late = self.early.decide(device, now_s), self.late.decide(device, now_s)
            assert early == late
            if isinstance(early, Launch) and isinstance(late, Launch):
                self.running.append((early, late))
            if isinstance(early, Idle | WaitUntil):
                return

    def finish(self, slowdown: float, now_s: float) -> None:
        """The batch ends that runs for longest."""
        if self.running:
            early, late = self.running.pop(0)
            took_s = slowdown * early.hosted.mean_latency(early.rows)
            self.early.finished(early, took_s)
            self.late.finished(late, took_s)
            self.ask(early.hosted.device, now_s)

    def lose_and_return(self, device: str, now_s: float) -> None:
        lost = [pair for pair in self.running if pair[0].hosted.device == device]
        self.running = [pair for pair in self.running if pair not in lost]
        early = self.early.device_lost(device, [pair[0] for pair in lost])
        self._apply(early, self.late.device_lost(device, [pair[1] for pair in lost]), now_s)
        early, recovered = (each.device_recovered(device, now_s) for each in (self.early, self.late))
        self._apply(early, recovered, now_s)

    def stand_by(self, now_s: float) -> None:
        """A standby begins to load, or has loaded."""
        if self.standby is not None:
            for controller, load in zip((self.early, self.late), self.standby, strict=True):
                controller.topology.standby_ended(load, StandbyEnd.LOADED, now_s)
            self.standby = None
            return
        effects = [each.topology.next_standby(now_s) for each in (self.early, self.late)]
        early, late = (each.standby for each in effects)
        assert (early is None) == (late is None)
        if early is not None and late is not None:
            assert (early.device, early.key) == (late.device, late.key)
            assert effects[0].keep == effects[1].keep
            self.standby = early, late

    def check(self, now_s: float) -> None:
        for device in self.devices:
            assert self.early.topology.change.hosted_on(device) == self.late.topology.change.hosted_on(device)
            assert self.early.topology.change.resident_on(device) == self.late.topology.change.resident_on(device)
            assert self.early.slowdown_of(device) == self.late.slowdown_of(device)
        early, late = (each.replanning.decide(now_s) for each in (self.early, self.late))
        assert early == late

    def _apply(self, early: Effects, late: Effects, now_s: float) -> None:
        assert [device for device in early.ask if device in self.devices] == list(late.ask)
        assert early.dropped == late.dropped
        assert [(each.device, each.hosts, each.keeps) for each in early.load] == [
            (each.device, each.hosts, each.keeps) for each in late.load
        ]
        for device in late.ask:
            self.ask(device, now_s)
        for mine, theirs in zip(early.load, late.load, strict=True):  # each load ends before anything else happens
            engines = keys(mine.hosts)
            self._apply(self.early.loaded(mine, engines, now_s), self.late.loaded(theirs, engines, now_s), now_s)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.sampled_from("ab"), st.integers(1, 3)),
        st.tuples(st.just("finish"), st.floats(0.8, 2.0)),
        st.tuples(st.just("lose"), st.integers(0, 1)),
        st.tuples(st.just("stand by")),
        st.tuples(st.just("tick")),
    ),
    max_size=30,
)


@settings(max_examples=100, deadline=None)
@given(
    before=steps,
    after=steps,
    slots=st.integers(1, 2),
    dispatch_ahead_s=st.sampled_from([0.0, 0.002]),
    in_place=st.frozensets(st.sampled_from(["cpu0", "b/cpu0"])),
    memory=st.sampled_from([None, MEMORY]),
)
def test_once_all_are_there_a_controller_decides_as_one_that_had_them_from_the_start(
    before: list[Any],
    after: list[Any],
    slots: int,
    dispatch_ahead_s: float,
    in_place: frozenset[str],
    memory: DeviceMemory | None,
) -> None:
    slo_s = {"a": 0.1, "b": 0.1}
    early, late = (
        Controller(
            slo_s,
            dict.fromkeys(devices, slots),
            PROTEUS,
            dispatch_ahead_s=dispatch_ahead_s,
            memory=dict.fromkeys(devices, memory) if memory is not None else {},
        )
        for devices in (("cpu0", "b/cpu0"), ("cpu0",))
    )
    both = Both(early, late, ["cpu0"])
    both.adopt([good("cpu0"), fast("cpu0", "b")], 0.0)
    now_s = _played(both, [each for each in before if each[0] != "stand by"], 0.0)
    both.late.add_device("b/cpu0", slots, memory)
    both.late.device_recovered("b/cpu0", now_s, ())
    both.devices.append("b/cpu0")
    early.replanning.notice("somebody asks")
    now_s += 2 * GATHER_S
    assert [each.replanning.decide(now_s) is not None for each in (early, late)] == [True, True]
    both.adopt([good("cpu0"), fast("cpu0", "b"), fast("b/cpu0")], now_s, in_place)
    _played(both, after, now_s)


def _played(both: Both, steps: list[Any], now_s: float) -> float:
    for step in steps:
        now_s += 0.003
        match step:
            case ("offer", family, rows):
                both.offer(Request(next(both.numbers), family, now_s, now_s + 0.1, rows))
            case ("finish", slowdown):
                both.finish(slowdown, now_s)
            case ("lose", which):
                both.lose_and_return(both.devices[which % len(both.devices)], now_s)
            case ("stand by",):
                both.stand_by(now_s)
            case _:
                now_s += 0.5
                both.check(now_s)
    return now_s
