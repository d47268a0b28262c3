import math
from pathlib import Path

import numpy as np
import pytest

from proteus_cli.domain.trace import Trace
from proteus_cli.errors import UsageError
from proteus_cli.replay.synthesis import (
    SHAPES,
    Burst,
    Constant,
    Diurnal,
    Gamma,
    Poisson,
    Shape,
    make_trace,
    parse_shares,
    zipf_shares,
)
from proteus_cli.replay.trace import summary, to_csv

BUNDLED = Path(__file__).parents[2] / "traces" / "burst.csv"


def made(shape: Shape, rate_qps: float = 100.0, duration_s: float = 60.0, seed: int = 7, **shares: float) -> Trace:
    rng = np.random.default_rng(seed)
    shares = shares or {"a": 1.0}
    return make_trace("made", shape, rate_qps=rate_qps, duration_s=duration_s, shares=shares, rng=rng)


def rate(trace: Trace, start_s: float, stop_s: float) -> float:
    return sum(trace.counts(start_s, stop_s).values()) / (stop_s - start_s)


def gap_cv(trace: Trace) -> float:
    return summary(trace).gap_cv or 0.0


@pytest.mark.parametrize("shape", [Constant(), Poisson(), Gamma(0.5), Burst(300.0), Diurnal(300.0)], ids=list(SHAPES))
def test_the_same_seed_makes_the_same_trace(shape: Shape) -> None:
    first, again, other = made(shape, a=1, b=2), made(shape, a=1, b=2), made(shape, seed=8, a=1, b=2)

    np.testing.assert_array_equal(first.arrival_s, again.arrival_s)
    np.testing.assert_array_equal(first.family, again.family)
    assert not np.array_equal(first.family, other.family)
    assert first.duration_s <= 60.0


def test_constant_arrivals_are_evenly_spaced() -> None:
    trace = made(Constant(), rate_qps=50.0, duration_s=10.0)
    assert len(trace) == 500
    np.testing.assert_allclose(np.diff(trace.arrival_s), 0.02)


def test_poisson_arrivals_have_the_rate_and_gaps_that_vary_like_their_mean() -> None:
    trace = made(Poisson())
    assert rate(trace, 0, 60) == pytest.approx(100, rel=0.05)
    assert gap_cv(trace) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("gamma_shape", "tolerance"), [(0.05, 0.1), (1.0, 0.05), (4.0, 0.05)])
def test_gamma_arrivals_have_the_rate_and_the_burstiness_of_their_shape(gamma_shape: float, tolerance: float) -> None:
    trace = made(Gamma(gamma_shape), duration_s=600.0)
    assert rate(trace, 0, 600) == pytest.approx(100, rel=tolerance)
    assert gap_cv(trace) == pytest.approx(gamma_shape**-0.5, rel=tolerance)


def test_a_burst_peaks_in_the_middle_third_and_nowhere_else() -> None:
    trace = made(Burst(900.0), rate_qps=200.0)

    assert rate(trace, 0, 18) == pytest.approx(200, rel=0.06)
    assert rate(trace, 18, 20) == pytest.approx(550, rel=0.1)
    assert rate(trace, 20, 40) == pytest.approx(900, rel=0.05)
    assert rate(trace, 40, 42) == pytest.approx(550, rel=0.1)
    assert rate(trace, 42, 60) == pytest.approx(200, rel=0.06)


def test_a_burst_without_ramp_jumps_at_its_start_and_stop() -> None:
    trace = made(Burst(900.0, start_s=10.0, stop_s=15.0, ramp_s=0.0), rate_qps=200.0, duration_s=30.0)

    assert rate(trace, 0, 10) == pytest.approx(200, rel=0.1)
    assert rate(trace, 10, 15) == pytest.approx(900, rel=0.06)
    assert rate(trace, 15, 30) == pytest.approx(200, rel=0.1)


def test_a_day_starts_low_and_peaks_half_a_period_later() -> None:
    trace = made(Diurnal(500.0, period_s=40.0), duration_s=80.0)

    for low, high in ((0, 20), (40, 60)):
        assert rate(trace, low, low + 2) == pytest.approx(100, rel=0.25)
        assert rate(trace, high - 1, high + 1) == pytest.approx(500, rel=0.1)
    assert rate(trace, 0, 80) == pytest.approx(300, rel=0.05)


def test_families_are_drawn_by_their_shares_and_never_with_a_share_of_zero() -> None:
    trace = made(Poisson(), duration_s=300.0, b=3.0, a=1.0, none=0.0)

    assert trace.families == ("a", "b", "none")
    shares = {name: family.share for name, family in summary(trace).families.items()}
    assert shares["a"] == pytest.approx(0.25, abs=0.01)
    assert shares["none"] == 0


def test_shares_are_read_as_numbers_names_or_by_zipfs_law() -> None:
    assert parse_shares("digits=0.7, signals=0.3") == {"digits": 0.7, "signals": 0.3}
    assert parse_shares("a,b") == {"a": 1.0, "b": 1.0}
    assert parse_shares("a,b,c", zipf=1.0) == {"a": 1.0, "b": 1 / 2, "c": 1 / 3}
    assert zipf_shares(("a", "b"), 2.0) == {"a": 1.0, "b": 1 / 4}


@pytest.mark.parametrize("text", ["a\udc80", "", "a,", "=1", "a=x", "a=nan", "a=-1", "a=", "a,a", "a=1,b"])
def test_shares_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_shares(text)
    assert caught.value.hint


def test_zipfs_law_beside_shares_is_refused() -> None:
    with pytest.raises(UsageError, match="Zipf"):
        parse_shares("a=1,b=1", zipf=1.0)
    with pytest.raises(UsageError, match="Zipf"):
        parse_shares("a,b", zipf=-1.0)


@pytest.mark.parametrize(
    ("shape", "rate_qps", "duration_s", "problem"),
    [
        (Poisson(), 0.0, 60.0, "rate must be above zero"),
        (Poisson(), math.nan, 60.0, "rate must be above zero"),
        (Poisson(), 100.0, 0.0, "duration must be above zero"),
        (Poisson(), 1e9, 60.0, "more than the 50,000,000"),
        (Poisson(), 1e-6, 1.0, "no arrivals"),
        (Burst(1e9), 100.0, 60.0, "more than the 50,000,000"),
        (Burst(50.0), 100.0, 60.0, "peak must not be below"),
        (Burst(300.0, start_s=30.0, stop_s=20.0), 100.0, 60.0, "start before it stops"),
        (Burst(300.0, stop_s=70.0), 100.0, 60.0, "within the trace"),
        (Diurnal(300.0, period_s=0.0), 100.0, 60.0, "period must be above zero"),
    ],
)
def test_numbers_that_make_no_trace_are_refused(shape: Shape, rate_qps: float, duration_s: float, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        made(shape, rate_qps, duration_s)
    assert caught.value.hint


@pytest.mark.parametrize("gamma_shape", [0.0, 1e-9, math.nan, math.inf])
def test_a_gamma_shape_out_of_range_is_refused(gamma_shape: float) -> None:
    with pytest.raises(UsageError, match="Gamma shape"):
        Gamma(gamma_shape)


def test_families_without_any_share_are_refused() -> None:
    with pytest.raises(UsageError, match="above zero"):
        made(Poisson(), a=0.0, b=0.0)


def test_the_bundled_burst_is_made_by_its_documented_command() -> None:
    trace = made(Burst(1000.0, start_s=14.0, stop_s=26.0), 160.0, 40.0, digits=0.5, signals=0.5)
    assert to_csv(trace, per_second=True) == BUNDLED.read_text()
