"""The roll-out of a plan: what loads beside what serves, what in place, and what follows a load that fails."""

from collections.abc import Mapping

import pytest
from builders import hosted, make_measured, make_placement, make_plan, make_profile

from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import NO_EFFECTS, FailedLoad, Host, Keep, StandbyEnd
from proteus_cli.control.policies import policy_named
from proteus_cli.control.topology.plan_rollout import LoadBeside, PlanRollout, RolloutEnd, Switch
from proteus_cli.control.topology.standbys import DeviceMemory, Loadable
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import EngineError, OutOfDeviceMemory

DEVICES = ("cpu0", "cpu1")
SMALL, LARGE, OTHER = (VariantKey("a", variant) for variant in ("a-s", "a-l", "a-m"))
SIZES = {SMALL: 30, LARGE: 60, OTHER: 5}


def host(device: str, key: VariantKey) -> Host:
    return hosted(device, *key, latency_s={1: 0.01}, weight=1.0)


def plan_of(*hosts: Host) -> Plan:
    return make_plan(*(make_placement(each.device, *each.key) for each in hosts), devices=DEVICES)


def controller_of(*hosts: Host, memory: Mapping[str, DeviceMemory] | None = None) -> Controller:
    controller = Controller({"a": 1.0}, dict.fromkeys(DEVICES, 1), policy_named("proteus"), memory=memory or {})
    if hosts:
        controller.adopt(plan_of(*hosts), hosts, 0.0)
    return controller


def profiles(memory_bytes: int) -> dict[str, Profile]:
    measured = [make_measured(*key, 0.9, {1: 0.01}, memory_bytes=size) for key, size in SIZES.items()]
    return {device: make_profile(device, *measured, memory_bytes=memory_bytes) for device in DEVICES}


NOW = tuple(host(device, SMALL) for device in DEVICES)
NEXT = tuple(host(device, LARGE) for device in DEVICES)
RESIDENT = tuple(Keep(device, frozenset({SMALL})) for device in DEVICES)


def failed(device: str, kind: type[EngineError] = EngineError) -> FailedLoad:
    return FailedLoad(device, LARGE, kind("a test"))


def test_all_that_has_memory_loads_beside_what_serves_and_then_all_switch() -> None:
    rollout = PlanRollout(controller_of(*NOW).topology, NEXT)
    assert rollout.begin(profiles(memory_bytes=90)) == LoadBeside(NEXT, RESIDENT)
    assert rollout.loaded_beside((), 1.0) == Switch(frozenset())
    assert rollout.loaded_in_place(()) == RolloutEnd(RESIDENT)


@pytest.mark.parametrize(("memory_bytes", "free_bytes"), [(89, {}), (1000, {"": 67})])
def test_devices_without_memory_for_both_load_in_place(memory_bytes: int, free_bytes: dict[str, int]) -> None:
    """Either a device has too little, or its host for both of them: then one of them finds room in 90 % of it."""
    rollout = PlanRollout(controller_of(*NOW).topology, NEXT)
    step = rollout.begin(profiles(memory_bytes), free_bytes)
    in_place = {"cpu1"} if free_bytes else {*DEVICES}
    assert {each.device for each in step.hosts} == {*DEVICES} - in_place
    assert rollout.loaded_beside((), 1.0) == Switch(frozenset(in_place))


def test_a_device_that_has_nothing_yet_needs_no_room_beside_it() -> None:
    rollout = PlanRollout(controller_of().topology, NEXT)
    assert rollout.begin(profiles(memory_bytes=50), {"": 0}).hosts == NEXT


def test_devices_that_the_driver_has_load_in_place_load_nothing_beside() -> None:
    rollout = PlanRollout(controller_of(*NOW).topology, NEXT)
    assert rollout.begin(in_place=DEVICES).hosts == ()
    assert rollout.loaded_beside((), 1.0) == Switch(frozenset(DEVICES))


def test_a_lost_device_loads_nothing_and_frees_nothing() -> None:
    controller = controller_of(*NOW)
    controller.device_lost("cpu1", ())
    assert PlanRollout(controller.topology, NEXT).begin() == LoadBeside(NEXT[:1], RESIDENT[:1])


def test_where_an_engine_fails_beside_what_serves_nothing_changes_and_it_is_broken() -> None:
    rollout = PlanRollout(controller_of(*NOW).topology, NEXT)
    rollout.begin()
    broken = failed("cpu1")
    assert rollout.loaded_beside([broken], 1.0) == RolloutEnd(RESIDENT, (broken,), broken)


def test_before_the_first_plan_nothing_is_to_be_planned_around() -> None:
    rollout = PlanRollout(controller_of().topology, NEXT)
    rollout.begin()
    end = rollout.loaded_beside([failed("cpu1", OutOfDeviceMemory)], 1.0)
    assert isinstance(end, RolloutEnd)
    assert (end.broken, end.failure and end.failure.device) == ((), "cpu1")


