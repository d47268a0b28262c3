"""The knee of a scatter, and the curve that rises and falls."""

from itertools import pairwise

import numpy as np
import pytest

from proteus_cli.studies.concurrency import Knee, ScatterSample, fit_knee, knee_place, rise_and_fall


def scatter(curve: dict[int, float], noise: float, rng: np.random.Generator, samples: int = 20) -> list[ScatterSample]:
    return [
        ScatterSample(number, max(0.0, qps * (1 + noise * rng.standard_normal())), number / qps)
        for number, qps in curve.items()
        for _ in range(samples)
    ]


def fit(curve: dict[int, float], noise: float = 0.0, seed: int = 0, samples: int = 20) -> Knee:
    rng = np.random.default_rng(seed)
    return fit_knee(scatter(curve, noise, rng, samples), rng)


def error(values: list[float], fitted: list[float], weights: list[float]) -> float:
    return sum(weight * (one - other) ** 2 for one, other, weight in zip(values, fitted, weights, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_no_curve_that_rises_and_falls_is_nearer(seed: int) -> None:
    """Brute force over all such curves whose values are among the means of neighbours, as those of the best one are."""
    rng = np.random.default_rng(seed)
    values, weights = rng.integers(0, 6, 5).astype(float).tolist(), rng.integers(1, 4, 5).astype(float).tolist()
    fitted = rise_and_fall(values, weights)
    peak = fitted.index(max(fitted))
    assert all(one <= other for one, other in pairwise(fitted[: peak + 1]))
    assert all(one >= other for one, other in pairwise(fitted[peak:]))
    means = {
        sum(w * v for w, v in zip(weights[a:b], values[a:b], strict=True)) / sum(weights[a:b])
        for a in range(5)
        for b in range(a + 1, 6)
    }
    assert error(values, fitted, weights) == pytest.approx(_least_error(values, weights, sorted(means)), abs=1e-9)


def _least_error(values: list[float], weights: list[float], levels: list[float]) -> float:
    """By dynamic programming over (is falling, last value)."""
    best = {(False, level): weights[0] * (values[0] - level) ** 2 for level in levels}
    for value, weight in zip(values[1:], weights[1:], strict=True):
        then: dict[tuple[bool, float], float] = {}
        for (falls, last), sofar in best.items():
            for level in levels:
                if falls and level > last:
                    continue
                key = falls or level < last, level
                then[key] = min(then.get(key, np.inf), sofar + weight * (value - level) ** 2)
        best = then
    return min(best.values())


@pytest.mark.parametrize(("curve", "knee"), [
    ({1: 10, 2: 20, 3: 20, 4: 20}, 2),
    ({1: 10, 2: 18, 3: 24, 4: 24.5}, 3),
    ({1: 10, 2: 9, 3: 8, 4: 7}, 1),
    ({1: 10, 2: 20, 3: 15, 4: 5}, 2),
    ({1: 10, 2: 10.2, 4: 10.3, 8: 10.25}, 1),
])  # fmt: skip
def test_the_knee_is_the_smallest_number_with_the_throughput_of_the_plateau(curve: dict[int, float], knee: int) -> None:
    found = fit(curve)
    assert found.in_flight == found.low == found.high == knee
    assert found.confidence == 1.0
    assert found.is_seen
    assert found.levels[0].service_s == pytest.approx(1 / 10)


def test_a_throughput_that_still_rises_has_no_plateau_yet() -> None:
    found = fit({1: 10, 2: 20, 4: 40})
    assert (found.in_flight, found.is_seen) == (4, False)


def test_the_unit_and_the_order_of_samples_do_not_matter() -> None:
    rng = np.random.default_rng(3)
    samples = scatter({1: 10, 2: 19, 3: 22, 4: 22}, 0.1, rng)
    times = [ScatterSample(each.in_flight, each.throughput * 1000, each.service_s) for each in samples]
    one, other = fit_knee(samples[::-1], np.random.default_rng(0)), fit_knee(times[::-1], np.random.default_rng(0))
    assert (one.in_flight, one.low, one.high, one.confidence) == (
        other.in_flight, other.low, other.high, other.confidence
    )  # fmt: skip


def test_it_is_right_as_often_as_it_says() -> None:
    """Where noise hides the knee, the confidence falls; and the interval has the knee in 9 of 10 scatters or more."""
    curve = {1: 10.0, 2: 15.0, 3: 19.0, 4: 20.0, 5: 20.0}
    clear, noisy = [fit(curve, 0.02, seed) for seed in range(5)], [fit(curve, 0.15, seed) for seed in range(20)]
    assert all(found.in_flight == 4 and found.confidence > 0.9 for found in clear)
    assert sum(found.low <= 4 <= found.high for found in noisy) >= 18
    right = sum(found.in_flight == 4 for found in noisy) / len(noisy)
    assert sum(found.confidence for found in noisy) / len(noisy) == pytest.approx(right, abs=0.2)


def test_noise_makes_no_peak_of_a_plateau() -> None:
    assert knee_place(rise_and_fall([10.0, 20.0, 19.7, 20.4, 19.9], [1.0] * 5)) == 1
