"""Thresholds are the vertices of a concave hull: by brute force on tiny sets, and by what a hull is on larger ones."""

import math
from itertools import pairwise

import numpy as np
import pytest
from drawing import examples
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.arrays import Bools, Singles
from proteus_cli.profiling.cascades.choosing import MAX_CANDIDATES, Vertex, fewest, hull, thresholds
from proteus_cli.profiling.cascades.halves import halves

Row = tuple[float, bool, bool]
ROWS = st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0, float("inf")]) | st.floats(-2, 2), st.booleans(), st.booleans())


def columns(rows: list[Row]) -> tuple[Singles, Bools, Bools]:
    confidences, first, second = zip(*rows, strict=True)
    return np.array(confidences, np.float32), np.array(first), np.array(second)


def point_at(threshold: float, rows: list[Row]) -> tuple[int, int]:
    """How many rows it defers, and how many more are right for it; NaN defers all."""
    deferred = [(first, second) for confidence, first, second in rows if not np.float32(confidence) >= threshold]
    return len(deferred), sum(second - first for first, second in deferred)


def is_vertex(point: tuple[int, int], others: set[tuple[int, int]]) -> bool:
    """Higher than all that defer fewer rows, and above the line between any two points around it."""
    x, y = point
    before, after = [each for each in others if each[0] < x], [each for each in others if each[0] > x]
    lines = (((bx - ax) * (y - ay), (by - ay) * (x - ax)) for ax, ay in before for bx, by in after)
    return all(y > each[1] for each in before) and all(own > line for own, line in lines)


@given(st.lists(ROWS, min_size=1, max_size=9))
@examples(150, fuzzed=2000)
def test_on_tiny_sets_they_are_those_that_brute_force_finds(rows: list[Row]) -> None:
    confidences, first, second = columns(rows)
    every = [float(each) for each in np.unique(confidences) if np.isfinite(each)]
    points = {threshold: point_at(threshold, rows) for threshold in every}
    others = {(0, 0), *points.values(), point_at(math.nan, rows)}
    expected = [threshold for threshold in every if points[threshold][0] and is_vertex(points[threshold], others)]
    assert thresholds(confidences, first, second, most=99) == expected


@given(st.lists(ROWS, min_size=1, max_size=60), st.integers(1, 8))
@examples(60, fuzzed=1000)
def test_they_are_few_and_both_they_and_what_they_gain_rise(rows: list[Row], most: int) -> None:
    chosen = thresholds(*columns(rows), most=most)
    assert len(chosen) <= most
    assert chosen == sorted(set(chosen))
    points = [(0, 0), *(point_at(threshold, rows) for threshold in chosen)]
    slopes = [(after[1] - before[1]) / (after[0] - before[0]) for before, after in pairwise(points)]
    assert all(slope > 0 for slope in slopes)
    assert all(steep > flat for steep, flat in pairwise(slopes))


def test_of_too_many_the_ones_go_that_the_hull_needs_least() -> None:
    """Without (1, 10), the hull loses the triangle (0,0) (1,10) (2,12): 4; without (2, 12) that to (9, 13): 6.5."""
    vertices = hull([(1.0, 10.0), (2.0, 12.0), (9.0, 13.0)])
    assert [vertex.x for vertex in fewest(vertices, 2)] == [2.0, 9.0]
    assert [vertex.x for vertex in fewest(vertices, 1)] == [9.0]
    assert fewest(vertices, 3) == vertices


def test_points_beside_each_other_count_once_and_none_before_the_origin() -> None:
    assert hull([(0.5, 9.0), (2.0, 1.0), (2.0, 3.0)], origin=(1.0, 0.0)) == [Vertex(2.0, 1.0, 1)]


def test_a_large_split_offers_a_bounded_number_of_thresholds() -> None:
    """What there is to gain lies in the first half of the rows, between two candidates: the nearer one above it."""
    rows = 50 * MAX_CANDIDATES
    confidences, gains = np.arange(rows, dtype=np.float32), np.arange(rows) < rows // 2
    (last, *_) = reversed(thresholds(confidences, np.zeros(rows, bool), gains, most=8))
    assert rows // 2 <= last <= rows // 2 + 51


def test_no_threshold_is_needed_where_deferring_gains_the_same_everywhere() -> None:
    """To share queries between the variants does as well."""
    assert thresholds(np.arange(9, dtype=np.float32), np.zeros(9, bool), np.ones(9, bool), most=8) == []


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 200, 201])
def test_halves_are_alike_in_what_the_variants_get_right(rows: int) -> None:
    rng = np.random.default_rng(rows)
    first, second = rng.random(rows) < 0.8, rng.random(rows) < 0.9
    choosing, judging = halves(first, second)
    assert sorted([*choosing, *judging]) == list(range(rows))
    assert len(choosing) - len(judging) in {0, 1}
    for pattern in (first & second, first & ~second, second & ~first, ~first & ~second):
        assert abs(int(pattern[choosing].sum()) - int(pattern[judging].sum())) <= 1
