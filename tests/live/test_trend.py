"""What the statistic of long runs sees, and what it doesn't."""

import numpy as np
import pytest
from trend import growth

SAMPLES = 400
RNG = np.random.default_rng(7)
AT_S = np.arange(SAMPLES) * 0.25


def grown(values: np.ndarray) -> tuple[float, float, float]:
    found = growth(AT_S.tolist(), values.tolist())
    return found.least, found.likely, found.most


def test_what_stays_has_not_grown() -> None:
    assert grown(np.full(SAMPLES, 7.0)) == (0.0, 0.0, 0.0)


def test_a_steady_leak_is_found_beneath_larger_noise() -> None:
    leak = 10 * AT_S / AT_S[-1]
    least, likely, most = grown(leak + RNG.normal(0, 5, SAMPLES))
    assert 0 < least < likely < most
    assert likely == pytest.approx(10, abs=5)


def test_noise_that_remembers_is_no_leak() -> None:
    wandering = np.convolve(RNG.normal(0, 1, SAMPLES + 4), np.ones(5) / 5, "valid")
    least, _, most = grown(wandering)
    assert least < 0 < most < 1


def test_spikes_now_and_then_are_no_leak() -> None:
    assert grown(np.where(np.arange(SAMPLES) % 50 < 5, 30.0, 10.0)) == (0.0, 0.0, 0.0)


def test_a_step_for_good_is_no_slope_yet_but_steps_are() -> None:
    """Something that is made once, late, costs as much as it costs; what is made again and again is a leak."""
    once = np.where(np.arange(SAMPLES) > SAMPLES * 0.9, 1.0, 0.0)
    assert grown(once)[2] < 1
    again = np.floor(8 * AT_S / AT_S[-1])
    assert grown(again)[0] > 5
