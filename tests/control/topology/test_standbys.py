"""Which variants stand by, when they load, and that plans activate them without a load."""

from collections import Counter
from dataclasses import replace

import pytest
from builders import hosted, launched, make_request, near, plan_hosting, requests_waiting
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Admitted, Effects, HostedVariant, Keep, Launch, StandbyEnd, StandbyLoad
from proteus_cli.control.policies import PROTEUS
from proteus_cli.control.topology.standbys import RETRY_S, DeviceMemory, Loadable, next_standby
from proteus_cli.control.topology.topology import LOOK_S, MAX_LOADING_FRAC
from proteus_cli.domain.catalog import NO_VARIANTS, VariantKey
from proteus_cli.domain.device import host_of
from proteus_cli.domain.request import Request

SLOW, FAST, OTHER, LARGE = (VariantKey("a", f"a-{v}") for v in ("slow", "fast", "other", "large"))
ON_B = VariantKey("b", "b-fast")
QPS = {SLOW: 10.0, FAST: 100.0, OTHER: 50.0, LARGE: 5.0, ON_B: 100.0}
LOADABLE = {key: Loadable(4 if key is LARGE else 1, 1.0, qps) for key, qps in QPS.items()}


def memory(limit: int = 3, devices: tuple[str, ...] = ("cpu0", "cpu1")) -> dict[str, DeviceMemory]:
    return {device: DeviceMemory(limit, LOADABLE) for device in devices}


def host(key: VariantKey, device: str = "cpu0") -> HostedVariant:
    return hosted(device, *key, latency_s={1: 0.01}, capacity_qps=QPS[key])


def keys(*found: VariantKey) -> frozenset[VariantKey]:
    return frozenset(found)


class Driven:
    """A controller whose loads end when the test says so. ``in_place``: the devices that load so."""

    def __init__(self, *hosts: HostedVariant, limit: int = 3, in_place: tuple[str, ...] = ()) -> None:
        self.controller = Controller({"a": 0.1, "b": 0.1}, {"cpu0": 1, "cpu1": 1}, PROTEUS, memory=memory(limit))
        self.in_place = in_place
        self.adopt(*hosts, in_place=())

    def adopt(self, *hosts: HostedVariant, in_place: tuple[str, ...] | None = None) -> Effects:
        now_in_place = self.in_place if in_place is None else in_place
        return self.controller.adopt(plan_hosting(*hosts), hosts, 0.0, now_in_place)

    def load_all(self, now_s: float) -> list[StandbyLoad]:
        """Load all standbys that may load now, each for a second."""
        loads = []
        while (load := self.controller.topology.next_standby(now_s).standby) is not None:
            loads.append(load)
            self.controller.topology.standby_ended(load, StandbyEnd.LOADED, now_s + 1.0)
        return loads

    def standbys(self, device: str = "cpu0") -> frozenset[VariantKey]:
        return self.controller.change.standbys.get(device, NO_VARIANTS)


# --- which


def wanted(
    device: DeviceMemory, *active: VariantKey, without: tuple[VariantKey, ...] = (), pinned: tuple[VariantKey, ...] = ()
) -> list[VariantKey]:
    return list(device.next(keys(*active), without, pinned))


def test_the_fast_variant_of_the_family_comes_first_and_then_the_longest_loads_of_the_family() -> None:
    loadable = {
        SLOW: Loadable(1, 1.0, 10.0),
        FAST: Loadable(1, 1.0, 100.0),
        OTHER: Loadable(1, 2.0, 50.0),
        LARGE: Loadable(1, 9.0, 5.0),
        ON_B: Loadable(1, 99.0, 100.0),
    }
    assert wanted(DeviceMemory(4, loadable), SLOW) == [FAST, LARGE, OTHER]
    assert wanted(DeviceMemory(3, loadable), SLOW) == [FAST, LARGE], "there is memory for two"
    assert wanted(DeviceMemory(3, loadable), SLOW, without=(FAST,)) == [LARGE, OTHER], "it is broken there"
    assert wanted(DeviceMemory(9, loadable), SLOW, ON_B) == [FAST, LARGE, OTHER]


def test_a_device_that_hosts_nothing_gets_the_fast_variants_of_all_families_first() -> None:
    assert set(wanted(memory(limit=2)["cpu0"])) == {FAST, ON_B}


