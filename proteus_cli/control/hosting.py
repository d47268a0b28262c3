"""From a plan to what its lanes host."""

from collections.abc import Mapping

from proteus_cli.control.decision import Hosted
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.profile import LatencyTable, Profile, VariantProfile
from proteus_cli.errors import ArtefactError


def hosted_by(plan: Plan, profiles: Mapping[str, Profile]) -> tuple[Hosted, ...]:
    """What the lanes of a plan host, with the p95 latencies of ``profiles`` (by device id).

    Raises `ArtefactError` where a placement was never profiled.
    """
    return tuple(_hosted(placement, measured_for(placement, profiles)) for placement in plan.placements)


def measured_for(placement: Placement, profiles: Mapping[str, Profile]) -> VariantProfile:
    """What was measured of a placement's variant on its device. Raises `ArtefactError` where nothing was."""
    profile = profiles.get(placement.device)
    measured = profile.of(placement.family, placement.variant) if profile is not None else None
    if measured is None or not measured.points:
        raise ArtefactError(
            f"The plan puts `{placement.variant}` on `{placement.device}`, which was never profiled there.",
            hint=f"run `proteus profile --device {placement.device}`, then `proteus plan` again",
        )
    return measured


def _hosted(placement: Placement, measured: VariantProfile) -> Hosted:
    return Hosted(
        device=placement.device,
        family=placement.family,
        variant=placement.variant,
        accuracy=measured.accuracy,
        max_batch=placement.max_batch,
        weight=placement.rate_qps,
        capacity_qps=placement.capacity_qps,
        latency=LatencyTable(measured.points, of=lambda point: point.p95_s),
    )
