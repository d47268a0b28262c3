"""What a query takes of a variant on a device: time, energy, and what the device costs meanwhile.

Amounts are of the two alone, whatever else is hosted, so plans, checks of plans and dispatch agree on them.
"""

from collections.abc import Sequence

import numpy as np

from proteus_cli.arrays import Floats, Ints
from proteus_cli.domain.profile.capacity import Capacity
from proteus_cli.domain.profile.profile import Point, Profile, VariantProfile

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
