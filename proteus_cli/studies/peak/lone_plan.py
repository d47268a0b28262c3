"""A plan that hosts one variant on one device and nothing else."""

from collections.abc import Mapping

from proteus_cli.domain.capacity import Capacity
from proteus_cli.domain.catalog import Catalog, Family
from proteus_cli.domain.plan import PLAN_FORMAT, Placement, Plan, Solver
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.domain.rules import Rules
from proteus_cli.errors import UsageError
from proteus_cli.store import made_by
from proteus_cli.units import format_duration


def lone_plan(
    catalog: Catalog, family: Family, measured: VariantProfile, profile: Profile, inputs: Mapping[str, str]
) -> Plan:
    """The plan, with the batches that fit the SLO. Raises `UsageError` where not even one row does."""
    capacity = _capacity(family, measured, profile)
    if not capacity.max_batch:
        raise UsageError(
            f"No batch of `{measured.variant}` on `{profile.device.id}` is done within the SLO of "
            f"{format_duration(family.slo_s)}, so it carries no rate.",
            hint="name other variants with `--variant`, or give the family a longer `slo` in engines/catalog.toml",
        )
    device = profile.device.id
    placement = Placement(
        device, family.name, measured.variant, capacity.max_batch, capacity.qps, share=1.0, capacity_qps=capacity.qps
    )
    none = dict.fromkeys(catalog.names, 0.0)
    served = none | {family.name: capacity.qps}
    return Plan(
        format=PLAN_FORMAT,
        made_by=made_by(),
        policy="proteus",
        objective="one variant on one device",
        rules=Rules(),
        headroom=1.0,
        demand_qps=served,
        served_qps=served,
        unserved_qps=none,
        effective_accuracy=None,
        relative_accuracy=None,
        solver=Solver("none", "optimal", 0.0, 0.0),
        fleet={profile.device.type: (device,)},
        placements=(placement,),
        inputs=dict(inputs),
    )


def carries_any(family: Family, measured: VariantProfile, profile: Profile) -> bool:
    """Whether some batch is done within the SLO, so that there is a `lone_plan`."""
    return bool(_capacity(family, measured, profile).max_batch)


def _capacity(family: Family, measured: VariantProfile, profile: Profile) -> Capacity:
    return Rules().capacity_within(family.slo_s, profile.points_of(measured), attainment=family.attainment)
