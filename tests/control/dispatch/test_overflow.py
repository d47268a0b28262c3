"""The overflow: what all active variants together cannot answer in time, a faster standby of their devices answers."""

from collections.abc import Collection, Mapping
from dataclasses import replace

import pytest
from builders import (
    hosted,
    ids,
    launched,
    make_measured,
    make_profile,
    make_request,
    make_table,
    plan_hosting,
)
from msgspec.structs import replace as replaced

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import (
    IDLE,
    Admitted,
    FailedLoad,
    HostedVariant,
    Keep,
    Launch,
    OtherPlanNeeded,
    Refused,
    StandbyEnd,
)
from proteus_cli.control.policies import Policy
from proteus_cli.control.topology.hosting import device_memory
from proteus_cli.control.topology.standbys import DeviceMemory, Loadable
from proteus_cli.domain.attainment import SloTarget
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.request import Bounds, Request
from proteus_cli.domain.rollouts import VersionPair
from proteus_cli.domain.rules import Rules
from proteus_cli.errors import OutOfDeviceMemory

GREEDY = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None)
GOOD, FAST = VariantKey("a", "good"), VariantKey("a", "fast")
BATCH_S = 0.04  # four rows of the good variant: 100 qps
LARGE = hosted("cpu0", "a", "large", latency_s={1: 0.02}, capacity_qps=50.0)
STANDBY = hosted(
    "cpu9", *FAST, latency_s={1: 0.001, 8: 0.008}, max_batch=8, weight=0.0, capacity_qps=1000.0, accuracy=0.6
)


def good(device: str = "cpu0") -> HostedVariant:
    return hosted(device, *GOOD, latency_s={1: 0.01, 4: BATCH_S}, max_batch=4, capacity_qps=100.0, accuracy=0.9)


def memory(standby: HostedVariant | None = STANDBY) -> DeviceMemory:
    host = standby and replace(standby, is_standby=True)
    qps = host.capacity_qps if host is not None else 0.0
    return DeviceMemory(2, {GOOD: Loadable(1, 1.0, 100.0), FAST: Loadable(1, 1.0, qps, host)})


def adopted(
    *hosts: HostedVariant, limits: Mapping[str, DeviceMemory] | None = None, dispatch_ahead_s: float = 0.0
) -> Controller:
    """A controller that hosts these, and has as many standbys as there is memory for."""
    devices = [host.device for host in hosts]
    limits = dict.fromkeys(devices, memory()) if limits is None else limits
    slots = dict.fromkeys(devices, 1)
    controller = Controller({"a": 0.1}, slots, GREEDY, dispatch_ahead_s=dispatch_ahead_s, memory=limits)
    controller.adopt(plan_hosting(*hosts, devices=devices), hosts, 0.0)
    while (load := controller.topology.next_standby(0.0).standby) is not None:
        controller.topology.standby_ended(load, StandbyEnd.LOADED, 0.0)
    return controller


def offered(controller: Controller, *numbers: int, at_s: float = 0.0, slo_s: float = 0.1) -> int:
    """Offer requests; returns how many are admitted."""
    requests = [make_request(number, at_s=at_s, slo_s=slo_s) for number in numbers]
    return sum(isinstance(controller.offer(request, at_s), Admitted) for request in requests)


def test_what_active_variants_answer_in_time_they_answer() -> None:
    """100 qps count for eight rows in 100 ms."""
    controller = adopted(good())
    assert offered(controller, *range(8)) == 8
    launch = launched(controller, "cpu0", 0.0)
    assert (launch.hosted.key, ids(launch)) == (GOOD, [0, 1, 2, 3])


def test_a_request_of_more_rows_than_active_variants_answer_in_time_a_standby_answers() -> None:
    """20 rows take the active variant 200 ms, and the standby 20."""
    controller = adopted(good())
    measured = make_measured("a", "good", 0.9, {1: 0.01, 4: BATCH_S}), make_measured("a", "fast", 0.6, {1: 0.001})
    controller.placeable.use({"cpu0": make_profile("cpu0", *measured)}, {GOOD, FAST})
    assert isinstance(controller.offer(make_request(0, rows=20), 0.0), Admitted)
    assert launched(controller, "cpu0", 0.0).hosted.key == FAST


