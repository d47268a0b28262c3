"""The kinds of studies: how each is drafted for a whole workspace, and what its page says; importing this loads plots.

A new kind is one line of `KINDS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from proteus_cli.store import Workspace
from proteus_cli.studies import concurrency as concurrency_study
from proteus_cli.studies import sharing as sharing_study
from proteus_cli.studies.cost import drafts as cost_drafts
from proteus_cli.studies.frame import StudyDraft
from proteus_cli.studies.pages import concurrency, cost, peak, sharing, startup
from proteus_cli.studies.pages.section import SectionOf
from proteus_cli.studies.peak import drafts as peak_drafts
from proteus_cli.studies.startup import starts as startup_starts


@dataclass(frozen=True, slots=True)
class Kind:
    """``draft`` makes what `proteus study all` measures of a workspace; a text says why there is nothing to."""

    name: str
    draft: Callable[[Workspace], StudyDraft | str]
    section: SectionOf


KINDS: tuple[Kind, ...] = (
    Kind("peak", peak_drafts.workspace_draft, peak.section),
    Kind("concurrency", concurrency_study.workspace_draft, concurrency.section),
    Kind("share", sharing_study.workspace_draft, sharing.section),
    Kind("startup", startup_starts.workspace_draft, startup.section),
    Kind("cost", cost_drafts.workspace_draft, cost.section),
)

SECTIONS: Mapping[str, SectionOf] = {kind.name: kind.section for kind in KINDS}
"""The sections of pages, by kind."""
