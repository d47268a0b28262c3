"""What a query takes of a variant on a device: time, energy, and what the device costs meanwhile.

Amounts are of the two alone, whatever else is hosted, so plans, checks of plans and dispatch agree on them.

What a variant on a device carries within its SLO, by the number of hosts that serve its family.
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from proteus_cli.arrays import Floats, Ints
from proteus_cli.domain.attainment import DEFAULT_ATTAINMENT, SloTarget
from proteus_cli.domain.base import Value
from proteus_cli.domain.profile import LatencyStatistic, Point, Profile, VariantProfile


class Capacity(Value, frozen=True):
    """The best rate of a variant on a device within its SLO, and the batch size that gives it."""

    qps: float
    max_batch: int


NO_CAPACITY = Capacity(qps=0.0, max_batch=0)


class CapacityStep(Value, frozen=True):
    """The capacity of a variant on a device where ``hosts`` or more serve its family, up to those of the next step."""

    hosts: int
    capacity: Capacity


NO_STEP = CapacityStep(0, NO_CAPACITY)


ROUNDING = 1e-9  # hosts; a count that is whole but for the last bits is not the next one
SAME_RATE_FRAC = 0.03
"""Rates that differ by less are the same: batches are measured until their p95 is stable to so much. The largest batch
is a limit, and with a larger one the server has less to do for each query."""
MANY_CURVES = 4096
"""So many capacities are remembered: each plan asks again for those of what it hosts, to be checked."""
HOST_STEPS = np.array([1, *(n * 2**power for power in range(17) for n in (2, 3)), math.inf])
"""The numbers of hosts at which capacities change: 1, 2, 3, 4, 6, 8, 12 … With finer steps, plans of one host less than
their batches count on would be the rule, and each of them is solved again."""


def slo_fraction(hosts: int, attainment: float = DEFAULT_ATTAINMENT) -> float:
    """The part of the SLO that one batch may take where so many hosts serve a family from one queue.

    The first query in the queue waits for the first host that ends its batch. If all are busy with batches of a latency
    L, at any place in them, it waits longer than w with the probability ``(1 - w/L) ** hosts``. The wait that no more
    queries exceed than the attainment leaves, and the batch itself, fit the SLO: near a half with one host, as a query
    may just miss a batch, and near 1 with many.
    """
    longest_wait = 1 - math.pow(1 - attainment, 1 / hosts)  # in batches
    return 1 / (1 + longest_wait)


def hosts_needed(parts: Floats, attainment: float = DEFAULT_ATTAINMENT) -> Floats:
    """The fewest hosts with which one batch may take each part of the SLO; infinite where no number is enough."""
    found = np.where(parts < 1, 1.0, math.inf)
    is_longer = (parts > slo_fraction(1, attainment)) & (parts < 1)
    found[is_longer] = np.ceil(math.log(1 - attainment) / np.log(2 - 1 / parts[is_longer]) - ROUNDING)
    return found


def points_in_time(points: Iterable[Point], longest_s: float, *, of: LatencyStatistic = "p95") -> list[Point]:
    """The points whose latency is at most ``longest_s``."""
    return [point for point in points if point.latency_s(of) <= longest_s]


def capacity(points: Iterable[Point], *, of: LatencyStatistic = "mean") -> Capacity:
    """The best batch / latency of these points (paper §4).

    Where several batches are on the device at once, latencies are those of that many, and as many end in that time.
    """
    within = list(points)
    if not within:
        return NO_CAPACITY
    best = max(within, key=lambda point: _rate_qps(point, of))
    return Capacity(qps=_rate_qps(best, of), max_batch=best.batch)


@lru_cache(maxsize=MANY_CURVES)
def capacity_by_hosts(
    points: tuple[Point, ...], target: SloTarget, *, of: LatencyStatistic = "mean"
) -> tuple[CapacityStep, ...]:
    """The capacity by the number of hosts that serve a family: the best rate of all batches that may wait for so many.

    Of all sizes, as latencies are linear between the measured ones, that of the best rate; or the largest measured one
    of the same rate, within what rates are measured to. All points are of one number of slots.
    """
    if not points:
        return ()
    measured = [point.batch for point in points]
    batches = np.arange(measured[0], measured[-1] + 1)
    p95_s = np.interp(batches, measured, [point.p95_s for point in points])
    needed = hosts_needed(p95_s / target.slo_s, target.attainment)
    hosts = HOST_STEPS[np.searchsorted(HOST_STEPS, needed)]
    rates_qps = points[0].slots * batches / np.interp(batches, measured, [point.latency_s(of) for point in points])
    steps: list[CapacityStep] = []
    for fewest in np.unique(hosts[hosts < math.inf]).tolist():
        within = np.where(hosts <= fewest, rates_qps, 0.0)
        best = int(within.argmax())
        if not steps or within[best] > steps[-1].capacity.qps:
            same = [n for n in measured if within[n - measured[0]] >= (1 - SAME_RATE_FRAC) * within[best]]
            largest_batch = max([measured[0] + best, *same])
            steps.append(CapacityStep(int(fewest), Capacity(float(within[best]), largest_batch)))
    return tuple(steps)


def capacity_at(steps: Iterable[CapacityStep], hosts: int) -> Capacity:
    """The capacity where so many hosts serve the family; the steps rise."""
    return max((step for step in steps if step.hosts <= hosts), key=lambda step: step.hosts, default=NO_STEP).capacity


def _rate_qps(point: Point, of: LatencyStatistic) -> float:
    return point.slots * point.batch / point.latency_s(of)


QUERIES_OF_A_COST = 1_000_000
"""Costs are told of so many queries, as those of one are tiny."""
SECONDS_PER_HOUR = 3600


def latency_of(points: Sequence[Point]) -> float:
    """Seconds that a query takes which finds its device free: the p95 of the smallest batch."""
    return points[0].p95_s


def energy_of(profile: Profile, measured: VariantProfile, capacity: Capacity) -> float:
    """Joules of a query in full batches: its part of their time on the device, without their way there and back."""
    whole_s, device_s = _means_s(profile, measured, np.array([capacity.max_batch]))
    return (measured.power_w or 0.0) / capacity.qps * float(device_s[0] / whole_s[0])


def max_energy_of(profile: Profile, measured: VariantProfile, max_batch: int) -> float:
    """Joules of a query in the batch of up to ``max_batch`` rows that is worst for it, without its way."""
    batches = np.arange(1, max_batch + 1)
    _, device_s = _means_s(profile, measured, batches)
    return float(np.max(device_s / batches)) * (measured.power_w or 0.0) / profile.slots


def _means_s(profile: Profile, measured: VariantProfile, batches: Ints) -> tuple[Floats, Floats]:
    """Seconds that batches take in the mean, and those on the device alone."""
    points = profile.points_of(measured)
    sizes = [point.batch for point in points]
    whole_s: Floats = np.interp(batches, sizes, [point.mean_s for point in points])
    return whole_s, whole_s - np.interp(batches, sizes, [profile.way_s(measured.family, size) for size in sizes])


def cost_of(price_per_hour: float, qps: float) -> float:
    """What `QUERIES_OF_A_COST` queries cost in full batches: their part of the time of a device."""
    return QUERIES_OF_A_COST * price_per_hour / (SECONDS_PER_HOUR * qps)