def test_what_takes_no_time_to_load_or_no_plan_may_place_does_not_stand_by() -> None:
    at_once = {key: Loadable(1, 0.0, qps) for key, qps in QPS.items()}
    assert wanted(DeviceMemory(9, at_once), SLOW) == []
    limited = {**LOADABLE, FAST: Loadable(1, 1.0, 0.0)}
    assert wanted(DeviceMemory(2, limited), SLOW) == [OTHER]


def test_a_variant_that_plans_may_place_no_more_makes_way() -> None:
    limited = DeviceMemory(2, {**LOADABLE, OTHER: replace(LOADABLE[OTHER], qps=0.0, host=None)})
    assert wanted(limited, SLOW) == [FAST]
    assert limited.kept(keys(SLOW, OTHER, FAST), keys(SLOW)) == {FAST}


def test_what_is_pinned_makes_way_for_a_plan_alone() -> None:
    """As the old version, while somebody may go back to it."""
    device = DeviceMemory(2, {**LOADABLE, OTHER: Loadable(1, 1.0, 0.0)})
    loaded = keys(SLOW, FAST, OTHER)
    assert device.kept(loaded, keys(SLOW)) == keys(FAST)
    assert device.kept(loaded, keys(SLOW), pinned=(OTHER,)) == keys(OTHER)
    assert wanted(device, SLOW, pinned=(OTHER,)) == [OTHER]
    assert device.kept(loaded, keys(SLOW, FAST), pinned=(OTHER,)) == NO_VARIANTS


def test_the_next_standby_is_the_most_preferred_that_some_device_lacks() -> None:
    of, active = memory(limit=3), {"cpu0": keys(SLOW), "cpu1": keys(SLOW)}

    def following(*devices: str, on_cpu0: tuple[VariantKey, ...] = (), without: tuple[VariantKey, ...] = ()) -> object:
        resident = {"cpu0": keys(SLOW, *on_cpu0), "cpu1": keys(SLOW)}
        return next_standby(of, active, resident, devices, {("cpu0", *key) for key in without})

    assert following("cpu0", "cpu1") == ("cpu0", FAST)
    assert following("cpu0", "cpu1", on_cpu0=(FAST,)) == ("cpu1", FAST)
    assert following("cpu0", on_cpu0=(FAST,)) == ("cpu0", OTHER)
    assert following("cpu0", without=(FAST,)) == ("cpu0", OTHER), "it is broken there"
    assert following("cpu0", on_cpu0=(FAST, OTHER)) is None
    assert following("cpu9") is None, "nothing is known of its memory"


@given(
    st.frozensets(st.sampled_from(sorted(QPS))),
    st.frozensets(st.sampled_from(sorted(QPS))),
    st.integers(0, 9),
)
def test_standbys_were_loaded_and_fit_beside_what_is_needed(
    loaded: frozenset[VariantKey], needed: frozenset[VariantKey], limit: int
) -> None:
    kept = DeviceMemory(limit, LOADABLE).kept(loaded, needed)
    assert kept <= loaded - needed
    size = {key: each.memory_bytes for key, each in LOADABLE.items()}
    assert not kept or sum(size[key] for key in kept | needed) <= limit
    assert all(sum(size[each] for each in kept | needed | {key}) > limit for key in loaded - needed - kept), (
        "memory that is left is used"
    )


@given(st.frozensets(st.sampled_from(sorted(QPS))), st.frozensets(st.sampled_from(sorted(QPS))), st.integers(0, 9))
def test_no_standby_that_was_loaded_is_given_up_for_another_and_loaded_again(
    loaded: frozenset[VariantKey], active: frozenset[VariantKey], limit: int
) -> None:
    """Where each device loads what it wants most, and gives up what leaves no room for it, that comes to an end."""
    device, standbys = DeviceMemory(limit, LOADABLE), loaded - active
    missing = list[VariantKey]()
    for _ in range(len(QPS) + 1):
        missing = [key for key in device.next(active, ()) if key not in standbys]
        if not missing:
            return
        standbys = device.kept(active | standbys, active | {missing[0]}) | {missing[0]}
    raise AssertionError(f"still loading {missing}")


# --- activation


def test_an_activated_variant_needs_no_load_and_what_it_replaces_stands_by() -> None:
    driven = Driven(host(SLOW), limit=2, in_place=("cpu0", "cpu1"))
    assert [load.key for load in driven.load_all(0.0) if load.device == "cpu0"] == [FAST]
    assert driven.adopt(host(FAST)).load == ()
    assert [each.key for each in driven.controller.families["a"].hosts] == [FAST]
    assert driven.standbys() == {SLOW}
    assert driven.controller.change.resident_on("cpu0") == {FAST, SLOW}


