"""What a query takes of a variant on a device: time, energy, and what the device costs meanwhile.

Amounts are of the two alone, whatever else is hosted, so plans, checks of plans and dispatch agree on them.
"""

from collections.abc import Sequence

import numpy as np

from proteus_cli.domain.profile.profile import Point

QUERIES_OF_A_COST = 1_000_000
"""Costs are told of so many queries, as those of one are tiny."""
SECONDS_PER_HOUR = 3600


def latency_of(points: Sequence[Point]) -> float:
    """Seconds that a query takes which finds its device free: the p95 of the smallest batch."""
    return points[0].p95_s


def energy_of(power_w: float, qps: float) -> float:
    """Joules of a query in full batches, of which ``qps`` keep the device busy."""
    return power_w / qps


def max_energy_of(power_w: float, points: Sequence[Point], max_batch: int) -> float:
    """Joules of a query in the batch of up to ``max_batch`` rows that is worst for it."""
    batches = np.arange(1, max_batch + 1)
    mean_s = np.interp(batches, [point.batch for point in points], [point.mean_s for point in points])
    return float(np.max(mean_s / batches)) * power_w / points[0].slots


def cost_of(price_per_hour: float, qps: float) -> float:
    """What `QUERIES_OF_A_COST` queries cost in full batches: their part of the time of a device."""
    return QUERIES_OF_A_COST * price_per_hour / (SECONDS_PER_HOUR * qps)