def test_of_more_a_standby_answers_as_much_as_it_can() -> None:
    controller = adopted(good())
    assert offered(controller, *range(11)) == 11
    launch = launched(controller, "cpu0", 0.0)
    assert (launch.hosted.key, ids(launch)) == (FAST, list(range(8)))
    controller.finished(launch, 0.008)
    launch = launched(controller, "cpu0", 0.008)
    assert (launch.hosted.key, ids(launch)) == (GOOD, [8, 9, 10])


def test_as_much_is_admitted_as_devices_make_with_their_standbys() -> None:
    """A batch runs; 1000 qps make 100 rows in 100 ms, and without the standby it would be 10."""
    alone = adopted(good(), limits={})
    offered(alone, 0)
    launched(alone, "cpu0", 0.0)
    assert offered(alone, *range(1, 200)) == 9
    controller = adopted(good())
    offered(controller, 0)
    launched(controller, "cpu0", 0.0)
    assert offered(controller, *range(1, 200)) == 99
    assert isinstance(controller.offer(make_request(200), 0.0), Refused)


def test_what_no_active_variant_can_answer_any_more_a_standby_answers() -> None:
    """Of two rows, the first has 5 ms left."""
    controller = adopted(good())
    assert offered(controller, 0, slo_s=0.005) == 1
    assert offered(controller, 1) == 1
    launch = launched(controller, "cpu0", 0.0)
    assert (launch.hosted.key, ids(launch)) == (FAST, [0])


@pytest.mark.parametrize(
    "asking",
    [
        Request(3, "a", 0.0, 0.1, 1, min_accuracy=0.7),
        Request(3, "a", 0.0, 0.1, 1, bounds=Bounds(min_expected_accuracy=0.7)),
    ],
)
def test_who_asks_for_more_accuracy_is_answered_by_an_active_variant(asking: Request) -> None:
    controller = adopted(good())
    assert offered(controller, *range(3)) == 3
    assert isinstance(controller.offer(asking, 0.0), Admitted)
    assert offered(controller, *range(4, 20)) == 16
    launch = launched(controller, "cpu0", 0.0)
    assert (launch.hosted.key, ids(launch)) == (FAST, [0, 1, 2, 4, 5, 6, 7, 8])
    controller.finished(launch, 0.008)
    while (launch := launched(controller, "cpu0", 0.008)).hosted.key == FAST:
        assert asking not in launch.requests
        controller.finished(launch, 0.008)
    assert launch.hosted.key == GOOD
    controller.finished(launch, BATCH_S)
    launch = launched(controller, "cpu0", BATCH_S)
    assert (launch.hosted.key, launch.requests) == (GOOD, (asking,))


@pytest.mark.parametrize("standby", ["fast", "good"])
def test_canaries_are_answered_by_standbys_but_for_the_version_that_others_have(standby: str) -> None:
    """Two versions on two devices, whose standby is another variant, or the old version that the plan left there."""
    new = VariantKey("a", "good@2")
    stands_by = VariantKey("a", standby)
    loadable = {
        new: Loadable(1, 1.0, 100.0),
        stands_by: Loadable(1, 1.0, 1000.0, replace(STANDBY, variant=standby, is_standby=True)),
    }
    of_new = replace(good("cpu1"), variant="good@2")
    controller = Controller({"a": 0.1}, {"cpu0": 1, "cpu1": 1}, GREEDY, memory={"cpu1": DeviceMemory(2, loadable)})
    controller.use_version_pair("a", VersionPair("a", "good", "good@2"))
    hosts = (good("cpu0"), of_new)
    controller.adopt(plan_hosting(*hosts, devices=["cpu0", "cpu1"]), hosts, 0.0)
    while (load := controller.topology.next_standby(0.0).standby) is not None:
        controller.topology.standby_ended(load, StandbyEnd.LOADED, 0.0)
    canaries = [Request(number, "a", 0.0, 0.1, 1, bounds=Bounds(is_canary=True)) for number in range(40)]
    admitted = [isinstance(controller.offer(request, 0.0), Admitted) for request in canaries]
    answers_overflow = standby == "fast"
    assert all(admitted) == answers_overflow
    assert launched(controller, "cpu1", 0.0).hosted.key == (FAST if answers_overflow else new)


def test_who_asks_for_less_than_a_standby_gives_is_answered_by_it() -> None:
    controller = adopted(good())
    requests = [Request(number, "a", 0.0, 0.1, 1, min_accuracy=0.5) for number in range(20)]
    assert all(isinstance(controller.offer(request, 0.0), Admitted) for request in requests)
    assert launched(controller, "cpu0", 0.0).hosted.key == FAST