def test_a_cold_variant_loads_in_place_beside_the_standbys_that_fit() -> None:
    driven = Driven(host(SLOW), limit=2, in_place=("cpu0", "cpu1"))
    driven.load_all(0.0)
    (load,) = driven.adopt(host(OTHER)).load
    assert [each.key for each in load.hosts] == [OTHER]
    assert len(load.keeps) == 1
    assert load.keeps < {SLOW, FAST}
    driven.controller.loaded(load, keys(OTHER) | load.keeps, 1.0)
    assert driven.controller.change.resident_on("cpu0") == {OTHER} | load.keeps


def with_standby(driven: Driven, device: str, key: VariantKey) -> Driven:
    """The same after a plan that had the variant there, and back."""
    before = driven.controller.plan
    hosts = [host(p.key, p.device) for p in before.placements]
    driven.adopt(*(host(key, device) if each.device == device else each for each in hosts), in_place=())
    driven.adopt(*hosts, in_place=())
    assert key in driven.standbys(device)
    return driven


# --- when


@pytest.mark.parametrize(("gave_way", "rests_s"), [(False, 9.0), (True, 0.9)])
def test_a_device_rests_nine_times_as_long_as_a_load_took_of_its_core(*, gave_way: bool, rests_s: float) -> None:
    driven = Driven(host(SLOW), host(SLOW, "cpu1"), limit=3)
    driven.adopt(host(OTHER))
    load = driven.controller.topology.next_standby(10.0).standby
    assert load is not None
    driven.controller.topology.standby_ended(load, StandbyEnd.LOADED, 11.0, gave_way=gave_way)

    rests_until_s = driven.controller.change.devices[load.device].rests_until_s
    assert rests_until_s == near(11.0 + rests_s)


def test_one_standby_loads_on_a_machine_at_a_time_and_then_its_device_rests() -> None:
    driven = Driven(host(SLOW), host(SLOW, "cpu1"), limit=3)
    driven.adopt(host(OTHER), host(OTHER, "cpu1"))
    driven.adopt(host(SLOW), host(SLOW, "cpu1"))
    assert driven.standbys() == {OTHER}
    effects = driven.controller.topology.next_standby(10.0)
    first = effects.standby
    assert first is not None
    assert effects.keep == (Keep(first.device, keys(SLOW, OTHER)),)
    assert driven.controller.topology.next_standby(10.0).standby is None
    driven.controller.topology.standby_ended(first, StandbyEnd.FAILED, 11.0)
    second = driven.controller.topology.next_standby(11.0).standby
    assert second is not None
    assert {first.device, second.device} == {"cpu0", "cpu1"}
    driven.controller.topology.standby_ended(second, StandbyEnd.GIVEN_UP, 12.0)
    rests_until_s = 12.0 + 1.0 / MAX_LOADING_FRAC - 1.0
    assert driven.controller.topology.next_standby(rests_until_s - 0.1).standby is None
    again = driven.controller.topology.next_standby(rests_until_s + LOOK_S).standby
    assert again is not None
    assert again.device == second.device, "what failed is left alone for longer"
    assert driven.controller.topology.next_standby(rests_until_s + LOOK_S).standby is None
    driven.controller.topology.standby_ended(again, StandbyEnd.LOADED, rests_until_s + LOOK_S + 1.0)
    tried = driven.controller.topology.next_standby(11.0 + RETRY_S).standby
    assert tried is not None
    assert tried.device == first.device


def test_of_the_devices_of_each_machine_a_tenth_load_at_a_time_or_one() -> None:
    devices = [*(f"cpu{n}" for n in range(29)), *(f"b/cpu{n}" for n in range(5))]
    hosts = [host(SLOW, device) for device in devices]
    controller = Controller({"a": 0.1}, dict.fromkeys(devices, 1), PROTEUS, memory=memory(devices=tuple(devices)))
    controller.adopt(plan_hosting(*hosts, devices=devices), hosts, 0.0)
    loads = list[StandbyLoad]()
    while (load := controller.topology.next_standby(0.0).standby) is not None:
        loads.append(load)
    assert Counter(host_of(load.device) for load in loads) == {"": 2, "b": 1}
    controller.topology.standby_ended(loads[0], StandbyEnd.LOADED, 1.0)
    found = controller.topology.next_standby(1.0).standby
    assert found is not None
    assert host_of(found.device) == host_of(loads[0].device)


