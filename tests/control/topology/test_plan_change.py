"""Plan changes: loads beside what serves, loads in place, and the steps that follow a failed load."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from builders import hosted, launched, make_measured, make_profile, make_request, plan_hosting
from drawing import examples
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import (
    NO_EFFECTS,
    Admitted,
    ChangeState,
    Effects,
    FailedLoad,
    HostedVariant,
    Keep,
    Launch,
    Load,
    StandbyEnd,
    StandbyLoad,
    keys,
)
from proteus_cli.control.policies import Policy
from proteus_cli.control.topology.plan_change import KEPT_FREE_FRAC, PlanChange
from proteus_cli.control.topology.standbys import DeviceMemory, Loadable
from proteus_cli.domain.catalog import NO_VARIANTS, VariantKey
from proteus_cli.domain.device import host_of
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.request import Bounds, Request
from proteus_cli.domain.rollouts import VersionPair
from proteus_cli.errors import EngineError, OutOfDeviceMemory

GREEDY = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None)
DEVICES = ("d0", "d1", "d2")
ROOMY = {"d0": 2000, "d1": 1000, "d2": 2000}
A, B, C = (VariantKey(family, f"{family}-s") for family in "abc")
LONGER = VariantKey("b", "b-l")
DEMAND_QPS = {"a": 90.0, "b": 90.0, "c": 10.0}


def host(device: str, key: VariantKey, capacity_qps: float = 100.0) -> HostedVariant:
    return hosted(device, *key, latency_s={1: 0.01, 4: 0.04}, capacity_qps=capacity_qps)


def hosts_of(**by_device: VariantKey) -> tuple[HostedVariant, ...]:
    return tuple(host(device, key) for device, key in by_device.items())


BEFORE, AFTER = hosts_of(d0=A, d1=B, d2=B), hosts_of(d0=B, d1=A, d2=B)


class Changed:
    """A controller of devices that host ``before``, each with 100 qps, of 90 that are asked for of `a` and `b`."""

    def __init__(
        self,
        before: Sequence[HostedVariant] = BEFORE,
        memory: Mapping[str, DeviceMemory] | None = None,
        devices: Sequence[str] = DEVICES,
    ) -> None:
        self.devices = devices
        slo_s = dict.fromkeys("abc", 0.1)
        self.controller = Controller(slo_s, dict.fromkeys(devices, 1), GREEDY, memory=memory or {})
        self.topology, self.steps = self.controller.topology, self.controller.change
        self.adopt(before)

    def adopt(self, hosts: Sequence[HostedVariant], *in_place: str) -> tuple[Load, ...]:
        plan = plan_hosting(*hosts, demand_qps=DEMAND_QPS, devices=self.devices)
        return self.controller.adopt(plan, hosts, 0.0, in_place).load

    def ended(self, load: Load, engines: frozenset[VariantKey] | None = None) -> tuple[Load, ...]:
        """A load has ended, and left all that it was to load, or just these engines."""
        loaded = keys(load.hosts) | load.keeps if engines is None else engines
        return self.controller.loaded(load, loaded, 1.0).load

    @property
    def serving(self) -> dict[str, set[str]]:
        """What each device serves that does not load."""
        loading = {device for device in self.devices if not self.controller.workers[device].is_serving}
        return {
            device: {each.variant for each in self.steps.hosted_on(device)}
            for device in self.devices
            if device not in loading
        }


def test_a_device_keeps_what_it_serves_until_one_that_loads_in_place_carries_it() -> None:
    """d0 has `b` loaded, but is all that `a` has; d1 may leave `b`, which d2 carries."""
    change = Changed()
    (load,) = change.adopt(AFTER, "d1")
    assert load.device == "d1"
    assert change.serving == {"d0": {"a-s"}, "d2": {"b-s"}}
    assert change.steps.keep_of("d0") == (Keep("d0", frozenset({A, B})),)
    assert change.ended(load) == ()
    assert change.serving == {"d0": {"b-s"}, "d1": {"a-s"}, "d2": {"b-s"}}
    assert change.steps.keep_of("d0") == (Keep("d0", frozenset({B})),)


def test_where_all_wait_a_family_is_not_left_without_a_device_for_one_that_has_others() -> None:
    """d1 is missed by `b`, of which d2 carries a part; but without d0 `a` has nothing."""
    change = Changed((*BEFORE[:2], host("d2", B, 30.0)))
    (load,) = change.adopt((*AFTER[:2], host("d2", B, 30.0)), "d1")
    assert change.serving == {"d0": {"a-s"}, "d2": {"b-s"}}
    change.ended(load)
    assert change.serving == {"d0": {"b-s"}, "d1": {"a-s"}, "d2": {"b-s"}}


def test_a_device_that_can_be_missed_or_from_which_its_family_gains_switches_at_once() -> None:
    larger = VariantKey("a", "a-l")
    other = host("d2", A)
    change = Changed((BEFORE[0], BEFORE[1], other))
    change.adopt((*AFTER[:2], other), "d1")
    assert change.serving["d0"] == {"b-s"}, "d2 carries all of a"
    change = Changed()
    change.adopt((host("d0", larger, 120.0), *AFTER[1:]), "d1")
    assert change.serving["d0"] == {"a-l"}


def test_of_several_variants_each_family_must_do_without_what_it_loses() -> None:
    """`c` stays on d0, and `b` takes the place of `a`, which d1 is to serve."""
    before = (*hosts_of(d0=A), host("d0", C), *BEFORE[1:])
    after = (host("d0", C), host("d0", B), *AFTER[1:])
    change = Changed(before)
    (load,) = change.adopt(after, "d1")
    assert change.serving["d0"] == {"a-s", "c-s"}
    assert change.steps.resident_on("d0") == {A, B, C}
    change.ended(load)
    assert change.serving["d0"] == {"b-s", "c-s"}
    assert change.steps.resident_on("d0") == {B, C}


@examples(100, fuzzed=2000)
@given(st.data())
def test_whichever_loads_end_first_all_devices_get_there_and_keep_nothing_else(data: st.DataObject) -> None:
    devices = tuple(f"d{number}" for number in range(data.draw(st.integers(1, 5))))

    def drawn() -> list[HostedVariant]:
        variants = {device: data.draw(st.frozensets(st.sampled_from([A, B, C]), max_size=2)) for device in devices}
        return [host(device, key) for device, some in variants.items() for key in sorted(some)]

    after, loading = drawn(), list[Load]()
    change = Changed(after, devices=devices)
    for _ in range(data.draw(st.integers(1, 2))):
        after = drawn()
        in_place = data.draw(st.frozensets(st.sampled_from(devices)))
        loading += change.adopt(after, *in_place)
        if loading:
            loading += change.ended(loading.pop(data.draw(st.integers(0, len(loading) - 1))))
    while loading:
        loading += change.ended(loading.pop(data.draw(st.integers(0, len(loading) - 1))))
    for device in devices:
        wanted = [each for each in after if each.device == device]
        assert list(change.steps.hosted_on(device)) == wanted
        assert change.steps.resident_on(device) == keys(wanted)


# --- failures


def test_where_a_load_in_place_fails_what_waits_stays_and_goes_back_without_a_load() -> None:
    change = Changed()
    steps = change.steps
    profiles = {
        device: make_profile(
            device,
            *(make_measured(*key, 0.9, {1: 0.01}, memory_bytes=600) for key in (A, B)),
            memory_bytes=memory_bytes,
        )
        for device, memory_bytes in ROOMY.items()
    }
    assert {each.device for each in steps.begin(AFTER, profiles).beside} == {"d0", "d2"}
    steps.loaded_beside((), 0.0)
    assert (steps.state, steps.in_place) == (ChangeState.SWITCHING, frozenset({"d1"}))
    before = change.controller.plan
    (load,) = change.adopt(AFTER, "d1")
    assert change.ended(load, NO_VARIANTS) == ()
    assert change.serving == {"d0": {"a-s"}, "d1": set(), "d2": {"b-s"}}
    broken = FailedLoad("d1", A, EngineError("a test"))
    assert steps.loaded_in_place([broken]) == NO_EFFECTS
    assert (steps.state, steps.back_to, steps.failures) == (ChangeState.GOING_BACK, before, [broken])
    steps.begin(BEFORE, profiles)
    steps.loaded_beside((), 0.0)
    assert steps.in_place == set(), "d1 has nothing beside which it must load"
    assert change.adopt(BEFORE) == ()
    assert change.serving == {"d0": {"a-s"}, "d1": {"b-s"}, "d2": {"b-s"}}
    assert steps.loaded_in_place(()).keep == (
        Keep("d0", frozenset({A})),
        Keep("d1", frozenset({B})),
        Keep("d2", frozenset({B})),
    )
    assert steps.state is ChangeState.DONE


def test_where_there_is_no_way_back_what_waits_goes_on_as_it_is_until_the_next_plan() -> None:
    change = Changed()
    (load,) = change.adopt(AFTER, "d1")
    change.ended(load, NO_VARIANTS)
    assert change.steps.unchanging == ("d2",)
    without_d1 = hosts_of(d0=A, d2=B)
    assert change.adopt(without_d1) == ()
    assert change.serving == {"d0": {"a-s"}, "d1": set(), "d2": {"b-s"}}
    assert change.steps.keep_of("d0") == (Keep("d0", frozenset({A})),)


def test_a_lost_device_takes_with_it_what_it_had_loaded_beside_and_is_back_with_what_the_plan_wants() -> None:
    change = Changed()
    (load,) = change.adopt(AFTER, "d1")
    change.controller.device_lost("d0", [])
    assert change.steps.resident_on("d0") == NO_VARIANTS
    assert change.steps.devices["d0"].hosted_before_loss == (BEFORE[0],)
    assert [each.device for each in change.controller.families["b"].hosts] == ["d0", "d2"], "for its return"
    assert change.ended(load) == ()
    assert change.serving["d1"] == {"a-s"}
    assert change.controller.device_recovered("d0", 2.0, (AFTER[0],)).load == ()
    assert change.serving == {"d0": {"b-s"}, "d1": {"a-s"}, "d2": {"b-s"}}


def test_a_lost_device_that_is_back_with_nothing_loads_what_it_had_loaded_beside() -> None:
    change = Changed()
    (load,) = change.adopt(AFTER, "d1")
    change.controller.device_lost("d0", [])
    (again,) = change.controller.device_recovered("d0", 2.0).load
    assert (again.device, keys(again.hosts)) == ("d0", frozenset({B}))
    assert change.ended(load) == change.ended(again) == ()
    assert change.serving == {"d0": {"b-s"}, "d1": {"a-s"}, "d2": {"b-s"}}


def test_where_the_device_is_lost_that_was_waited_for_queries_follow_the_one_that_switches() -> None:
    """Nothing else comes that it could wait for. No load follows, and yet queries must be queued anew."""
    change = Changed()
    (load,) = change.adopt(AFTER, "d1")
    change.controller.device_lost("d1", [])
    assert change.serving["d0"] == {"a-s"}
    effects = change.controller.loaded(load, NO_VARIANTS, 1.0)
    assert (effects.ask, effects.load) == (DEVICES, ())
    assert change.steps.hosted_on("d0") == (AFTER[0],)
    assert [each.device for each in change.controller.families["a"].hosts] == ["d1"]
    assert [each.device for each in change.controller.families["b"].hosts] == ["d0", "d2"]
    assert change.controller.loaded(load, NO_VARIANTS, 1.0) is NO_EFFECTS, "nothing has changed since"


# --- a later plan


def test_a_later_plan_that_wants_what_a_device_still_serves_leaves_it_there() -> None:
    change = Changed()
    (load,) = change.adopt(AFTER, "d1")
    assert change.adopt(BEFORE, "d1") != ()
    assert change.serving == {"d0": {"a-s"}, "d2": {"b-s"}}
    assert change.steps.keep_of("d0") == (Keep("d0", frozenset({A})),)
    assert change.ended(load) == (), "it was given up"


def test_a_later_plan_of_which_all_was_loaded_beside_waits_for_what_loads_in_place_yet() -> None:
    change = Changed()
    (load,) = change.adopt(AFTER, "d1")
    assert change.adopt((host("d0", C), *AFTER[1:])) == ()
    assert change.serving == {"d0": {"a-s"}, "d2": {"b-s"}}
    assert change.steps.resident_on("d0") == {A, B, C}
    change.ended(load)
    assert change.serving == {"d0": {"c-s"}, "d1": {"a-s"}, "d2": {"b-s"}}
    assert change.steps.resident_on("d0") == {C}


# --- standbys


def with_standby(key: VariantKey) -> Changed:
    """Devices with memory for three variants; this one stands by on d0."""
    loadable = {
        each: Loadable(1, 1.0, 100.0, replace(host("any", each), is_standby=True)) for each in (A, B, C, LONGER)
    }
    change = Changed(memory=dict.fromkeys(DEVICES, DeviceMemory(3, loadable)))
    change.steps.add_standby("d0", key)
    return change


def test_short_memory_ends_all_standbys_but_what_is_to_be_activated() -> None:
    change = with_standby(C)
    (load,) = change.adopt(AFTER, "d1")
    assert change.topology.change.standbys["d0"] == {B, C}
    keep = change.topology.memory_short("d0", 0.5).keep
    assert keep == (Keep("d0", frozenset({A, B})),)
    assert change.ended(load) == ()
    assert change.serving["d0"] == {"b-s"}


def test_what_waited_for_a_change_that_has_failed_is_given_up_where_memory_is_short() -> None:
    change = with_standby(C)
    (load,) = change.adopt(AFTER, "d1")
    change.ended(load, NO_VARIANTS)
    assert change.topology.memory_short("d0", 0.5).keep == (Keep("d0", frozenset({A})),)


def test_no_standby_loads_on_a_device_that_waits_and_those_of_others_leave_it_as_it_is() -> None:
    change = with_standby(C)
    change.adopt(AFTER, "d1")
    standby = change.topology.next_standby(0.0).standby
    assert standby is not None
    assert standby.device == "d2"
    change.topology.standby_ended(standby, StandbyEnd.LOADED, 1.0)
    assert change.topology.change.standbys["d0"] == {B, C}


def test_an_engine_that_breaks_before_it_is_activated_is_loaded_in_place() -> None:
    change = with_standby(C)
    (load,) = change.adopt(AFTER, "d1")
    change.controller.engine_failed("d0", B)
    (again,) = change.ended(load)
    assert (again.device, keys(again.hosts)) == ("d0", frozenset({B}))
    assert B not in again.keeps


# --- queries


def admitted(controller: Controller, family: str) -> int:
    offers = [controller.offer(make_request(number, family=family), 0.0) for number in range(100)]
    return sum(isinstance(each, Admitted) for each in offers)


def test_until_it_switches_a_device_answers_and_admits_queries_of_what_it_serves() -> None:
    """As many as where d0 and d2 are all that there is; they are answered by whoever serves the family by then."""
    change, alone = Changed(), Changed(hosts_of(d0=A, d2=B))
    controller = change.controller
    (load,) = change.adopt(AFTER, "d1")
    of_a, of_b = admitted(controller, "a"), admitted(controller, "b")
    assert (of_a, of_b) == (admitted(alone.controller, "a"), admitted(alone.controller, "b"))
    assert of_a > 0
    running = launched(controller, "d0", 0.0)
    assert running.hosted.key == A
    assert not isinstance(controller.decide("d1", 0.0), Launch)
    effects = controller.loaded(load, {A}, 0.01)
    assert (effects.ask, effects.dropped) == (DEVICES, ())
    controller.finished(running, 0.04)
    assert [launched(controller, device, 0.04).hosted.key for device in DEVICES] == [B, A, B]


def test_a_new_version_that_waits_to_be_activated_answers_no_canary_before() -> None:
    """d0 is all that `b` has, until d2 serves it; then it serves the new version of `a`, whose old one is on d1."""
    new = VariantKey("a", "a-s@2")
    change = Changed(hosts_of(d0=B, d1=A))
    controller = change.controller
    controller.use_version_pair("a", VersionPair("a", A.variant, new.variant))
    (load,) = change.adopt((host("d0", new), *hosts_of(d1=A, d2=B)), "d2")

    def answering(number: int) -> list[str]:
        request = Request(number, "a", 0.0, 0.1, bounds=Bounds(is_canary=True))
        assert isinstance(controller.offer(request, 0.0), Admitted)
        decisions = [controller.decide(device, 0.0) for device in DEVICES]
        launches = [each for each in decisions if isinstance(each, Launch)]
        for launch in launches:
            controller.finished(launch, 0.01)
        return [launch.hosted.variant for launch in launches]

    assert answering(0) == [A.variant]
    change.ended(load)
    assert answering(1) == [new.variant]


@pytest.mark.parametrize("slots", [1, 2])
def test_a_batch_that_runs_while_its_device_switches_ends_as_it_would(slots: int) -> None:
    change = Changed()
    controller = change.controller
    if slots > 1:
        controller.dispatch.use_slots("d0", slots, 0.0)
    (load,) = change.adopt(AFTER, "d1")
    controller.offer(make_request(0), 0.0)
    running = launched(controller, "d0", 0.0)
    change.ended(load)
    controller.finished(running, 0.01)
    assert controller.families["a"].rows == 0


# --- which devices load beside what serves, and which in place

CPUS = ("cpu0", "cpu1")
SMALL, LARGE, OTHER = (VariantKey("a", variant) for variant in ("a-s", "a-l", "a-m"))
SIZES = {SMALL: 30, LARGE: 60, OTHER: 5}
NOW, NEXT = (tuple(host(device, key) for device in CPUS) for key in (SMALL, LARGE))
RESIDENT = tuple(Keep(device, frozenset({SMALL})) for device in CPUS)
ROOM_FOR_ALL = DeviceMemory(100, {key: Loadable(size, 0.1, 100.0) for key, size in SIZES.items()})


def changing(*hosts: HostedVariant, memory: Mapping[str, DeviceMemory] | None = None) -> PlanChange:
    return Changed(hosts, memory, CPUS).steps


def unplanned() -> PlanChange:
    """Devices that have no plan yet."""
    return Controller({"a": 1.0}, dict.fromkeys(CPUS, 1), GREEDY).topology.change


def profiles_of(memory_bytes: int, devices: Sequence[str] = CPUS) -> dict[str, Profile]:
    measured = [make_measured(*key, 0.9, {1: 0.01}, memory_bytes=size) for key, size in SIZES.items()]
    return {device: make_profile(device, *measured, memory_bytes=memory_bytes) for device in devices}


def failed(device: str, kind: type[EngineError] = EngineError) -> FailedLoad:
    return FailedLoad(device, LARGE, kind("a test"))


def test_all_that_has_memory_loads_beside_what_serves_and_then_all_switch() -> None:
    change = changing(*NOW)
    assert change.begin(NEXT, profiles_of(memory_bytes=90)) == Effects(beside=NEXT, keep=RESIDENT)
    change.loaded_beside((), 1.0)
    assert (change.state, change.in_place) == (ChangeState.SWITCHING, frozenset())


@pytest.mark.parametrize(("memory_bytes", "free_bytes"), [(89, {}), (1000, {"": 67})])
def test_devices_without_memory_for_both_load_in_place(memory_bytes: int, free_bytes: dict[str, int]) -> None:
    """Either a device has too little, or its host for both of them: then one of them finds room in 90 % of it."""
    change = changing(*NOW)
    effects = change.begin(NEXT, profiles_of(memory_bytes), free_bytes)
    in_place = frozenset({"cpu1"} if free_bytes else CPUS)
    assert {each.device for each in effects.beside} == {*CPUS} - in_place
    change.loaded_beside((), 1.0)
    assert (change.state, change.in_place) == (ChangeState.SWITCHING, in_place)


@examples(50, fuzzed=1000)
@given(
    wanted=st.dictionaries(
        st.sampled_from(["cpu0", "cpu1", "a/cpu0", "a/cpu1", "b/cpu0"]), st.sampled_from(list(SIZES))
    ),
    free=st.dictionaries(st.sampled_from(["", "a", "b"]), st.integers(0, 200)),
)
def test_loads_of_a_host_never_take_more_than_is_free_and_one_more_would(
    wanted: dict[str, VariantKey], free: dict[str, int]
) -> None:
    devices = list(wanted)
    change = Changed([host(device, B) for device in devices], devices=devices).steps
    hosts = [host(device, key) for device, key in wanted.items()]
    beside = {each.device for each in change.begin(hosts, profiles_of(0, devices), free).beside}
    for name, free_bytes in free.items():
        room = free_bytes * (1 - KEPT_FREE_FRAC)
        of_host = {device: SIZES[key] for device, key in wanted.items() if host_of(device) == name}
        taken = sum(size for device, size in of_host.items() if device in beside)
        assert taken <= room
        assert all(taken + size > room for device, size in of_host.items() if device not in beside)
    assert all(host_of(device) in free for device in wanted.keys() - beside)


def test_a_device_that_has_nothing_yet_needs_no_room_beside_it() -> None:
    assert unplanned().begin(NEXT, profiles_of(memory_bytes=50), {"": 0}).beside == NEXT


def test_devices_that_the_driver_has_load_in_place_load_nothing_beside() -> None:
    change = changing(*NOW)
    assert change.begin(NEXT, in_place=CPUS).beside == ()
    change.loaded_beside((), 1.0)
    assert change.in_place == {*CPUS}


def test_a_lost_device_loads_nothing_and_frees_nothing() -> None:
    changed = Changed(NOW, devices=CPUS)
    changed.controller.device_lost("cpu1", ())
    assert changed.steps.begin(NEXT) == Effects(beside=NEXT[:1], keep=RESIDENT[:1])


def test_where_an_engine_fails_beside_what_serves_nothing_changes() -> None:
    change = changing(*NOW)
    change.begin(NEXT)
    broken = failed("cpu1")
    assert change.loaded_beside([broken], 1.0) == Effects(keep=RESIDENT)
    assert (change.state, change.failures) == (ChangeState.FAILED, [broken])
    assert change.back_to is not None, "plans must work around it"


def test_before_the_first_plan_nothing_is_to_be_planned_around() -> None:
    change = unplanned()
    change.begin(NEXT)
    change.loaded_beside([failed("cpu1", OutOfDeviceMemory)], 1.0)
    assert (change.state, change.back_to) == (ChangeState.FAILED, None)


def test_where_memory_proves_short_beside_what_serves_the_device_loads_in_place_without_standbys() -> None:
    changed = Changed(NOW, dict.fromkeys(CPUS, ROOM_FOR_ALL), CPUS)
    load = changed.topology.next_standby(0.0).standby
    assert load is not None
    changed.topology.standby_ended(load, StandbyEnd.LOADED, 0.1)
    change, device = changed.steps, load.device
    change.begin([host(device, OTHER)])
    assert device in change.standbys
    effects = change.loaded_beside([FailedLoad(device, OTHER, OutOfDeviceMemory("a test"))], 1.0)
    assert effects.keep == (Keep(device, frozenset({SMALL})),)
    assert (change.state, change.in_place) == (ChangeState.SWITCHING, frozenset({device}))


@pytest.mark.parametrize("failures", [(), (failed("cpu1"),)])
def test_standbys_stay_as_they_are_until_what_loads_beside_what_serves_has_loaded(
    failures: tuple[FailedLoad, ...],
) -> None:
    topology = Changed(NOW, {"cpu0": ROOM_FOR_ALL}, CPUS).topology
    topology.change.begin(NEXT)
    assert topology.next_standby(0.0) == NO_EFFECTS
    topology.change.loaded_beside(failures, 1.0)
    assert topology.next_standby(1.0).standby is not None


@pytest.mark.parametrize("in_place", [(), CPUS])
def test_a_load_of_a_standby_is_cancelled_only_where_the_plan_changes_what_the_device_hosts(
    in_place: tuple[str, ...],
) -> None:
    topology = Changed(NOW, {"cpu0": ROOM_FOR_ALL}, CPUS).topology
    load = topology.next_standby(0.0).standby
    assert load is not None

    def cancelled(*hosts: HostedVariant) -> tuple[StandbyLoad, ...]:
        effects = topology.change.begin(hosts, in_place=in_place)
        topology.change.give_up()
        return effects.cancel

    wanted, other = host("cpu0", load.key), host("cpu0", next(key for key in SIZES if key not in {SMALL, load.key}))
    assert cancelled(*NOW) == (), "it changes nothing"
    assert cancelled(NOW[0], NEXT[1]) == (), "it changes the other"
    assert cancelled(wanted) == (), "it wants that very one"
    assert cancelled(other) == (load,)
    assert cancelled(NEXT[1]) == (load,), "it leaves the device idle"


def test_a_step_out_of_turn_is_a_bug_of_the_driver() -> None:
    change = changing(*NOW)
    with pytest.raises(RuntimeError, match="a plan change that is loading in place cannot be switching"):
        change.loaded_beside((), 1.0)
