"""Networks to hosts: as measured, and in the latencies of a profile."""

import msgspec
import pytest
from builders import make_measured, make_profile
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.domain.cluster import Network
from proteus_cli.domain.profile import Profile
from proteus_cli.serving.devices.remote.measuring import reached_over, rounded_network

NETWORK = Network(round_trip_s=0.001, bytes_per_s=1e6, row_bytes={"a": 2000})


def test_each_batch_is_on_its_way_too() -> None:
    """A row of ``a`` takes 2 ms; of ``b`` the size is unknown."""
    measured = (
        make_measured("a", "s", 0.8, {1: 0.010, 4: 0.020}, at_once_s={2: {4: 0.030}}),
        make_measured("b", "t", 0.8, {1: 0.010}),
    )
    profile = reached_over(NETWORK, make_profile("x/cpu0", *measured, slots=2))
    small, other = profile.variants
    assert [point.mean_s for point in small.points] == pytest.approx([0.013, 0.029])
    assert [point.p95_s for point in small.points] == pytest.approx([0.013, 0.029])
    assert small.points[1].qps == pytest.approx(4 / 0.029)
    assert small.concurrent[0].mean_s == pytest.approx(0.039)
    assert small.concurrent[0].qps == pytest.approx(2 * 4 / 0.039)
    assert other.points[0].mean_s == pytest.approx(0.011)


def test_a_link_stands_in_the_profile_where_there_is_one() -> None:
    profile = make_profile("x/cpu0", make_measured("a", "s", 0.8, {1: 0.010}))
    assert b"network" not in msgspec.json.encode(profile)
    far = reached_over(NETWORK, profile)
    assert msgspec.json.decode(msgspec.json.encode(far), type=Profile) == far


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ('"round_trip_s":-1,"bytes_per_s":1,"row_bytes":{}', "round_trip_s"),
        ('"round_trip_s":0,"bytes_per_s":0,"row_bytes":{}', "bytes_per_s"),
        ('"round_trip_s":0,"bytes_per_s":1e999,"row_bytes":{}', "out of range|bytes_per_s"),
        ('"round_trip_s":0,"bytes_per_s":1,"row_bytes":{"a":-1}', "row_bytes"),
        ('"round_trip_s":0,"bytes_per_s":1,"row_bytes":{},"hops":1', "hops"),
    ],
)
def test_what_is_no_link_is_refused(fields: str, problem: str) -> None:
    with pytest.raises(msgspec.DecodeError, match=problem):
        msgspec.json.decode("{" + fields + "}", type=Network)


def test_a_measured_link_is_rounded_time_up_and_bandwidth_down() -> None:
    found = rounded_network(0.000213, 1.24e9, {"a": 8})
    assert found == Network(0.00025, 1e9, {"a": 8})
    assert rounded_network(0.0, 1e9, {}) == Network(0.0, 1e9, {})


@given(st.floats(1e-9, 1e3), st.floats(1.0, 1e12))
def test_a_link_is_rounded_by_no_more_than_a_step(round_trip_s: float, bytes_per_s: float) -> None:
    once = rounded_network(round_trip_s, bytes_per_s, {})
    assert once.round_trip_s <= 1.35 * round_trip_s
    assert once.bytes_per_s >= bytes_per_s / 1.35
    for_round_trip = round_trip_s / once.round_trip_s
    assert for_round_trip <= 1.02, "two digits are less exact than a step"
    assert once.bytes_per_s <= 1.02 * bytes_per_s
