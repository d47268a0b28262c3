"""Loss curves from what arrived: a leaky bucket, replayed at several capacities."""

import math
from collections.abc import Sequence

import numpy as np

from proteus_cli.arrays import Floats, Ints
from proteus_cli.control.replanning.demand import TREND_S, Rate
from proteus_cli.domain.demand import LossCurve

HISTORY_S = 20.0  # of arrivals that are replayed
REACHED_FRAC = 0.98  # of their capacity, what hosts reach in overload: 0.96 to 1.00 in benchmarks.dispatch
FEWEST_WAITING = 0.01  # queries that arrive while one may wait; fewer make no difference to a curve's capacities
_ABOVE_RATE = np.array((-1.0, -0.15, 0.0, 0.1, 0.3, 0.7, 1.5, 4.0))  # capacities of a curve, beyond the rate
_DEVIATIONS = np.array((-math.sqrt(3), 0.0, math.sqrt(3)))  # three points that stand for a normal distribution …
_WEIGHTS = np.array((1 / 6, 2 / 3, 1 / 6))  # … and their weights (Gauss–Hermite)


def loss_curves(
    arrivals: Sequence[Sequence[int]], bucket_s: float, slack_s: Sequence[float], rates: Sequence[Rate]
) -> list[LossCurve]:
    """The curve of each family, from how long its queries may wait and its present rate, known but for a deviation.

    ``arrivals``: by family, the rows of each of the last buckets, equally many. They are scaled to the rate, each part
    of `TREND_S` by itself, and replayed through a leaky bucket. It drains at the part of the capacity that hosts reach;
    rows that do not fit are late. The worst part is left out: after a single clump no others need come, as a sender or
    this machine may have stood still for a moment. No curve is below the curve of Poisson arrivals: arrivals that look
    regular for seconds need not stay regular.
    """
    qps = np.array([rate.qps for rate in rates])[:, None]
    deviation = np.array([rate.deviation_qps for rate in rates])[:, None] / qps
    slack = np.array(slack_s)[:, None, None]
    spread = 1 / np.sqrt(np.clip(qps * slack[:, 0], FEWEST_WAITING, 1.0))  # rare queries scatter more
    capacities = 1 + _ABOVE_RATE * np.where(_ABOVE_RATE > 0, spread, 1.0)  # [F, points]
    likely = np.maximum(1 + _DEVIATIONS * deviation, 0.1)  # [F, 3], in multiples of the expected rate
    capacity = REACHED_FRAC * capacities[:, :, None] / likely[:, None, :]  # [F, points, 3]
    depth_s = slack * capacity + 1 / qps[:, :, None]  # what is drained in time, and one that need not wait
    scaled_s = _without_trend(np.array(arrivals), bucket_s)
    lost = np.maximum(_replayed(scaled_s, bucket_s, capacity, depth_s), _poisson(capacity, qps[:, :, None] * depth_s))
    weights = _WEIGHTS * likely
    mixed = (lost * weights[:, None, :]).sum(axis=2) / weights.sum(axis=1)[:, None]
    mixed[:, 0] = 1.0
    return [_curve(*each) for each in zip(capacities, mixed, strict=True)]


def _replayed(arrived_s: Floats, bucket_s: float, capacity: Floats, depth_s: Floats) -> Floats:
    """The part of arrivals [F, buckets] that overflows at each capacity [F, points, rates]; all in seconds of rate.

    The loop runs over flat rows: with arrays this small, a broadcast takes longer than the arithmetic.
    """
    curves, drained_s, depths_s = capacity[0].size, capacity.ravel() * bucket_s, depth_s.ravel()
    level, zero = np.zeros_like(drained_s), np.zeros_like(drained_s)
    over = np.repeat(arrived_s.T, curves, axis=1)  # by bucket: first the arrivals, later the overflow
    for row in over:
        level += row
        level -= drained_s
        np.maximum(level, zero, out=level)
        np.subtract(level, depths_s, out=row)
        np.maximum(row, zero, out=row)
        level -= row
    parts = np.add.reduceat(over, _parts(len(over), bucket_s)) if len(over) else over
    lost = (parts.sum(axis=0) - parts.max(axis=0, initial=0.0)).reshape(capacity.shape)
    part: Floats = lost / max(len(over) * bucket_s - TREND_S, bucket_s)
    return part


def _parts(buckets: int, bucket_s: float) -> list[int]:
    """The first bucket of each part of `TREND_S`; the last part ends with the last bucket."""
    size = round(TREND_S / bucket_s)
    return sorted({0, *range(buckets % size, buckets, size)}) if buckets else []


def _without_trend(arrivals: Ints, bucket_s: float) -> Floats:
    """Arrivals [F, buckets] in seconds of the rate of their part of `TREND_S`; the parts end with the last bucket."""
    buckets = arrivals.shape[1]
    starts = _parts(buckets, bucket_s)
    lengths = np.diff([*starts, buckets])
    rates_s: Floats = lengths * bucket_s / np.maximum(np.add.reduceat(arrivals, starts, axis=1), 1)
    scaled: Floats = np.repeat(rates_s, lengths, axis=1) * arrivals
    return scaled


def _poisson(capacity: Floats, depth: Floats) -> Floats:
    """The part lost of Poisson arrivals, by the diffusion that approximates a bucket for ``depth`` queries."""
    drift = np.where(np.abs(1 - capacity) < 1e-9, 1e-9, 1 - capacity)  # noqa: PLR2004 - at the rate, its limit
    lost: Floats = np.minimum(drift / -np.expm1(np.clip(-2 * drift * depth, -50.0, 50.0)), 1.0)
    return lost


def _curve(capacities: Floats, lost: Floats) -> LossCurve:
    """The largest convex curve that is nowhere above the points. The first point is the highest."""
    points = list(zip(capacities.tolist(), lost.tolist(), strict=True))
    hull = list[tuple[float, float]]()
    for at, part in points:
        while len(hull) > 1:
            (first_at, first_part), (last_at, last_part) = hull[-2:]
            if (last_part - first_part) * (at - first_at) < (part - first_part) * (last_at - first_at):
                break
            hull.pop()
        hull.append((at, part))
    convex = np.interp(capacities, [at for at, _ in hull], [part for _, part in hull])
    return LossCurve(tuple(at for at, _ in points), tuple(convex.tolist()))
