"""Why there is no plan: few demands and rules that can't be met together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache
from itertools import chain, combinations, islice

import msgspec

from proteus_cli.domain.rules import Rules
from proteus_cli.planning.networks import limit_in_words, limits_of_hosts, without_limits
from proteus_cli.planning.planner import Planner
from proteus_cli.units import format_duration, format_percent, format_rate

Question = Callable[[frozenset[int]], bool]

MAX_QUESTIONS = 200
"""Questions after which a smallest set is not searched for any more. Each is a solve."""

MAX_CANDIDATES = 100_000
"""Sets that are compared with all complements to find the next candidate, before the search is given up likewise."""


@dataclass(frozen=True, slots=True)
class _Requirement:
    """One demand, rule or limit of a network.

    In words, and as fields of `Rules`, as the family whose demand is to be served, or as the host of the network.
    """

    text: str
    rules: dict[str, object]
    family: str | None = None
    host: str | None = None


def smallest_conflict(planner: Planner, demand_qps: Mapping[str, float]) -> tuple[str, ...]:
    """The fewest demands, rules and limits of networks that can't be met together, in words; empty where all can.

    Where the fewest take too long to find, it is a set from which none can be left out.

    A demand is met where all of the family's queries are served, with the planner's headroom. A set whose solve ran out
    of time counts as possible. So the named set certainly conflicts, but a smaller conflict, or one that is not named,
    may exist.
    """
    limits = limits_of_hosts(planner.catalog, planner.profiles, planner.rules)
    networks = [_Requirement(limit_in_words(host, limit), {}, host=host) for host, limit in limits.items()]
    requirements = [*_demands(planner, demand_qps), *_rules(planner.rules), *networks]

    @cache  # with a time limit, a second solve may find what the first did not
    def can_be_met(chosen: frozenset[int]) -> bool:
        asked = [requirements[i] for i in sorted(chosen)]
        families = {requirement.family for requirement in asked if requirement.family is not None}
        demand = {name: qps if name in families else 0.0 for name, qps in demand_qps.items()}
        ignored = limits.keys() - {requirement.host for requirement in asked}
        profiles = without_limits(planner.profiles, ignored) if ignored else None
        changed = planner.with_changes(rules=_rules_asking(planner.rules, asked), profiles=profiles)
        return changed.serves_all(demand) is not False

    return tuple(requirements[i].text for i in sorted(smallest_infeasible_subset(len(requirements), can_be_met)))


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


def smallest_infeasible_subset(size: int, is_feasible: Question) -> frozenset[int]:
    """The smallest subset of ``range(size)`` that is infeasible; empty where the whole set is feasible.

    After `MAX_QUESTIONS`, or where `MAX_CANDIDATES` do not hit all complements, it is one that is feasible without any
    of its elements.

    Feasibility must be monotone. An infeasible subset hits the complement of each feasible one. A smallest set that
    hits all known complements is either infeasible, and then the smallest, or it gives another complement (Ignatiev et
    al., "Smallest MUS extraction with minimal hitting set dualization", 2015).
    """
    everything = frozenset(range(size))
    if is_feasible(everything):
        return frozenset()
    complements: list[frozenset[int]] = []
    for _ in range(MAX_QUESTIONS // (size + 1)):  # a candidate and its growth take up to size + 1
        candidate = _smallest_hitting_set(size, complements)
        if candidate is None:
            break
        if not is_feasible(candidate):
            return candidate
        complements.append(everything - _grown(candidate, everything, is_feasible))
    return _shrunk(everything, is_feasible)


def _shrunk(subset: frozenset[int], is_feasible: Question) -> frozenset[int]:
    """Leave out what can be, the first elements first, so that the set stays infeasible."""
    for each in sorted(subset):
        if not is_feasible(subset - {each}):
            subset -= {each}
    return subset


def _grown(subset: frozenset[int], everything: frozenset[int], is_feasible: Question) -> frozenset[int]:
    for each in sorted(everything - subset):
        if is_feasible(subset | {each}):
            subset |= {each}
    return subset


def _smallest_hitting_set(size: int, sets: Sequence[AbstractSet[int]]) -> frozenset[int] | None:
    """The smallest set that has an element of each of ``sets``; None where `MAX_CANDIDATES` have not."""
    candidates = chain.from_iterable(combinations(range(size), count) for count in range(size + 1))
    for chosen in islice(candidates, MAX_CANDIDATES):
        if all(not each.isdisjoint(chosen) for each in sets):
            return frozenset(chosen)
    return None


def _demands(planner: Planner, demand_qps: Mapping[str, float]) -> Iterator[_Requirement]:
    headroom = f" with a headroom of {planner.headroom:g}" if planner.headroom > 1 else ""
    for family, qps in demand_qps.items():
        if qps > 0:
            yield _Requirement(f"{family}: serve {format_rate(qps)}{headroom}", {}, family)


def _rules(rules: Rules) -> Iterator[_Requirement]:
    for family, accuracy in rules.min_accuracy.items():
        yield _Requirement(
            f"{family}: only variants of accuracy {accuracy:g} or more", {"min_accuracy": {family: accuracy}}
        )
    for family, accuracy in rules.min_expected_accuracy.items():
        text = f"{family}: only answers of an expected accuracy of {accuracy:g} or more"
        yield _Requirement(text, {"min_expected_accuracy": {family: accuracy}})
    yield from _bounds(rules)
    for family, share in rules.max_share.items():
        text = f"{family}: at most {format_percent(share)} of its demand on one device"
        yield _Requirement(text, {"max_share": {family: share}})
    for reserved in rules.reserved:
        yield _Requirement(f"{reserved.device}: reserved for {reserved.family or 'nobody'}", {"reserved": (reserved,)})
    for pair in rules.banned:
        yield _Requirement(f"{pair.device}: {pair.variant} is banned", {"banned": (pair,)})
    for pair in rules.pinned:
        yield _Requirement(f"{pair.device}: {pair.variant} is pinned", {"pinned": (pair,)})
    if rules.survive:
        lost: dict[str, object] = {"survive": rules.survive, "survive_unit": rules.survive_unit}
        yield _Requirement(f"any one {rules.survives} may be lost", lost)
    if rules.budget_w is not None:
        yield _Requirement(f"at most {rules.budget_w:g} W", {"budget_w": rules.budget_w})
    if rules.budget_cost is not None:
        yield _Requirement(f"at most {rules.budget_cost:g} per hour", {"budget_cost": rules.budget_cost})


def _bounds(rules: Rules) -> Iterator[_Requirement]:
    in_words: dict[str, Callable[[float], str]] = {
        "max_latency_s": lambda bound: f"answers within {format_duration(bound)}",
        "max_energy_j": lambda bound: f"at most {bound:g} J for an answer",
        "max_cost_per_million": lambda bound: f"at most {bound:g} for a million queries",
    }
    for name, words in in_words.items():
        for family, bound in getattr(rules, name).items():
            yield _Requirement(f"{family}: {words(bound)}", {name: {family: bound}})


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
