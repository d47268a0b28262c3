"""A planner for the catalog of a workspace, as `plan`, `serve` and `replay` need it.

This module imports no solver: a server describes its planner here, and its solver's process makes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from proteus_cli.control.policies import PlanRule, Policy
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.demand import Demand, Forecast
from proteus_cli.domain.device import Outages
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.profile_changes import as_recorded
from proteus_cli.domain.rules import Rules
from proteus_cli.store import Workspace, require_current_models
from proteus_cli.store.sharing import sharing_paths

if TYPE_CHECKING:
    from proteus_cli.planning.planner import Planner

TIME_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class PlannerSettings:
    """All that a planner is made from. Without ``rules``, the catalog's rules hold."""

    catalog: Catalog
    profiles: Mapping[str, Profile]
    policy: Policy
    headroom: float
    inputs: Mapping[str, str]
    rules: Rules | None
    time_limit_s: float
    spares: bool

    def make(self) -> "Planner":
        """The planner. Importing the solver for it takes 0.7 s of CPU the first time."""
        from proteus_cli.planning.heuristics import InfaasPlanner, SommelierPlanner  # noqa: PLC0415 - as said above
        from proteus_cli.planning.planner import Planner  # noqa: PLC0415

        planners: dict[PlanRule, type[Planner]] = {
            "optimal": Planner,
            "frozen": Planner,
            "oracle": Planner,
            "infaas": InfaasPlanner,
            "sommelier": SommelierPlanner,
        }
        return planners[self.policy.plans](
            self.catalog,
            self.profiles,
            self.policy,
            headroom=self.headroom,
            inputs=self.inputs,
            rules=self.rules,
            time_limit_s=self.time_limit_s,
            spares=self.spares,
            hurries=True,
        )


class DeferredPlanner:
    """Makes its planner when it is first called, in the process that calls it. It can be pickled."""

    def __init__(self, settings: PlannerSettings, rules: Rules) -> None:
        """``rules`` replace the rules of the settings and of the catalog."""
        self._settings, self._rules = settings, rules
        self._planner: Planner | None = None

    def __call__(
        self,
        demand: Demand,
        current: Plan,
        without: Outages,
        standbys: Mapping[str, frozenset[VariantKey]],
    ) -> Plan:
        """The next plan. Raises like the planner. The demand may be of the families of a catalog before this one."""
        if self._planner is None:
            self._planner = self._settings.make().with_changes(rules=self._rules)
        return self._planner(for_catalog(demand, self._settings.catalog), current, without, standbys)


def for_catalog(demand: Demand, catalog: Catalog) -> Demand:
    """The part of a demand, estimated for another catalog, that is for the families of this one."""
    known = {name: qps for name, qps in demand.items() if name in catalog.names}
    if len(known) == len(demand):
        return demand
    return Forecast(known, demand.curves) if isinstance(demand, Forecast) else known


def planner_settings(
    workspace: Workspace,
    policy: Policy,
    headroom: float,
    *,
    profiles: Mapping[str, Profile],
    rules: Rules | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    spares: bool | None = None,
    strict: bool = True,
) -> PlannerSettings:
    """The planner of a policy for the devices of ``profiles``, with the live accuracies that are recorded there.

    Raises `ArtefactError` if one is missing, or with ``strict`` stale.
    """
    catalog, sources = workspace.catalog(), workspace.sources(profiles)
    for profile in sources if strict else ():
        require_current_models(catalog, profile, workspace)
    known_sharing = sharing_paths(workspace, sources) if (rules or policy.rules).is_resident_set else []
    return PlannerSettings(
        catalog,
        as_recorded(profiles),
        policy,
        headroom=policy.headroom or headroom,
        inputs=workspace.digests([workspace.catalog_path, *workspace.profile_paths(profiles), *known_sharing]),
        rules=rules,
        time_limit_s=time_limit_s,
        spares=policy.spares if spares is None else spares,
    )


def deferred_planner(
    settings: PlannerSettings, plan: Plan, profiles: Mapping[str, Profile], inputs: Mapping[str, str]
) -> DeferredPlanner:
    """A planner with the rules and the headroom of a plan, for profiles by device id."""
    changed = replace(settings, headroom=plan.headroom, profiles=dict(profiles), inputs=dict(inputs))
    return DeferredPlanner(changed, plan.rules)
