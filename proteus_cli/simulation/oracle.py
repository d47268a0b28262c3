"""The upper bound: demand known in advance, free changes of plan, no queues."""

from collections.abc import Callable

import numpy as np

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.domain.trace import Trace

SECOND_S = 1.0


def simulate_oracle(
    trace: Trace,
    plan_for: Callable[[Demand], Plan],
    accuracy_of: Callable[[str, str, str], float],
    *,
    progress: Callable[[float], object] = lambda _done_frac: None,
) -> list[RequestRecord]:
    """Plan each second for exactly what arrives in it, and answer at once what is served.

    Of each family's queries of a second, in order of arrival, the plan's rates say how many each placement serves; the
    rest is rejected. ``accuracy_of`` is called with device, family and variant; the accuracy of what goes by a cascade
    is that of its composition, in the mean over all queries of its first variant.
    """
    second = np.floor(trace.arrival_s / SECOND_S).astype(np.int64)
    ended: list[RequestRecord] = []
    for now in np.unique(second).tolist():
        progress(now * SECOND_S / max(trace.duration_s, SECOND_S))
        mine = np.flatnonzero(second == now)
        counts = np.bincount(trace.family[mine], minlength=len(trace.families))
        plan = plan_for({name: float(n) / SECOND_S for name, n in zip(trace.families, counts.tolist(), strict=True)})
        for index, name in enumerate(trace.families):
            arrivals_s = trace.arrival_s[mine[trace.family[mine] == index]].tolist()
            ended += _answered(name, arrivals_s, plan, accuracy_of)
    return ended


def _answered(
    family: str, arrivals_s: list[float], plan: Plan, accuracy_of: Callable[[str, str, str], float]
) -> list[RequestRecord]:
    hosts = [placement for placement in plan.placements if placement.family == family]
    ends = np.cumsum([placement.rate_qps * SECOND_S for placement in hosts]) + 1e-6
    found = np.searchsorted(ends, np.arange(len(arrivals_s)) + 1).tolist()
    alone = [accuracy_of(host.device, family, host.variant) for host in hosts]
    accuracy = [_with_cascades(plan, host.key, each) for host, each in zip(hosts, alone, strict=True)]
    return [
        RequestRecord(family, at_s, Outcome.REJECTED)
        if place == len(hosts)
        else RequestRecord(
            family,
            at_s,
            Outcome.SERVED,
            0.0,
            accuracy[place],
            hosts[place].variant,
            hosts[place].device,
        )
        for at_s, place in zip(arrivals_s, found, strict=True)
    ]


def _with_cascades(plan: Plan, key: VariantKey, accuracy: float) -> float:
    """The accuracy to be expected of a query that a plan sends to a variant, which alone has that accuracy."""
    from_here = [each for each in plan.cascades if (each.family, each.first) == key]
    rate_qps = sum(placement.rate_qps for placement in plan.placements if placement.key == key)
    if not from_here or rate_qps <= 0:
        return accuracy
    return accuracy + sum(each.rate_qps / rate_qps * (each.point.accuracy - accuracy) for each in from_here)
