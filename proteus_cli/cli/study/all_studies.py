"""``proteus study all`` and ``proteus study report``: several studies, and one page about them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from proteus_cli.cli import console, options
from proteus_cli.cli.study import cost, shared
from proteus_cli.errors import DeviceUnavailable, ProteusError, UsageError

if TYPE_CHECKING:
    from proteus_cli.store import Workspace
    from proteus_cli.studies.budget import Budget
    from proteus_cli.studies.frame import StudyDraft
    from proteus_cli.studies.study import Study

Drafts = Mapping[str, "Callable[[], StudyDraft]"]
"""By kind, the drafts of studies for which the workspace alone is not enough."""


def all_studies(
    *,
    traffic: cost.SomeTraffic = None,
    price: cost.Prices = None,
    budget: shared.Budget = None,
    force: shared.Force = False,
    output: shared.Page = Path("studies.html"),
    state: options.State = None,
    workspace_dir: options.Workspace = options.WORKSPACE,
    json: options.Json = False,
) -> None:
    """Run all studies that make sense for the workspace, and write one page about them.

    Each study gets a fair part of the budget: none gets more than it wants while another gets less. Those that can't be
    run here are named, with what they lack. Costs are studied of a --traffic, as `proteus study cost` does without
    other options.
    """
    from proteus_cli.studies.budget import Budget

    limit = Budget.of(budget)  # what follows takes time, too

    from proteus_cli.cli.study.running import show_findings
    from proteus_cli.store import Workspace
    from proteus_cli.studies.cost.drafts import KIND, cost_draft

    workspace = Workspace(workspace_dir, state)
    if traffic is None and price is not None:
        raise UsageError("`--price` is for the costs of a traffic.", hint="add `--traffic trace.csv`, or leave it out")
    given: Drafts = (
        {} if traffic is None else {KIND: lambda: cost_draft(workspace, traffic, cost.asked(workspace, price))}
    )
    studies, failures = all_studied(workspace, limit, force=force, given=given)
    if studies:
        _write_page(studies, output)
    if json:
        console.show_json(studies)
    elif output != console.DASH:
        show_findings(studies)
    require_whole(studies, failures)


def report(
    names: shared.Names = None,
    *,
    output: shared.Page = Path("studies.html"),
    state: options.State = None,
    workspace_dir: options.Workspace = options.WORKSPACE,
) -> None:
    """Write one page about studies that were measured before."""
    from proteus_cli.store import Workspace
    from proteus_cli.studies.artefacts import named_studies

    _write_page(named_studies(Workspace(workspace_dir, state), names), output)


def _write_page(studies: "Sequence[Study]", output: Path) -> None:
    from proteus_cli.cli.study.running import pages

    with console.writing(output) as write:
        write(pages(studies))
    if output != console.DASH:
        console.say(f"wrote {output}")


def all_studied(
    workspace: "Workspace", budget: "Budget", *, force: bool, given: Drafts = MappingProxyType({})
) -> "tuple[list[Study], list[str]]":
    """Run each study in turn; returns the studies, and why some failed.

    The rest of a study's part of the budget is divided among the others. A failure is told, and the others go on. The
    ``given`` drafts are made again at their turn, as studies before them may have measured their inputs. Raises what
    such a draft raises.
    """
    from proteus_cli.cli.study.running import studied, wanted_text
    from proteus_cli.studies.artefacts import StudyFiles
    from proteus_cli.studies.budget import Budget
    from proteus_cli.studies.frame import missing_jobs

    asked = {kind: make() for kind, make in given.items()}
    remade = {draft.name: given[kind] for kind, draft in asked.items()}
    drafts, wanted_s = _drafts(workspace, asked), dict[str, float]()
    studies: list[Study] = []
    failures: list[str] = []
    for draft in drafts:
        with _telling(draft, failures):
            missing = missing_jobs(draft, StudyFiles(workspace, draft.name), force=force)
            wanted_s[draft.name] = sum(job.wanted_s for job in missing)
            console.say(f"{draft.name}: {wanted_text(wanted_s[draft.name])}")
    readable = [draft for draft in drafts if draft.name in wanted_s]
    for place, draft in enumerate(readable):
        part = budget
        if budget.total_s < math.inf:
            rest = {each.name: wanted_s[each.name] for each in readable[place:]}
            part = Budget(_part_s(budget.left_s, rest, draft.name), budget.now_s)
        with _telling(draft, failures):
            now = remade[draft.name]() if draft.name in remade else draft
            studies.append(studied(workspace, now, part, force=force))
    return studies, failures


def require_whole(studies: "Sequence[Study]", failures: Sequence[str]) -> None:
    """Raise `StudyFailed` where a study, or a cell of one, failed."""
    from proteus_cli.cli.study.running import StudyFailed

    cells = (f"{study.name}: {cell.key}: {cell.failed}" for study in studies for cell in study.cells if cell.failed)
    if first := next(chain(failures, cells), None):
        raise StudyFailed(
            f"Not all studies are whole: {first}", hint="the page has what was found; run the same command again"
        )


@contextmanager
def _telling(draft: "StudyDraft", failures: list[str]) -> Iterator[None]:
    """An error in the block fails this study only: it is told, and added to ``failures``."""
    try:
        yield
    except ProteusError as error:
        console.warn(f"the study {draft.name} failed: {error.message}")
        failures.append(f"{draft.name}: {error.message}")


def _part_s(left_s: float, wanted_s: dict[str, float], name: str) -> float:
    """The part of a study; where more is left than all want, the rest too, by what they want."""
    from proteus_cli.studies.budget import fair_parts

    total_s = sum(wanted_s.values())
    return left_s * wanted_s[name] / total_s if 0 < total_s < left_s else fair_parts(left_s, wanted_s)[name]


def _drafts(workspace: "Workspace", asked: "Mapping[str, StudyDraft]") -> "list[StudyDraft]":
    """The studies that make sense; the others are told with the reason. Raises `UsageError` where there is none."""
    from proteus_cli.studies.kinds import KINDS

    drafts = []
    for kind in KINDS:
        try:
            found = asked[kind.name] if kind.name in asked else kind.draft(workspace)
        except (UsageError, DeviceUnavailable) as error:
            found = error.sentences
        if isinstance(found, str):
            console.say(f"{kind.name} is left out: {found}")
        else:
            drafts.append(found)
    if not drafts:
        raise UsageError("No study makes sense here.", hint="`proteus init`, then `proteus profile`, make a workspace")
    return drafts
