"""Requests with bounds: which hosts may answer them, and what becomes of those that none may."""

import math
from dataclasses import replace

import pytest
from builders import (
    controller_hosting,
    hosted,
    ids,
    launched,
    make_cascade,
    near,
    plan_hosting,
    requests_waiting,
    routes_of,
)
from drawing import examples
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import IDLE, Admitted, CascadeRoute, FirstStage, HostedVariant, Unfit
from proteus_cli.control.dispatch.eligibility import Eligibility, Routes
from proteus_cli.control.dispatch.family import MAX_FREE_QUEUES
from proteus_cli.control.policies import Policy
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.cluster import Network
from proteus_cli.domain.request import Bounds, DeferredRequest, Request
from proteus_cli.domain.stages.cascade import PlannedCascade

DEVICES = ("cpu0", "cpu1", "cpu2")
SMALL = hosted(
    "cpu0", "a", "a-s", latency_s={1: 0.010, 4: 0.020}, weight=5.0, capacity_qps=250.0, accuracy=0.8, power_w=10.0
)
"""A row takes 0.1 J alone, and 0.05 J of a batch of four."""
LARGE = replace(
    hosted("cpu1", "a", "a-l", latency_s={1: 0.020, 4: 0.040}, capacity_qps=100.0, accuracy=0.95, power_w=20.0),
    weight=5.0,
    deferred_qps=5.0,
)
"""0.4 J alone, and 0.2 J of a batch of four."""
CASCADE = make_cascade("a", "a-s", "a-l", rate_qps=5.0)
EXPECTED = CASCADE.point.accuracy  # 0.925


def controller_of(
    *hosts: HostedVariant, cascades: tuple[PlannedCascade, ...] = (CASCADE,), assignment: str = "late"
) -> Controller:
    policy = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None, assignment=assignment)  # type: ignore[arg-type]
    slots = dict.fromkeys(DEVICES, 1)
    return controller_hosting(*hosts, policy=policy, families=("a",), slots=slots, cascades=cascades)


def adopt(
    controller: Controller, *hosts: HostedVariant, cascades: tuple[PlannedCascade, ...] = (CASCADE,)
) -> list[int]:
    """What a plan drops."""
    plan = plan_hosting(*hosts, demand_qps={"a": 10.0}, devices=DEVICES, cascades=cascades)
    return [request.id for request in controller.adopt(plan, hosts, 0.0).dropped]


def asking(number: int = 0, *, rows: int = 1, priority: int = 0, minimum: float = 0.0, **bounds: float) -> Request:
    asked = Bounds(**bounds)  # type: ignore[arg-type]
    return Request(number, "a", 0.0, 0.1, rows, priority=priority, min_accuracy=minimum, bounds=asked)


@pytest.mark.parametrize("assignment", ["late", "early"])
@pytest.mark.parametrize(
    ("request_", "device"),
    [
        (asking(max_energy_j=0.1), "cpu0"),
        (asking(max_energy_j=0.39), "cpu0"),
        (asking(min_expected_accuracy=0.93), "cpu1"),
        (asking(minimum=0.9, max_energy_j=0.4), "cpu1"),
    ],
)
def test_only_hosts_that_keep_the_bounds_may_answer(assignment: str, request_: Request, device: str) -> None:
    controller = controller_of(SMALL, LARGE, assignment=assignment)
    assert controller.offer(request_, 0.0) == Admitted((device,))
    (other,) = {"cpu0", "cpu1"} - {device}
    assert controller.decide(other, 0.0) == IDLE
    assert ids(launched(controller, device, 0.0)) == [0]


def test_on_the_way_over_the_network_a_batch_takes_no_energy_of_the_device() -> None:
    """The latencies have 6 ms of it, as the profiles of hosts do; no more than 4 ms of a lone row are the device's."""
    there = replace(SMALL, network=Network(0.006, 1e6, {}))
    controller = controller_of(there, LARGE)
    assert isinstance(controller.offer(asking(max_energy_j=0.041), 0.0), Admitted)
    assert isinstance(controller.offer(asking(1, max_energy_j=0.039), 0.0), Unfit)
    assert (there.energy_j(1, 4), there.energy_j(4, 4)) == (near(0.035), near(0.14))


def test_the_energy_of_many_rows_is_that_of_the_batch_that_is_worst_for_them() -> None:
    """Four rows take 0.2 J together on cpu0, whatever else they are batched with; two take 0.133 J, alone at worst."""
    controller = controller_of(SMALL, LARGE)
    assert isinstance(controller.offer(asking(rows=4, max_energy_j=0.2), 0.0), Admitted)
    assert isinstance(controller.offer(asking(1, rows=4, max_energy_j=0.199), 0.0), Unfit)
    assert isinstance(controller.offer(asking(2, rows=2, max_energy_j=0.134), 0.0), Admitted)
    assert isinstance(controller.offer(asking(3, rows=2, max_energy_j=0.133), 0.0), Unfit)


