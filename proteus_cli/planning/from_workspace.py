"""A planner for the catalog of a workspace, as `plan`, `serve` and `replay` need it."""

from collections.abc import Mapping

from proteus_cli.control.policies import Policy
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.heuristics import InfaasPlanner, SommelierPlanner
from proteus_cli.planning.planner import Planner
from proteus_cli.store import Workspace, require_current_models


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
