"""Capacity of a variant on a device within its SLO, and the time, energy and cost of a query.

Amounts depend on the variant and the device alone, whatever else is hosted. Plans, their check and dispatch agree for
that reason.
"""

import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from proteus_cli.arrays import Floats, Ints
from proteus_cli.domain.attainment import DEFAULT_ATTAINMENT, SloTarget
from proteus_cli.domain.base import Value
from proteus_cli.domain.profile import LatencyStatistic, Point, Profile, VariantProfile


class Capacity(Value, frozen=True):
    """The best rate of a variant on a device within its SLO, and its batch size."""

    qps: float
    max_batch: int


NO_CAPACITY = Capacity(qps=0.0, max_batch=0)


class CapacityStep(Value, frozen=True):
    """The capacity of a variant on a device if at least ``hosts`` serve its family, up to the next step."""

    hosts: int
    capacity: Capacity


ROUNDING = 1e-9
"""In hosts: a count that is whole but for the last bits is whole."""
SAME_RATE_FRAC = 0.03
"""Rates that differ by less are equal, as measurements stop once the p95 is stable to that. Among equal rates the
largest batch counts: it is a limit, and large batches cost the server less per query."""
MANY_CURVES = 4096
"""Capacities kept in the cache. Each plan asks again for all that it hosts, to be checked."""
HOST_STEPS = np.array([1, *(n * 2**power for power in range(17) for n in (2, 3)), math.inf])
"""The numbers of hosts at which capacities change: 1, 2, 3, 4, 6, 8, 12 … With finer steps most plans would lack one
host that their batches assume. They would be solved again."""
QUERIES_OF_A_COST = 1_000_000
"""Costs are given per million queries."""
SECONDS_PER_HOUR = 3600


def slo_fraction(hosts: int, attainment: float = DEFAULT_ATTAINMENT) -> float:
    """The part of the SLO that one batch may take if ``hosts`` hosts serve a family from one queue.

    The first query in the queue waits for the first host that ends its batch. If all are busy with batches of a latency
    L, at random places in them, it waits longer than w with the probability ``(1 - w/L) ** hosts``. The wait that only
    1 - attainment of the queries exceed, plus the batch, fits the SLO. The result is near a half with one host, as a
    query may just miss a batch, and near 1 with many.
    """
    longest_wait = 1 - math.pow(1 - attainment, 1 / hosts)  # in batches
    return 1 / (1 + longest_wait)


def hosts_needed(parts: Floats, attainment: float = DEFAULT_ATTAINMENT) -> Floats:
    """The fewest hosts with which one batch may take each part of the SLO; infinite if no number is enough."""
    found = np.where(parts < 1, 1.0, math.inf)
    is_longer = (parts > slo_fraction(1, attainment)) & (parts < 1)
    found[is_longer] = np.ceil(math.log(1 - attainment) / np.log(2 - 1 / parts[is_longer]) - ROUNDING)
    return found


def points_in_time(points: Iterable[Point], longest_s: float, *, of: LatencyStatistic = "p95") -> list[Point]:
    """The points with a latency of at most ``longest_s``."""
    return [point for point in points if point.latency_s(of) <= longest_s]


def capacity(points: Iterable[Point], *, of: LatencyStatistic = "mean") -> Capacity:
    """The best batch / latency of these points (paper §4). With several slots, that many batches end in one latency."""

    def rate_qps(point: Point) -> float:
        return point.slots * point.batch / point.latency_s(of)

    best = max(points, key=rate_qps, default=None)
    return NO_CAPACITY if best is None else Capacity(rate_qps(best), best.batch)


@lru_cache(maxsize=MANY_CURVES)
def capacity_by_hosts(
    points: tuple[Point, ...], target: SloTarget, *, of: LatencyStatistic = "mean"
) -> tuple[CapacityStep, ...]:
    """The capacity by the number of hosts of a family: the best rate of all batches that are in time with that number.

    Latencies are linear between measured sizes, so the best size may lie between two. A measured larger size with an
    equal rate (`SAME_RATE_FRAC`) is preferred. All points are of one number of slots.
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
    """The capacity if ``hosts`` hosts serve the family. The steps rise."""
    return next((step.capacity for step in reversed(list(steps)) if step.hosts <= hosts), NO_CAPACITY)


def energy_of(profile: Profile, measured: VariantProfile, capacity: Capacity) -> float:
    """Joules of a query in full batches: its part of their time on the device, without the transfer."""
    whole_s, device_s = _means_s(profile, measured, np.array([capacity.max_batch]))
    return (measured.power_w or 0.0) / capacity.qps * float(device_s[0] / whole_s[0])


def max_energy_of(profile: Profile, measured: VariantProfile, max_batch: int) -> float:
    """Joules of a query in its worst batch of up to ``max_batch`` rows, without the transfer."""
    batches = np.arange(1, max_batch + 1)
    _, device_s = _means_s(profile, measured, batches)
    return float(np.max(device_s / batches)) * (measured.power_w or 0.0) / profile.slots


def _means_s(profile: Profile, measured: VariantProfile, batches: Ints) -> tuple[Floats, Floats]:
    """Mean seconds of batches: as a whole, and on the device alone."""
    points = profile.points_of(measured)
    sizes = [point.batch for point in points]
    whole_s: Floats = np.interp(batches, sizes, [point.mean_s for point in points])
    return whole_s, whole_s - np.interp(batches, sizes, [profile.way_s(measured.family, size) for size in sizes])


def cost_of(price_per_hour: float, qps: float) -> float:
    """The cost of `QUERIES_OF_A_COST` queries in full batches: their part of the device's time."""
    return QUERIES_OF_A_COST * price_per_hour / (SECONDS_PER_HOUR * qps)
