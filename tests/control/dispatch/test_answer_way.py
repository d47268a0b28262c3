"""How long answers are on their way: measured, kept back, and doubted where nothing would be run for it."""

import math
from dataclasses import replace

import numpy as np
import pytest
from builders import controller_hosting, hosted, launched, make_table

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Drop, HostedVariant, Launch
from proteus_cli.control.devices.slowness import LIMITS
from proteus_cli.control.policies import Policy
from proteus_cli.domain.cluster import Network
from proteus_cli.domain.request import Request
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.pace import FIRST, MIN_MARGIN, WayTime

EXIT = ExitProfile(points=(StagePoint(1, 0.01, 0.01),))
WHOLE = hosted("cpu0", latency_s={1: 0.03, 4: 0.06})
HOST = replace(WHOLE, exits=(EXIT, EXIT), first_exit=make_table({1: 0.01, 4: 0.02}), attainment=0.9)


def after(*ways_s: float) -> WayTime:
    way = WayTime()
    for way_s in ways_s:
        way.took(way_s)
    return way


def test_nothing_is_kept_back_before_any_was_seen() -> None:
    assert WayTime().most_s == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_mean_and_a_margin(seed: int) -> None:
    rng, way = np.random.default_rng(seed), WayTime()
    for way_s in rng.lognormal(math.log(0.001), rng.uniform(0, 2), 500):
        way.took(float(way_s))
        assert 0 < way.mean_s <= way.most_s


@pytest.mark.parametrize("seed", range(20))
def test_interruptions_are_left_out(seed: int) -> None:
    """One way in fifty takes a hundred times as long, and nothing is kept back for that."""
    rng, way = np.random.default_rng(seed), WayTime()
    found = list[float]()
    for number, way_s in enumerate(rng.lognormal(math.log(0.001), 0.2, 2000)):
        is_interrupted = number % 50 == 49
        way.took(float(way_s) * (100 if is_interrupted else 1))
        found.append(way.most_s)
    assert max(found[100:]) < 0.0025
    assert np.median(found) < 0.002


@pytest.mark.parametrize("seed", range(20))
def test_ways_that_scatter_as_much_as_they_take_are_no_interruptions(seed: int) -> None:
    """Exponential ways: three in four are within a margin of one mean deviation."""
    rng, way, are_within = np.random.default_rng(seed), WayTime(), list[bool]()
    for way_s in rng.exponential(0.001, 3000).tolist():
        are_within.append(way_s <= way.most_s)
        way.took(way_s)
    assert np.mean(are_within[1000:]) > 0.75


def test_a_way_that_stays_longer_is_believed() -> None:
    assert after(*[0.001] * 200, *[0.01] * 30).mean_s == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize("count", [50, 1000, 20000])
def test_a_way_that_mostly_takes_no_more_than_was_profiled_is_believed_once_it_does(count: int) -> None:
    """Of a network of 2 ms; then it takes 5 ms more."""
    way = WayTime()
    for _ in range(count):
        way.took(0.0, 0.002)
    for _ in range(20):
        way.took(0.005, 0.002)
    assert way.mean_s > 0.0045


def test_ways_that_take_a_little_more_than_was_profiled_now_and_then_are_no_interruptions() -> None:
    """One in ten takes 0.8 ms more than the 2 ms that were profiled: that is scatter."""
    way = WayTime()
    for number in range(1000):
        way.took(0.0008 if number % 10 == 9 else 0.0, 0.002)
    assert way.most_s > 0.0001


def controller_of(*ways_s: float, host: HostedVariant = HOST) -> Controller:
    policy = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None)
    controller = controller_hosting(host, policy=policy, families=("a",), slots={"cpu0": 1})
    for way_s in ways_s:
        came(controller, way_s, host=host)
    return controller


def came(controller: Controller, way_s: float, host: HostedVariant = HOST) -> None:
    controller.dispatch.answers_came(Launch(host, (Request(0, "a", 0.0, 1e6),), 1, 0.0), way_s)


