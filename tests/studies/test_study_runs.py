"""A study measures each cell once, keeps what it has, and divides its budget."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from studies.fake_study import Square, Squares

from proteus_cli.errors import ArtefactError, ProteusError, UsageError
from proteus_cli.store import Workspace
from proteus_cli.studies import frame
from proteus_cli.studies.artefacts import StudyFiles, named_studies, to_csv
from proteus_cli.studies.budget import Budget, fair_parts
from proteus_cli.studies.frame import OF_A_CELL, StudyDraft
from proteus_cli.studies.study import Study


def studied(root: Path, draft: StudyDraft, budget: Budget | None = None, *, force: bool = False) -> Study:
    files = StudyFiles(Workspace(root), draft.name)
    return frame.run_study(draft, files, budget or Budget(), lambda _now, _done: None, force=force)


def test_cells_are_measured_in_order_and_concluded(tmp_path: Path) -> None:
    squares = Squares()
    study = studied(tmp_path, squares.draft(3, 1, 2))
    assert squares.asked == [3, 1, 2]
    assert [cell.read(Square).square for cell in study.cells] == [9, 1, 4]
    assert study.conclusion == {"total": 14}
    assert study.missing == ()
    assert StudyFiles(Workspace(tmp_path), "squares").read() == study


def test_a_second_run_measures_only_what_is_new(tmp_path: Path) -> None:
    squares = Squares()
    studied(tmp_path, squares.draft(1, 2))
    study = studied(tmp_path, squares.draft(2, 5, 1))
    assert squares.asked == [1, 2, 5]
    assert [cell.key for cell in study.cells] == ["of 2", "of 5", "of 1"]
    assert study.conclusion == {"total": 30}


@pytest.mark.parametrize("is_forced", [True, False])
def test_other_options_or_force_begin_anew(tmp_path: Path, *, is_forced: bool) -> None:
    squares = Squares()
    studied(tmp_path, squares.draft(1, 2))
    study = studied(tmp_path, squares.draft(2, power=2 if is_forced else 3), force=is_forced)
    assert squares.asked == [1, 2, 2]
    assert study.conclusion == {"total": 4 if is_forced else 8}


def test_an_interrupt_keeps_the_finished_cells_and_the_next_run_goes_on(tmp_path: Path) -> None:
    squares = Squares(interrupted_at=2)
    with pytest.raises(KeyboardInterrupt):
        studied(tmp_path, squares.draft(1, 2, 3))
    kept = StudyFiles(Workspace(tmp_path), "squares").read()
    assert kept is not None
    assert ([cell.key for cell in kept.cells], kept.missing) == (["of 1"], ("of 2", "of 3"))
    squares.interrupted_at = None
    assert studied(tmp_path, squares.draft(1, 2, 3)).missing == ()
    assert squares.asked == [1, 2, 3]


def test_a_cell_that_fails_says_why_and_is_tried_again(tmp_path: Path) -> None:
    squares = Squares(broken={2})
    study = studied(tmp_path, squares.draft(1, 2, 3))
    assert [cell.failed for cell in study.cells] == ["", "2 does not run", ""]
    assert study.conclusion == {"total": 10}
    squares.broken = set()
    assert studied(tmp_path, squares.draft(1, 2, 3)).conclusion == {"total": 14}
    assert squares.asked == [1, 3, 2]


def test_a_budget_is_shared_by_what_jobs_want_and_no_job_begins_without_its_least(tmp_path: Path) -> None:
    squares = Squares()  # each job takes 40 s, whatever it is allowed
    clock = Budget(100.0, lambda: 40.0 * len(squares.asked))
    study = studied(tmp_path, squares.draft(1, 2, 3, wanted_s=50.0, min_s=25.0), clock)
    assert squares.allowed_s == pytest.approx([100 / 3, 60 / 2])
    assert study.missing == ("of 3",)


def test_a_job_whose_part_is_too_little_gets_its_least_and_leaves_the_rest(tmp_path: Path) -> None:
    squares = Squares()  # each job takes 25 s
    clock = Budget(60.0, lambda: 25.0 * len(squares.asked))
    study = studied(tmp_path, squares.draft(1, 2, 3, wanted_s=50.0, min_s=25.0), clock)
    assert squares.allowed_s == [25.0, 25.0]
    assert study.missing == ("of 3",)


@pytest.mark.parametrize("kind", OF_A_CELL)
def test_an_error_of_one_cell_leaves_the_others(tmp_path: Path, kind: type[ProteusError]) -> None:
    squares = Squares(broken={1}, fails_as=kind)
    study = studied(tmp_path, squares.draft(1, 2))
    assert [cell.failed for cell in study.cells] == ["1 does not run", ""]


def test_what_is_used_elsewhere_is_written_once_for_each_cell_that_is_measured(tmp_path: Path) -> None:
    squares, kept = Squares(broken={2}), list[tuple[str, list[str]]]()

    def drafted() -> StudyDraft:
        return replace(squares.draft(1, 2, 3), keep=lambda cells, finished: kept.append((finished.key, list(cells))))

    frame.missing_jobs(drafted(), StudyFiles(Workspace(tmp_path), "squares"))
    assert kept == []
    studied(tmp_path, drafted())
    assert kept == [("of 1", ["of 1"]), ("of 3", ["of 1", "of 3"])]
    squares.broken = set()
    for _ in range(2):
        studied(tmp_path, drafted())
    assert kept[2:] == [("of 2", ["of 1", "of 2", "of 3"])]


def test_without_a_budget_jobs_may_take_as_long_as_they_want(tmp_path: Path) -> None:
    squares = Squares()
    studied(tmp_path, squares.draft(1))
    assert squares.allowed_s == [math.inf]


def test_without_a_budget_a_job_that_has_no_end_gets_the_time_that_it_says(tmp_path: Path) -> None:
    squares = Squares()
    draft = squares.draft(1, 2, wanted_s=50.0)
    endless = replace(draft, jobs=[replace(job, without_budget_s=60.0) for job in draft.jobs])
    studied(tmp_path, endless)
    studied(tmp_path, endless, Budget(600.0, lambda: 0.0), force=True)
    assert squares.allowed_s == [60.0, 60.0, 300.0, 600.0], "a budget may be longer"


def test_parts_are_fair() -> None:
    assert fair_parts(100.0, {"a": 10.0, "b": 80.0, "c": 70.0}) == {"a": 10.0, "b": 45.0, "c": 45.0}
    assert fair_parts(300.0, {"a": 10.0, "b": 80.0}) == {"a": 10.0, "b": 80.0}
    assert fair_parts(5.0, {}) == {}


def test_the_csv_has_a_row_for_each_cell_and_no_lists(tmp_path: Path) -> None:
    header, *rows = to_csv(studied(tmp_path, Squares(broken={2}).draft(1, 2))).splitlines()
    names = header.split(",")
    assert names[:7] == ["cell", "mode", "begun_unix_s", "took_s", "failed", "number", "square"]
    assert "digits" not in names
    assert [row.split(",")[0] for row in rows] == ["of 1", "of 2"]
    assert rows[1].split(",")[4] == "2 does not run"


def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no name for a study"):
        StudyFiles(Workspace(tmp_path), "../peak")


def test_a_study_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="No studies"):
        named_studies(Workspace(tmp_path), None)
    studied(tmp_path, Squares().draft(1))
    with pytest.raises(ArtefactError, match="No study `peak`") as error:
        named_studies(Workspace(tmp_path), ["peak"])
    assert "squares" in error.value.hint
    assert [study.name for study in named_studies(Workspace(tmp_path), None)] == ["squares"]