def profiled(fast_s: float, accuracy: float) -> dict[str, Profile]:
    slow = make_measured("a", "good", 0.9, {1: 0.01, 4: BATCH_S})
    fast = make_measured("a", "fast", accuracy, {1: fast_s, 8: 8 * fast_s})
    held = make_measured("a", "held", 0.5, {1: 0.0001, 8: 0.0008})
    return {"cpu0": make_profile("cpu0", *(replaced(each, memory_bytes=1) for each in (slow, fast, held)))}


@pytest.mark.parametrize(
    ("fast_s", "accuracy", "expected"),
    [(0.001, 0.6, (FAST, 8)), (0.004, 0.6, (FAST, 8)), (0.001, 0.4, (GOOD, 4)), (0.5, 0.6, (GOOD, 4))],
    ids=["as it was", "slower", "less accurate than is asked for", "slower than the SLO"],
)
def test_times_and_accuracies_that_are_corrected_are_those_of_standbys_too(
    fast_s: float, accuracy: float, expected: tuple[VariantKey, int]
) -> None:
    """What a plan may not place, as a version that is held, is still nothing that answers."""
    known, profiles = ([GOOD, FAST], [VariantKey("a", "held")]), profiled(0.001, 0.6)
    controller = adopted(good(), limits=device_memory({"cpu0": 3}, profiles, {"a": SloTarget(0.1)}, Rules(), *known))
    controller.placeable.use(profiles, *known)
    assert controller.use_profiles(profiled(fast_s, accuracy)).ask == ("cpu0",)
    requests = [Request(number, "a", 0.0, 0.1, 1, min_accuracy=0.5) for number in range(20)]
    for request in requests:
        controller.offer(request, 0.0)
    launch = launched(controller, "cpu0", 0.0)
    assert (launch.hosted.key, launch.rows) == expected
    if launch.hosted.key == FAST:
        assert launch.hosted.latency(8) == pytest.approx(8 * fast_s)


def test_a_standby_is_nothing_that_clients_are_told_of() -> None:
    controller = adopted(good())
    assert [host.key for host in controller.families["a"].hosts] == [GOOD]
    assert controller.dispatch.max_rows(controller.families["a"].hosts, 0.1, 64) == 10  # by the active one
    assert "fast" not in {host.variant for host in controller.families["a"].all_hosts}


def test_no_batch_is_submitted_ahead_where_a_standby_may_be_needed_next() -> None:
    def ahead(count: int) -> Launch | object:
        controller = adopted(good(), dispatch_ahead_s=0.002)
        offered(controller, *range(100, 104))
        launched(controller, "cpu0", 0.0)
        offered(controller, *range(count))
        return controller.decide("cpu0", BATCH_S - 0.001)

    few = ahead(4)
    assert isinstance(few, Launch)
    assert few.is_ahead
    assert ahead(30) == IDLE


@pytest.mark.parametrize(
    "how", ["short of memory", "engine failed", "gone from the catalog", "room for a plan", "a plan ran out of memory"]
)
def test_once_it_is_given_up_a_standby_answers_nothing_and_workers_are_asked_for_what_it_leaves(how: str) -> None:
    controller = adopted(good())
    assert offered(controller, *range(11)) == 11
    match how:
        case "short of memory":
            ask = controller.topology.memory_short("cpu0", 0.0).ask
        case "engine failed":
            ask = controller.engine_failed("cpu0", FAST).ask
        case "gone from the catalog":
            ask = controller.topology.use_memory({"cpu0": memory(standby=None)}).ask
        case "room for a plan":
            ask = controller.change.begin([LARGE]).ask
        case _:
            change = controller.change
            change.begin([good()])
            ask = change.loaded_beside([FailedLoad("cpu0", LARGE.key, OutOfDeviceMemory("full"))], 0.0).ask
    assert ask == ("cpu0",)
    launch = launched(controller, "cpu0", 0.0)
    assert (launch.hosted.key, ids(launch)) == (GOOD, [0, 1, 2, 3])


def test_what_another_standby_displaces_answers_nothing_and_workers_are_asked_for_what_it_leaves() -> None:
    """A faster variant is new in the catalog, and there is memory for one."""
    controller = adopted(good())
    assert controller.change.standbys == {"cpu0": {FAST}}
    faster = replace(STANDBY, variant="faster", capacity_qps=2000.0, is_standby=True)
    loadable = {**memory().loadable, faster.key: Loadable(1, 1.0, faster.capacity_qps, faster)}
    controller.topology.use_memory({"cpu0": DeviceMemory(2, loadable)})
    controller.adopt(plan_hosting(good(), devices=("cpu0",)), [good()], 0.0)
    effects = controller.topology.next_standby(0.0)
    assert effects.standby is not None
    assert effects.standby.key == faster.key
    assert (effects.ask, effects.keep) == (("cpu0",), (Keep("cpu0", frozenset({GOOD})),))


