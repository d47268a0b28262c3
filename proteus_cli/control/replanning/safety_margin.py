"""The safety margins of families that share devices."""

import math
from collections.abc import Mapping, Sequence

from proteus_cli.control.decision import Host


def shared_margin(
    hosted: Sequence[Host], demand_qps: Mapping[str, float], slo_s: Mapping[str, float]
) -> dict[str, float]:
    """By family, the part of its own safety margin that it needs beside the families that share its devices; 1 alone.

    Bursts of families are independent: on shared devices their variances add up, not their deviations. So of the sum of
    all margins, the root of the sum of squares is enough. Margins are counted in device time, in full batches, for
    Poisson arrivals at the planned ``demand_qps``.
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
    margin_s = {
        family: busy_s[family] / served_qps[family] * math.sqrt(demand_qps.get(family, 0.0) / slo_s[family])
        for family in busy_s
    }
    neighbours: dict[str, set[str]] = {family: {family} for family in slo_s}
    for families in sharing.values():
        for family in families:
            neighbours[family] |= families
    return {family: _part([margin_s.get(name, 0.0) for name in names]) for family, names in neighbours.items()}


def _part(margins_s: list[float]) -> float:
    sum_s = sum(margins_s)
    return math.hypot(*margins_s) / sum_s if sum_s > 0 else 1.0
