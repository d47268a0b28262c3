"""What the benchmark makes of cascades that were served live: its table, its aims, its picture."""

from pathlib import Path

import pytest

from benchmarks.cascades import live
from benchmarks.cascades.live import Both, LiveFamily, LiveRun
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


def found(cascades: FamilySummary) -> LiveFamily:
    """The most accurate variant answers 100 qps, 98 % of them right; cascades did that at three times as many."""
    alone = Both(summary(3000, right=2850), summary(3000, right=2850))
    best = summary(1000, right=990, dropped=500)
    return LiveFamily("digits", best, 0.98, (LiveRun(3.0, 300.0, alone, Both(cascades, cascades)),))


def test_cascades_reach_the_aims_where_they_carry_three_times_as_much_and_lose_little() -> None:
    of = found(summary(3000, right=2934, deferred=450))
    assert [aim.is_reached for aim in live.aims(of)] == [True, True, True]
    assert [aim.measured for aim in live.aims(of)] == pytest.approx([3.0, 0.2, 0.0])


def test_each_aim_is_missed_by_what_misses_it() -> None:
    """Too few answers in time; answers that are right too rarely."""
    assert [aim.is_reached for aim in live.aims(found(summary(2900, right=2842, dropped=100)))] == [False, True, False]
    assert [aim.is_reached for aim in live.aims(found(summary(3000, right=2920)))] == [True, False, True]


def test_the_table_has_a_row_for_each_demand_and_says_how_sure_it_is() -> None:
    table = live.table(found(summary(3000, right=2934, deferred=450)))
    (row,) = table.rows
    assert row == (
        "3 ×", "300", "95.00", "97.80", "97.21 to 98.27", "97.00", "0.00", "0.00", "15.0", "0.0",
    )  # fmt: skip
    assert len(row) == len(table.columns)
    assert "answers 100 qps in time; it is right on 98.00 % of the eval split" in table.note


def test_the_picture_has_a_plot_for_each_family(tmp_path: Path) -> None:
    of = found(summary(300, right=290))
    for families in ([of, of], [of, of, of]):
        path = tmp_path / f"{len(families)}.svg"
        write_picture(path, families)
        assert path.read_text().count('id="axes_') == len(families)