def kept_back_s(controller: Controller) -> float:
    """What a request that goes on leaves for the way of its answer."""
    bounds = controller.dispatch.exit_bounds(Launch(HOST, (Request(0, "a", 0.0, 0.1),), 1, 0.0))
    assert bounds is not None
    return 0.1 - bounds.due_s[0]


def test_a_way_that_is_interrupted_now_and_then_costs_hardly_any_time() -> None:
    """One in fifty takes a second, and stages end as if it was on its way as the others."""
    controller = controller_of(*([0.002] * 49 + [1.0]) * 10, *[0.002] * 30)
    assert kept_back_s(controller) == pytest.approx(0.002, rel=0.01)


@pytest.mark.parametrize(("time_s", "runs"), [(0.0123, True), (0.0122, False)])
def test_a_request_needs_the_time_of_the_first_exit_and_of_the_way(time_s: float, runs: bool) -> None:  # noqa: FBT001
    """Nine answers were on their way for 2 ms, and one for a second, which counts as 3 ms: 2.25 ms in the mean."""
    controller = controller_of(*[0.002] * 9, 1.0)
    controller.offer(Request(0, "a", 0.0, time_s), 0.0)
    assert isinstance(controller.decide("cpu0", 0.0), Launch if runs else Drop)


def test_stages_end_earlier_by_the_way() -> None:
    controller = controller_of(0.002)
    controller.offer(Request(0, "a", 0.0, 0.1), 0.0)
    bounds = controller.dispatch.exit_bounds(launched(controller, "cpu0", 0.0))
    assert bounds is not None
    assert list(bounds.due_s) == pytest.approx([0.098])
    assert bounds.attainment == 0.9


def test_on_another_machine_stages_end_earlier_by_the_network_as_profiled_too() -> None:
    """A batch of one row is on its way for 5 ms; this one took 2 ms more."""
    controller = controller_of(0.002, host=replace(HOST, network=Network(0.004, 1e6, {"a": 1000})))
    controller.offer(Request(0, "a", 0.0, 0.1), 0.0)
    bounds = controller.dispatch.exit_bounds(launched(controller, "cpu0", 0.0))
    assert bounds is not None
    assert list(bounds.due_s) == pytest.approx([0.093])


def test_of_another_machine_stages_are_as_slow_as_they_are_without_the_way() -> None:
    """Batches take what their stages are profiled to take, and 4 ms of network: no device is slow for that."""
    host = replace(HOST, network=Network(0.004, 1e6, {}), first_exit=make_table({1: 0.014}))
    controller = controller_of(host=host)
    for number in range(FIRST):
        controller.offer(Request(number, "a", 0.0, 0.1), 0.0)
        controller.finished(launched(controller, "cpu0", 0.0), 0.024, np.array([2]))
    bounds = controller.dispatch.exit_bounds(Launch(host, (Request(0, "a", 0.0, 0.1),), 1, 0.0))
    assert bounds is not None
    assert bounds.slowdown == pytest.approx(1 + MIN_MARGIN)


def test_a_way_that_leaves_no_time_is_doubted_until_a_batch_shows_what_it_is_now() -> None:
    """All took a second, as the machine was busy. Behind eight requests, each that is given up takes off a tenth."""
    controller = controller_of(*[1.0] * 10)
    decisions = []
    for number in range(40):
        controller.offer(Request(number, "a", 0.0, 0.05), 0.0)
        decisions.append(type(controller.decide("cpu0", 0.0)))
    assert decisions == [Drop] * (LIMITS.fresh + 31) + [Launch]


@pytest.mark.parametrize(("time_s", "asked_s"), [(0.009, 0.0), (0.02, 0.015)], ids=["no way keeps it", "it waited"])
def test_what_is_given_up_for_another_reason_tells_nothing_of_the_way(time_s: float, asked_s: float) -> None:
    controller = controller_of(0.002)
    for number in range(3 * LIMITS.fresh):
        controller.offer(Request(number, "a", 0.0, time_s), 0.0)
        assert isinstance(controller.decide("cpu0", asked_s), Drop)
    controller.offer(Request(99, "a", 0.0, 0.0119), 0.0)
    assert isinstance(controller.decide("cpu0", 0.0), Drop)
