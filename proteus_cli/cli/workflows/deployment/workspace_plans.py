"""The plans of a workspace, and what they are made from, as a server needs them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from proteus_cli.cli.workflows.deployment.resources import Emulation, Resources, on_fleet
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_record import Base
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.profile_changes import in_catalog_names, in_server_names, written_over
from proteus_cli.domain.rules import CatalogRule, following_catalog, rules_of
from proteus_cli.errors import printable
from proteus_cli.planning.from_workspace import DeferredPlanner, PlannerSettings, deferred_planner
from proteus_cli.store import Workspace, write_json


@dataclass(slots=True)
class WorkspacePlans:
    """The `PlanSource` of a server: plans and profiles in its workspace. ``written``: digests of profiles, by file.

    ``names``, once the catalog was read anew: what its variants are called in the server.
    """

    workspace: Workspace
    name: Path
    resources: Resources
    emulation: Emulation | None
    planner: PlannerSettings
    attainment: float | None = None
    written: dict[str, str] = field(default_factory=dict)
    names: Mapping[VariantKey, str] | None = None
    _of_catalogs: set[CatalogRule] = field(default_factory=set)  # the rules of all catalogs that were used

    def read_plan(self) -> tuple[Plan, Base]:
        """The plan file that the server was started with, as it is now, for the attainment that it was started with."""
        plan = self.workspace.plan(self.name).with_attainment(self.attainment)
        return on_fleet(plan, self.resources.profiles, self.emulation), base_of(self.workspace, self.name)

    def require_current(self, plan: Plan) -> None:
        """Raise `ArtefactError` if an input of a plan has changed."""
        self.workspace.require_current(plan.inputs)

    def replanner(self, plan: Plan, profiles: Mapping[str, Profile]) -> DeferredPlanner:
        """A planner with the rules and the headroom of a plan, for profiles by device id."""
        if self.names is not None:
            rules = following_catalog(plan.rules, self.planner.catalog, self._of_catalogs)
            plan = msgspec.structs.replace(plan, rules=rules)
        return deferred_planner(self.planner, plan, profiles, self.inputs())

    def use_catalog(
        self,
        catalog: Catalog,
        names: Mapping[VariantKey, str],
        inputs: Mapping[str, str],
        written_before: Mapping[str, str],
    ) -> None:
        """Plans are made of another catalog from now on, and of profiles as their files were (``inputs``).

        Then, so much had been ``written_before``; what was written since counts.
        """
        self._of_catalogs |= rules_of(self.planner.catalog) | rules_of(catalog)
        self.planner = replace(self.planner, catalog=catalog, inputs=inputs)
        self.names = names
        self.written = {file: digest for file, digest in self.written.items() if written_before.get(file) != digest}

    def inputs(self) -> Mapping[str, str]:
        """Digests of a plan's inputs: a recalibrated profile counts once it is written back, and not before.

        So the inputs are always what the workspace has, and a server that was killed can resume its last plan.
        """
        return {**self.planner.inputs, **self.written}

    def write_profile(self, profile: Profile) -> None:
        """Write a profile that was recalibrated; what its file says besides stays. Raises `ArtefactError`."""
        known = profile if self.names is None else in_catalog_names(profile, self.names)
        has_file = self.workspace.profile_path(known.device.id).is_file()
        self.write_measured(written_over(self.workspace.profile(known.device.id), known) if has_file else known)

    def write_measured(self, profile: Profile) -> None:
        """Write a profile of a device that joins; names are those of the catalog file."""
        write_json(self.workspace.profile_path(profile.device.id), msgspec.structs.replace(profile, sharing=()))
        self.use_profile(profile)

    def as_served(self, profile: Profile) -> Profile:
        """The profile of a file, by the names that its variants have in the server."""
        return profile if self.names is None else in_server_names(profile, self.names)

    def use_profile(self, profile: Profile) -> None:
        """Plans are made from a profile as its file has it now."""
        self.written.update(self.workspace.digests([self.workspace.profile_path(profile.device.id)]))


def base_of(workspace: Workspace, name: Path) -> Base:
    """The plan file of that name, as it is now. Raises `ArtefactError`."""
    return Base(printable(str(name)), workspace.plan_digest(name))
