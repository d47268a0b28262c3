"""From the placements of a plan to hosts with latencies."""

from collections.abc import Iterable, Mapping

from proteus_cli.control.decision import Host
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.profile import LatencyTable, Profile, VariantProfile
from proteus_cli.errors import ArtefactError


def hosted_by(plan: Plan, profiles: Mapping[str, Profile]) -> tuple[Host, ...]:
    """The hosts of a plan, with latencies while all slots are busy; ``profiles`` by device id.

    Hosts that share measurements share the tables. Raises `ArtefactError` where a placement was never profiled.
    """
    tables: dict[tuple[int, int], tuple[LatencyTable, LatencyTable]] = {}
    return tuple(_hosted(placement, profiles, tables) for placement in plan.placements)


def measured_for(placement: Placement, profiles: Mapping[str, Profile]) -> VariantProfile:
    """The profile of a placement's variant on its device. Raises `ArtefactError` where there is none."""
    profile = profiles.get(placement.device)
    measured = profile.of(placement.family, placement.variant) if profile is not None else None
    if profile is None or measured is None or not profile.points_of(measured):
        raise ArtefactError(
            f"The plan puts `{placement.variant}` on `{placement.device}`, which was never profiled there.",
            hint=f"run `proteus profile --device {placement.device}`, then `proteus plan` again",
        )
    return measured


def slots_of(devices: Iterable[str], profiles: Mapping[str, Profile]) -> dict[str, int]:
    """The slots of each device, by id; one where the device was never profiled."""
    return {device: profiles[device].slots if device in profiles else 1 for device in devices}


def _hosted(
    placement: Placement,
    profiles: Mapping[str, Profile],
    tables: dict[tuple[int, int], tuple[LatencyTable, LatencyTable]],
) -> Host:
    measured, profile = measured_for(placement, profiles), profiles[placement.device]
    key = id(measured), profile.slots
    if key not in tables:
        points = profile.points_of(measured)
        tables[key] = LatencyTable(points, lambda point: point.p95_s), LatencyTable(points, lambda point: point.mean_s)
    latency, mean_latency = tables[key]
    return Host(
        device=placement.device,
        family=placement.family,
        variant=placement.variant,
        accuracy=measured.accuracy,
        max_batch=placement.max_batch,
        weight=placement.rate_qps,
        capacity_qps=placement.capacity_qps,
        latency=latency,
        mean_latency=mean_latency,
    )
