"""The attainment to expect of a plan where only rates are known of arrivals, which are then taken to be Poisson.

Queries of a family wait in one queue. A host that becomes free takes all that waits, up to its largest batch; with *x*
rows waiting, hosts of capacity *c*, largest batch *b* and mean latency *T* drain the queue at

    drain(x) = Σ c · (m / T(m)) / (b / T(b))        m = min(max(x, 1), b)

so they carry less than their capacity until as many wait as fill their batches. The queue holds at most the `slack_s`
of the family times the rate that hosts reach in overload (`REACHED_FRAC`), plus one query that need not wait, as for
loss curves. Queries that find a longer queue are late. The queue is approximated by a diffusion between empty and full,
with the drift ``λ - drain(x)`` and the variance λ of Poisson arrivals. The overflow is half of the stationary density
at the full queue. Where all batches are full at once, this is the overflow that loss curves have for Poisson arrivals.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec.structs import replace

from proteus_cli.arrays import Floats
from proteus_cli.control.decision import HostedVariant
from proteus_cli.control.replanning.loss_curves import REACHED_FRAC
from proteus_cli.control.replanning.replanning import slack_s
from proteus_cli.control.topology.hosting import hosted_by
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.profile import Profile

POINTS = 2001
"""Points of the density; four times as many change no figure that is shown."""
DIGITS = 6  # of a fraction; the last ones would differ from machine to machine


def expecting(plan: Plan, catalog: Catalog, profiles: Mapping[str, Profile]) -> Plan:
    """The plan with the attainment to expect for its demand; a plan for a forecast is unchanged."""
    if plan.expected_attainment:
        return plan
    hosts = hosted_by(plan, profiles, plan.rules.attainment_targets(catalog))
    waits_s, found = slack_s(hosts, catalog.slo_s()), dict[str, float]()
    for family, qps in plan.demand_qps.items():
        mine = [pair for pair in zip(plan.placements, hosts, strict=True) if pair[0].family == family]
        if qps > 0:
            found[family] = round(1 - lost_frac(qps, mine, waits_s[family]), DIGITS) if mine else 0.0
    return replace(plan, expected_attainment=found)


def lost_frac(rate_qps: float, hosts: Sequence[tuple[Placement, HostedVariant]], may_wait_s: float) -> float:
    """The part of Poisson arrivals at that rate that these hosts of a family cannot answer in time.

    Queries may wait for ``may_wait_s`` until their batch begins.
    """
    capacity_qps = REACHED_FRAC * sum(placement.newcomers_qps for placement, _ in hosts)
    waiting = np.linspace(0.0, may_wait_s * capacity_qps + 1, POINTS)
    drained_qps = REACHED_FRAC * np.sum([_drained_qps(waiting, *each) for each in hosts], axis=0)
    growth = 2 * (1 - drained_qps / rate_qps)  # of the logarithm of the density, by row
    steps = np.diff(waiting)
    log_density = np.concatenate([[0.0], np.cumsum((growth[1:] + growth[:-1]) / 2 * steps)])
    density = np.exp(log_density - log_density.max())
    return float(min(density[-1] / 2 / ((density[1:] + density[:-1]) / 2 * steps).sum(), 1.0))


def _drained_qps(waiting: Floats, placement: Placement, host: HostedVariant) -> Floats:
    """The rate of newcomers that a host answers, by the number of waiting rows."""
    rows = np.arange(1, host.max_batch + 1)
    rates = rows / np.array([host.mean_latency(n) for n in rows.tolist()])
    drained: Floats = placement.newcomers_qps / rates[-1] * np.interp(waiting, rows, rates)
    return drained