def test_a_standby_that_is_known_to_be_slower_than_before_is_counted_on_as_that() -> None:
    controller = adopted(good())
    controller.topology.use_memory({"cpu0": memory(replace(STANDBY, latency=make_table({1: 0.002, 8: 0.08})))})
    assert offered(controller, *range(20)) == 20
    launch = launched(controller, "cpu0", 0.0)
    assert (launch.hosted.key, launch.hosted.latency(8)) == (FAST, 0.08)


def test_one_that_is_lost_with_its_device_is_not_counted_on() -> None:
    controller = adopted(good(), good("cpu1"))
    controller.device_lost("cpu1", ())
    offered(controller, 1000)
    launched(controller, "cpu0", 0.0)
    assert offered(controller, *range(300)) == 99
    controller.device_recovered("cpu1", 0.0, (good("cpu1"),))
    assert offered(controller, *range(300, 600)) == 10, "what cpu1 carries alone"


def test_a_standby_that_carries_no_more_or_that_the_family_does_not_prefer_answers_nothing() -> None:
    slower = {"cpu0": memory(replace(STANDBY, capacity_qps=90.0))}
    preferring = replace(good(), preference_rank=0.0)
    for controller in (adopted(good(), limits=slower), adopted(preferring)):
        assert controller.change.standbys == {"cpu0": {FAST}}
        offered(controller, *range(20))
        assert launched(controller, "cpu0", 0.0).hosted.key == GOOD


def test_higher_priorities_come_before_the_excess() -> None:
    controller = adopted(good())
    offered(controller, *range(11))
    assert isinstance(controller.offer(Request(99, "a", 0.0, 0.1, 1, priority=1), 0.0), Admitted)
    launch = launched(controller, "cpu0", 0.0)
    assert (launch.hosted.key, ids(launch)) == (GOOD, [99, 0, 1, 2])


BETTER = hosted("cpu9", "a", "better", latency_s={1: 0.003, 8: 0.024}, max_batch=8, capacity_qps=300.0, accuracy=0.8)
OF_BETTER = Loadable(1, 1.0, 300.0, replace(BETTER, weight=0.0, is_standby=True))


def with_standbys(*hosts: HostedVariant, better_on: Collection[str]) -> Controller:
    """Of 20 rows, active variants take 200 ms, one standby 60 ms, and a faster but less accurate one 20 ms."""
    both = {**memory().loadable, BETTER.key: OF_BETTER, **{host.key: Loadable(1, 1.0, 100.0) for host in hosts}}
    limits = {h.device: DeviceMemory(9, both) if h.device in better_on else memory() for h in hosts}
    controller = adopted(*hosts, limits=limits)
    times_s = {"good": {1: 0.01, 4: BATCH_S}, "better": {1: 0.003, 8: 0.024}, "fast": {1: 0.001}}
    accuracies = {"good": 0.9, "better": 0.8, "fast": 0.6}
    measured = [make_measured("a", name, accuracies[name], latency_s) for name, latency_s in times_s.items()]
    profiles = {host.device: make_profile(host.device, *measured) for host in hosts}
    controller.placeable.use(profiles, {GOOD, FAST, BETTER.key})
    return controller


@pytest.mark.parametrize("minimum", [0.0, 0.7])
def test_the_most_accurate_warm_variant_in_time_answers_what_no_active_variant_can(minimum: float) -> None:
    controller = with_standbys(good(), better_on={"cpu0"})
    asked = Request(0, "a", 0.0, 0.1, 20, min_accuracy=minimum)
    assert controller.offer(asked, 0.0) == Admitted(("cpu0",))
    assert launched(controller, "cpu0", 0.0).hosted.key == BETTER.key


@pytest.mark.parametrize("bounds", [Bounds(min_expected_accuracy=0.7), Bounds(min_confidence=0.5)])
def test_a_warm_variant_answers_what_it_keeps_the_bounds_of(bounds: Bounds) -> None:
    controller = with_standbys(good(), better_on={"cpu0"})
    assert isinstance(controller.offer(Request(0, "a", 0.0, 0.1, 20, bounds=bounds), 0.0), Admitted)
    assert launched(controller, "cpu0", 0.0).hosted.key == BETTER.key


