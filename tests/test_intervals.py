"""Confidence intervals hold what they promise."""

import numpy as np
import pytest

from proteus_cli.intervals import hodges_lehmann


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0], (3.0, 3.0, 3.0)),
        ([1.0, 2.0, 4.0], (2.25, 1.0, 4.0)),
        ([1.1, 2.2, 0.3, -0.4, 1.7, 2.9], (1.25, -0.4, 2.9)),  # of six, all of the range: 31 of 32 sums of ranks
    ],
)
def test_the_centre_and_the_exact_interval_of_few_values(
    values: list[float], expected: tuple[float, float, float]
) -> None:
    assert hodges_lehmann(values) == pytest.approx(expected)


@pytest.mark.parametrize("count", [6, 9, 14])
def test_an_interval_holds_the_centre_in_95_of_100_cases_whatever_the_scatter(count: int) -> None:
    rng = np.random.default_rng(count)
    cases = rng.standard_t(1.5, size=(400, count)) + 5.0  # its tails are so heavy that its variance is infinite
    held = sum(low <= 5.0 <= high for _, low, high in (hodges_lehmann(list(case)) for case in cases))
    assert held / len(cases) >= 0.93


def test_values_far_off_move_the_interval_little() -> None:
    values = [1.0 + 0.001 * place for place in range(11)]
    _, low, high = hodges_lehmann([*values, 50.0])
    assert 0.99 <= low <= high <= 1.02
