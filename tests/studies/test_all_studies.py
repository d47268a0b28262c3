"""`proteus study all`: each study gets a fair part, what fails is told, and one page has all."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from studies.fake_study import Square, Squares
from studies.test_study_page import section

from proteus_cli.cli.study import running
from proteus_cli.cli.study.all_studies import all_studied, require_whole
from proteus_cli.cli.study.running import StudyFailed
from proteus_cli.errors import ArtefactError, UsageError
from proteus_cli.store import Workspace
from proteus_cli.studies import kinds as study_kinds
from proteus_cli.studies.artefacts import StudyFiles
from proteus_cli.studies.budget import Budget
from proteus_cli.studies.frame import Job, JobTurn, StudyDraft
from proteus_cli.studies.kinds import KINDS, Kind
from proteus_cli.studies.pages.section import Section
from proteus_cli.studies.study import Study

Draft = Callable[[Workspace], StudyDraft | str]


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces the kinds of studies that there are."""

    def replace(*drafts: Draft) -> None:
        found = tuple(Kind(f"kind{place}", draft, section) for place, draft in enumerate(drafts))
        monkeypatch.setattr(study_kinds, "KINDS", found)
        monkeypatch.setattr(running, "SECTIONS", {"squares": section})

    return replace


def named(draft: StudyDraft, name: str) -> StudyDraft:
    return StudyDraft(draft.kind, name, draft.subject, draft.options, draft.inputs, draft.jobs, conclude=draft.conclude)


def test_what_one_study_leaves_is_for_the_others(tmp_path: Path, kinds: Callable[..., None]) -> None:
    """These cells take no time at all, so that the second study has the whole budget, too."""
    squares = Squares()
    kinds(
        lambda _: named(squares.draft(1, wanted_s=10.0), "short"),
        lambda _: named(squares.draft(2, wanted_s=1000.0), "long"),
        lambda _: "there is no trace",
    )
    studies, failures = all_studied(Workspace(tmp_path), Budget(100.0, lambda: 0.0), force=False)
    require_whole(studies, failures)
    assert [study.name for study in studies] == ["short", "long"]
    assert squares.allowed_s == pytest.approx([10.0, 100.0])
    assert (tmp_path / "studies" / "long.html").exists()


