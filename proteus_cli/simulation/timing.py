"""Seconds of batches and stages in a simulation: as profiled, under its conditions."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from proteus_cli.control.decision import Host
from proteus_cli.domain.batch_times import LatencyTable, beside
from proteus_cli.domain.catalog import NO_VARIANTS, VariantKey
from proteus_cli.domain.profile import Point, Profile, VariantProfile
from proteus_cli.domain.stages.exits import StagePoint
from proteus_cli.domain.stages.walk import ProfiledChain, stage_means

Latencies = Callable[[int], float]
"""Seconds of a batch by rows."""

_LEVELS = (0.0, 0.5, 0.9, 0.95, 0.99, 1.0)


class LatencySampler:
    """Draws latencies of one variant or stage from profiled percentiles, up to ``max_frac``.

    They are linear between batch sizes, as means are.
    """

    def __init__(self, points: Sequence[Point | StagePoint], max_frac: float, rng: np.random.Generator) -> None:
        self._rng, self._max_frac = rng, max_frac
        self._batches = np.array([point.batch for point in points], dtype=np.float64)
        self._quantiles_s = np.array([_quantiles_s(point) for point in points])

    def __call__(self, rows: int) -> float:
        """Seconds of one batch of ``rows``."""
        at = self._rng.uniform(0.0, self._max_frac)
        drawn_s = [np.interp(at, _LEVELS, quantiles) for quantiles in self._quantiles_s]
        per_row = max(1.0, rows / float(self._batches[-1]))
        return float(np.interp(rows, self._batches, drawn_s)) * per_row


def _quantiles_s(point: Point | StagePoint) -> tuple[float, ...]:
    """The latencies at `_LEVELS`. Profiles have none below the median, which stands for all of these.

    The mean of a stage stands for its median; between the mean and its p95 it is linear.
    """
    if isinstance(point, StagePoint):
        p90_s = point.mean_s + (point.p95_s - point.mean_s) * (0.90 - 0.50) / (0.95 - 0.50)
        return (point.mean_s, point.mean_s, p90_s, point.p95_s, point.within_s(0.99), point.within_s(0.99))
    return (point.p50_s, point.p50_s, point.p90_s, point.p95_s, point.p99_s, point.p99_s)


class BatchTimes:
    """Draws the seconds of batches and stages up to the percentile ``jitter``; None: they are the profiled mean.

    Tables are made when they are first asked for. Devices that share measurements share them.
    """

    def __init__(self, profiles: Mapping[str, Profile], jitter: float | None, rng: np.random.Generator) -> None:
        self._profiles, self._jitter, self._rng = profiles, jitter, rng
        self._of_host: dict[tuple[str, str, str, frozenset[VariantKey]], tuple[Latencies, ...]] = {}
        self._made: dict[tuple[int, int, int, frozenset[VariantKey]], tuple[Latencies, ...]] = {}
        self._chains: dict[tuple[str, str, str, frozenset[VariantKey]], ProfiledChain] = {}

    def of(
        self, device: str, family: str, variant: str, others: frozenset[VariantKey] = NO_VARIANTS
    ) -> tuple[Latencies, ...]:
        """The latencies of a variant beside ``others``, for each number of batches that already run on the device."""
        key = device, family, variant, others
        found = self._of_host.get(key)
        if found is None:
            found = self._of_host[key] = self._table(*key)
        return found

    def measured(self, device: str, family: str, variant: str) -> VariantProfile:
        """The profile of a variant that a device hosts, or may host."""
        measured = self._profiles[device].of(family, variant)
        assert measured is not None  # noqa: S101 - plans and standbys are made of profiles
        return measured

    def _table(self, device: str, family: str, variant: str, others: frozenset[VariantKey]) -> tuple[Latencies, ...]:
        profile, measured = self._profiles[device], self.measured(device, family, variant)
        key = id(measured), id(profile.sharing), profile.slots, others
        if key not in self._made:
            self._made[key] = tuple(
                LatencyTable(points, of=lambda point: point.mean_s)
                if self._jitter is None
                else LatencySampler(points, self._jitter, self._rng)
                for points in beside(profile, measured, others).points_up_to(profile.slots)
            )
        return self._made[key]

    def chain_of(self, host: Host) -> ProfiledChain:
        """The stages of a multi-exit model."""
        key = host.device, host.family, host.variant, host.others
        if key not in self._chains:
            stages_s: Sequence[Latencies] = (
                stage_means(host.exits)
                if self._jitter is None
                else [LatencySampler(each.points, self._jitter, self._rng) for each in host.exits]
            )
            self._chains[key] = ProfiledChain(host.exits, stages_s)
        return self._chains[key]