def test_where_memory_proves_short_beside_what_serves_the_device_loads_in_place() -> None:
    rollout = PlanRollout(controller_of(*NOW).topology, NEXT)
    rollout.begin()
    assert rollout.loaded_beside([failed("cpu1", OutOfDeviceMemory)], 1.0) == Switch(frozenset({"cpu1"}))


def test_where_memory_proves_short_standbys_go_first_and_once_only() -> None:
    memory = DeviceMemory("cpu", 100, {key: Loadable(size, 0.1, 1, 100.0) for key, size in SIZES.items()})
    controller = controller_of(*NOW, memory=dict.fromkeys(DEVICES, memory))
    load = controller.topology.next_standby(0.0).standby
    assert load is not None
    controller.topology.standby_ended(load, StandbyEnd.LOADED, 0.1)
    device, short = load.device, failed(load.device, OutOfDeviceMemory)
    wanted = tuple(each for each in NEXT if each.device == device)
    rollout = PlanRollout(controller.topology, NEXT)
    rollout.begin()
    assert device in controller.topology.standbys
    again = rollout.loaded_beside([short], 1.0)
    assert again == LoadBeside(wanted, (Keep(device, frozenset({SMALL, LARGE})),))
    assert rollout.loaded_beside([short], 2.0) == Switch(frozenset({device}))


@pytest.mark.parametrize("failures", [(), (failed("cpu1"),)])
def test_standbys_stay_as_they_are_until_what_loads_beside_what_serves_has_loaded(
    failures: tuple[FailedLoad, ...],
) -> None:
    loadable = {key: Loadable(size, 0.1, 1, 100.0) for key, size in SIZES.items()}
    topology = controller_of(*NOW, memory={"cpu0": DeviceMemory("cpu", 100, loadable)}).topology
    rollout = PlanRollout(topology, NEXT)
    rollout.begin()
    assert topology.next_standby(0.0) == NO_EFFECTS
    rollout.loaded_beside(failures, 1.0)
    assert topology.next_standby(1.0).standby is not None


@pytest.mark.parametrize("in_place", [(), DEVICES])
def test_a_load_of_a_standby_is_cancelled_only_where_the_plan_changes_what_the_device_hosts(
    in_place: tuple[str, ...],
) -> None:
    loadable = {key: Loadable(size, 0.1, 1, 100.0) for key, size in SIZES.items()}
    memory = {"cpu0": DeviceMemory("cpu", 100, loadable)}
    topology = controller_of(*NOW, memory=memory).topology
    load = topology.next_standby(0.0).standby
    assert load is not None
    wanted, other = host("cpu0", load.key), host("cpu0", next(key for key in SIZES if key not in {SMALL, load.key}))
    assert PlanRollout(topology, NOW).begin(in_place=in_place).cancel == (), "it changes nothing"
    assert PlanRollout(topology, [NOW[0], NEXT[1]]).begin(in_place=in_place).cancel == (), "it changes the other"
    assert PlanRollout(topology, [wanted]).begin(in_place=in_place).cancel == (), "it wants that very one"
    assert PlanRollout(topology, [other]).begin(in_place=in_place).cancel == (load,)
    assert PlanRollout(topology, NEXT[1:]).begin(in_place=in_place).cancel == (load,), "it leaves the device idle"


@pytest.mark.parametrize("may_go_back", [True, False])
def test_where_a_load_in_place_fails_the_earlier_plan_comes_back_if_it_may(*, may_go_back: bool) -> None:
    """Not where it is the earlier plan itself that is rolled out again."""
    controller = controller_of(*NOW)
    before = controller.plan
    rollout = PlanRollout(controller.topology, NEXT, may_go_back=may_go_back)
    rollout.begin(in_place=DEVICES)
    rollout.loaded_beside((), 1.0)
    (load,) = controller.adopt(plan_of(*NEXT), NEXT, 1.0, DEVICES).load
    controller.loaded(load, (), 2.0)
    broken = failed(load.device)
    end = rollout.loaded_in_place([broken])
    assert (end.broken, end.failure) == ((broken,), broken)
    assert end.back_to is (before if may_go_back else None)


def test_the_first_plan_has_none_to_go_back_to() -> None:
    end = PlanRollout(controller_of().topology, NEXT).loaded_in_place([failed("cpu0")])
    assert end.back_to is None


def test_what_is_wanted_no_more_after_its_loads_is_freed() -> None:
    rollout = PlanRollout(controller_of(*NOW).topology, NEXT)
    rollout.begin()
    assert rollout.given_up() == RESIDENT
