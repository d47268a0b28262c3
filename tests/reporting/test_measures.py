import math

import msgspec
import pytest
from builders import near
from hypothesis import given
from hypothesis import strategies as st
from synthetic_runs import answer, burst, cascading, reported

from proteus_cli.domain.attainment import Attainment
from proteus_cli.domain.report import QUANTILES, DeviceSummary, LatencySummary, Report, Summary, Window
from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.reporting.measures import RequestColumns, summary, windows

ONE_OF_EACH = [
    answer(0.0, accuracy=0.98, latency_s=0.010),
    answer(1.0, family="signals", accuracy=0.76, latency_s=0.020),
    answer(2.0, outcome=Outcome.LATE, accuracy=0.49, latency_s=0.120),
    RequestRecord("digits", 3.0, Outcome.DROPPED),
    RequestRecord("signals", 4.0, Outcome.REJECTED),
    RequestRecord("digits", 5.0, Outcome.FAILED),
]


def test_counts_everything_but_served_as_a_violation() -> None:
    """2 served, and one each of late, dropped, rejected and failed: 4 violations of 6 requests."""
    run = reported(ONE_OF_EACH)
    assert (run.served, run.late, run.dropped, run.rejected, run.failed) == (2, 1, 1, 1, 1)
    assert run.requests == 6
    assert run.slo_violation_ratio == pytest.approx(4 / 6)


def test_accuracy_is_the_mean_over_answered_queries_late_ones_included() -> None:
    """(0.98 + 0.76 + 0.49) / 3 = 0.743…; relative (0.98/0.98 + 0.76/0.95 + 0.49/0.98) / 3 = (1 + 0.8 + 0.5) / 3."""
    run = reported(ONE_OF_EACH)
    assert run.effective_accuracy == pytest.approx(2.23 / 3)
    assert run.relative_accuracy == pytest.approx(2.3 / 3)


def test_families_add_up_to_the_whole() -> None:
    """digits: 1 of 4 served; signals: 1 of 2; a family's best accuracy is its own."""
    run = reported(ONE_OF_EACH)
    digits, signals = run.families["digits"], run.families["signals"]
    assert (digits.requests, digits.slo_violation_ratio) == (4, 0.75)
    assert (signals.requests, signals.slo_violation_ratio) == (2, 0.5)
    assert digits.relative_accuracy == pytest.approx((1 + 0.5) / 2)
    assert signals.relative_accuracy == pytest.approx(0.76 / 0.95)


def test_a_family_has_its_attainment_beside_its_target() -> None:
    """digits: 3 violations of 4, where 10 % are allowed: 3 / 0.4; signals: 1 of 2, where half are allowed."""
    run = reported(ONE_OF_EACH, attainment={"digits": 0.9, "signals": 0.5})
    assert run.families["digits"].attainment == Attainment(0.9, 0.25, False, near(7.5))
    assert run.families["signals"].attainment == Attainment(0.5, 0.5, True, near(1.0))


def test_the_accuracy_drop_is_that_of_the_worst_ten_seconds() -> None:
    """0-10 s at 0.98 of 0.98, 10-20 s at (0.98 + 0.49) / 2 of it = 75 %, 20-30 s silent: 100 - 75 = 25 points."""
    run = reported([answer(1.0), answer(11.0), answer(19.9, accuracy=0.49)], duration_s=30.0)
    assert run.max_accuracy_drop == pytest.approx(25.0)
    assert [w.relative_accuracy for w in run.windows] == [pytest.approx(1.0), pytest.approx(0.75), None]


def test_each_batch_counts_once_in_the_mean_batch() -> None:
    """One batch of 4 and one of 1: 5 rows in 2 batches are 2.5, though the mean over requests is 17/5 = 3.4."""
    run = reported([*(answer(0.0, batch=4) for _ in range(4)), answer(1.0, batch=1), answer(2.0, batch=None)])
    assert run.mean_batch == pytest.approx(2.5)


