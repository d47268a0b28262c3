"""How long batches and loads take in a simulation: as profiled, under its conditions."""

from collections.abc import Callable, Mapping

import numpy as np

from proteus_cli.domain.profile.profile import LatencyTable, Profile, VariantProfile
from proteus_cli.simulation.conditions import Conditions, LatencySampler

Latencies = Callable[[int], float]
"""Seconds of a batch by rows."""

BatchTimes = Mapping[tuple[str, str, str], tuple[Latencies, ...]]
"""By device, family and variant: latencies for each number of batches that are on the device already."""


def load_time_s(conditions: Conditions) -> Callable[[VariantProfile], float]:
    """Seconds that a variant takes to load."""
    given_s = conditions.load_time_s
    return (lambda measured: measured.load_s) if given_s is None else (lambda _: given_s)


def batch_times(
    profiles: Mapping[str, Profile], conditions: Conditions, rng: np.random.Generator | None
) -> dict[tuple[str, str, str], tuple[Latencies, ...]]:
    """By device, family and variant: latencies for each number of batches that are on the device already.

    Devices that share measurements share the tables.
    """
    tables: dict[tuple[int, int], tuple[Latencies, ...]] = {}
    found: dict[tuple[str, str, str], tuple[Latencies, ...]] = {}
    for device, profile in profiles.items():
        for variant in profile.variants:
            if not profile.points_of(variant):
                continue
            key = id(variant), profile.slots
            if key not in tables:
                tables[key] = tuple(
                    LatencyTable(points, of=lambda point: point.mean_s)
                    if conditions.jitter is None
                    else LatencySampler(points, conditions.jitter, rng or np.random.default_rng(0))
                    for points in variant.points_up_to(profile.slots)
                )
            found[device, variant.family, variant.variant] = tables[key]
    return found