def test_what_a_cascade_reaches_counts_as_expected_accuracy_and_only_there() -> None:
    controller = controller_of(SMALL, replace(LARGE, weight=0.0))
    offered = controller.offer(asking(min_expected_accuracy=EXPECTED), 0.0)
    assert offered == Admitted(("cpu0",))
    launch = launched(controller, "cpu0", 0.0)
    (route,) = routes_of(controller, launch)
    assert route is not None
    assert route.cascade == CASCADE
    assert isinstance(controller.offer(asking(1, minimum=EXPECTED, min_expected_accuracy=0.96), 0.0), Unfit)


def test_where_the_variant_itself_is_enough_its_shares_hold() -> None:
    """Half of the queries of `a-s` go by the cascade."""
    controller = controller_of(SMALL, LARGE, cascades=(make_cascade("a", "a-s", "a-l", rate_qps=2.5),))
    for number in range(4):
        controller.offer(asking(number, min_expected_accuracy=0.8, max_energy_j=0.1), 0.0)
    routes = routes_of(controller, launched(controller, "cpu0", 0.0))
    assert sorted(route is None for route in routes) == [False, False, True, True]


def test_of_several_cascades_it_goes_by_one_that_is_accurate_enough() -> None:
    worse = make_cascade("a", "a-s", "a-x", rate_qps=4.0, deferred_frac=0.9)
    better = make_cascade("a", "a-s", "a-l", rate_qps=1.0, deferred_frac=0.25)
    large = replace(LARGE, weight=0.0)
    best = replace(large, device="cpu2", variant="a-x", accuracy=0.99)
    controller = controller_of(SMALL, large, best, cascades=(worse, better))
    controller.offer(asking(min_expected_accuracy=better.point.accuracy, max_energy_j=0.5), 0.0)
    (route,) = routes_of(controller, launched(controller, "cpu0", 0.0))
    assert route is not None
    assert route.cascade == better


def test_both_stages_together_keep_the_energy_where_the_accuracy_needs_them() -> None:
    """0.1 J and 0.4 J at worst."""
    controller = controller_of(SMALL, replace(LARGE, accuracy=0.9, weight=0.0))
    assert isinstance(controller.offer(asking(min_expected_accuracy=0.92, max_energy_j=0.5), 0.0), Admitted)
    assert isinstance(controller.offer(asking(1, min_expected_accuracy=0.92, max_energy_j=0.49), 0.0), Unfit)


def test_a_second_stage_gets_what_the_first_has_left_of_the_energy() -> None:
    """Of 0.45 J the first stage took 0.05 J, a quarter of the batch: 0.4 J is left, and that is what `a-l` takes."""
    controller = controller_of(SMALL, LARGE)
    for limit_j, is_asked in ((0.45, True), (0.449, False)):
        bounds = Bounds(max_energy_j=limit_j).without(SMALL.energy_j(1, 4))
        deferred = DeferredRequest(0, "a", 0.0, 0.1, min_accuracy=0.95, bounds=bounds)
        assert (controller.dispatch.defer(deferred, 0.02) is not None) == is_asked


def test_without_a_known_power_no_energy_is_promised() -> None:
    controller = controller_of(replace(SMALL, power_w=None), LARGE)
    assert controller.offer(asking(max_energy_j=1e9), 0.0) == Admitted(("cpu1",))
    unfit = controller.offer(asking(1, max_energy_j=0.1), 0.0)
    assert unfit == Unfit({"a-l": 0.95, "a-s": 0.8}, {"a-s → a-l": EXPECTED}, {"a-l": near(0.4)})


def test_what_nothing_keeps_gets_what_there_is_and_is_no_demand() -> None:
    controller = controller_of(SMALL, LARGE)
    unfit = controller.offer(asking(max_energy_j=0.01), 0.05)
    assert unfit == Unfit(
        {"a-l": 0.95, "a-s": 0.8}, {"a-s → a-l": EXPECTED}, {"a-s": near(0.1), "a-l": near(0.4)}
    )  # fmt: skip
    assert requests_waiting(controller) == 0
    assert controller.demand.rate_qps("a", 0.2, now_s=0.25) == 0.0


def test_what_all_hosts_keep_waits_with_all_others() -> None:
    controller = controller_of(SMALL, LARGE)
    controller.offer(asking(max_energy_j=0.4), 0.0)
    controller.offer(Request(1, "a", 0.0, 0.1), 0.0)
    assert [len(queue) for queue in controller.families["a"].queues] == [2]


def test_a_new_plan_shares_what_waits_and_drops_what_it_can_not_keep() -> None:
    controller = controller_of(SMALL, LARGE)
    controller.offer(asking(0, max_energy_j=0.1), 0.0)
    controller.offer(asking(1, min_expected_accuracy=EXPECTED), 0.0)
    controller.offer(asking(2, max_energy_j=0.4), 0.0)
    assert adopt(controller, LARGE, replace(LARGE, device="cpu2"), cascades=()) == [0]
    assert adopt(controller, replace(LARGE, accuracy=0.9), cascades=()) == [1]
    assert ids(launched(controller, "cpu1", 0.0)) == [2]


