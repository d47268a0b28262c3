"""What the benchmark makes of cascades that were served live: its table, its aims, its picture."""

from pathlib import Path

import pytest
from builders import make_measured, make_profile

from benchmarks.cascades import live
from benchmarks.cascades.live import Both, LiveFamily, LiveRun, Round
from benchmarks.cascades.picture import write_picture
from proteus_cli.domain.report import FamilySummary
from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.reporting.measures import RequestColumns, family_summary

LASTS_S = 10.0


def summary(answers: int, *, right: int, dropped: int = 0, deferred: int = 0) -> FamilySummary:
    """Of a run of 10 s in which so many were answered, of which so many were right."""
    ended = [
        RequestRecord(
            "digits", LASTS_S * n / answers, Outcome.SERVED, 0.01, 0.97, is_correct=n < right, is_deferred=n < deferred
        )
        for n in range(answers)
    ]
    ended += [RequestRecord("digits", 0.0, Outcome.DROPPED)] * dropped
    return family_summary(RequestColumns.of(ended, {}, families=("digits",)), LASTS_S, 0.995)


def found(*cascades: FamilySummary) -> LiveFamily:
    """The most accurate variant answers 100 qps, 98 % of them right; cascades did that at three times as many."""
    alone = Both(summary(3000, right=2850), summary(3000, right=2850))
    best = summary(1000, right=990, dropped=500)
    rounds = (Round(best, 1.0 + number / 10, alone, Both(each, each)) for number, each in enumerate(cascades))
    return LiveFamily("digits", 0.98, (LiveRun(3.0, tuple(rounds)),))


def test_cascades_reach_the_aims_where_they_carry_three_times_as_much_and_lose_little() -> None:
    of = found(summary(3000, right=2934, deferred=450))
    assert [aim.is_reached for aim in live.aims(of)] == [True, True, True]
    assert [aim.measured for aim in live.aims(of)] == pytest.approx([3.0, 0.2, 0.0])


def test_each_aim_is_missed_by_what_misses_it() -> None:
    """Too few answers in time; answers that are right too rarely."""
    assert [aim.is_reached for aim in live.aims(found(summary(2900, right=2842, dropped=100)))] == [False, True, False]
    assert [aim.is_reached for aim in live.aims(found(summary(3000, right=2920)))] == [True, False, True]


def test_of_several_rounds_medians_count_and_all_answers_are_judged() -> None:
    good, bad = summary(3000, right=2940), summary(2400, right=2340, dropped=600)
    of = found(good, bad, good)
    assert [aim.measured for aim in live.aims(of)] == pytest.approx([3.0, 98 - 100 * 8220 / 8400, 0.0])
    assert live.table(of).rows[0][2] == "1.00 to 1.20"


def test_a_slowed_profile_takes_longer_and_carries_less() -> None:
    profile = make_profile("cpu0", make_measured("a", "s", 0.8, {1: 0.01, 4: 0.02}))
    slower = live.slowed(profile, 1.5)
    assert [point.p95_s for point in slower.variants[0].points] == pytest.approx([0.015, 0.03])
    assert [point.qps for point in slower.variants[0].points] == pytest.approx(
        [point.qps / 1.5 for point in profile.variants[0].points]
    )


def test_the_table_has_a_row_for_each_demand_and_says_how_sure_it_is() -> None:
    table = live.table(found(summary(3000, right=2934, deferred=450)))
    (row,) = table.rows
    assert row == (
        "3 ×", "300", "1.00", "95.00", "97.80", "± 0.53", "97.00", "0.00", "0.00", "15.0", "0.0",
    )  # fmt: skip
    assert len(row) == len(table.columns)
    assert "The most accurate variant is right on 98.00 % of the eval split" in table.note


def test_the_picture_has_a_plot_for_each_family(tmp_path: Path) -> None:
    of = found(summary(300, right=290))
    for families in ([of, of], [of, of, of]):
        path = tmp_path / f"{len(families)}.svg"
        write_picture(path, families)
        assert path.read_text().count('id="axes_') == len(families)
