"""Demands and rules that no plan can meet together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from proteus_cli.domain.rules import Rules
from proteus_cli.planning.networks import limit_in_words, limits_of_hosts, without_limits
from proteus_cli.planning.planner import Planner
from proteus_cli.units import format_duration, format_percent, format_rate


@dataclass(frozen=True, slots=True)
class _Requirement:
    """One demand, rule or limit of a network.

    In words, and as fields of `Rules`, as the family whose demand is to be served, or as the host of the network.
    """

    text: str
    rules: dict[str, object]
    family: str | None = None
    host: str | None = None


def irreducible_conflict(planner: Planner, demand_qps: Mapping[str, float]) -> tuple[str, ...]:
    """Demands, rules and network limits that can't be met together, in words; empty where all can.

    Without any one of them the others can be met, but there may be a smaller conflict. A demand is met where all of the
    family's queries are served, with the planner's headroom. A set whose solve ran out of time counts as possible.

    This is the deletion filter of Chinneck & Dravnieks ("Locating minimal infeasible constraint sets in linear
    programs", 1991). It takes a solve for all requirements, and one for each.
    """
    limits = limits_of_hosts(planner.catalog, planner.profiles, planner.rules)
    networks = [_Requirement(limit_in_words(host, limit), {}, host=host) for host, limit in limits.items()]
    kept = [*_demands(planner, demand_qps), *_rules(planner.rules), *networks]

    def can_be_met(asked: Sequence[_Requirement]) -> bool:
        families = {requirement.family for requirement in asked}
        demand = {name: qps if name in families else 0.0 for name, qps in demand_qps.items()}
        ignored = limits.keys() - {requirement.host for requirement in asked}
        profiles = without_limits(planner.profiles, ignored) if ignored else None
        changed = planner.with_changes(rules=_rules_asking(planner.rules, asked), profiles=profiles)
        return changed.serves_all(demand) is not False

    if can_be_met(kept):
        return ()
    for each in tuple(kept):
        others = [requirement for requirement in kept if requirement is not each]
        if not can_be_met(others):
            kept = others
    return tuple(requirement.text for requirement in kept)


def without_each(rules: Rules) -> Iterator[tuple[str, Rules]]:
    """Each single rule and preference in words, and the rules without it."""
    requirements = list(_rules(rules))
    for left_out in requirements:
        asked = _rules_asking(rules, [requirement for requirement in requirements if requirement is not left_out])
        limits = {name: getattr(asked, name) for requirement in requirements for name in requirement.rules}
        yield left_out.text, msgspec.structs.replace(rules, **limits)
    for family, preferred in rules.others_preferred.items():
        others = {name: of for name, of in rules.others_preferred.items() if name != family}
        yield f"{family}: prefer {preferred}", msgspec.structs.replace(rules, prefer=others)


def _demands(planner: Planner, demand_qps: Mapping[str, float]) -> Iterator[_Requirement]:
    headroom = f" with a headroom of {planner.headroom:g}" if planner.headroom > 1 else ""
    for family, qps in demand_qps.items():
        if qps > 0:
            yield _Requirement(f"{family}: serve {format_rate(qps)}{headroom}", {}, family)


_BY_FAMILY: dict[str, Callable[[float], str]] = {
    "min_accuracy": lambda accuracy: f"only variants of accuracy {accuracy:g} or more",
    "min_expected_accuracy": lambda accuracy: f"only answers of an expected accuracy of {accuracy:g} or more",
    "max_latency_s": lambda bound: f"answers within {format_duration(bound)}",
    "max_energy_j": lambda bound: f"at most {bound:g} J for an answer",
    "max_cost_per_million": lambda bound: f"at most {bound:g} for a million queries",
    "max_share": lambda share: f"at most {format_percent(share)} of its demand on one device",
}
"""Rules by family, in words."""


def _rules(rules: Rules) -> Iterator[_Requirement]:
    for name, words in _BY_FAMILY.items():
        for family, bound in getattr(rules, name).items():
            yield _Requirement(f"{family}: {words(bound)}", {name: {family: bound}})
    for reserved in rules.reserved:
        yield _Requirement(f"{reserved.device}: reserved for {reserved.family or 'nobody'}", {"reserved": (reserved,)})
    for name in ("banned", "pinned"):
        for pair in getattr(rules, name):
            yield _Requirement(f"{pair.device}: {pair.variant} is {name}", {name: (pair,)})
    if rules.survive:
        lost: dict[str, object] = {"survive": rules.survive, "survive_unit": rules.survive_unit}
        yield _Requirement(f"any one {rules.survives} may be lost", lost)
    if rules.budget_w is not None:
        yield _Requirement(f"at most {rules.budget_w:g} W", {"budget_w": rules.budget_w})
    if rules.budget_cost is not None:
        yield _Requirement(f"at most {rules.budget_cost:g} per hour", {"budget_cost": rules.budget_cost})


def _rules_asking(rules: Rules, requirements: Sequence[_Requirement]) -> Rules:
    """Rules with these requirements and no other; what families prefer requires nothing."""
    nothing = Rules(
        capacity=rules.capacity,
        slo_fraction=rules.slo_fraction,
        attainment=rules.attainment,
        residency=rules.residency,
        cascades=rules.cascades,
        prefer=rules.prefer,
    )
    asked = nothing
    for requirement in requirements:
        for name, value in requirement.rules.items():
            known = getattr(asked, name)
            if isinstance(value, dict):
                both: object = {**(known or {}), **value}
            else:
                both = known + value if isinstance(value, tuple) else value
            asked = msgspec.structs.replace(asked, **{name: both})
    return asked