def test_latency_percentiles_are_over_answered_queries() -> None:
    """1…101 ms evenly: the p-th percentile is p + 1 ms; a drop doesn't count."""
    run = reported(
        [*(answer(0.0, latency_s=k / 1000) for k in range(1, 102)), RequestRecord("digits", 0.0, Outcome.DROPPED)]
    )
    assert run.latency_s is not None
    assert msgspec.structs.astuple(run.latency_s) == pytest.approx((0.051, 0.091, 0.096, 0.100, 0.101))


def test_latency_quantiles_are_every_half_percent_of_the_answers() -> None:
    """201 answers in 1…201 ms: the k-th of 201 quantiles is k + 1 ms; a drop doesn't count."""
    ended = [
        *(answer(0.0, latency_s=k / 1000) for k in range(201, 0, -1)),
        RequestRecord("digits", 0.0, Outcome.DROPPED),
    ]
    assert reported(ended).latency_quantiles_s == pytest.approx([k / 1000 for k in range(1, 202)])


@pytest.mark.parametrize("quantiles", [(0.1,) * (QUANTILES - 1), tuple(range(QUANTILES, 0, -1))])
def test_a_report_with_other_quantiles_is_refused(quantiles: tuple[float, ...]) -> None:
    document = msgspec.to_builtins(burst("proteus")) | {"latency_quantiles_s": quantiles}
    with pytest.raises(msgspec.ValidationError, match="latency_quantiles_s"):
        msgspec.convert(document, Report)


def test_a_report_has_the_answers_of_each_device_and_zero_for_idle_ones() -> None:
    """gpu0: a batch of 2 and one of 1, three answers in two batches, at (1 + 1 + 0.5) / 3 of the best."""
    run = reported(
        [
            answer(0.0, variant="l", device="gpu0", batch=2),
            answer(0.1, variant="l", device="gpu0", batch=2, outcome=Outcome.LATE),
            answer(0.2, variant="s", device="gpu0", batch=1, accuracy=0.49),
            answer(0.3, variant="s", device="gpu1", family="signals", accuracy=0.95),
            RequestRecord("digits", 0.4, Outcome.DROPPED, device="gpu1"),
        ],
        devices=("cpu0", "gpu0"),
    )
    assert list(run.devices) == ["cpu0", "gpu0", "gpu1"]
    assert run.devices["cpu0"] == DeviceSummary(0, None, None, None, {})
    gpu0, gpu1 = run.devices["gpu0"], run.devices["gpu1"]
    assert (gpu0.answers, gpu0.batches, gpu0.mean_batch) == (3, 2, 1.5)
    assert gpu0.relative_accuracy == pytest.approx(2.5 / 3)
    assert gpu0.answers_by_variant == {"digits": {"l": 2, "s": 1}}
    assert (gpu1.answers, gpu1.batches, gpu1.answers_by_variant) == (1, None, {"signals": {"s": 1}})


def test_windows_count_requests_where_they_arrive() -> None:
    """Arrivals at 0, 9.99 and 10 s: two in the first window, one in the second, whenever they were answered."""
    run = reported(
        [answer(0.0, latency_s=15.0), RequestRecord("digits", 9.99, Outcome.DROPPED), answer(10.0)], duration_s=20.0
    )
    first, second = run.windows
    assert (first.start_s, first.length_s, second.start_s, second.length_s) == (0, 10, 10, 10)
    assert (first.demand_qps, first.throughput_qps, first.violations) == (0.2, 0.1, 1)
    assert (second.demand_qps, second.throughput_qps, second.violations) == (0.1, 0.1, 0)


@pytest.mark.parametrize(
    ("duration_s", "lengths_s"),
    [(10.0, [10]), (26.0, [10, 10, 6]), (23.0, [10, 13]), (4.0, [4]), (60.003, [10, 10, 10, 10, 10, 10.003])],
)
def test_the_last_window_has_its_true_length(duration_s: float, lengths_s: list[float]) -> None:
    """Half a window stands alone; a shorter rest joins the window before it."""
    run = reported([answer(0.0)], duration_s=duration_s)
    assert [w.length_s for w in run.windows] == pytest.approx(lengths_s)


