import math
import tracemalloc

import numpy as np
import pytest
from builders import make_trace
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proteus_cli.domain.trace import Trace
from proteus_cli.replay.trace import summary


def arrivals(last_s: float) -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(0, last_s, allow_subnormal=False), min_size=1, max_size=40).map(sorted)


ARRIVALS, SOON = arrivals(5000.0), arrivals(200.0)


def only(*seconds: float) -> Trace:
    return make_trace(*((at_s, "a") for at_s in seconds))


def test_counts_are_by_family_from_the_start_up_to_but_not_including_the_stop() -> None:
    trace = make_trace((0.0, "a"), (1.0, "b"), (1.0, "a"), (2.0, "a"), families=("a", "b", "c"))
    assert trace.counts(0.0, 1.0) == {"a": 1, "b": 0, "c": 0}
    assert trace.counts(1.0, 2.0) == {"a": 1, "b": 1, "c": 0}
    assert trace.counts(0.0, 9.0) == {"a": 3, "b": 1, "c": 0}
    assert trace.demand(0.0, 2.0) == {"a": 1.0, "b": 0.5, "c": 0.0}


def test_the_peak_is_the_busiest_window_of_ten_seconds() -> None:
    """One query a second for 60 s, and 40 more within 30…35 s: 10 + 40 queries in 10 s."""
    trace = only(*sorted([*range(60), *(30.0 + i / 8 for i in range(40))]))
    assert trace.peak_demand()["a"] == pytest.approx(5.0)


def test_the_families_of_the_peak_are_those_of_the_same_window() -> None:
    """The busiest window is the one of `a`, in which `b` asks once; that `b` peaks elsewhere doesn't matter."""
    trace = make_trace(*((i / 10, "a") for i in range(30)), (5.0, "b"), *((50 + i / 10, "b") for i in range(20)))
    assert trace.peak_demand() == pytest.approx({"a": 3.0, "b": 0.1})


def test_a_late_single_arrival_counts() -> None:
    """Its window ends just past it: 1 query in 10 s."""
    assert only(1000.0).peak_demand() == {"a": 0.1}
    assert only(25.0, 3599.123456).peak_demand() == {"a": 0.1}


@pytest.mark.parametrize(
    ("seconds", "qps"),
    [
        ((0.0,), 1.0),  # no shorter than a second
        ((0.0, 0.1, 0.2), 3.0),
        ((0.0, 1.0, 2.0, 4.0), 4 / 4),  # the whole of its 4 s, with both ends
    ],
)
def test_a_trace_shorter_than_the_window_is_one_window(seconds: tuple[float, ...], qps: float) -> None:
    assert only(*seconds).peak_demand() == {"a": pytest.approx(qps)}


def test_a_trace_without_arrivals_has_no_demand() -> None:
    empty = make_trace(families=("a", "b"))
    assert empty.peak_demand() == {"a": 0.0, "b": 0.0}
    assert (len(empty), empty.duration_s) == (0, 0.0)


@given(ARRIVALS)
@settings(deadline=None)
def test_the_peak_is_above_zero_and_at_least_the_mean_and_at_most_all_at_once(seconds: list[float]) -> None:
    trace = only(*seconds)
    window_s = min(10.0, max(trace.duration_s, 1.0))
    queries = trace.peak_demand()["a"] * window_s
    assert queries == pytest.approx(round(queries))
    assert 1 <= round(queries) <= len(seconds)
    whole_windows = math.ceil(max(trace.duration_s, 1.0) / window_s) + 1
    assert round(queries) >= len(seconds) / whole_windows - 1e-9


@given(ARRIVALS, st.floats(0.5, 20.0))
@example([0.99999], 0.99999)  # 1.99999 − 0.99999 + 0.99999 falls short of 1.99999
@settings(deadline=None)
def test_the_last_window_holds_the_last_arrival(seconds: list[float], window_s: float) -> None:
    """Many at the very end are the peak wherever the grid of windows falls."""
    end_s = seconds[-1] + 1.0
    trace = only(*seconds, *[end_s] * 50)
    own_s = min(window_s, max(end_s, 1.0))
    assert trace.peak_demand(window_s)["a"] * own_s >= 50 - 1e-6


@given(SOON, st.floats(0.5, 20.0))
@settings(deadline=None)
def test_windows_that_are_left_out_are_not_the_busiest(seconds: list[float], window_s: float) -> None:
    """The peak is that of all windows, each counted arrival by arrival."""
    trace = only(*seconds)
    past_last_s = float(np.nextafter(trace.duration_s, np.inf))
    own_s = min(window_s, max(past_last_s, 1.0))
    latest_s = max(past_last_s - own_s, 0.0)
    starts = np.append(np.arange(0.0, latest_s, own_s / 10), latest_s)
    stops = starts + own_s
    stops[-1] = max(stops[-1], past_last_s)
    found = trace.peak_demand(window_s)["a"] * own_s
    counts = np.sum([(starts <= at_s) & (at_s < stops) for at_s in seconds], axis=0)
    assert found == pytest.approx(counts.max())


def test_a_year_with_few_arrivals_takes_little_memory() -> None:
    trace = only(0.0, 0.5, 366 * 86400.0)
    tracemalloc.start()
    try:
        assert trace.peak_demand() == {"a": 0.2}
        assert summary(trace).peak_to_mean > 1e7
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 * 2**20


@pytest.mark.parametrize("bad", [[-1.0, 0.0], [1.0, 0.5], [0.0, math.nan], [0.0, math.inf]])
def test_arrivals_must_be_finite_sorted_and_not_negative(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="arrivals must"):
        Trace("t", ("a",), np.array(bad), np.zeros(2, dtype=np.int64), np.full(2, math.nan))


def test_columns_must_be_equally_long() -> None:
    with pytest.raises(ValueError, match="equally long"):
        Trace("t", ("a",), np.zeros(2), np.zeros(1, dtype=np.int64))
    with pytest.raises(ValueError, match="equally long"):
        Trace("t", ("a",), np.zeros(2), np.zeros(2, dtype=np.int64), min_accuracy=np.zeros(3))


@pytest.mark.parametrize("minimum", [-0.1, 1.1, math.nan])
def test_minima_must_be_fractions(minimum: float) -> None:
    with pytest.raises(ValueError, match="min_accuracy is out of its limits"):
        Trace("t", ("a",), np.zeros(1), np.zeros(1, dtype=np.int64), min_accuracy=np.array([minimum]))
