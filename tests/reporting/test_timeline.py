import pytest
from synthetic_runs import answer, burst, reported

from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.reporting.timeline import merge_windows, violation_frac, window_width_s


def test_merging_seconds_gives_the_ten_second_windows() -> None:
    run = burst("most-accurate")
    assert [(w.start_s, w.violations) for w in merge_windows(run.seconds, 10.0)] == [
        (w.start_s, w.violations) for w in run.windows
    ]
    for joined, window in zip(merge_windows(run.seconds, 10.0), run.windows, strict=True):
        assert joined.demand_qps == pytest.approx(window.demand_qps)
        assert joined.throughput_qps == pytest.approx(window.throughput_qps)
        assert joined.relative_accuracy == pytest.approx(window.relative_accuracy)
        assert joined.answers_by_variant == window.answers_by_variant != {}


def test_accuracy_weighs_by_answers_not_by_seconds() -> None:
    """Three answers at 1.0 in one second, one at 0.5 in the next: 3.5 / 4."""
    run = reported([answer(0.1), answer(0.2), answer(0.3), answer(1.5, accuracy=0.49)], duration_s=2.0)
    (joined,) = merge_windows(run.seconds, 2.0)
    assert joined.relative_accuracy == pytest.approx(3.5 / 4)


def test_a_short_rest_joins_the_span_before() -> None:
    run = reported([answer(0.0)], duration_s=24.0)
    assert [(w.start_s, w.length_s) for w in merge_windows(run.seconds, 10.0)] == [(0, 10), (10, 14)]


@pytest.mark.parametrize(
    ("duration_s", "width"), [(8.0, 1), (12.0, 1), (13.0, 2), (60.0, 5), (120.0, 10), (3600.0, 300), (2e5, 21600)]
)
def test_the_width_is_round_and_leaves_at_most_twelve(duration_s: float, width: float) -> None:
    run = reported([answer(0.0)], duration_s=duration_s)
    assert window_width_s([run], 12) == width
    assert len(merge_windows(run.seconds, width)) <= 12


def test_merging_no_windows_gives_none() -> None:
    assert merge_windows((), 5.0) == ()
    assert window_width_s([], 12) == 1


def test_the_share_of_violations_is_unknown_without_requests() -> None:
    first, second = reported([RequestRecord("digits", 0.0, Outcome.LATE), answer(0.5)], duration_s=2.0).seconds
    assert violation_frac(first) == pytest.approx(0.5)
    assert violation_frac(second) is None
