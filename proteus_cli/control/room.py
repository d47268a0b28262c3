"""How much of the room for bursts families need that share devices."""

import math
from collections.abc import Mapping

from proteus_cli.domain.plan import Plan


def shared_room(plan: Plan, slo_s: Mapping[str, float]) -> dict[str, float]:
    """By family, the part of the room for its own bursts that it needs beside those whose devices it shares; 1 alone.

    Bursts of families are independent, so that on shared devices their variances add up, not their deviations: of
    what all need by themselves, the root of the sum of squares is enough. What counts is the time that devices take
    for it. Arrivals are taken to be Poisson, at the rates that were planned for.
    """
    busy: dict[str, float] = {}
    served: dict[str, float] = {}
    hosts: dict[str, set[str]] = {}
    for each in plan.placements:
        if each.rate_qps > 0:
            busy[each.family] = busy.get(each.family, 0.0) + each.rate_qps / each.capacity_qps
            served[each.family] = served.get(each.family, 0.0) + each.rate_qps
            hosts.setdefault(each.device, set()).add(each.family)
    room_s = {
        family: busy[family] / served[family] * math.sqrt(plan.demand_qps.get(family, 0.0) / slo_s[family])
        for family in busy
    }
    beside: dict[str, set[str]] = {family: {family} for family in slo_s}
    for families in hosts.values():
        for family in families:
            beside[family] |= families
    return {family: _part([room_s.get(name, 0.0) for name in names]) for family, names in beside.items()}


def _part(rooms_s: list[float]) -> float:
    whole_s = sum(rooms_s)
    return math.hypot(*rooms_s) / whole_s if whole_s > 0 else 1.0
