"""What families that share devices need of the room for their bursts."""

import math

import numpy as np
import pytest
from builders import make_placement, make_plan, near

from proteus_cli.control.room import shared_room

SLO_S = dict.fromkeys("abcd", 0.1)


def test_a_family_with_devices_of_its_own_needs_all_of_its_room() -> None:
    """As does one that the plan leaves out, and one whose devices stand by for another."""
    plan = make_plan(
        make_placement("cpu0", "a", "s", rate_qps=100.0, capacity_qps=200.0),
        make_placement("cpu1", "b", "s", rate_qps=50.0, capacity_qps=200.0),
        make_placement("cpu1", "a", "s", rate_qps=0.0, capacity_qps=200.0),
        demand_qps={"a": 100.0, "b": 50.0, "c": 10.0, "d": 0.0},
    )
    assert shared_room(plan, SLO_S) == dict.fromkeys("abcd", 1.0)


def test_those_that_share_a_device_need_the_root_of_the_squares_of_what_takes_its_time() -> None:
    """`a`: √(100/0.1) = 31.6 queries of 5 ms; `b`: √(25/0.1) = 15.8 of 10 ms, the same. `c`: √(400/0.1) of 2.5 ms."""
    a = make_placement("cpu0", "a", "s", rate_qps=100.0, capacity_qps=200.0)
    b = make_placement("cpu0", "b", "s", rate_qps=25.0, capacity_qps=100.0)
    c = make_placement("cpu0", "c", "s", rate_qps=400.0, capacity_qps=400.0)
    two = make_plan(a, b, demand_qps={"a": 100.0, "b": 25.0})
    assert shared_room(two, SLO_S) == {"a": near(0.5**0.5), "b": near(0.5**0.5), "c": 1.0, "d": 1.0}
    three = make_plan(a, b, c, demand_qps={"a": 100.0, "b": 25.0, "c": 400.0})
    assert shared_room(three, SLO_S)["a"] == near(3**0.5 / 3)


def test_only_direct_neighbours_count() -> None:
    """`a` and `b` share a device, `b` and `c` another: the bursts of `c` leave `a` alone."""
    plan = make_plan(
        make_placement("cpu0", "a", "s", rate_qps=100.0, capacity_qps=200.0),
        make_placement("cpu0", "b", "s", rate_qps=100.0, capacity_qps=200.0),
        make_placement("cpu1", "b", "s", rate_qps=100.0, capacity_qps=200.0),
        make_placement("cpu1", "c", "s", rate_qps=200.0, capacity_qps=400.0),
        demand_qps={"a": 100.0, "b": 200.0, "c": 200.0},
    )
    room = shared_room(plan, SLO_S)
    assert room["a"] == near(math.hypot(1, 2**0.5) / (1 + 2**0.5))
    assert room["b"] < room["a"]


@pytest.mark.parametrize("costs_s", [(0.004, 0.004), (0.001, 0.01), (0.002, 0.003, 0.008)])
def test_what_is_left_of_it_covers_what_comes_within_an_slo_as_often_as_all_of_it_does_for_one(
    costs_s: tuple[float, ...],
) -> None:
    """Poisson arrivals of each family: the time that they take in a window, beyond the mean, against the shared room.

    One deviation covers 84 of 100 windows, for one family as for several together; all rooms added up would cover more.
    """
    rng, qps = np.random.default_rng(7), 400.0
    names = "abcd"[: len(costs_s)]
    plan = make_plan(
        *(
            make_placement("cpu0", name, "s", rate_qps=qps, capacity_qps=1 / cost_s)
            for name, cost_s in zip(names, costs_s, strict=True)
        ),
        demand_qps=dict.fromkeys(names, qps),
    )
    part = shared_room(plan, SLO_S)
    mean = qps * 0.1
    arrived = rng.poisson(mean, (len(costs_s), 20_000))
    beyond_s = (np.array(costs_s)[:, None] * (arrived - mean)).sum(axis=0)
    room_s = sum(part[name] * cost * math.sqrt(mean) for name, cost in zip(names, costs_s, strict=True))
    assert np.mean(beyond_s <= room_s) == pytest.approx(0.84, abs=0.02)
