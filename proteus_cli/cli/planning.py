"""A planner for a workspace, as `plan`, `serve` and `replay` need it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proteus_cli.domain.profile import Profile
    from proteus_cli.planning.planner import Planner
    from proteus_cli.store import Workspace


def planner_for(
    place: "Workspace",
    policy: str,
    headroom: float,
    *,
    profiles: "Mapping[str, Profile] | None" = None,
    time_limit_s: float = 5.0,
) -> "Planner":
    """Plans on all profiled devices, or on ``profiles``. Raises `ArtefactError` where one is missing or stale."""
    from proteus_cli.control.policies import policy_named
    from proteus_cli.planning.planner import Planner
    from proteus_cli.store import require_current_models

    rule = policy_named(policy)
    catalog = place.catalog()
    fleet = place.profiles() if profiles is None else profiles
    for profile in fleet.values():
        require_current_models(catalog, profile, place)
    inputs = place.digests([place.catalog_path, *(place.profile_path(device) for device in fleet)])
    return Planner(catalog, fleet, rule, headroom=headroom, inputs=inputs, time_limit_s=time_limit_s)