def test_a_second_run_measures_nothing_again_and_says_so(
    tmp_path: Path, kinds: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    squares = Squares()
    kinds(lambda _: squares.draft(1, 2))
    for said in ("squares: 2 cells, about 2.0 s without a budget", "squares: 2 cells, all measured before"):
        assert len(all_studied(Workspace(tmp_path), Budget(10.0, lambda: 0.0), force=False)[0]) == 1
        assert said in capsys.readouterr().err
    assert squares.asked == [1, 2]


def test_a_study_that_fails_does_not_stop_the_others(tmp_path: Path, kinds: Callable[..., None]) -> None:
    def fails(_turn: JobTurn) -> Square:
        raise UsageError("no SLO")

    squares = Squares(broken={2})
    kinds(
        lambda _: StudyDraft("squares", "bad", {}, {}, {}, [Job("a", "measured", 1.0, fails)]),
        lambda _: squares.draft(1, 2),
    )
    studies, failures = all_studied(Workspace(tmp_path), Budget(), force=False)
    assert [study.name for study in studies] == ["squares"]
    assert failures == ["bad: no SLO"]
    with pytest.raises(StudyFailed, match="bad: no SLO"):
        require_whole(studies, failures)


def test_a_budget_that_is_too_short_for_any_cell_is_told(
    tmp_path: Path, kinds: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command would measure nothing again, however often."""
    squares = Squares()
    kinds(lambda _: squares.draft(1, 2, min_s=5.0))
    said = "squares: no missing cell is measured in less than 5.0 s; the study had 4.0 s"
    all_studied(Workspace(tmp_path), Budget(4.0, lambda: 0.0), force=False)
    assert said in capsys.readouterr().err
    all_studied(Workspace(tmp_path), Budget(10.0, lambda: 0.0), force=False)
    assert said not in capsys.readouterr().err


def test_a_part_of_the_budget_is_not_told_as_the_budget(
    tmp_path: Path, kinds: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    kinds(lambda _: named(Squares().draft(1, 2, min_s=5.0), "first"), lambda _: Squares().draft(1, 2, min_s=5.0))
    all_studied(Workspace(tmp_path), Budget(8.0, lambda: 0.0), force=False)
    said = capsys.readouterr().err
    assert "first: no missing cell is measured in less than 5.0 s; the study had 4.0 s, its start included\n" in said
    assert "the budget was" not in said


def test_why_a_cell_failed_is_told(tmp_path: Path, kinds: Callable[..., None]) -> None:
    squares = Squares(broken={2})
    kinds(lambda _: squares.draft(1, 2))
    with pytest.raises(StudyFailed, match="squares: of 2: 2 does not run"):
        require_whole(*all_studied(Workspace(tmp_path), Budget(), force=False))


def test_a_damaged_file_does_not_stop_the_others(tmp_path: Path, kinds: Callable[..., None]) -> None:
    squares = Squares()
    kinds(lambda _: named(squares.draft(1), "bad"), lambda _: squares.draft(2))
    StudyFiles(Workspace(tmp_path), "bad").json.parent.mkdir()
    StudyFiles(Workspace(tmp_path), "bad").json.write_text("{")
    studies, failures = all_studied(Workspace(tmp_path), Budget(10.0, lambda: 0.0), force=False)
    assert [study.name for study in studies] == ["squares"]
    assert [failure.partition(":")[0] for failure in failures] == ["bad"]
    assert len(all_studied(Workspace(tmp_path), Budget(10.0, lambda: 0.0), force=True)[0]) == 2


def test_a_page_that_can_not_be_drawn_hides_no_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(_study: Study) -> Section:
        raise ValueError("no such picture")

    monkeypatch.setattr(running, "SECTIONS", {"squares": breaks})
    with pytest.raises(KeyboardInterrupt):
        running.studied(Workspace(tmp_path), Squares(interrupted_at=2).draft(1, 2), Budget(), force=False)
    assert "is not written: no such picture" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ValueError, match="no such picture"):
        running.studied(Workspace(tmp_path), Squares().draft(1, 2), Budget(), force=False)


def test_where_no_study_makes_sense_it_says_so(tmp_path: Path, kinds: Callable[..., None]) -> None:
    def lacks(_workspace: Workspace) -> StudyDraft:
        raise ArtefactError("No catalog.", hint="make one")

    kinds(lacks)
    with pytest.raises(UsageError, match="No study makes sense"):
        all_studied(Workspace(tmp_path), Budget(), force=False)


def test_kinds_have_names_of_their_own() -> None:
    names = [kind.name for kind in KINDS]
    assert len(names) == len(set(names))
    assert {"peak", "startup"} <= set(names)


def test_what_a_draft_notes_is_said_before_it_is_measured(
    tmp_path: Path, kinds: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    squares = Squares()
    kinds(lambda _: dataclasses.replace(squares.draft(1), notes=("the file is damaged",)))
    all_studied(Workspace(tmp_path), Budget(10.0, lambda: 0.0), force=False)
    assert "warning: the file is damaged" in capsys.readouterr().err


def test_a_study_that_needs_more_is_drafted_again_when_it_is_its_turn(
    tmp_path: Path, kinds: Callable[..., None]
) -> None:
    """What was measured before it may be what it is made of."""
    squares, drafted = Squares(), list[int]()

    def given() -> StudyDraft:
        drafted.append(len(squares.asked))
        return named(squares.draft(2), "given")

    kinds(lambda _: squares.draft(1), lambda _: "there is no trace")
    studies, _ = all_studied(Workspace(tmp_path), Budget(), force=False, given={"kind1": given})
    assert [study.name for study in studies] == ["squares", "given"]
    assert drafted == [0, 1]
