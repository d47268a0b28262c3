import io
from collections.abc import Sequence

import pytest
from msgspec.structs import replace
from rich.console import Console, RenderableType
from synthetic_runs import answer, burst, reported

from proteus_cli.domain.report import Loss, Report
from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.reporting.comparison import family_tables
from proteus_cli.reporting.terminal_tables import (
    attainment_table,
    comparison_table,
    family_table,
    losses_table,
    timeline_table,
)

PAIR = (burst("proteus"), burst("most-accurate"))
MANY = tuple(
    burst(policy)
    for policy in (
        "proteus", "proteus-paper", "clipper-ha", "clipper-ht", "sommelier", "infaas-accuracy", "no-model-selection",
        "no-model-placement", "no-query-assignment", "no-adaptive-batching", "oracle", "most-accurate",
        "least-accurate",
    )
)  # fmt: skip

NOISY = tuple(replace(each, noisy_cells=54) for each in MANY)


def printed(table: RenderableType, width: int = 80) -> list[str]:
    """The lines as they arrive in a pipe."""
    file = io.StringIO()
    Console(file=file, width=width, no_color=True).print(table)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def of_families(reports: Sequence[Report]) -> list[str]:
    """The one table of figures that only some families have."""
    (found,) = family_tables(reports)
    return printed(family_table(found, has_runs=len(reports) > 1))


def row(lines: Sequence[str], label: str) -> str:
    (found,) = [line for line in lines if line.strip().startswith(label)]
    return " ".join(found.split())


def test_measures_have_rows_and_policies_have_columns() -> None:
    lines = printed(comparison_table(PAIR))
    assert lines[0] == "burst.csv · simulated · 60 s"
    assert lines[1].split() == ["proteus", "most-accurate"]
    assert row(lines, "requests") == "requests 2,000 2,000"
    assert row(lines, "replans") == "replans 1 0"
    assert row(lines, "swaps") == "swaps 3 0"
    assert row(lines, "per replan") == "per replan 3.0, most 3 –"


def test_the_best_of_a_row_is_starred_without_colour() -> None:
    """Dropping every second of 1200 queries in the burst is 600 of 2000; 0.9 of the best during it is 94 % in all."""
    lines = printed(comparison_table(PAIR))
    assert row(lines, "SLO violations") == "SLO violations * 0.00 % 30.00 %"
    assert row(lines, "relative accuracy") == "relative accuracy 94.00 % * 100.00 %"
    assert row(lines, "latency p50") == "latency p50 30.0 ms * 20.0 ms"
    assert lines[-1] == "* best of the row"


def test_nothing_is_starred_where_all_read_the_same_or_nobody_competes() -> None:
    for reports in (PAIR[:1], [PAIR[0], PAIR[0]], [PAIR[0]] * len(MANY)):
        assert not any("*" in line for line in printed(comparison_table(reports)))


def test_the_marks_are_explained_only_where_a_cell_has_them() -> None:
    """All of `proteus` are in time; `most-accurate` drops many."""
    kept, missed = (printed(attainment_table(reports)) for reports in ([PAIR[0], PAIR[0]], PAIR))
    assert kept[-1] == "in time: share of requests · budget: error budget used"
    assert missed[-1].endswith("· ! target missed")
    assert not any("!" in line for line in printed(attainment_table([PAIR[0]] * len(MANY))))
    assert printed(attainment_table(MANY))[-1].endswith("· ! target missed")
    assert any("* best of the column" in line for line in printed(comparison_table(MANY)))


@pytest.mark.parametrize("reports", [PAIR[:1], PAIR, MANY[:3], MANY[:4], MANY, NOISY])
def test_tables_fit_eighty_columns_with_every_number_whole(reports: tuple[Report, ...]) -> None:
    for table in (comparison_table(reports), attainment_table(reports), timeline_table(reports)):
        lines = printed(table)
        assert max(map(len, lines)) <= 80
        assert lines == printed(table, width=200)
        assert not any("…" in line for line in lines)


def test_each_family_has_its_target_and_each_run_its_attainment() -> None:
    """`most-accurate` drops 300 of 1000 signals: 70 % in time, and 300 of the 5 violations that 99.5 % allows."""
    lines = printed(attainment_table(PAIR))
    assert row(lines, "signals") == "signals 99.5 100.00 0 70.00 6,000!"
    assert lines[-1] == "in time: share of requests · budget: error budget used · ! target missed"


