"""The safety margins of families that share devices."""

import math

import numpy as np
import pytest
from builders import hosted, near

from proteus_cli.control.decision import Host
from proteus_cli.control.replanning.replanning import shared_margin

SLO_S = dict.fromkeys("abcd", 0.1)


def host(device: str, family: str, qps: float, row_s: float = 0.005) -> Host:
    """A variant whose batches take so long for each row, and are of four."""
    return hosted(device, family, latency_s={1: row_s, 4: 4 * row_s}, max_batch=4, weight=qps)


def test_a_family_with_devices_of_its_own_needs_its_whole_margin() -> None:
    """As does one that the plan leaves out, and one whose devices stand by for another."""
    hosts = [host("cpu0", "a", 100.0), host("cpu1", "b", 50.0), host("cpu1", "a", 0.0)]
    assert shared_margin(hosts, {"a": 100.0, "b": 50.0, "c": 10.0}, SLO_S) == dict.fromkeys("abcd", 1.0)


def test_those_that_share_a_device_need_the_root_of_the_squares_of_what_takes_its_time() -> None:
    """`a`: √(100/0.1) = 31.6 queries of 5 ms; `b`: √(25/0.1) = 15.8 of 10 ms, the same. `c`: √(400/0.1) of 2.5 ms."""
    a, b, c = host("cpu0", "a", 100.0), host("cpu0", "b", 25.0, 0.010), host("cpu0", "c", 400.0, 0.0025)
    demand_qps = {"a": 100.0, "b": 25.0, "c": 400.0}
    assert shared_margin([a, b], demand_qps, SLO_S) == {"a": near(0.5**0.5), "b": near(0.5**0.5), "c": 1.0, "d": 1.0}
    assert shared_margin([a, b, c], demand_qps, SLO_S)["a"] == near(3**0.5 / 3)


def test_variants_of_a_family_count_by_how_much_they_are_asked() -> None:
    """Three quarters of `a` take 2 ms and one 14 ms: 5 ms on the average, as long as `b` takes."""
    hosts = [host("cpu0", "a", 75.0, 0.002), host("cpu0", "a", 25.0, 0.014), host("cpu0", "b", 100.0)]
    assert shared_margin(hosts, {"a": 100.0, "b": 100.0}, SLO_S)["a"] == near(0.5**0.5)


def test_only_direct_neighbours_count() -> None:
    """`a` and `b` share a device, `b` and `c` another: the bursts of `c` leave `a` alone."""
    hosts = [host("cpu0", "a", 100.0), host("cpu0", "b", 100.0), host("cpu1", "b", 100.0), host("cpu1", "c", 200.0)]
    margin = shared_margin(hosts, {"a": 100.0, "b": 200.0, "c": 200.0}, SLO_S)
    assert margin["a"] == near(math.hypot(1, 2**0.5) / (1 + 2**0.5))
    assert margin["b"] < margin["a"]


@pytest.mark.parametrize("rows_s", [(0.004, 0.004), (0.001, 0.01), (0.002, 0.003, 0.008)])
def test_the_shared_margin_covers_as_many_windows_as_one_family_s_margin_covers(rows_s: tuple[float, ...]) -> None:
    """What Poisson arrivals of all families take in a window as long as the SLO, beyond the mean, against the margin.

    One deviation covers 84 of 100 windows; all rooms added up would cover more.
    """
    rng, qps = np.random.default_rng(7), 400.0
    names = "abcd"[: len(rows_s)]
    hosts = [host("cpu0", name, qps, row_s) for name, row_s in zip(names, rows_s, strict=True)]
    part = shared_margin(hosts, dict.fromkeys(names, qps), SLO_S)
    mean = qps * 0.1
    arrived = rng.poisson(mean, (len(rows_s), 20_000))
    beyond_s = (np.array(rows_s)[:, None] * (arrived - mean)).sum(axis=0)
    room_s = sum(part[name] * row_s * math.sqrt(mean) for name, row_s in zip(names, rows_s, strict=True))
    assert np.mean(beyond_s <= room_s) == pytest.approx(0.84, abs=0.02)


def test_the_largest_demand_has_a_margin_too() -> None:
    """1.7e308 queries/s over an SLO of less than a second are more than a float holds."""
    hosts = [host("cpu0", "a", 100.0), host("cpu0", "b", 100.0)]
    assert 0 < shared_margin(hosts, {"a": 1.7e308, "b": 1.7e308}, SLO_S)["a"] <= 1
