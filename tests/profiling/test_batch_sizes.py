"""Which batch sizes are measured, in which order, and which never."""

import msgspec
import pytest
from builders import make_point

from proteus_cli.domain.profile import Point
from proteus_cli.profiling.batch_sizes import expected_s, next_size, useful_sizes, useless_sizes

SLO_S = 0.1


def points(latency_s: dict[int, float]) -> list[Point]:
    return [make_point(batch, seconds) for batch, seconds in sorted(latency_s.items())]


def test_the_first_size_is_one() -> None:
    assert useful_sizes([], SLO_S, 8) == [1, 8, 4, 2]
    assert next_size([], SLO_S, 8, longest_s=0.0) == 1


@pytest.mark.parametrize(
    ("known", "batch", "expected"),
    [
        pytest.param({1: 0.01}, 4, 0.04, id="by rows, from one size"),
        pytest.param({1: 0.01, 8: 0.03}, 4, 0.01 + 3 * 0.02 / 7, id="between two"),
        pytest.param({1: 0.01, 2: 0.012, 4: 0.016}, 16, 0.04, id="beyond: as between the last two"),
        pytest.param({1: 0.02, 2: 0.019}, 8, 0.019, id="never falling beyond the largest"),
        pytest.param({2: 0.03}, 1, 0.03, id="below the smallest: padded"),
    ],
)
def test_a_size_costs_what_its_neighbours_do(known: dict[int, float], batch: int, expected: float) -> None:
    assert expected_s(points(known), batch) == pytest.approx(expected)


def test_sizes_whose_mean_would_exceed_the_slo_are_useless() -> None:
    known = points({1: 0.01})
    assert useful_sizes(known, SLO_S, 64) == [8, 4, 2]
    assert useless_sizes(known, SLO_S, 64) == [16, 32, 64]


def test_a_device_that_gains_from_batches_is_measured_with_larger_ones() -> None:
    """By one size alone, 32 and 64 seem too slow; by two, they are not."""
    assert next_size(points({1: 0.005}), SLO_S, 64) == 16
    assert next_size(points({1: 0.005, 16: 0.010}), SLO_S, 64) == 64


def test_nothing_larger_than_a_size_that_exceeded_the_slo_is_measured() -> None:
    over = msgspec.structs.replace(make_point(4, 0.04), p95_s=0.11)
    assert useful_sizes([*points({1: 0.03}), over], SLO_S, 64) == [2]
    assert useless_sizes([*points({1: 0.03}), over], SLO_S, 64) == [8, 16, 32, 64]


def test_a_size_that_takes_too_long_now_gives_way_to_a_smaller_one() -> None:
    known = points({1: 0.01})
    assert next_size(known, SLO_S, 64, longest_s=0.05) == 4
    assert next_size(known, SLO_S, 64, longest_s=0.005) is None