def test_windows_reach_the_last_arrival_even_beyond_the_given_duration() -> None:
    run = reported([answer(35.0)], duration_s=20.0)
    assert [w.start_s for w in run.windows] == [0, 10, 20, 30]


def test_a_run_without_requests_has_no_violations_and_no_accuracy() -> None:
    run = reported([], duration_s=30.0)
    assert (run.requests, run.slo_violation_ratio, run.throughput_qps) == (0, 0.0, 0.0)
    assert (run.effective_accuracy, run.max_accuracy_drop, run.latency_s, run.mean_batch) == (None,) * 4
    assert list(run.families) == ["digits", "signals"]
    assert len(run.windows) == 3


def test_a_run_of_no_duration_has_no_rates() -> None:
    run = reported([answer(0.0)], duration_s=0.0)
    assert (run.requests, run.throughput_qps) == (1, 0.0)
    assert len(run.windows) == 1
    assert reported([], duration_s=0.0).windows == ()


def test_answers_of_unknown_accuracy_are_left_out_of_it() -> None:
    run = reported([answer(0.0, accuracy=None), answer(1.0, accuracy=0.49)])
    assert (run.served, run.effective_accuracy, run.relative_accuracy) == (2, 0.49, 0.5)


def test_a_family_without_a_best_accuracy_has_no_relative_accuracy() -> None:
    run = reported([answer(0.0, family="new", accuracy=0.7)])
    assert run.families["new"].effective_accuracy == pytest.approx(0.7)
    assert run.relative_accuracy is None


def test_a_report_is_the_same_after_a_round_trip_through_json() -> None:
    run = burst("proteus")
    assert msgspec.json.decode(msgspec.json.encode(run), type=Report) == run


outcomes = st.sampled_from(Outcome)
arrivals = st.floats(0, 100)
accuracies = st.floats(0.05, 0.9)


@st.composite
def records(draw: st.DrawFn) -> RequestRecord:
    outcome = draw(outcomes)
    family = draw(st.sampled_from(["digits", "signals"]))
    if outcome not in (Outcome.SERVED, Outcome.LATE):
        return RequestRecord(family, draw(arrivals), outcome)
    return answer(
        draw(arrivals),
        family=family,
        outcome=outcome,
        latency_s=draw(st.floats(0, 1)),
        accuracy=draw(accuracies),
        variant=draw(st.sampled_from(["s", "l", None])),
        device=draw(st.sampled_from(["cpu0", "cpu1", None])),
        batch=draw(st.integers(1, 64)),
    )


@given(st.lists(records(), max_size=60), st.floats(0.5, 120))
def test_every_request_is_counted_exactly_once(ended: list[RequestRecord], duration_s: float) -> None:
    run = reported(ended, duration_s=duration_s)
    assert run.served + run.late + run.dropped + run.rejected + run.failed == run.requests == len(ended)
    assert sum(family.requests for family in run.families.values()) == len(ended)
    for stretches in (run.windows, run.seconds):
        assert sum(w.demand_qps * w.length_s for w in stretches) == pytest.approx(len(ended))
        assert sum(w.violations for w in stretches) == len(ended) - run.served


@given(st.lists(records(), max_size=60), st.floats(0.5, 120))
def test_measures_stay_within_their_bounds(ended: list[RequestRecord], duration_s: float) -> None:
    run = reported(ended, duration_s=duration_s)
    known = [e.accuracy for e in ended if e.accuracy is not None]
    assert 0 <= run.slo_violation_ratio <= 1
    assert run.goodput_qps <= run.throughput_qps
    assert (run.effective_accuracy is None) == (not known)
    if run.effective_accuracy is not None and run.max_accuracy_drop is not None and run.mean_batch is not None:
        assert min(known) - 1e-12 <= run.effective_accuracy <= max(known) + 1e-12
        assert 0 <= run.max_accuracy_drop <= 100
        assert 1 - 1e-12 <= run.mean_batch <= 64 + 1e-12


