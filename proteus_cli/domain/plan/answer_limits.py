"""Whether a variant on a device keeps what its family's policy says of the energy and the money of each answer.

As amounts are of the two alone, the planner and the steps of version roll-outs agree on what may answer.
"""

from proteus_cli.domain.attainment import SloTarget
from proteus_cli.domain.plan.rules import Rules
from proteus_cli.domain.profile.profile import Profile, VariantProfile
from proteus_cli.domain.profile.query_amounts import cost_of, max_energy_of


def knows_amounts(measured: VariantProfile, price_per_hour: float | None, rules: Rules) -> bool:
    """Whether power and price are known where the family counts them."""
    return _unknown(measured, price_per_hour, rules) is None


def why_not_within(
    measured: VariantProfile, profile: Profile, target: SloTarget, price_per_hour: float | None, rules: Rules
) -> str | None:
    """Which limit an answer exceeds, or what of it is unknown; None: it keeps all.

    ``target`` is what plans count on. Some batches of the variant must be in time on the device of the ``profile``.
    """
    if (why := _unknown(measured, price_per_hour, rules)) is not None:
        return why
    energy_j, cost = (
        rules.amount_bounds[name].get(measured.family) for name in ("max_energy_j", "max_cost_per_million")
    )
    points = profile.points_of(measured)
    steps = rules.capacity_steps(target, points)
    if energy_j is not None and measured.power_w is not None:
        max_batch = max(step.capacity.max_batch for step in steps)
        max_j = max_energy_of(profile, measured, max_batch)
        if max_j > energy_j:
            return f"an answer may take {max_j:.3g} J there, and {energy_j:g} J at most"
    if cost is not None and price_per_hour is not None:
        found = cost_of(price_per_hour, steps[0].capacity.qps)
        if found > cost:
            return f"a million answers cost {found:.3g} there, and may cost {cost:g}"
    return None


def _unknown(measured: VariantProfile, price_per_hour: float | None, rules: Rules) -> str | None:
    if measured.power_w is None and measured.family in rules.families_that_count("energy"):
        return "its power was not measured there, and its family counts energy"
    if price_per_hour is None and measured.family in rules.families_that_count("cost"):
        return "the device has no price, and its family counts cost"
    return None
