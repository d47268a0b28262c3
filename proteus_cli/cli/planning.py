"""A planner for a workspace, as `plan`, `serve` and `replay` need it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proteus_cli.control.policies import Policy
    from proteus_cli.domain.profile import Profile
    from proteus_cli.domain.rules import Rules
    from proteus_cli.planning.planner import Planner
    from proteus_cli.store import Workspace


def fleet_of(place: "Workspace", fleet: str | None) -> "dict[str, Profile]":
    """The profiled devices of a workspace by id, or those of a fleet like ``cpu:20,v100:10``. Raises `UsageError`."""
    from proteus_cli.domain.fleet import hypothetical_fleet, parse_fleet

    profiles = place.profiles()
    return profiles if fleet is None else hypothetical_fleet(parse_fleet(fleet), profiles)


def planner_for(
    place: "Workspace",
    policy: "Policy",
    headroom: float,
    *,
    profiles: "Mapping[str, Profile]",
    rules: "Rules | None" = None,
    time_limit_s: float = 5.0,
    spares: bool | None = None,
) -> "Planner":
    """Plans on the devices of ``profiles``, as a policy does. Raises `ArtefactError` where one is missing or stale."""
    from proteus_cli.planning.heuristics import InfaasPlanner, SommelierPlanner
    from proteus_cli.planning.planner import Planner
    from proteus_cli.store import require_current_models

    catalog = place.catalog()
    for profile in place.sources(profiles):
        require_current_models(catalog, profile, place)
    kind = {"infaas": InfaasPlanner, "sommelier": SommelierPlanner}.get(policy.plans, Planner)
    return kind(
        catalog,
        profiles,
        policy,
        headroom=policy.headroom or headroom,
        inputs=place.digests([place.catalog_path, *place.profile_paths(profiles)]),
        rules=rules,
        time_limit_s=time_limit_s,
        spares=policy.spares if spares is None else spares,
    )