def test_targets_are_written_with_all_of_their_digits() -> None:
    """2 of 1000 requests failed: twice what 99.9 % allows, a third of what 99.4 % does."""
    ended = [answer(0.0, outcome=Outcome.FAILED if n < 2 else Outcome.SERVED) for n in range(1000)]
    strict, loose = (reported(ended, attainment={"digits": target}) for target in (0.999, 0.994))
    assert row(printed(attainment_table([strict])), "digits") == "digits 99.9 99.80 200!"
    assert row(printed(attainment_table([loose])), "digits") == "digits 99.4 99.80 33"


def test_families_without_requests_have_no_attainment() -> None:
    """Only `signals` was asked for, and only in one of the runs."""
    lines = printed(attainment_table([reported([answer(0.0, family="signals")]), reported([])]))
    assert row(lines, "signals") == "signals 99.5 100.00 0 –"
    assert not any("digits" in line for line in lines)


def test_of_many_families_those_are_shown_that_used_most() -> None:
    """Of 20 families the n-th fails n of 100 requests: the last 12 are shown, the worst first."""
    ended = [
        answer(0.0, family=f"f{n}", outcome=Outcome.FAILED if k < n else Outcome.SERVED)
        for n in range(20)
        for k in range(100)
    ]
    lines = printed(attainment_table([reported(ended)]))
    assert [line.split()[0] for line in lines[4:16]] == [f"f{n}" for n in range(19, 7, -1)]
    assert "and 8 families that used less" in lines


def test_of_many_runs_each_has_a_row_about_its_worst_family() -> None:
    lines = printed(attainment_table([*MANY, reported([], policy="idle")]))
    assert row(lines, "proteus ") == "proteus 2 of 2 digits 99.5 100.00 0"
    assert row(lines, "most-accurate") == "most-accurate 0 of 2 digits 99.5 70.00 6,000!"
    assert row(lines, "idle") == "idle 0 of 0"


def test_many_policies_have_a_row_each_and_the_best_of_a_column_is_starred() -> None:
    """As above; 2000 answers of `proteus` in 60 s, 1400 of any other."""
    lines = printed(comparison_table(MANY))
    assert lines[0] == "burst.csv · simulated · 60 s · 2,000 requests"
    answered, well = [" ".join(line.split()) for line in lines if line.startswith("clipper-ha ")]
    assert answered == "clipper-ha 30.00 0 600 0 0 23 23"
    assert well == "clipper-ha *96.50 *100.00 *0.00 4.0 *20.0 30.0 0 0"
    assert [" ".join(line.split()) for line in lines if line.startswith("proteus ")] == [
        "proteus *0.00 0 0 0 0 *33 *33",
        "proteus 90.71 94.00 10.00 4.0 30.0 30.0 1 3",
    ]


def test_many_policies_with_different_numbers_of_requests_show_them() -> None:
    other = reported([answer(1.0)], policy="other", duration_s=60.0)
    lines = printed(comparison_table([*MANY[:4], other]))
    assert "requests" not in lines[0]
    assert [line.split()[:2] for line in lines if line.startswith(("proteus ", "other "))][:2] == [
        ["proteus", "2,000"],
        ["other", "1"],
    ]


def test_timelines_of_many_policies_have_a_row_each() -> None:
    lines = [" ".join(line.split()) for line in printed(timeline_table(MANY))]
    assert "from (s) 0 10 20 30 40 50" in lines
    assert "demand (qps) 20 20 60 60 20 20" in lines
    assert "proteus 100.0 100.0 90.0 90.0 100.0 100.0" in lines
    assert "oracle 0.0 0.0 50.0 50.0 0.0 0.0" in lines


def test_a_long_title_stands_on_one_line_above_a_narrow_table() -> None:
    alone = burst("p", trace="a-trace-with-quite-a-long-name-of-its-own.csv.gz")
    assert printed(comparison_table([alone]))[0] == f"{alone.trace} · simulated · 60 s"
    assert printed(timeline_table([alone]))[-1].startswith("acc.: relative accuracy · viol.: share of requests that")


def test_the_timeline_shows_that_accuracy_falls_and_returns() -> None:
    lines = printed(timeline_table(PAIR))
    assert len([line for line in lines if "–" in line and line.split()[1] == "s"]) == 12
    assert row(lines, "15–20 s") == "15–20 s 20 ████▋ 100.0 0.0 100.0 0.0"
    assert row(lines, "20–25 s") == "20–25 s 60 ██████████████ 90.0 0.0 100.0 50.0"
    assert row(lines, "40–45 s") == "40–45 s 20 ████▋ 100.0 0.0 100.0 0.0"