def test_a_request_with_bounds_can_be_cancelled_while_it_waits() -> None:
    controller, request = controller_of(SMALL, LARGE), asking(max_energy_j=0.1)
    controller.offer(request, 0.0)
    assert controller.dispatch.cancel(request).dropped == (request,)
    assert requests_waiting(controller) == 0


def test_bounds_that_cycle_open_each_queue_once_and_no_more_than_the_plan_has_sets() -> None:
    """Eight variants whose energy rises with their accuracy: minimum and limit make 36 parts of them.

    Of these 8 have a least accuracy alone, and 7 more have one variant. A request whose part has no queue waits for
    some of its hosts.
    """
    hosts = [replace(SMALL, device="cpu0", variant=f"a-{n}", accuracy=0.7 + n / 100, power_w=1.0 + n) for n in range(8)]
    controller = controller_of(*hosts, cascades=())
    family, parts = controller.families["a"], [(least, most) for least in range(8) for most in range(least, 8)]
    waiting = asking(0, minimum=0.75, max_energy_j=1.0)
    controller.offer(waiting, 0.0)
    opened = []
    for _ in range(2):
        for least, most in parts:
            request = asking(1, minimum=0.7 + least / 100, priority=most + 1, max_energy_j=(1.0 + most) * 0.01)
            assert isinstance(controller.offer(request, 0.0), Admitted)
            queue = family.queue_for(request)
            assert queue is not None
            assert {host.variant for host in queue.hosts} <= {f"a-{n}" for n in range(least, most + 1)}
            assert controller.dispatch.cancel(request).dropped == (request,)
        opened.append([*family.queues])
    assert opened[0] == opened[1]
    assert MAX_FREE_QUEUES < len(opened[0]) < len(parts)
    assert controller.dispatch.cancel(waiting).dropped == (waiting,)


# --- against all ways to answer

ACCURACIES = st.sampled_from([0.7, 0.8, 0.9])
POWERS = st.sampled_from([None, 1.0, 2.0, 5.0])
HOSTS = st.lists(st.tuples(ACCURACIES, POWERS, st.sampled_from([1, 2, 4])), min_size=1, max_size=4)
EXPECTATIONS = st.sampled_from([0.0, 0.8, 0.92])
LIMITS = st.sampled_from([math.inf, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2])
LATENCY_S = {1: 0.010, 4: 0.020}


@examples(300, fuzzed=5000)
@given(HOSTS, st.booleans(), st.sampled_from([0.0, 0.8, 0.95]), EXPECTATIONS, LIMITS, st.integers(1, 3))
def test_a_host_is_fit_where_each_answer_that_begins_there_keeps_the_bounds(
    drawn: list[tuple[float, float | None, int]],
    has_cascade: bool,  # noqa: FBT001 - drawn
    minimum: float,
    expected: float,
    limit_j: float,
    rows: int,
) -> None:
    """A batch has any size from the request's own rows, or one where these are more than a batch has."""
    hosts = [
        hosted(f"cpu{n}", "a", f"a-{n}", latency_s=LATENCY_S, accuracy=accuracy, power_w=power_w, max_batch=max_batch)
        for n, (accuracy, power_w, max_batch) in enumerate(drawn)
    ]
    cascade = make_cascade("a", "a-0", f"a-{max(len(hosts) - 1, 1)}")
    has_cascade = has_cascade and len(hosts) > 1
    stage = FirstStage(VariantKey("a", "a-0"), (0.5,), (0.5,))
    route = CascadeRoute(cascade, hosts[-1].accuracy, stage, 0, (0.6, 0.95), (0.9, 0.9))
    routes: Routes = {VariantKey("a", "a-0"): (route,)} if has_cascade else {}

    def max_j(host: HostedVariant) -> float:
        if host.power_w is None:
            return math.inf
        sizes = range(min(rows, host.max_batch), host.max_batch + 1)
        return max(host.power_w * host.mean_latency(size) / size * rows for size in sizes)

    def within(*used: HostedVariant) -> bool:
        return limit_j == math.inf or sum(map(max_j, used)) <= limit_j

    def keeps(host: HostedVariant) -> bool:
        if host.accuracy < minimum or not within(host):
            return False
        if host.accuracy >= expected:
            return True
        seconds = [other for other in hosts if other.accuracy >= max(minimum, route.min_accuracy)]
        is_first = has_cascade and host is hosts[0] and cascade.point.accuracy >= expected
        return is_first and any(within(host, second) for second in seconds)

    eligibility = Eligibility(hosts, routes)
    request = asking(rows=rows, minimum=minimum, min_expected_accuracy=expected, max_energy_j=limit_j)
    assert eligibility.hosts(eligibility.of(request)) == [host for host in hosts if keeps(host)]
    shared = eligibility.hosts(eligibility.lasting_within(eligibility.of(request)))
    assert all(map(keeps, shared))
    assert bool(shared) == any(map(keeps, hosts))
