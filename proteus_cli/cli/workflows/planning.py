"""A plan for a demand from the command line, and why it cannot obey all rules or serve all of the demand."""

from collections.abc import Collection, Mapping
from pathlib import Path

from proteus_cli.cli import console
from proteus_cli.cli.command_line.fleet import fleet_of
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.demand import check_demand
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import NoFeasiblePlan, RulesConflict, UsageError
from proteus_cli.planning.analysis.conflict import irreducible_conflict
from proteus_cli.planning.planner import Planner
from proteus_cli.replay.trace import read_trace
from proteus_cli.store import Workspace
from proteus_cli.store.sharing import with_sharing
from proteus_cli.units import counted, format_rate, parse_assignments, parse_rate

NEGLIGIBLE_FRAC = 1e-4  # of the demand: a smaller shortfall is the solver's rounding
FAMILIES_NAMED = 5  # in a warning
ROUNDING_FRAC = 1e-6  # of the relative accuracy


def profiles_to_plan_for(
    workspace: Workspace, fleet: str | None, hosts: Collection[str] | None = ()
) -> Mapping[str, Profile]:
    """The profiles of the devices to plan for, with what sharing costs. ``hosts`` as from `known_hosts`."""
    profiles = workspace.profiles()
    return with_sharing(workspace, _of_hosts(profiles, hosts) if fleet is None else fleet_of(profiles, fleet))


def _of_hosts(profiles: Mapping[str, Profile], hosts: Collection[str] | None) -> Mapping[str, Profile]:
    """The profiles of this machine and of ``hosts`` (None: of any), else all; says which are left out."""
    if hosts is None:
        return profiles
    used = {device: each for device, each in profiles.items() if not each.device.host or each.device.host in hosts}
    others = ", ".join(dict.fromkeys(each.device.host for device, each in profiles.items() if device not in used))
    if not used:
        console.say(f"only hosts have profiles ({others}), so the plan is for them: serve it with `--cluster`")
        return profiles
    if others:
        how = "`--cluster` of `proteus plan` plans for hosts, `proteus devices forget HOST` removes them"
        console.say(f"left out the profiles of {others}: {how}")
    return used


def wanted_demand(text: str | None, trace: Path | None, catalog: Catalog) -> dict[str, float]:
    """Queries per second by family: as given, or of a trace's busiest 10 s. Raises `UsageError`."""
    if text is not None and trace is None:
        return parse_demand(text, catalog)
    if trace is None or text is not None:
        raise UsageError("Give either `--demand` or `--from-trace`.", hint="for example `--demand 1200qps`")
    peak = read_trace(trace).peak_demand()
    check_demand(peak, catalog)
    return peak


def parse_demand(text: str, catalog: Catalog) -> dict[str, float]:
    """``"1200qps"`` (shared by weight) or ``"digits=800qps,signals=200qps"`` → qps of every family.

    Raises `UsageError` for unknown families, families named twice, and bad rates.
    """
    if "=" not in text:
        return _shared_by_weight(parse_rate(text), catalog)
    rates = parse_assignments(text, "The demand")
    return dict.fromkeys(catalog.names, 0.0) | {
        catalog.family(name).name: parse_rate(rate or "") for name, rate in rates.items()
    }


def _shared_by_weight(total_qps: float, catalog: Catalog) -> dict[str, float]:
    weight = sum(family.weight for family in catalog.families)
    if weight <= 0:
        raise UsageError(
            "All families in the catalog have weight 0, so a total can't be shared among them.",
            hint="give the demand by family, like `--demand digits=800qps,signals=200qps`",
        )
    return {family.name: total_qps * family.weight / weight for family in catalog.families}


def wanted_mix(text: str | None, trace: Path | None, catalog: Catalog) -> dict[str, float]:
    """The shares of the families in a sweep: those of the demand that was given, else their weights."""
    if text is None and trace is None:
        return {family.name: family.weight for family in catalog.families}
    return wanted_demand(text, trace, catalog)


def made_plan(planner: Planner, demand_qps: Mapping[str, float], current: Plan | None, *, strict: bool) -> Plan:
    """The plan for a demand, coming from ``current``.

    Raises `RulesConflict` if no plan obeys all rules, and with ``strict`` `NoFeasiblePlan` if it leaves a shortfall.
    """
    try:
        plan = planner(demand_qps, current)
    except RulesConflict:
        raise RulesConflict(
            f"No plan obeys all rules.{_conflict(planner, demand_qps)}",
            hint="loosen one of them, or give the fleet more devices",
        ) from None
    if strict and has_shortfall(plan):
        raise _shortfall(planner, plan)
    return plan


