"""All studies that make sense for a workspace, within one budget."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

from proteus_cli.cli import console
from proteus_cli.cli.workflows.study.running import StudyFailed, studied, wanted_text
from proteus_cli.errors import DeviceUnavailable, ProteusError, UsageError
from proteus_cli.store import Workspace
from proteus_cli.studies.artefacts import StudyFiles
from proteus_cli.studies.budget import Budget, fair_parts
from proteus_cli.studies.frame import StudyDraft, missing_jobs
from proteus_cli.studies.kinds import KINDS, Kind
from proteus_cli.studies.study import Study


@dataclass(frozen=True, slots=True)
class AllStudies:
    """What there is of the studies, and why some of them did not end."""

    studies: Sequence[Study]
    failures: Sequence[str] = field(default=())

    def require_whole(self) -> None:
        """Raise `StudyFailed` where a study, or a cell of one, failed."""
        cells = [(study.name, cell) for study in self.studies for cell in study.cells if cell.failed]
        failed = [f"{name}: {cell.key}: {cell.failed}" for name, cell in cells]
        if first := [*self.failures, *failed][:1]:
            raise StudyFailed(
                f"Not all studies are whole: {first[0]}", hint="the page has what was found; run the same command again"
            )


def all_studied(
    workspace: Workspace,
    budget: Budget,
    *,
    force: bool,
    given: Mapping[str, Callable[[], StudyDraft]] = MappingProxyType({}),
) -> AllStudies:
    """Run each study in turn. What one leaves of its part of the budget is divided among the others.

    A study that fails is told, and the others go on. ``given``: by kind, the drafts of studies for which the workspace
    alone is not enough. They are made again when it is their turn, as studies before them may have measured what they
    are made of. Raises what a given draft raises.
    """
    asked = {kind: make() for kind, make in given.items()}
    remade = {draft.name: given[kind] for kind, draft in asked.items()}
    drafts, studies, failures = _drafts(workspace, asked), list[Study](), list[str]()
    wanted_s = dict[str, float]()
    for draft in drafts:
        with _telling(draft, failures):
            wanted_s[draft.name] = sum(
                job.wanted_s for job in missing_jobs(draft, StudyFiles(workspace, draft.name), force=force)
            )
            console.say(f"{draft.name}: {wanted_text(wanted_s[draft.name])}")
    readable = [draft for draft in drafts if draft.name in wanted_s]
    for place, draft in enumerate(readable):
        rest = {each.name: wanted_s[each.name] for each in readable[place:]}
        is_limited = budget.total_s < math.inf
        part = Budget(_part_s(budget.left_s, rest, draft.name), budget.now_s) if is_limited else budget
        with _telling(draft, failures):
            now = remade[draft.name]() if draft.name in remade else draft
            studies.append(studied(workspace, now, part, force=force))
    return AllStudies(studies, failures)


@contextmanager
def _telling(draft: StudyDraft, failures: list[str]) -> Iterator[None]:
    """An error in the block fails this study only: it is told, and added to ``failures``."""
    try:
        yield
    except ProteusError as error:
        console.warn(f"the study {draft.name} failed: {error.message}")
        failures.append(f"{draft.name}: {error.message}")


def _part_s(left_s: float, wanted_s: dict[str, float], name: str) -> float:
    """What a study gets; where there is more than all want, the rest too, by what they want."""
    total_s = sum(wanted_s.values())
    return left_s * wanted_s[name] / total_s if 0 < total_s < left_s else fair_parts(left_s, wanted_s)[name]


def _drafts(workspace: Workspace, asked: Mapping[str, StudyDraft]) -> list[StudyDraft]:
    """The studies that make sense; of the others, it says why not. Raises `UsageError` where there is none."""
    drafts = []
    for kind in KINDS:
        found = asked[kind.name] if kind.name in asked else _draft(workspace, kind)
        if isinstance(found, StudyDraft):
            drafts.append(found)
        else:
            console.say(f"{kind.name} is left out: {found}")
    if not drafts:
        raise UsageError("No study makes sense here.", hint="`proteus init`, then `proteus profile`, make a workspace")
    return drafts


def _draft(workspace: Workspace, kind: Kind) -> StudyDraft | str:
    try:
        return kind.draft(workspace)
    except (UsageError, DeviceUnavailable) as error:
        return error.sentences
