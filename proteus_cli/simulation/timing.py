"""Seconds of batches and stages in a simulation: as profiled, under its conditions."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from proteus_cli.control.decision import HostedVariant
from proteus_cli.domain.batch_times import beside
from proteus_cli.domain.catalog import NO_VARIANTS, VariantKey
from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.profile import Point, Profile, VariantProfile
from proteus_cli.domain.stages.exits import StagePoint
from proteus_cli.domain.stages.stage_forecast import stage_means
from proteus_cli.domain.stages.walk import ProfiledChain

Latencies = Callable[[int], float]
"""Seconds of a batch by rows."""

HostKey = tuple[str, str, str, frozenset[VariantKey]]
"""Device, family and variant, and the other variants that slow it down."""

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
    """The latencies at `_LEVELS`. Profiles have none below the median, which takes their place.

    The median of a stage is taken to be its mean; between the mean and the p95, it is linear.
    """
    if isinstance(point, StagePoint):
        p90_s = point.mean_s + (point.p95_s - point.mean_s) * (0.90 - 0.50) / (0.95 - 0.50)
        return (point.mean_s, point.mean_s, p90_s, point.p95_s, point.within_s(0.99), point.within_s(0.99))
    return (point.p50_s, point.p50_s, point.p90_s, point.p95_s, point.p99_s, point.p99_s)


class BatchTimes:
    """Seconds of batches and stages: the profiled mean, or drawn up to the percentile ``jitter``.

    Tables are made when they are first asked for.
    """

    def __init__(self, profiles: Mapping[str, Profile], jitter: float | None, rng: np.random.Generator) -> None:
        self._profiles, self._jitter, self._rng = profiles, jitter, rng
        self._tables: dict[HostKey, tuple[Latencies, ...]] = {}
        self._chains: dict[HostKey, ProfiledChain] = {}

    def measured(self, device: str, family: str, variant: str) -> VariantProfile:
        """The profile of a variant that a device hosts, or may host."""
        measured = self._profiles[device].of(family, variant)
        assert measured is not None  # noqa: S101 - plans and standbys are made of profiles
        return measured

    def of(
        self, device: str, family: str, variant: str, others: frozenset[VariantKey] = NO_VARIANTS
    ) -> tuple[Latencies, ...]:
        """The latencies of a variant beside ``others``, for each number of batches that already run on the device."""
        found = self._tables.get((device, family, variant, others))
        if found is None:
            profile = self._profiles[device]
            measured = beside(profile, self.measured(device, family, variant), others)
            found = tuple(map(self._latencies, measured.points_up_to(profile.slots)))
            self._tables[device, family, variant, others] = found
        return found

    def chain_of(self, host: HostedVariant) -> ProfiledChain:
        """The stages of a multi-exit model."""
        key = host.device, host.family, host.variant, host.others
        if key not in self._chains:
            points = [each.points for each in host.exits]
            stages_s = stage_means(host.exits) if self._jitter is None else [*map(self._latencies, points)]
            self._chains[key] = ProfiledChain(host.exits, stages_s)
        return self._chains[key]

    def _latencies(self, points: Sequence[Point | StagePoint]) -> Latencies:
        if self._jitter is None:
            return LatencyTable(points, of=lambda point: point.mean_s)
        return LatencySampler(points, self._jitter, self._rng)