def has_shortfall(plan: Plan) -> bool:
    """Whether a plan leaves more of its demand unserved than the solver's rounding explains."""
    return plan.shortfall_qps > NEGLIGIBLE_FRAC * sum(plan.demand_qps.values())


def short_families(plan: Plan) -> str:
    """The families that a plan does not serve in full, the one that lacks most first: ``b: none of its 150 qps``.

    Of many only the first `FAMILIES_NAMED` are named.
    """
    lacking = {family: plan.unserved_qps.get(family, 0.0) for family in plan.demand_qps}
    short = [family for family, qps in lacking.items() if qps > NEGLIGIBLE_FRAC * plan.demand_qps[family]]
    short.sort(key=lacking.__getitem__, reverse=True)
    named = [f"{family}: {_served_of(plan, family)}" for family in short[:FAMILIES_NAMED]]
    others = len(short) - FAMILIES_NAMED
    return ", ".join([*named, f"and {counted(others, 'more family', 'more families')}"] if others > 0 else named)


def _served_of(plan: Plan, family: str) -> str:
    demand_qps = plan.demand_qps[family]
    served_qps = demand_qps - plan.unserved_qps[family]
    if served_qps <= NEGLIGIBLE_FRAC * demand_qps:
        return f"none of its {format_rate(demand_qps)}"
    return f"{format_rate(served_qps)} of its {format_rate(demand_qps)}"


def why_families_lack_devices(plan: Plan) -> str:
    """What to do where each device hosts one variant and there are more families than devices; empty elsewhere."""
    families = sum(qps > 0 for qps in plan.demand_qps.values())
    if plan.rules.is_resident_set or plan.rules.survives is not None or families <= len(plan.devices):
        return ""
    return (
        f"{counted(len(plan.devices), 'device')} cannot host {counted(families, 'family', 'families')} with one "
        "variant on each: `--residency 2`, or `--residency memory`, hosts several on a device"
    )


def noisy_placements(profiles: Mapping[str, Profile], plan: Plan) -> list[str]:
    """What is placed, as `variant on type of device`, whose batches up to the largest have noisy cells in a profile."""
    found: dict[str, None] = {}
    for placement in plan.placements:
        profile = profiles[placement.device]
        measured = profile.of(placement.family, placement.variant)
        points = profile.points_of(measured) if measured is not None else ()
        if any(point.noise_frac for point in points if point.batch <= placement.max_batch):
            found[f"{placement.variant} on {profile.device.type}"] = None
    return list(found)


def why_no_cascade(profiles: Mapping[str, Profile], plan: Plan) -> str:
    """The likely reason why a plan that may use cascades uses none, with a hint where something can be done."""
    families = [family for family, qps in plan.demand_qps.items() if qps > 0]
    if not any(each.family in families for profile in profiles.values() for each in profile.cascades):
        return f"no profile has any of {', '.join(families)}; `proteus profile` finds those of families with eval data"
    if plan.relative_accuracy is not None and plan.relative_accuracy >= 1 - ROUNDING_FRAC:
        return "the most accurate variants serve this demand alone"
    if plan.rules.is_resident_set or plan.rules.survives is not None:
        return "none makes this plan better"
    return (
        "none makes this plan better while each device hosts one variant; "
        "with `--residency 2` a device can host both stages"
    )


def _shortfall(planner: Planner, plan: Plan) -> NoFeasiblePlan:
    missing, total = format_rate(plan.shortfall_qps), format_rate(sum(plan.demand_qps.values()))
    conflict = _conflict(planner.with_changes(headroom=1.0), plan.demand_qps)
    several = f"; {why}" if (why := why_families_lack_devices(plan)) else ""
    return NoFeasiblePlan(
        f"The plan would leave {missing} of {total} unserved.{conflict}",
        hint=f"lower the demand, add faster variants, or leave out `--strict` to plan for what can be served{several}",
    )


def _conflict(planner: Planner, demand_qps: Mapping[str, float]) -> str:
    """What can't be met, as a sentence that follows another, and a list; empty where all can."""
    wishes = irreducible_conflict(planner, demand_qps)
    sentence = "These can't be met together:" if len(wishes) > 1 else "This alone can't be met:"
    return "\n  - ".join((f" {sentence}", *wishes)) if wishes else ""
