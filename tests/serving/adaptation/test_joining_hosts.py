"""Devices of hosts that come: those that are known join at once, others are measured first."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from failing import LOAD_S, World, answers, played
from msgspec.structs import replace

from proteus_cli.control.devices.breaker import BreakerState
from proteus_cli.domain.device import Device
from proteus_cli.domain.fleet import on_device
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import EngineError, HostLost
from proteus_cli.serving.adaptation.joining import FIRST_PAUSE_S, LOOK_S, TRIES, Joining
from proteus_cli.serving.adaptation.plan_inputs import LivePlanner
from proteus_cli.serving.devices.remote.channel.messages import Inventory
from proteus_cli.serving.fleet.recovery import EVERY_S

HERE = {"cpu0": "good", "cpu1": "good"}
MEASURED_S = 5.0
JOINED_S = LOOK_S + LOAD_S + 2 * EVERY_S + 0.2
CPU = Device("cpu0", "cpu", "cpu", "a test device", 2**30, cores=(0,))
GPU = Device("gpu0", "gpu", "gpu", "a GPU", 2**30)


@dataclass(eq=False)
class FakeSession:
    """A connection with a host of these devices."""

    devices: Sequence[Device]

    @property
    def inventory(self) -> Inventory:
        return Inventory(tuple(self.devices), {}, 2**30)


@dataclass
class Hosts:
    """The connections that there are, and the devices that have been added."""

    connected: dict[str, FakeSession] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)

    def sessions(self) -> list[tuple[str, FakeSession]]:
        return list(self.connected.items())

    def add_device(self, device: Device, slots: int) -> None:
        assert slots == 1
        self.added.append(device.id)


@dataclass
class Known:
    """Knows the profiles of some devices; measuring takes `MEASURED_S`, and ``fails``, or the catalog ``changes``."""

    world: World
    profiles: dict[str, Profile] = field(default_factory=dict)
    measures: bool = True
    measured: list[tuple[str, ...]] = field(default_factory=list)
    fails: Exception | None = None
    changes: bool = False

    def profiles_of(self, devices: Sequence[Device]) -> Mapping[str, Profile]:
        return {device.id: self.profiles[device.id] for device in devices if device.id in self.profiles}

    async def measure(self, session: FakeSession, devices: Sequence[Device]) -> None:
        assert {device.id.partition("/")[2] for device in devices} <= {device.id for device in session.devices}
        self.measured.append(tuple(device.id for device in devices))
        await asyncio.sleep(MEASURED_S)
        if self.fails is not None:
            raise self.fails
        if not self.changes:
            self.know(*devices)

    def know(self, *devices: Device) -> None:
        self.profiles |= {device.id: on_device(self.world.profile("cpu0"), device) for device in devices}

    def memory_bytes(self, devices: Sequence[Device], free_bytes: int) -> Mapping[str, int]:
        assert free_bytes == 2**30
        return {device.id: 1100 for device in devices}


class Plans:
    """The planner that a world uses knows the profiles of the moment it was made at."""

    def __init__(self, world: World) -> None:
        self._world = world

    def replanner(self, _: Any, profiles: Mapping[str, Profile]) -> Any:
        return self._world.planner_of(dict(profiles))

    def use(self, planner: Any) -> None:
        self._world.planner = planner


Test = Callable[["Looking"], Any]


@dataclass
class Looking:
    world: World
    hosts: Hosts
    known: Known
    joining: Joining

    def state(self, device: str) -> BreakerState | None:
        return self.world.state(device) if device in self.world.fleet.breakers else None


def looking(test: Test, *, has_standbys: bool = False, **options: Any) -> World:
    """A server of two devices that looks for others, in virtual time."""

    async def in_world(world: World) -> None:
        hosts, known, plans = Hosts(), Known(world), Plans(world)
        fakes: Any = (hosts, known, plans)
        world.adaptation.planner = LivePlanner(fakes[2], world.profiles, fakes[2])
        joining = Joining(fakes[0], world.plane, world.profiles, fakes[1], world.adaptation, has_standbys=has_standbys)
        task = asyncio.create_task(joining.run())
        await test(Looking(world, hosts, known, joining))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    return played(in_world, HERE, **options)


def in_thread_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual time does not wait for threads."""

    async def now(work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", now)


@pytest.fixture(autouse=True)
def _(monkeypatch: pytest.MonkeyPatch) -> None:
    in_thread_at_once(monkeypatch)


def of(host: str, *devices: Device) -> list[Device]:
    return [replace(device, id=f"{host}/{device.id}") for device in devices]


def test_a_device_that_is_known_joins_at_once_and_is_planned_with() -> None:
    async def test(at: Looking) -> None:
        at.known.know(*of("b", CPU))
        at.hosts.connected["b"] = FakeSession([CPU])
        await asyncio.sleep(JOINED_S)
        assert at.state("b/cpu0") is BreakerState.CLOSED
        assert at.hosts.added == ["b/cpu0"]
        await at.world.ask(250.0, 10.0)
        await asyncio.sleep(1.0)
        assert "b/cpu0" in answers(at.world)
        assert at.known.measured == []
        assert any("b/cpu0 has joined" in change.reason for change in at.world.adaptation.changes)

    looking(test)


def test_a_host_with_an_unknown_device_is_measured_and_then_all_of_its_devices_join() -> None:
    async def test(at: Looking) -> None:
        at.known.know(*of("b", CPU))
        at.hosts.connected["b"] = FakeSession([CPU, GPU])
        await asyncio.sleep(LOOK_S + MEASURED_S / 2)
        assert at.known.measured == [("b/gpu0",)]
        assert at.hosts.added == []
        await asyncio.sleep(MEASURED_S / 2 + JOINED_S)
        assert at.hosts.added == ["b/cpu0", "b/gpu0"]
        assert at.state("b/gpu0") is BreakerState.CLOSED
        assert len(at.known.measured) == 1

    looking(test)


def test_a_host_that_serves_is_not_measured(caplog: pytest.LogCaptureFixture) -> None:
    async def test(at: Looking) -> None:
        at.known.know(*of("b", CPU))
        at.hosts.connected["b"] = FakeSession([CPU])
        await asyncio.sleep(JOINED_S)
        at.hosts.connected["b"] = FakeSession([CPU, GPU])
        await asyncio.sleep(10.0)
        assert at.known.measured == []
        assert at.state("b/gpu0") is None
        at.known.know(*of("b", GPU))
        at.hosts.connected["b"] = FakeSession([CPU, GPU])  # the agent has been started again
        await asyncio.sleep(JOINED_S)
        assert at.state("b/gpu0") is BreakerState.CLOSED

    with caplog.at_level(logging.WARNING, "proteus.joining"):
        looking(test)
    (warning,) = caplog.messages
    assert "b/gpu0 has no profile, and its host serves" in warning


def test_without_a_budget_unknown_devices_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    async def test(at: Looking) -> None:
        at.known.measures = False
        at.known.know(*of("b", CPU))
        at.hosts.connected["b"] = FakeSession([CPU, GPU])
        await asyncio.sleep(10.0)
        assert at.hosts.added == ["b/cpu0"]

    with caplog.at_level(logging.WARNING, "proteus.joining"):
        looking(test)
    (warning,) = caplog.messages
    assert "b/gpu0 has no profile, and the server measures none" in warning


def test_a_host_that_cannot_be_measured_is_tried_again_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    async def test(at: Looking) -> None:
        at.known.fails = EngineError("the agent can't measure")
        at.hosts.connected["b"] = FakeSession([CPU])
        await asyncio.sleep(LOOK_S + 2 * MEASURED_S + FIRST_PAUSE_S + 1.0)
        assert len(at.known.measured) == 2
        assert at.hosts.added == []
        at.known.fails = None
        await asyncio.sleep(2 * FIRST_PAUSE_S + MEASURED_S + JOINED_S)
        assert at.state("b/cpu0") is BreakerState.CLOSED

    with caplog.at_level(logging.WARNING, "proteus.joining"):
        looking(test)
    assert caplog.messages == ["new devices of host b cannot join: the agent can't measure"] * 2


def test_a_host_that_is_lost_while_it_is_measured_is_measured_again() -> None:
    async def test(at: Looking) -> None:
        at.known.fails = HostLost("host b is lost")
        at.hosts.connected["b"] = FakeSession([CPU])
        await asyncio.sleep(LOOK_S + MEASURED_S / 2)
        del at.hosts.connected["b"]
        await asyncio.sleep(MEASURED_S)
        at.known.fails = None
        at.hosts.connected["b"] = FakeSession([CPU])
        await asyncio.sleep(FIRST_PAUSE_S + MEASURED_S + JOINED_S)
        assert at.state("b/cpu0") is BreakerState.CLOSED

    looking(test)


def test_a_server_that_stops_does_not_wait_for_a_measurement() -> None:
    async def test(at: Looking) -> None:
        at.hosts.connected["b"] = FakeSession([CPU])
        await asyncio.sleep(LOOK_S + 0.1)
        assert at.known.measured == [("b/cpu0",)]

    looking(test)


def test_a_host_cannot_name_files_by_the_ids_of_its_devices() -> None:
    async def test(at: Looking) -> None:
        at.hosts.connected["b"] = FakeSession([replace(CPU, id="../cpu0")])
        await asyncio.sleep(JOINED_S + MEASURED_S)
        assert at.known.measured == []
        assert at.hosts.added == []

    looking(test)


def test_what_is_measured_for_the_first_time_on_a_new_device_is_a_variant_of_its_family() -> None:
    async def test(at: Looking) -> None:
        measured = at.world.profile("cpu0")
        finest = replace(measured.variants[0], variant="finest", accuracy=0.95)
        profile = replace(on_device(measured, *of("b", CPU)), variants=(finest, *measured.variants))
        at.known.profiles["b/cpu0"] = profile
        at.hosts.connected["b"] = FakeSession([CPU])
        await asyncio.sleep(JOINED_S)
        family = at.world.plane.families.by_name["f"]
        assert list(family.variants) == ["finest", "good", "fast"]
        assert family.best_accuracy == 0.95

    looking(test, replans=False)


def test_variants_stand_by_on_devices_that_join() -> None:
    async def test(at: Looking) -> None:
        at.known.know(*of("b", CPU))
        at.hosts.connected["b"] = FakeSession([CPU])
        await asyncio.sleep(JOINED_S)
        await at.world.fleet.deploy(at.world.plan_of({**HERE, "b/cpu0": "good"}))
        await asyncio.sleep(20.0)
        assert [key.variant for key in at.world.controller.change.standbys["b/cpu0"]] == ["fast"]

    looking(test, has_standbys=True, replans=False)


def test_a_device_that_was_measured_while_the_catalog_changed_is_measured_again() -> None:
    async def test(at: Looking) -> None:
        at.known.know(*of("b", CPU))
        at.known.changes = True
        at.hosts.connected["b"] = FakeSession([CPU, GPU])
        await asyncio.sleep(LOOK_S + 1.5 * MEASURED_S)
        assert (at.hosts.added, at.known.measured) == ([], [("b/gpu0",)] * 2)
        at.known.changes = False
        await asyncio.sleep(MEASURED_S + JOINED_S)
        assert (at.hosts.added, at.known.measured) == (["b/cpu0", "b/gpu0"], [("b/gpu0",)] * 2)

    looking(test)


def test_one_that_is_measured_in_vain_again_and_again_keeps_no_other_out() -> None:
    async def test(at: Looking) -> None:
        at.known.know(*of("b", CPU))
        at.known.changes = True
        at.hosts.connected["b"] = FakeSession([CPU, GPU])
        await asyncio.sleep(LOOK_S + TRIES * MEASURED_S + 60.0)
        assert (at.hosts.added, len(at.known.measured)) == (["b/cpu0"], TRIES)

    looking(test)
