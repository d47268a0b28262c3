"""The upper bound: demand known in advance, free changes of plan, no queues."""

from collections.abc import Callable

import numpy as np

from proteus_cli.domain.demand import Demand
from proteus_cli.domain.plan import Placement, Plan
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
    """Plan each second for the exact demand of that second, and answer at once the queries that the plan serves.

    The rates of a plan say how many queries of a second each placement serves, in order of arrival. The rest is
    rejected. ``accuracy_of`` is called with device, family and variant. A query that may go by a cascade has the mean
    accuracy of all queries of the first variant.
    """
    second = np.floor(trace.arrival_s / SECOND_S).astype(np.int64)
    ended: list[RequestRecord] = []
    for now in np.unique(second).tolist():
        progress(now * SECOND_S / max(trace.duration_s, SECOND_S))
        mine = np.flatnonzero(second == now)
        counts = np.bincount(trace.family[mine], minlength=len(trace.families))
        plan = plan_for({name: float(n) / SECOND_S for name, n in zip(trace.families, counts.tolist(), strict=True)})
        for index, family in enumerate(trace.families):
            hosts = [placement for placement in plan.placements if placement.family == family]
            ends = np.cumsum([host.rate_qps * SECOND_S for host in hosts]) + 1e-6
            accuracies = [_with_cascades(plan, host, accuracy_of(host.device, *host.key)) for host in hosts]
            arrivals_s = trace.arrival_s[mine[trace.family[mine] == index]].tolist()
            for number, at_s in enumerate(arrivals_s, 1):
                place = int(np.searchsorted(ends, number))
                if place == len(hosts):
                    ended.append(RequestRecord(family, at_s, Outcome.REJECTED))
                else:
                    answer = accuracies[place], hosts[place].variant, hosts[place].device
                    ended.append(RequestRecord(family, at_s, Outcome.SERVED, 0.0, *answer))
    return ended


def _with_cascades(plan: Plan, host: Placement, accuracy: float) -> float:
    """The expected accuracy of a query that a plan sends to a variant, which alone has that ``accuracy``."""
    from_here = [each for each in plan.cascades if (each.family, each.first) == host.key]
    rate_qps = sum(placement.rate_qps for placement in plan.placements if placement.key == host.key)
    if not from_here or rate_qps <= 0:
        return accuracy
    return accuracy + sum(each.rate_qps / rate_qps * (each.point.accuracy - accuracy) for each in from_here)
