"""The knee of a scatter, with its confidence by bootstrap.

The knee is read from the curve nearest to the samples that rises, then falls: noise on a plateau is no peak.
"""

from collections.abc import Sequence

import numpy as np

from proteus_cli.control.slot_tuner import TOLERANCE_FRAC
from proteus_cli.domain.base import Amount, PositiveAmount, PositiveCount, Value

RESAMPLES = 400  # so the confidence is known to about ± 2 points
INTERVAL = (5.0, 95.0)  # percentiles of the resamples: an interval of 90 %


class ScatterSample(Value, frozen=True):
    """One measurement with a constant number in flight: the throughput, and the mean seconds of one item."""

    in_flight: PositiveCount
    throughput: Amount
    service_s: PositiveAmount


class ConcurrencyLevel(Value, frozen=True):
    """All samples with one number in flight: means, the interval of the mean throughput, and the fitted throughput."""

    in_flight: int
    throughput: float
    low: float
    high: float
    fitted: float
    service_s: float
    samples: int


class Knee(Value, frozen=True):
    """The smallest number in flight with the ``throughput`` of the plateau, within `TOLERANCE_FRAC`.

    It lies from ``low`` to ``high`` in 90 % of the resamples, and is the same in the fraction ``confidence`` of them.
    Unless the plateau ``is_seen``, throughput still rises at the largest number that was measured.
    """

    in_flight: int
    low: int
    high: int
    confidence: float
    throughput: float
    is_seen: bool
    levels: tuple[ConcurrencyLevel, ...]


def rise_and_fall(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The weighted least-squares fit to ``values`` that rises up to some place and falls from there on.

    On both sides of each place, neighbours that are out of order are pooled (isotonic regression).
    """
    splits = range(1, len(values) + 1)
    fits = [
        _rise(values[:split], weights[:split]) + _rise(values[split:][::-1], weights[split:][::-1])[::-1]
        for split in splits
    ]
    return min(fits, key=lambda fit: float(np.dot(weights, np.subtract(values, fit) ** 2)))


def _rise(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    blocks: list[tuple[float, float, int]] = []  # neighbours that share a value: it, their weight and their number
    for value, weight in zip(values, weights, strict=True):
        block = value, weight, 1
        while blocks and blocks[-1][0] > block[0]:
            before, last = blocks.pop(), block
            together = before[1] + last[1]
            block = (before[1] * before[0] + last[1] * last[0]) / together, together, before[2] + last[2]
        blocks.append(block)
    return [value for value, _, count in blocks for _ in range(count)]


def knee_place(fitted: Sequence[float]) -> int:
    """The place of the knee among fitted throughputs that are ordered by the number in flight."""
    least = (1 - TOLERANCE_FRAC) * max(fitted)
    return next(place for place, value in enumerate(fitted) if value >= least)


def fit_knee(samples: Sequence[ScatterSample], rng: np.random.Generator) -> Knee:
    """The knee of a scatter of samples of the same length, at least one."""
    numbers = sorted({sample.in_flight for sample in samples})
    by_level = [[sample for sample in samples if sample.in_flight == number] for number in numbers]
    measured = [np.array([sample.throughput for sample in each]) for each in by_level]
    weights = [float(len(each)) for each in measured]
    fitted = rise_and_fall([float(each.mean()) for each in measured], weights)
    place = knee_place(fitted)
    drawn = (each[rng.integers(len(each), size=(RESAMPLES, len(each)))] for each in measured)
    resampled = np.column_stack([each.mean(axis=1) for each in drawn])
    knees = [knee_place(rise_and_fall(row, weights)) for row in resampled.tolist()]
    low, high = (numbers[int(each)] for each in np.percentile(knees, INTERVAL, method="closest_observation"))
    levels = []
    for number, own, qps, fit, means in zip(numbers, by_level, measured, fitted, resampled.T, strict=True):
        mean, (least, most) = float(qps.mean()), np.percentile(means, INTERVAL).tolist()
        service_s = sum(sample.service_s for sample in own) / len(own)
        levels.append(ConcurrencyLevel(number, mean, min(least, mean), max(most, mean), fit, service_s, len(own)))
    return Knee(
        in_flight=numbers[place],
        low=min(low, numbers[place]),
        high=max(high, numbers[place]),
        confidence=knees.count(place) / RESAMPLES,
        throughput=max(fitted),
        is_seen=place < len(numbers) - 1,
        levels=tuple(levels),
    )
