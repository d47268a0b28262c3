"""A study that is drafted is run within its budget, written with its page, and shown."""

import math
from collections.abc import Sequence

from proteus_cli.cli import console
from proteus_cli.cli.views.study_tables import finding_lines, section_parts
from proteus_cli.errors import ProteusError
from proteus_cli.store import Workspace
from proteus_cli.studies.artefacts import StudyFiles
from proteus_cli.studies.budget import Budget
from proteus_cli.studies.frame import StudyDraft, missing_jobs, run_study
from proteus_cli.studies.kinds import SECTIONS
from proteus_cli.studies.pages.page import busy_notes, missing_text, page
from proteus_cli.studies.study import Study
from proteus_cli.units import counted, format_duration


class StudyFailed(ProteusError):
    """Some cells of a study failed; the others are written."""


def studied(workspace: Workspace, draft: StudyDraft, budget: Budget, *, force: bool) -> Study:
    """Run a study in what is left of a budget, and write its files; after Ctrl-C or an error, too."""
    files = StudyFiles(workspace, draft.name)
    had_s = budget.left_s
    missing = missing_jobs(draft, files, force=force)
    wanted = wanted_text(sum(job.wanted_s for job in missing))
    console.say(f"{draft.name}: {counted(len(draft.jobs), 'cell')}, {wanted}")
    for note in draft.notes:
        console.warn(note)
    try:
        with console.progress(draft.name) as advance:
            study = run_study(draft, files, budget, advance, force=force)
    except BaseException:
        _write_on_the_way_out(files)
        raise
    _write_beside(files)
    needed_s = [job.min_s for job in draft.jobs if job.key in study.missing]
    if needed_s and len(needed_s) == len(missing) and had_s < math.inf:
        needed, had = format_duration(min(needed_s)), format_duration(had_s)
        console.warn(
            f"{draft.name}: no missing cell is measured in less than {needed}; the study had {had}, its start included"
        )
    return study


def wanted_text(wanted_s: float) -> str:
    """How long what is left of a study takes, in words."""
    return f"about {format_duration(wanted_s)} without a budget" if wanted_s > 0 else "all measured before"


def _write_on_the_way_out(files: StudyFiles) -> None:
    """What goes wrong here is only told: the error that ends the study is the one that counts."""
    try:
        _write_beside(files)
    except Exception as error:  # noqa: BLE001 - it must not hide the first error
        console.warn(f"the page of {files.name} is not written: {error}")


def _write_beside(files: StudyFiles) -> None:
    study = files.read()
    if study is not None:
        files.write_beside(study, pages)
        console.say(f"wrote {files.json}, {files.csv.name} and {files.page.name}")


def pages(studies: Sequence[Study]) -> str:
    """The page about studies."""
    return page(studies, SECTIONS)


def show_findings(studies: Sequence[Study]) -> None:
    """Print what each study found, without its tables."""
    for study in studies:
        for line in finding_lines(SECTIONS[study.kind](study)):
            console.show(line)
        _say_what_is_missing(study)


def show(study: Study, *, json: bool) -> None:
    """Print what was found. Raises `StudyFailed` where a cell failed."""
    if json:
        console.show_json(study)
    else:
        for part in section_parts(SECTIONS[study.kind](study)):
            console.show(part)
    _say_what_is_missing(study)
    failed = [cell for cell in study.cells if cell.failed]
    if failed:
        raise StudyFailed(
            f"{counted(len(failed), 'cell')} of the study failed, `{failed[0].key}` as: {failed[0].failed}",
            hint="the page has the reason of each; the same command tries them again",
        )


def _say_what_is_missing(study: Study) -> None:
    for note in busy_notes(study):
        console.warn(f"{study.name}: {note}")
    if study.missing:
        console.say(
            f"{study.name}: still to be measured: {missing_text(study)}; run the same command again to measure them"
        )