@pytest.mark.parametrize("in_place", [(), ("cpu0", "cpu1")])
def test_standbys_that_made_room_for_a_plan_that_was_given_up_load_again(in_place: tuple[str, ...]) -> None:
    driven = Driven(host(SLOW), host(SLOW, "cpu1"), limit=2)
    for number in range(100):
        driven.load_all(number * 10.0)
    standbys = dict(driven.controller.change.standbys)
    assert set(standbys) == {"cpu0", "cpu1"}
    change = driven.controller.change
    change.begin([host(OTHER), host(SLOW, "cpu1")], in_place=in_place)
    change.loaded_beside((), 1000.0)
    change.give_up()
    for number in range(100):
        driven.load_all(1000.0 + number * 10.0)
    assert driven.controller.change.standbys.keys() == standbys.keys()


def test_what_failed_is_forgotten_once_that_is_over() -> None:
    """Else names of versions, and devices that come and go, would pile up for as long as a server runs."""
    driven = Driven(host(SLOW), host(SLOW, "cpu1"), limit=3)
    topology = driven.controller.topology
    for start_s in (0.0, 2 * RETRY_S, 4 * RETRY_S):
        load = topology.next_standby(start_s).standby
        assert load is not None
        topology.standby_ended(load, StandbyEnd.FAILED, start_s + 1.0)
    assert len(topology._failed_until_s) == 1
    topology.next_standby(8 * RETRY_S)
    assert not topology._failed_until_s


def test_a_device_without_a_free_slot_loads_no_standby() -> None:
    driven = Driven(host(SLOW))
    driven.controller.device_lost("cpu1", [])
    driven.controller.offer(make_request(0), 0.0)
    launch = launched(driven.controller, "cpu0", 0.0)
    assert driven.controller.topology.next_standby(0.0).standby is None
    driven.controller.finished(launch, 0.01)
    assert driven.controller.topology.next_standby(LOOK_S).standby is not None


def test_the_load_of_a_standby_is_given_up_where_the_device_must_load_for_a_plan() -> None:
    driven = Driven(host(SLOW), limit=2, in_place=("cpu0", "cpu1"))
    load = driven.controller.topology.next_standby(0.0).standby
    assert load is not None
    (step,) = driven.adopt(host(OTHER)).load
    driven.controller.topology.standby_ended(load, StandbyEnd.LOADED, 1.0)
    driven.controller.loaded(step, keys(OTHER) | step.keeps, 1.0)
    assert load.key not in driven.controller.change.resident_on("cpu0")


def test_a_device_that_is_short_of_memory_gives_its_standbys_up_and_nothing_else() -> None:
    driven = Driven(host(SLOW))
    driven.load_all(0.0)
    assert driven.standbys()
    driven.controller.topology.memory_short("cpu0", 100.0)
    assert driven.controller.change.resident_on("cpu0") == {SLOW}
    assert all(load.device != "cpu0" for load in driven.load_all(100.0 + RETRY_S - 1.0))
    assert {load.device for load in driven.load_all(100.0 + RETRY_S)} == {"cpu0"}


def test_a_standby_without_memory_changes_nothing_that_is_active() -> None:
    driven = Driven(host(SLOW))
    load = driven.controller.topology.next_standby(0.0).standby
    assert load is not None
    driven.controller.topology.standby_ended(load, StandbyEnd.NO_MEMORY, 1.0)
    assert driven.controller.change.resident_on(load.device) == {SLOW} if load.device == "cpu0" else NO_VARIANTS
    assert driven.standbys(load.device) == NO_VARIANTS


def test_a_lost_device_loses_its_standbys_and_a_broken_engine_stands_by_nowhere() -> None:
    driven = Driven(host(SLOW), host(SLOW, "cpu1"))
    driven.load_all(0.0)
    assert FAST in driven.standbys("cpu0") & driven.standbys("cpu1")
    driven.controller.engine_failed("cpu1", FAST)
    assert FAST not in driven.standbys("cpu1")
    driven.controller.device_lost("cpu0", [])
    assert driven.standbys("cpu0") == NO_VARIANTS
    assert all(load.device == "cpu1" and load.key != FAST for load in driven.load_all(100.0))


