"""Foreign standbys: of a family that their device does not host, whose overflow they answer with nothing else to do."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from builders import hosted, ids, launched, make_request, plan_hosting

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import IDLE, Admitted, Host, Launch, Refused, StandbyEnd
from proteus_cli.control.dispatch.twins import Twins
from proteus_cli.control.policies import Assignment, Policy
from proteus_cli.control.topology.standbys import DeviceMemory, Loadable
from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.domain.request import Bounds, Request

GREEDY = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None)
GOOD, FAST, OTHER = VariantKey("a", "good"), VariantKey("a", "fast"), VariantKey("b", "other")
STANDBY = hosted(
    "cpu9", *FAST, latency_s={1: 0.001, 8: 0.008}, max_batch=8, weight=0.0, capacity_qps=1000.0, accuracy=0.6
)


def good(device: str = "cpu0") -> Host:
    """100 qps: ten rows in the SLO of 100 ms."""
    return hosted(device, *GOOD, latency_s={1: 0.01, 4: 0.04}, max_batch=4, capacity_qps=100.0, accuracy=0.9)


def other(device: str = "cpu1", full_s: float = 0.04) -> Host:
    """Of the other family."""
    return hosted(device, *OTHER, latency_s={1: full_s / 4, 4: full_s}, max_batch=4, capacity_qps=4 / full_s)


def memory(standby: Host = STANDBY) -> DeviceMemory:
    """For one variant of either family."""
    host = replace(standby, is_standby=True)
    return DeviceMemory(2, {host.key: Loadable(1, 1.0, 8, host.capacity_qps, host), OTHER: Loadable(1, 1.0, 4, 100.0)})


def adopted(
    *hosts: Host,
    policy: Policy = GREEDY,
    limits: Mapping[str, DeviceMemory] | None = None,
    dispatch_ahead_s: float = 0.0,
) -> Controller:
    """A controller that hosts these, by default with a foreign standby on cpu1."""
    devices = [*dict.fromkeys(host.device for host in hosts)]
    controller = Controller(
        {"a": 0.1, "b": 0.1}, dict.fromkeys(devices, 1), policy, dispatch_ahead_s=dispatch_ahead_s,
        memory={"cpu1": memory()} if limits is None else limits,
    )  # fmt: skip
    controller.adopt(plan_hosting(*hosts, devices=devices), hosts, 0.0)
    load_standbys(controller)
    return controller


def load_standbys(controller: Controller) -> None:
    while (load := controller.topology.next_standby(0.0).standby) is not None:
        controller.topology.standby_ended(load, StandbyEnd.LOADED, 0.0)


def offered(controller: Controller, *numbers: int, family: str = "a", at_s: float = 0.0) -> int:
    """Offer requests; returns how many are admitted."""
    requests = [make_request(number, family=family, at_s=at_s) for number in numbers]
    return sum(isinstance(controller.offer(request, at_s), Admitted) for request in requests)


def decided(controller: Controller, device: str) -> Launch | None:
    """What a device runs now, if anything."""
    decision = controller.decide(device, 0.0)
    return decision if isinstance(decision, Launch) else None


def test_a_device_of_another_family_answers_what_active_variants_cannot() -> None:
    """Of 19 rows, four run and ten are made in time; so the other device is woken."""
    controller = adopted(good(), other())
    assert controller.topology.change.standbys == {"cpu1": {FAST}}
    assert offered(controller, *range(19)) == 19
    first = launched(controller, "cpu0", 0.0)
    assert (first.hosted.key, first.wake) == (GOOD, ("cpu1",))
    launch = launched(controller, "cpu1", 0.0)
    assert (launch.hosted.key, ids(launch)) == (FAST, list(range(4, 12)))
    controller.finished(launch, 0.008)
    assert controller.decide("cpu1", 0.008) == IDLE, "what is left is made in time"


def test_an_arrival_that_is_too_much_asks_that_device_itself() -> None:
    controller = adopted(good(), other())
    offered(controller, *range(4))
    launched(controller, "cpu0", 0.0)
    answers = [controller.offer(make_request(number), 0.0) for number in range(4, 14)]
    assert all(isinstance(each, Admitted) for each in answers)
    asked = [each.devices for each in answers if isinstance(each, Admitted)]
    assert asked == [()] * 8 + [("cpu1",)] * 2


def test_what_waits_for_the_device_itself_comes_first() -> None:
    controller = adopted(good(), other())
    offered(controller, *range(20))
    offered(controller, 100, family="b")
    assert launched(controller, "cpu1", 0.0).hosted.key == OTHER
    assert decided(controller, "cpu1") is None


@pytest.mark.parametrize(("full_s", "rows"), [(0.04, 8), (0.005, 5), (0.0005, 0)])
def test_its_batch_is_no_longer_than_a_full_one_of_what_the_device_hosts(full_s: float, rows: int) -> None:
    controller = adopted(good(), other(full_s=full_s))
    offered(controller, *range(20))
    launched(controller, "cpu0", 0.0)
    launch = decided(controller, "cpu1")
    assert (launch.rows if launch is not None else 0) == rows


def test_an_idle_device_answers_in_batches_of_any_length() -> None:
    """The plan leaves cpu1 idle, and its standby of either family helps the one that needs it."""
    controller = Controller({"a": 0.1, "b": 0.1}, {"cpu0": 1, "cpu1": 1}, GREEDY, memory={"cpu1": memory()})
    controller.adopt(plan_hosting(good()), (good(),), 0.0)
    load_standbys(controller)
    offered(controller, *range(20))
    launched(controller, "cpu0", 0.0)
    assert launched(controller, "cpu1", 0.0).rows == 8


def test_once_one_is_loaded_its_device_is_asked_about_what_waits() -> None:
    """After 25 ms six rows wait and four run, which is more than cpu0 makes in the 75 ms that are left."""
    hosts = good(), other()
    controller = Controller({"a": 0.1, "b": 0.1}, {"cpu0": 1, "cpu1": 1}, GREEDY, memory={"cpu1": memory()})
    controller.adopt(plan_hosting(*hosts), hosts, 0.0)
    load = controller.topology.next_standby(0.0).standby
    assert load is not None
    offered(controller, *range(10))
    launched(controller, "cpu0", 0.0)
    effects = controller.topology.standby_ended(load, StandbyEnd.LOADED, 0.025)
    assert "cpu1" in effects.ask
    assert launched(controller, "cpu1", 0.025).hosted.key == FAST


def test_nobody_is_asked_where_a_load_changes_nothing() -> None:
    controller = Controller({"a": 0.1, "b": 0.1}, {"cpu0": 1, "cpu1": 1}, GREEDY, memory={"cpu1": memory()})
    controller.adopt(plan_hosting(good(), other()), (good(), other()), 0.0)
    load = controller.topology.next_standby(0.0).standby
    assert load is not None
    assert controller.topology.standby_ended(load, StandbyEnd.FAILED, 1.0).ask == ()


def test_what_devices_that_have_a_free_slot_or_help_already_carry_by_it_is_admitted_too() -> None:
    """In 100 ms, 100 rows more than the ten of the active variant."""
    controller = adopted(good(), other())
    offered(controller, 0)
    launched(controller, "cpu0", 0.0)
    assert offered(controller, *range(1, 200)) == 109
    launch = launched(controller, "cpu1", 0.0)
    assert launch.hosted.key == FAST
    assert offered(controller, 200) == 0
    controller.finished(launch, 0.008)
    assert offered(controller, *range(200, 300), at_s=0.008) == 8
    launched(controller, "cpu1", 0.008)
    busy = adopted(good(), other())
    offered(busy, 0)
    offered(busy, 100, family="b")
    launched(busy, "cpu0", 0.0)
    launched(busy, "cpu1", 0.0)
    assert offered(busy, *range(1, 200)) == 9


@pytest.mark.parametrize(("busy_slots", "admitted"), [(0, 109), (1, 59), (2, 9)])
def test_of_a_device_of_two_slots_what_free_ones_carry_is_admitted(busy_slots: int, admitted: int) -> None:
    """Of the 100 rows that both make in 100 ms, half where the device runs a batch of its own in one of them."""
    hosts = good(), other()
    controller = Controller({"a": 0.1, "b": 0.1}, {"cpu0": 1, "cpu1": 2}, GREEDY, memory={"cpu1": memory()})
    controller.adopt(plan_hosting(*hosts), hosts, 0.0)
    load_standbys(controller)
    offered(controller, 0)
    launched(controller, "cpu0", 0.0)
    for number in range(busy_slots):
        offered(controller, 1000 + number, family="b")
        assert launched(controller, "cpu1", 0.0).hosted.key == OTHER
    assert offered(controller, *range(1, 200)) == admitted


@pytest.mark.parametrize("priority", [0, 1])
def test_a_level_of_priority_changes_nothing_of_what_is_admitted(priority: int) -> None:
    """It opens a queue of its own while a batch of the other device runs; the request that asked for it is gone then.

    Once that batch has ended, both devices make 109 rows in 100 ms, beside the one that runs.
    """
    controller = adopted(good(), other())
    offered(controller, 0)
    launched(controller, "cpu0", 0.0)
    offered(controller, 1000, family="b")
    own = launched(controller, "cpu1", 0.0)
    asked = make_request(2000, priority=priority)
    assert isinstance(controller.offer(asked, 0.0), Admitted)
    controller.dispatch.cancel(asked)
    controller.finished(own, 0.0)
    assert offered(controller, *range(1, 300)) == 109


def test_what_runs_on_other_devices_is_not_made_by_the_familys_own() -> None:
    """Eight rows wait, of which the own device makes nine in time; 24 that run elsewhere are none of its."""
    others = [f"cpu{place}" for place in range(1, 5)]
    controller = adopted(good(), *map(other, others), limits=dict.fromkeys(others, memory()))
    requests = [make_request(number) for number in range(40)]
    for request in requests:
        controller.offer(request, 0.0)
    for device in others[:3]:
        assert launched(controller, device, 0.0).hosted.key == FAST
    for request in requests[32:]:
        controller.dispatch.cancel(request)
    assert controller.waiting == 8
    assert decided(controller, others[3]) is None
    offered(controller, *range(40, 50))
    assert decided(controller, others[3]) is not None


def test_what_helps_is_known_through_changes_of_standbys_and_for_as_long_as_any_batch_runs() -> None:
    """cpu1 has two slots and runs a batch in each; cpu2 gives its standby up meanwhile."""
    hosts, limits = (good(), other(), other("cpu2")), dict.fromkeys(("cpu1", "cpu2"), memory())
    devices = [host.device for host in hosts]
    controller = Controller({"a": 0.1, "b": 0.1}, {"cpu0": 1, "cpu1": 2, "cpu2": 1}, GREEDY, memory=limits)
    controller.adopt(plan_hosting(*hosts, devices=devices), hosts, 0.0)
    load_standbys(controller)
    offered(controller, *range(40))
    launched(controller, "cpu0", 0.0)
    launches = [decided(controller, "cpu1") for _ in range(2)]
    controller.topology.memory_short("cpu2", 0.0)
    more = [make_request(number) for number in range(100, 300)]
    admitted = [each for each in more if isinstance(controller.offer(each, 0.0), Admitted)]
    assert len(admitted) == 110 - 40, "110 rows in 100 ms, and 40 wait or run"
    first, second = launches
    assert first is not None
    assert second is not None
    controller.finished(first, 0.008)
    offered(controller, 1000, family="b")
    assert launched(controller, "cpu1", 0.0).hosted.key == OTHER
    for request in admitted:
        controller.dispatch.cancel(request)
    assert offered(controller, *range(300, 400)) == 60 - 32, "cpu1 still helps with one of its slots"
    controller.finished(second, 0.008)
    offered(controller, 1001, family="b")
    launched(controller, "cpu1", 0.0)
    assert offered(controller, *range(400, 500)) == 0


def test_the_overflow_of_most_urgent_requests_comes_first() -> None:
    """Two families overflow, and cpu2 has a standby of each."""
    of_b = hosted("cpu9", "b", "fast", latency_s={1: 0.001, 8: 0.008}, max_batch=8, weight=0.0, capacity_qps=1000.0)
    both = {
        standby.key: Loadable(1, 1.0, 8, standby.capacity_qps, replace(standby, is_standby=True))
        for standby in (STANDBY, of_b)
    }
    idle = hosted("cpu2", "c", "c", latency_s={1: 0.01, 4: 0.04}, capacity_qps=100.0)
    hosts = (good(), other(), idle)
    for first, second in (("a", "b"), ("b", "a")):
        controller = Controller(
            {"a": 0.1, "b": 0.1, "c": 0.1}, dict.fromkeys(("cpu0", "cpu1", "cpu2"), 1), GREEDY,
            memory={"cpu2": DeviceMemory(3, {**both, VariantKey("c", "c"): Loadable(1, 1.0, 4, 100.0)})},
        )  # fmt: skip
        controller.adopt(plan_hosting(*hosts, devices=[host.device for host in hosts]), hosts, 0.0)
        load_standbys(controller)
        offered(controller, *range(30), family=first)
        offered(controller, *range(30, 60), family=second, at_s=0.001)
        assert launched(controller, "cpu2", 0.001).hosted.family == first


@pytest.mark.parametrize(
    "asking",
    [
        Request(99, "a", 0.0, 0.05, 1, min_accuracy=0.7),
        Request(99, "a", 0.0, 0.05, 1, bounds=Bounds(min_expected_accuracy=0.7)),
    ],
)
def test_who_asks_for_more_accuracy_is_answered_by_an_active_variant(asking: Request) -> None:
    """It would be in that batch, as it is the most urgent."""
    controller = adopted(good(), other())
    assert isinstance(controller.offer(asking, 0.0), Admitted)
    offered(controller, *range(30))
    assert controller.decide("cpu1", 0.0) == IDLE


def test_families_that_prefer_something_else_to_accuracy_have_none() -> None:
    controller = adopted(replace(good(), preference_rank=0.0), other())
    assert controller.topology.change.standbys == {}
    offered(controller, *range(20))
    launched(controller, "cpu0", 0.0)
    assert controller.decide("cpu1", 0.0) == IDLE


@pytest.mark.parametrize("assignment", ["early", "uniform"])
def test_without_a_shared_queue_there_is_none(assignment: Assignment) -> None:
    controller = adopted(good(), other(), policy=replace(GREEDY, assignment=assignment, admits="all"))
    offered(controller, *range(20))
    launched(controller, "cpu0", 0.0)
    assert controller.decide("cpu1", 0.0) == IDLE


@pytest.mark.parametrize("standby", ["fast", "good", "good@2"])
def test_of_twins_each_arm_has_those_that_are_not_the_other_version(standby: str) -> None:
    hosts = (good("cpu0"), replace(good("cpu2"), variant="good@2"), other())
    controller = Controller(
        {"a": 0.1, "b": 0.1},
        dict.fromkeys(("cpu0", "cpu1", "cpu2"), 1),
        GREEDY,
        memory={"cpu1": memory(replace(STANDBY, variant=standby))},
    )
    controller.use_twins("a", Twins("good", "good@2"))
    controller.adopt(plan_hosting(*hosts, devices=["cpu0", "cpu1", "cpu2"]), hosts, 0.0)
    load_standbys(controller)
    for is_canary, other_version in ((True, "good"), (False, "good@2")):
        bounds = Bounds(is_canary=True) if is_canary else None
        requests = [Request(number, "a", 0.0, 0.1, 1, bounds=bounds) for number in range(100 * is_canary, 150)]
        admitted = [each for each in requests if isinstance(controller.offer(each, 0.0), Admitted)]
        launch = decided(controller, "cpu1")
        assert (launch is not None) == (standby != other_version)
        for request in admitted:
            controller.dispatch.cancel(request)
        if launch is not None:
            controller.finished(launch, 0.008)


def test_a_family_without_its_own_devices_is_lost_whatever_stands_by_elsewhere() -> None:
    controller = adopted(good(), other())
    controller.device_lost("cpu0", ())
    answer = controller.offer(make_request(0), 0.0)
    assert isinstance(answer, Refused)
    assert answer.is_lost


def test_those_of_lost_and_recovered_devices_and_given_up_ones_do_not_count() -> None:
    controller = adopted(good(), other())
    controller.device_lost("cpu1", ())
    offered(controller, 0)
    launched(controller, "cpu0", 0.0)
    assert offered(controller, *range(1, 100)) == 9
    controller.device_recovered("cpu1", 0.0, (other(),))
    assert offered(controller, *range(100, 200)) == 0, "its memory is empty"
    load_standbys(controller)
    assert offered(controller, *range(200, 400)) == 100
    controller.topology.memory_short("cpu1", 0.0)
    assert controller.decide("cpu1", 0.0) == IDLE


def test_no_batch_of_theirs_is_submitted_ahead() -> None:
    controller = adopted(good(), other(), dispatch_ahead_s=0.002)
    offered(controller, 100, family="b")
    launched(controller, "cpu1", 0.0)
    offered(controller, *range(9))
    assert controller.decide("cpu1", 0.0095) == IDLE
