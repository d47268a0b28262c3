"""How long batches and loads take in a simulation: as profiled, under its conditions."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from proteus_cli.control.decision import Host
from proteus_cli.domain.batch_times import LatencyTable, beside
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.simulation.conditions import Conditions, LatencySampler

if TYPE_CHECKING:
    from proteus_cli.domain.catalog import VariantKey

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
    """The latencies of each device, family and variant, for each number of batches that are on the device already.

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
                tables[key] = _latencies(variant, profile.slots, conditions, rng)
            found[device, variant.family, variant.variant] = tables[key]
    return found


def _latencies(
    measured: VariantProfile, slots: int, conditions: Conditions, rng: np.random.Generator | None
) -> tuple[Latencies, ...]:
    return tuple(
        LatencyTable(points, of=lambda point: point.mean_s)
        if conditions.jitter is None
        else LatencySampler(points, conditions.jitter, rng or np.random.default_rng(0))
        for points in measured.points_up_to(slots)
    )


class SharedTimes:
    """`batch_times` of hosts whose batches take longer, as others are active on their devices; made when asked for.

    Devices that share measurements, and what sharing costs, share the tables.
    """

    def __init__(
        self, profiles: Mapping[str, Profile], conditions: Conditions, rng: np.random.Generator | None
    ) -> None:
        self._profiles, self._conditions, self._rng = profiles, conditions, rng
        self._tables: dict[tuple[int, int, int, frozenset[VariantKey]], tuple[Latencies, ...]] = {}

    def of(self, host: Host) -> tuple[Latencies, ...]:
        """Latencies for each number of batches that are on the device already."""
        profile = self._profiles[host.device]
        measured = profile.of(*host.key)
        assert measured is not None  # noqa: S101 - a host has a profile
        key = id(measured), id(profile.sharing), profile.slots, host.others
        if key not in self._tables:
            among = beside(profile, measured, host.others)
            self._tables[key] = _latencies(among, profile.slots, self._conditions, self._rng)
        return self._tables[key]
