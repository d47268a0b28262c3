"""A planner for the devices of a workspace, as `plan`, `serve` and `replay` need it."""

from collections.abc import Mapping

from proteus_cli.control.policies import Policy
from proteus_cli.domain.fleet import hypothetical_fleet, parse_fleet
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.heuristics import InfaasPlanner, SommelierPlanner
from proteus_cli.planning.planner import Planner
from proteus_cli.store import Workspace, require_current_models


def fleet_of(workspace: Workspace, fleet: str | None) -> dict[str, Profile]:
    """Profiles by device: those of a workspace, or of a fleet like ``cpu:20,v100:10``. Raises `UsageError`."""
    profiles = workspace.profiles()
    return profiles if fleet is None else hypothetical_fleet(parse_fleet(fleet), profiles)


def planner_for(
    workspace: Workspace,
    policy: Policy,
    headroom: float,
    *,
    profiles: Mapping[str, Profile],
    rules: Rules | None = None,
    time_limit_s: float = 5.0,
    spares: bool | None = None,
) -> Planner:
    """The planner of a policy for the devices of ``profiles``. Raises `ArtefactError` if one is missing or stale."""
    catalog = workspace.catalog()
    for profile in workspace.sources(profiles):
        require_current_models(catalog, profile, workspace)
    kind = {"infaas": InfaasPlanner, "sommelier": SommelierPlanner}.get(policy.plans, Planner)
    return kind(
        catalog,
        profiles,
        policy,
        headroom=policy.headroom or headroom,
        inputs=workspace.digests([workspace.catalog_path, *workspace.profile_paths(profiles)]),
        rules=rules,
        time_limit_s=time_limit_s,
        spares=policy.spares if spares is None else spares,
    )