def test_a_bound_that_no_warm_variant_keeps_in_time_needs_another_plan() -> None:
    """The placeable one is as accurate, but is no standby."""
    controller = with_standbys(good(), better_on=())
    refused = controller.offer(Request(0, "a", 0.0, 0.1, 20, min_accuracy=0.7), 0.0)
    assert isinstance(refused, OtherPlanNeeded)


@pytest.mark.parametrize("minimum", [0.0, 0.7])
def test_of_the_devices_of_a_family_the_one_with_the_most_accurate_warm_variant_answers(minimum: float) -> None:
    controller = with_standbys(good("cpu0"), good("cpu1"), better_on={"cpu1"})
    assert controller.offer(Request(0, "a", 0.0, 0.1, 20, min_accuracy=minimum), 0.0) == Admitted(("cpu1",))
    assert launched(controller, "cpu1", 0.0).hosted.key == BETTER.key
    assert controller.decide("cpu0", 0.0) == IDLE


def test_a_device_answers_by_a_warm_variant_though_the_one_that_it_hosts_is_not_accurate_enough() -> None:
    low = replace(good("cpu1"), variant="low", accuracy=0.65)
    controller = with_standbys(good("cpu0"), low, better_on={"cpu1"})
    asked = Request(0, "a", 0.0, 0.1, 20, min_accuracy=0.7)
    assert controller.offer(asked, 0.0) == Admitted(("cpu1",))
    assert launched(controller, "cpu1", 0.0).hosted.key == BETTER.key


def test_what_a_warm_variant_of_a_busy_device_answers_in_time_waits_for_it() -> None:
    """A batch of four rows runs on cpu1, for 40 ms; no standby of cpu0 keeps the bound."""
    controller = with_standbys(good("cpu0"), good("cpu1"), better_on={"cpu1"})
    offered(controller, *range(100, 108))
    first = launched(controller, "cpu1", 0.0)
    launched(controller, "cpu0", 0.0)
    asked = Request(0, "a", 0.0, 0.11, 20, min_accuracy=0.7)
    assert isinstance(controller.offer(asked, 0.0), Admitted)
    controller.finished(first, BATCH_S)
    assert launched(controller, "cpu1", BATCH_S).requests == (asked,)


def test_a_batch_of_a_warm_variant_has_no_request_that_asks_for_more() -> None:
    controller = with_standbys(good(), better_on={"cpu0"})
    large, exacting = Request(0, "a", 0.0, 0.1, 4), Request(1, "a", 0.0, 0.2, 1, min_accuracy=0.85)
    controller.offer(exacting, 0.0)
    controller.offer(large, 0.0)
    assert launched(controller, "cpu0", 0.07).requests == (large,)


def test_a_device_with_a_warm_variant_is_asked_where_all_hosts_are_busy() -> None:
    low = replace(good("cpu1"), variant="low", accuracy=0.65)
    controller = with_standbys(good("cpu0"), low, better_on={"cpu1"})
    controller.offer(Request(1, "a", 0.0, 0.1, 1, min_accuracy=0.85), 0.0)
    launched(controller, "cpu0", 0.0)
    assert controller.offer(Request(0, "a", 0.0, 0.1, 20, min_accuracy=0.7), 0.0) == Admitted(("cpu1",))
    assert launched(controller, "cpu1", 0.0).hosted.key == BETTER.key


def test_a_bound_that_only_a_standby_keeps_is_answered_by_it() -> None:
    """The active variant is the less accurate one."""
    active = hosted("cpu0", *FAST, latency_s={1: 0.001, 8: 0.008}, max_batch=8, capacity_qps=1000.0, accuracy=0.6)
    standby = replace(good(), weight=0.0, is_standby=True)
    loadable = {FAST: Loadable(1, 1.0, 1000.0), GOOD: Loadable(1, 1.0, 100.0, standby)}
    controller = adopted(active, limits={"cpu0": DeviceMemory(2, loadable)})
    asking = Request(0, "a", 0.0, 0.1, 1, min_accuracy=0.8)
    assert controller.offer(asking, 0.0) == Admitted(("cpu0",))
    launch = launched(controller, "cpu0", 0.0)
    assert (launch.hosted.key, launch.requests) == (GOOD, (asking,))