@given(st.lists(records(), max_size=60))
def test_devices_add_up_to_the_answers_that_name_one(ended: list[RequestRecord]) -> None:
    run = reported(ended)
    named = [e for e in ended if e.device is not None]
    assert sum(device.answers for device in run.devices.values()) == len(named)
    counted = sum(
        n for d in run.devices.values() for variants in d.answers_by_variant.values() for n in variants.values()
    )
    assert counted == sum(e.variant is not None for e in named)


@given(st.lists(records(), min_size=1, max_size=40))
def test_values_are_python_numbers_not_numpy_ones(ended: list[RequestRecord]) -> None:
    columns = RequestColumns.of(ended, {"digits": 0.98})
    for value in (*_numbers(summary(columns, 100.0)), *(n for w in windows(columns, 100.0, 10.0) for n in _numbers(w))):
        assert type(value) in (int, float)
        assert math.isfinite(value)


def _numbers(value: msgspec.Struct) -> list[float]:
    found = [n for n in msgspec.structs.astuple(value) if n is not None and not isinstance(n, LatencySummary | dict)]
    if isinstance(value, Window):
        found += [count for by_variant in value.answers_by_variant.values() for count in by_variant.values()]
    latency = value.latency_s if isinstance(value, Summary) else None
    return found if latency is None else [*found, *msgspec.structs.astuple(latency)]


def test_a_window_counts_answers_by_family_and_variant_and_late_ones_too() -> None:
    run = reported([
        answer(0.1, variant="l"), answer(0.2, variant="l", outcome=Outcome.LATE), answer(0.3, variant="s"),
        answer(0.4, family="signals", variant="l"), RequestRecord("digits", 0.5, Outcome.DROPPED),
        answer(1.5, variant="s"), answer(1.6),
    ], duration_s=2.0)  # fmt: skip
    assert [second.answers_by_variant for second in run.seconds] == [
        {"digits": {"l": 2, "s": 1}, "signals": {"l": 1}},
        {"digits": {"s": 1}},
    ]


def test_a_family_lists_the_variants_that_answered_the_most_accurate_first() -> None:
    """The accuracy of a variant may differ between devices: its mean over the answers."""
    run = reported([
        answer(0.1, variant="s", accuracy=0.5), answer(0.2, variant="l", accuracy=0.9),
        answer(0.3, variant="s", accuracy=0.6), answer(0.4, variant="x", accuracy=None),
    ])  # fmt: skip
    assert list(run.families["digits"].variants) == ["l", "s", "x"]
    assert run.families["digits"].variants == {"l": 0.9, "s": near(0.55), "x": None}
    assert run.families["signals"].variants == {}


def test_answers_that_labels_judge_tell_the_measured_accuracy_whatever_profiles_promise() -> None:
    """Three of four are right; what was dropped answered nothing."""
    right = [answer(0.1 * n, accuracy=0.9, is_correct=n > 0) for n in range(4)]
    run = reported([*right, answer(0.5, accuracy=0.9), RequestRecord("digits", 0.6, Outcome.DROPPED)])
    of = run.families["digits"]
    assert (of.judged, of.measured_accuracy, of.effective_accuracy) == (4, 0.75, near(0.9))
    assert (run.families["signals"].judged, run.families["signals"].measured_accuracy) == (0, None)


def test_variants_of_a_family_with_cascades_are_ordered_by_their_profiled_accuracy() -> None:
    run = cascading()
    assert list(run.families["digits"].variants.items()) == [("l", near(0.9398)), ("s", near(0.9998))]
    assert list(run.families["digits"].profiled_accuracy.items()) == [("l", 0.98), ("s", 0.95)]
    plain = reported([answer(0.1, variant="l")], profiled={"digits": {"l": 0.9}})
    assert plain.families["digits"].profiled_accuracy == {}
