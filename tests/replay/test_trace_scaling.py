import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.domain.trace import Trace
from proteus_cli.errors import UsageError
from proteus_cli.replay.scaling import scaled, scaled_to
from proteus_cli.replay.synthesis import Burst, Poisson, make_trace

SHARES = {"a": 3.0, "b": 1.0}


def rng(seed: int = 5) -> np.random.Generator:
    return np.random.default_rng(seed)


def steady(rate_qps: float = 200.0, duration_s: float = 30.0) -> Trace:
    return make_trace("steady", Poisson(), rate_qps=rate_qps, duration_s=duration_s, shares=SHARES, rng=rng(1))


@pytest.mark.parametrize("factor", [0.1, 0.5, 0.99, 1.0, 1.3, 2.0, 3.7])
def test_scaling_multiplies_the_arrivals_and_keeps_order_ends_and_families(factor: float) -> None:
    trace = steady()
    more = scaled(trace, factor, rng())

    assert len(more) == pytest.approx(len(trace) * factor, abs=2 * math.sqrt(len(trace)))  # 4 sigma
    assert np.all(np.diff(more.arrival_s) >= 0)
    assert more.arrival_s[0] >= 0
    assert more.duration_s <= trace.duration_s
    assert more.families == trace.families
    assert np.mean(more.family == 0) == pytest.approx(0.75, abs=0.05)


def test_scaling_by_one_changes_nothing() -> None:
    trace = steady()
    np.testing.assert_array_equal(scaled(trace, 1.0, rng()).arrival_s, trace.arrival_s)


def test_scaling_down_keeps_a_subset_of_the_arrivals() -> None:
    trace = steady()
    assert np.all(np.isin(scaled(trace, 0.3, rng()).arrival_s, trace.arrival_s))


def test_copies_stay_near_their_arrival_and_keep_its_latency_target() -> None:
    trace = Trace(
        name="two",
        families=("a", "b"),
        arrival_s=np.array([2.0, 8.0]),
        family=np.array([1, 0]),
        slo_s=np.array([0.1, math.nan]),
        min_accuracy=np.array([0.0, 0.9]),
        max_energy_j=np.array([2.0, math.nan]),
        min_confidence=np.array([-0.5, math.nan]),
    )

    many = scaled(trace, 50.0, rng())

    assert len(many) == 100
    assert np.all(np.abs(many.arrival_s[:50] - 2.0) <= 0.5)
    assert np.all(np.abs(many.arrival_s[50:] - 8.0) <= 0.5)
    assert many.family.tolist() == [1] * 50 + [0] * 50
    assert many.slo_s[:50].tolist() == [0.1] * 50
    assert many.min_accuracy.tolist() == [0.0] * 50 + [0.9] * 50
    assert many.max_energy_j[:50].tolist() == [2.0] * 50
    assert many.min_confidence[:50].tolist() == [-0.5] * 50
    assert len(np.unique(many.arrival_s)) == 100


def test_copies_do_not_pile_up_at_the_ends() -> None:
    more = scaled(steady(), 4.0, rng())
    assert np.sum(more.arrival_s == 0.0) == 0
    assert np.sum(more.arrival_s == more.duration_s) <= 1


@given(st.lists(st.floats(0, 20), min_size=1, max_size=40), st.floats(1.0, 6.0), st.integers(0, 99))
def test_no_arrival_is_lost_when_scaling_up(times: list[float], factor: float, seed: int) -> None:
    arrival_s = np.sort(np.array(times))
    zeros = np.zeros(len(times), dtype=np.int64)
    trace = Trace(name="t", families=("a",), arrival_s=arrival_s, family=zeros, slo_s=np.full(len(times), math.nan))

    more = scaled(trace, factor, rng(seed))

    assert len(times) * math.floor(factor) <= len(more) <= len(times) * math.ceil(factor)
    assert np.all(np.isin(arrival_s, more.arrival_s))


@pytest.mark.parametrize("peak_qps", [60.0, 400.0, 2000.0])
def test_scaling_to_a_peak_sets_the_busiest_ten_seconds(peak_qps: float) -> None:
    burst = make_trace("burst", Burst(500.0), rate_qps=100.0, duration_s=45.0, shares=SHARES, rng=rng(1))
    fitted = scaled_to(burst, peak_qps, rng())
    assert sum(fitted.peak_demand().values()) == pytest.approx(peak_qps, rel=0.1)


def test_the_same_seed_scales_the_same_way() -> None:
    first, again = (scaled(steady(), 1.5, rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first.arrival_s, again.arrival_s)


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf, 1e12, 1e-9])
def test_a_factor_that_makes_no_usable_trace_is_refused(factor: float) -> None:
    with pytest.raises(UsageError) as caught:
        scaled(steady(), factor, rng())
    assert caught.value.hint


def test_a_trace_without_arrivals_has_no_peak_to_scale() -> None:
    nothing = np.array([], dtype=np.int64)
    empty = Trace(name="empty", families=("a",), arrival_s=nothing / 1.0, family=nothing, slo_s=nothing / 1.0)
    with pytest.raises(UsageError, match="too short"):
        scaled_to(empty, 1.0, rng())
