"""How much of the network of each host a plan may use."""

from collections.abc import Collection, Mapping

from msgspec.structs import replace

from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.rules import Rules
from proteus_cli.units import format_size

NETWORK_FRAC = 0.5
"""The part of a host's bandwidth that plans use. At utilisation ρ, a transfer waits ``ρ / (2 · (1 - ρ))`` of its own
time (M/D/1): half of it at 0.5, and ever more above."""


def limits_of_hosts(catalog: Catalog, profiles: Mapping[str, Profile], rules: Rules) -> dict[str, float]:
    """Bytes per second that plans may have go to each host and back, where its devices could ask for more.

    Hosts with an unknown network have no limit, nor has this machine.
    """
    limits: dict[str, float] = {}
    most: dict[str, float] = {}
    known: dict[tuple[int, int, int], float] = {}
    for profile in profiles.values():
        host = profile.device.host if profile.network is not None else ""
        if host and profile.network is not None:
            limit = NETWORK_FRAC * profile.network.bytes_per_s
            limits[host] = min(limits.get(host, limit), limit)
            key = id(profile.variants), profile.slots, id(profile.network)
            if key not in known:
                known[key] = _max_bytes_per_s(catalog, profile, rules)
            most[host] = most.get(host, 0.0) + known[key]
    return {host: limit for host, limit in limits.items() if most[host] > limit}


def limit_in_words(host: str, limit_bytes_per_s: float) -> str:
    """A text for people: how much the network of a host carries."""
    return f"{host}: at most {format_size(limit_bytes_per_s)} per second over its network"


def without_limits(profiles: Mapping[str, Profile], hosts: Collection[str]) -> dict[str, Profile]:
    """The profiles without network limits for these hosts; transfer times stay."""
    return {
        device: replace(profile, network=None) if profile.device.host in hosts else profile
        for device, profile in profiles.items()
    }


def row_bytes(profile: Profile, family: str) -> int:
    """The bytes that a query of a family sends over the network of a device's host; 0 if unknown."""
    return profile.network.row_bytes.get(family, 0) if profile.network is not None else 0


def _max_bytes_per_s(catalog: Catalog, profile: Profile, rules: Rules) -> float:
    targets = rules.planned_targets(catalog.slo_targets())
    return max(
        (
            step.capacity.qps * row_bytes(profile, measured.family)
            for measured in profile.variants
            if measured.family in targets
            for step in rules.capacity_steps(targets[measured.family], profile.points_of(measured))
        ),
        default=0.0,
    )
