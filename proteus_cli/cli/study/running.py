"""A drafted study is run within its budget, written with its page, and shown."""

import math
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from proteus_cli.cli import console
from proteus_cli.errors import ProteusError
from proteus_cli.reporting.tables import described, folded_name, name, number, table
from proteus_cli.store import Workspace
from proteus_cli.studies.artefacts import StudyFiles
from proteus_cli.studies.budget import Budget
from proteus_cli.studies.frame import StudyDraft, missing_jobs, run_study
from proteus_cli.studies.kinds import SECTIONS
from proteus_cli.studies.pages.page import busy_notes, missing_text, page
from proteus_cli.studies.pages.section import Section
from proteus_cli.studies.study import Study
from proteus_cli.units import counted, format_duration


class StudyFailed(ProteusError):
    """Some cells of a study failed; the others are written."""


def studied(workspace: Workspace, draft: StudyDraft, budget: Budget, *, force: bool) -> Study:
    """Run a study in the rest of a budget, and write its files; also after Ctrl-C or an error."""
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
        try:
            _write_beside(files)
        except Exception as error:  # noqa: BLE001 - it must not hide the first error
            console.warn(f"the page of {files.name} is not written: {error}")
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
    """The time that a study still takes, in words."""
    return f"about {format_duration(wanted_s)} without a budget" if wanted_s > 0 else "all measured before"


def _write_beside(files: StudyFiles) -> None:
    study = files.read()
    if study is not None:
        files.write_beside(study, pages)
        console.say(f"wrote {files.json}, {files.csv.name} and {files.page.name}")


def pages(studies: Sequence[Study]) -> str:
    """The page about studies."""
    return page(studies, SECTIONS)


def show_findings(studies: Sequence[Study]) -> None:
    """Print the findings of each study, without its tables."""
    for study in studies:
        section = SECTIONS[study.kind](study)
        console.show(Text(section.title, style="bold"))
        for finding in section.findings:
            console.show(Text(f"  {finding}"))
        _say_what_is_missing(study)


def show(study: Study, *, json: bool) -> None:
    """Print the findings and tables. Raises `StudyFailed` where a cell failed."""
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


def section_parts(section: Section) -> Iterator[RenderableType]:
    """The findings, then each table."""
    for finding in section.findings:
        yield Text(finding)
    for each in section.tables:
        first, *others = each.columns
        rows = table(folded_name(first), *(name(head) if head in each.of_text else number(head) for head in others))
        for row in each.rows:
            rows.add_row(*row)
        yield described(rows, *([each.note] if each.note else []), title=each.title)


def _say_what_is_missing(study: Study) -> None:
    for note in busy_notes(study):
        console.warn(f"{study.name}: {note}")
    if study.missing:
        console.say(
            f"{study.name}: still to be measured: {missing_text(study)}; run the same command again to measure them"
        )
