"""The conditions of a simulation: load times, scatter of batch times, failures of devices."""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from proteus_cli.domain.profile import Point
from proteus_cli.errors import UsageError
from proteus_cli.units import parse_duration

JITTERS = {"p90": 0.90, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class DeviceFailure:
    """A device is lost from ``from_s`` until ``until_s``, which may be infinite."""

    device: str
    from_s: float
    until_s: float


@dataclass(frozen=True, slots=True)
class Conditions:
    """``load_time_s``: seconds of a load in place; None: variants load beside those that serve, in profiled time.

    ``jitter``: batch times scatter between the profiled percentiles, up to this fraction; None: they are the mean.
    ``slowdown``: batches take so many times as long as profiled, which the controller is not told.
    ``memory_bytes``: what variants may take of each device's memory, standbys included; without, there are none.
    """

    load_time_s: float | None = None
    jitter: float | None = None
    failures: tuple[DeviceFailure, ...] = ()
    slowdown: float = 1.0
    memory_bytes: Mapping[str, int] = field(default_factory=dict)


def parse_failure(text: str, devices: Container[str]) -> DeviceFailure:
    """``"v100-3@60s..120s"``, or without an end. Raises `UsageError`."""
    hint = "say which device is lost when, like `v100-3@60s..120s`, or `v100-3@60s..` for good"
    device, at, times = text.partition("@")
    first, dots, last = times.partition("..")
    if not (device and at and first and dots):
        raise UsageError(f"`{text}` is no failure.", hint=hint)
    if device not in devices:
        raise UsageError(f"`{text}` names `{device}`, which is not in the fleet.", hint=hint)
    failure = DeviceFailure(device, parse_duration(first), parse_duration(last) if last else math.inf)
    if failure.until_s <= failure.from_s:
        raise UsageError(f"`{text}` ends before it starts.", hint=hint)
    return failure


class LatencySampler:
    """Draws latencies of one variant from its profiled percentiles; linear between batch sizes, as means are."""

    def __init__(self, points: Sequence[Point], max_frac: float, rng: np.random.Generator) -> None:
        self._rng, self._max_frac = rng, max_frac
        self._batches = np.array([point.batch for point in points], dtype=np.float64)
        self._quantiles_s = np.array([_quantiles_s(point) for point in points])

    def __call__(self, rows: int) -> float:
        """Seconds of one batch of ``rows``."""
        at = self._rng.uniform(0.0, self._max_frac)
        drawn_s = [np.interp(at, _LEVELS, quantiles) for quantiles in self._quantiles_s]
        per_row = max(1.0, rows / float(self._batches[-1]))
        return float(np.interp(rows, self._batches, drawn_s)) * per_row


_LEVELS = (0.0, 0.5, 0.9, 0.95, 0.99, 1.0)


def _quantiles_s(point: Point) -> tuple[float, ...]:
    """Below the median a batch takes the median, as profiles have no lower percentiles."""
    return (point.p50_s, point.p50_s, point.p90_s, point.p95_s, point.p99_s, point.p99_s)
