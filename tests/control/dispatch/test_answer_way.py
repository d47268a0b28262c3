"""How long answers are on their way: measured, kept back, and doubted where nothing would be run for it."""

from dataclasses import replace

import numpy as np
import pytest
from builders import controller_hosting, hosted, launched, make_table

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Drop, Host, Launch
from proteus_cli.control.dispatch.answer_way import SEEN, AnswerWay
from proteus_cli.control.policies import Policy
from proteus_cli.domain.cluster.network import Network
from proteus_cli.domain.request import Request
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.pace import FIRST, MIN_MARGIN

EXIT = ExitProfile(points=(StagePoint(1, 0.01, 0.01),))
WHOLE = hosted("cpu0", latency_s={1: 0.03, 4: 0.06})
HOST = replace(WHOLE, exits=(EXIT, EXIT), first_exit=make_table({1: 0.01, 4: 0.02}), attainment=0.9)


@pytest.mark.parametrize("seed", range(10))
def test_it_is_the_percentile_of_the_last_ones(seed: int) -> None:
    """Brute force over what is remembered; a share of 0 counts as the least."""
    rng, way = np.random.default_rng(seed), AnswerWay()
    seen = rng.choice([0.001, 0.002, 0.003, *rng.random(20)], int(rng.integers(1, 3 * SEEN))).tolist()
    for took_s in seen:
        way.saw(took_s)
    last = sorted(seen[-SEEN:])
    for share in (0.5, 0.95, 0.995, 1.0):
        within_s = way.within_s(share)
        assert sum(took_s <= within_s for took_s in last) >= share * len(last)
        assert within_s == min(each for each in last if sum(took_s <= each for took_s in last) >= share * len(last))


def test_nothing_is_kept_back_before_any_was_seen() -> None:
    assert AnswerWay().within_s(0.995) == 0.0


def controller_of(*ways_s: float, host: Host = HOST) -> Controller:
    policy = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None)
    controller = controller_hosting(host, policy=policy, families=("a",), slots={"cpu0": 1})
    for way_s in ways_s:
        controller.answer_came("cpu0", way_s)
    return controller


@pytest.mark.parametrize(("time_s", "runs"), [(0.0121, True), (0.0119, False)])
def test_a_request_needs_the_time_of_the_first_exit_and_of_the_way(time_s: float, runs: bool) -> None:  # noqa: FBT001
    """Nine of ten answers were on their way for 2 ms, as the family wants; the slowest for a second."""
    controller = controller_of(*[0.002] * 9, 1.0)
    controller.offer(Request(0, "a", 0.0, time_s), 0.0)
    assert isinstance(controller.decide("cpu0", 0.0), Launch if runs else Drop)


def test_stages_end_earlier_by_the_way() -> None:
    controller = controller_of(0.002)
    controller.offer(Request(0, "a", 0.0, 0.1), 0.0)
    bounds = controller.exit_bounds(launched(controller, "cpu0", 0.0))
    assert bounds is not None
    assert list(bounds.due_s) == pytest.approx([0.098])
    assert bounds.attainment == 0.9


def test_on_another_machine_stages_end_earlier_by_the_network_as_profiled_too() -> None:
    """A batch of one row is on its way for 5 ms; this one took 2 ms more."""
    controller = controller_of(0.002, host=replace(HOST, network=Network(0.004, 1e6, {"a": 1000})))
    controller.offer(Request(0, "a", 0.0, 0.1), 0.0)
    bounds = controller.exit_bounds(launched(controller, "cpu0", 0.0))
    assert bounds is not None
    assert list(bounds.due_s) == pytest.approx([0.093])


def test_of_another_machine_stages_are_as_slow_as_they_are_without_the_way() -> None:
    """Batches take what their stages are profiled to take, and 4 ms of network: no device is slow for that."""
    host = replace(HOST, network=Network(0.004, 1e6, {}), first_exit=make_table({1: 0.014}))
    controller = controller_of(host=host)
    for number in range(FIRST):
        controller.offer(Request(number, "a", 0.0, 0.1), 0.0)
        controller.finished(launched(controller, "cpu0", 0.0), 0.024, np.array([2]))
    bounds = controller.exit_bounds(Launch(host, (Request(0, "a", 0.0, 0.1),), 1, 0.0))
    assert bounds is not None
    assert bounds.slowdown == pytest.approx(1 + MIN_MARGIN)


def test_a_way_that_leaves_no_time_is_doubted_until_a_batch_shows_what_it_is_now() -> None:
    """All ten took a second, as the machine was busy: ten requests are given up, and the next one runs."""
    controller = controller_of(*[1.0] * 10)
    decisions = []
    for number in range(11):
        controller.offer(Request(number, "a", 0.0, 0.05), 0.0)
        decisions.append(type(controller.decide("cpu0", 0.0)))
    assert decisions == [Drop] * 10 + [Launch]


@pytest.mark.parametrize(("time_s", "asked_s"), [(0.009, 0.0), (0.02, 0.015)], ids=["no way keeps it", "it waited"])
def test_what_is_given_up_for_another_reason_tells_nothing_of_the_way(time_s: float, asked_s: float) -> None:
    controller = controller_of(0.002)
    for number in range(5):
        controller.offer(Request(number, "a", 0.0, time_s), 0.0)
        assert isinstance(controller.decide("cpu0", asked_s), Drop)
    controller.offer(Request(9, "a", 0.0, 0.0119), 0.0)
    assert isinstance(controller.decide("cpu0", 0.0), Drop)