def test_room_is_made_for_what_is_to_load_beside_what_is_active() -> None:
    driven = Driven(host(SLOW), limit=3)
    driven = with_standby(driven, "cpu0", OTHER)
    driven = with_standby(driven, "cpu0", FAST)
    assert driven.standbys() == {OTHER, FAST}
    change = driven.controller.change
    for wanted, left in ((OTHER, {OTHER, FAST}), (ON_B, {FAST}), (LARGE, set())):
        change.begin([host(wanted)])
        change.give_up()
        assert driven.standbys() == left
    assert driven.controller.change.resident_on("cpu0") == {SLOW}


def test_without_memory_nothing_stands_by() -> None:
    controller = Controller({"a": 0.1}, {"cpu0": 1}, PROTEUS)
    for each in (host(SLOW), host(FAST)):
        controller.adopt(plan_hosting(each, devices=("cpu0",)), [each], 0.0)
        assert controller.topology.next_standby(0.0).standby is None
        assert controller.change.resident_on("cpu0") == {each.key}


def test_what_the_catalog_has_no_more_gives_way_to_any_standby() -> None:
    driven = Driven(host(SLOW), host(SLOW, "cpu1"))
    driven.load_all(0.0)
    assert driven.standbys() == keys(FAST)
    left = {key: each for key, each in LOADABLE.items() if key is not FAST}
    driven.controller.topology.use_memory({device: DeviceMemory(3, left) for device in ("cpu0", "cpu1")})
    driven.adopt(host(SLOW), host(SLOW, "cpu1"))
    driven.load_all(100.0)
    assert driven.standbys() == keys(OTHER)


def test_memory_that_servers_share_stays_shared_where_it_changes() -> None:
    driven = Driven(host(SLOW), host(SLOW, "cpu1"))
    driven.controller.topology.share("cpu0", 3)
    driven.controller.topology.use_memory(memory())
    driven.load_all(0.0)
    assert (driven.standbys("cpu0"), driven.standbys("cpu1")) == (NO_VARIANTS, keys(FAST))


def test_where_nothing_may_be_loaded_any_more_nothing_stands_by() -> None:
    driven = Driven(host(SLOW), host(SLOW, "cpu1"))
    driven.controller.topology.use_memory({"cpu1": memory()["cpu1"]})
    driven.load_all(0.0)
    assert (driven.standbys("cpu0"), driven.standbys("cpu1")) == (NO_VARIANTS, keys(FAST))


def test_what_only_the_old_variant_of_a_lost_device_could_answer_is_dropped_with_the_device() -> None:
    """The device was to change to a less accurate variant when it was lost; then a standby of another one is loaded."""
    accuracies = {FAST: 0.9, OTHER: 0.8, SLOW: 0.7}

    def of(key: VariantKey, device: str) -> HostedVariant:
        return hosted(device, *key, latency_s={1: 0.05, 4: 0.05}, capacity_qps=80.0, accuracy=accuracies[key])

    devices, demand_qps = ("cpu0", "cpu1", "cpu2"), {"a": 1000.0}
    controller = Controller({"a": 1.0}, dict.fromkeys(devices, 1), PROTEUS, memory=memory(devices=("cpu2",)))
    before, after = (of(FAST, "cpu0"), of(OTHER, "cpu1"), of(SLOW, "cpu2")), [of(SLOW, each) for each in devices]
    controller.adopt(plan_hosting(*before, demand_qps=demand_qps, devices=devices), before, 0.0)
    standby = controller.topology.next_standby(0.0).standby
    assert standby is not None
    (load,) = controller.adopt(
        plan_hosting(*after, demand_qps=demand_qps, devices=devices), after, 0.1, ("cpu0", "cpu1")
    ).load
    (lost,) = {"cpu0", "cpu1"} - {load.device}
    runs, waits = (Request(n, "a", 0.2, 5.0, min_accuracy=0.75) for n in range(2))
    assert isinstance(controller.offer(runs, 0.2), Admitted)
    launch = controller.decide(lost, 0.2)
    assert isinstance(launch, Launch)
    assert isinstance(controller.offer(waits, 0.2), Admitted)
    assert set(controller.device_lost(lost, [launch]).dropped) == {runs, waits}
    controller.topology.standby_ended(standby, StandbyEnd.LOADED, 0.3)
    assert (requests_waiting(controller), controller.families["a"].rows) == (0, 0)
