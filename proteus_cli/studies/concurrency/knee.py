"""The knee of a scatter, and how sure it is.

The curve next to measured values that rises, then falls: what noise does to a plateau is no peak.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from proteus_cli.arrays import Floats
from proteus_cli.control.slot_tuner import TOLERANCE_FRAC
from proteus_cli.domain.base import Amount, PositiveAmount, PositiveCount, Value, require


def rise_and_fall(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The weighted least-squares fit to ``values`` that rises up to some place and falls from there on.

    In O(n²) steps, by pooling neighbours that are out of order on both sides of each place (isotonic regression).
    """

    def error(fit: Sequence[float]) -> float:
        return sum(weight * (value - fitted) ** 2 for value, weight, fitted in zip(values, weights, fit, strict=True))

    def fit(split: int) -> list[float]:
        fall = _rise(values[split:][::-1], weights[split:][::-1])[::-1]
        return _rise(values[:split], weights[:split]) + fall

    return min((fit(split) for split in range(1, len(values) + 1)), key=error)


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


RESAMPLES = 400  # so the confidence is known to about ± 2 points
INTERVAL = (5.0, 95.0)  # percentiles of the resamples: an interval of 90 %
MAX_LEVELS = 64  # numbers in flight; the fit takes quadratic time
MAX_SAMPLES = 1000  # of each


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

    It lies from ``low`` to ``high`` in 90 % of the resamples, and in the part ``confidence`` of them it is the same.
    Unless the plateau ``is_seen``, throughput still rises at the largest number that was measured.
    """

    in_flight: int
    low: int
    high: int
    confidence: float
    throughput: float
    is_seen: bool
    levels: tuple[ConcurrencyLevel, ...]


def knee_place(fitted: Sequence[float]) -> int:
    """The place of the knee among fitted throughputs that are ordered by the number in flight."""
    least = (1 - TOLERANCE_FRAC) * max(fitted)
    return next(place for place, value in enumerate(fitted) if value >= least)


def fit_knee(samples: Sequence[ScatterSample], rng: np.random.Generator) -> Knee:
    """The knee of a scatter of samples of the same length, by bootstrap.

    Raises `ValueError` without samples, and above `MAX_LEVELS` numbers in flight or `MAX_SAMPLES` samples of one.
    """
    by_level: dict[int, list[ScatterSample]] = {}
    for sample in samples:
        by_level.setdefault(sample.in_flight, []).append(sample)
    numbers = sorted(by_level)
    require(0 < len(numbers) <= MAX_LEVELS, f"a scatter has from 1 to {MAX_LEVELS} numbers in flight")
    most = max(len(each) for each in by_level.values())
    require(most <= MAX_SAMPLES, f"a scatter has {MAX_SAMPLES} samples of a number in flight at most")
    measured = [np.array([sample.throughput for sample in by_level[number]]) for number in numbers]
    weights = [float(len(each)) for each in measured]
    means = [float(each.mean()) for each in measured]
    fitted = rise_and_fall(means, weights)
    place = knee_place(fitted)
    drawn = (each[rng.integers(len(each), size=(RESAMPLES, len(each)))] for each in measured)
    resampled = np.column_stack([each.mean(axis=1) for each in drawn])
    knees = Counter(knee_place(rise_and_fall(row, weights)) for row in resampled.tolist())
    places = np.repeat(list(knees), list(knees.values()))
    low, high = (numbers[int(each)] for each in np.percentile(places, INTERVAL, method="closest_observation"))
    return Knee(
        in_flight=numbers[place],
        low=min(low, numbers[place]),
        high=max(high, numbers[place]),
        confidence=knees[place] / RESAMPLES,
        throughput=max(fitted),
        is_seen=place < len(numbers) - 1,
        levels=tuple(
            _level(by_level[number], mean, fit, column)
            for number, mean, fit, column in zip(numbers, means, fitted, resampled.T, strict=True)
        ),
    )


def _level(samples: Sequence[ScatterSample], mean: float, fitted: float, resampled: Floats) -> ConcurrencyLevel:
    low, high = np.percentile(resampled, INTERVAL)
    service_s = sum(sample.service_s for sample in samples) / len(samples)
    return ConcurrencyLevel(
        samples[0].in_flight, mean, min(float(low), mean), max(float(high), mean), fitted, service_s, len(samples)
    )
