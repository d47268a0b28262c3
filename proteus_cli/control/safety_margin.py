"""How much of the room for bursts families need that share devices."""

import math
from collections.abc import Mapping, Sequence

from proteus_cli.control.decision import Hosted


def shared_margin(
    hosted: Sequence[Hosted], demand_qps: Mapping[str, float], slo_s: Mapping[str, float]
) -> dict[str, float]:
    """By family, the part of the room for its own bursts that it needs beside those whose devices it shares; 1 alone.

    Bursts of families are independent, so that on shared devices their variances add up, not their deviations: of
    what all need by themselves, the root of the sum of squares is enough. What counts is the time that devices take
    for it, in full batches. Arrivals are taken to be Poisson at ``demand_qps``, which was planned for.
    """
    busy_s: dict[str, float] = {}
    served_qps: dict[str, float] = {}
    sharing: dict[str, set[str]] = {}
    for host in hosted:
        if host.weight > 0:
            row_s = host.latency(host.max_batch) / host.max_batch
            busy_s[host.family] = busy_s.get(host.family, 0.0) + host.weight * row_s
            served_qps[host.family] = served_qps.get(host.family, 0.0) + host.weight
            sharing.setdefault(host.device, set()).add(host.family)
    room_s = {
        family: busy_s[family] / served_qps[family] * math.sqrt(demand_qps.get(family, 0.0) / slo_s[family])
        for family in busy_s
    }
    beside: dict[str, set[str]] = {family: {family} for family in slo_s}
    for families in sharing.values():
        for family in families:
            beside[family] |= families
    return {family: _part([room_s.get(name, 0.0) for name in names]) for family, names in beside.items()}


def _part(rooms_s: list[float]) -> float:
    whole_s = sum(rooms_s)
    return math.hypot(*rooms_s) / whole_s if whole_s > 0 else 1.0