def test_a_shorter_run_leaves_the_rest_of_its_column_unknown() -> None:
    short = reported([answer(0.5)], policy="other", duration_s=5.0)
    lines = printed(timeline_table([PAIR[0], short]))
    assert row(lines, "55–60 s").endswith("100.0 0.0 –")


def test_an_empty_run_prints() -> None:
    empty = reported([], duration_s=0.0)
    assert row(printed(comparison_table([empty])), "effective accuracy") == "effective accuracy –"
    assert printed(timeline_table([empty]))


def test_losses_are_told_with_how_long_they_lasted_and_only_so_many() -> None:
    lost = [Loss("host a", 8, 20.0, 25.25), *(Loss(f"v100-{number}", 1, 30.0) for number in range(20))]
    one = printed(losses_table([replace(PAIR[0], losses=tuple(lost))]))
    assert [line.split() for line in one[4:6]] == [["host", "a", "8", "20.0", "5.2"], ["v100-0", "1", "30.0", "–"]]
    assert "and 9 losses more" in one
    both = printed(losses_table([replace(report, losses=(lost[0],)) for report in PAIR]))
    assert [line.split()[0] for line in both if "host a" in line] == ["proteus", "most-accurate"]


def test_names_are_never_markup() -> None:
    odd = burst("[red]x[/red]", trace="[bold]")
    text = "\n".join(printed(comparison_table([odd])) + printed(timeline_table([odd])))
    assert "[red]x[/red]" in text
    assert "[bold]" in text


def test_reports_of_one_policy_are_named_with_their_place() -> None:
    heading = printed(comparison_table([PAIR[0], PAIR[0]]))[1].split()
    assert heading == ["proteus", "(simulated)", "#1", "proteus", "(simulated)", "#2"]


def test_estimated_accuracies_are_marked_and_explained() -> None:
    estimated = replace(PAIR[0], estimated=("digits",))
    lines = printed(comparison_table([estimated, PAIR[1]]))
    effective = next(line for line in lines if line.startswith("effective accuracy"))
    assert effective.count("≈") == 1
    assert lines[-1] == "≈ accuracies of digits are estimated, without labels"
    assert not any("≈" in line for line in printed(comparison_table(PAIR)))


def test_the_accuracy_that_labels_measured_is_told_by_run_and_family_with_its_interval() -> None:
    judged = reported([answer(0.1 * n, accuracy=0.875, is_correct=n > 0) for n in range(4)])
    plain = reported([answer(0.0)], policy="other")
    assert row(of_families([judged]), "digits") == "digits 87.50 75.00 30.06 to 95.44 4"
    both = of_families([judged, plain])
    assert row(both, "proteus") == "proteus digits 87.50 75.00 30.06 to 95.44 4"
    assert not any("other" in line for line in both)


def test_what_was_cut_short_is_told_by_run_and_family_where_there_is_any() -> None:
    """One of four answers; that of a query that was dropped is none."""
    ended = [
        answer(0.0, is_cut=True),
        *(answer(1.0 + n) for n in range(3)),
        RequestRecord("digits", 4.0, Outcome.DROPPED),
    ]
    cutting, plain = reported(ended), reported([answer(0.0)], policy="other")
    assert (cutting.families["digits"].cut, plain.families["digits"].cut) == (1, 0)
    assert row(of_families([cutting]), "digits") == "digits 25.00"
    both = of_families([cutting, plain])
    assert row(both, "proteus") == "proteus digits 25.00"
    assert not any("other" in line for line in both)


def test_what_cascades_deferred_is_told_by_run_and_family_where_there_are_any() -> None:
    """Of four answers three were deferred, and one of those is a fallback; nothing is told of `signals`."""
    ended = [
        answer(0.0), answer(1.0, is_deferred=True), answer(2.0, is_deferred=True),
        answer(3.0, is_deferred=True, is_fallback=True), RequestRecord("digits", 4.0, Outcome.DROPPED),
    ]  # fmt: skip
    cascading, plain = reported(ended), reported([answer(0.0), answer(1.0, family="signals")], policy="other")
    assert (cascading.families["digits"].deferred, cascading.families["digits"].fallbacks) == (3, 1)
    alone = of_families([cascading])
    assert alone[:2] == ["cascades", "family  deferred (%)  fallbacks (%)"]
    assert row(alone, "digits") == "digits 75.00 33.33"
    both = of_families([cascading, plain])
    assert row(both, "proteus") == "proteus digits 75.00 33.33"
    assert not any("other" in line for line in both)
