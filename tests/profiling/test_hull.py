"""The concave hull of points: by brute force on tiny sets, and by what a hull is."""

from itertools import pairwise

from drawing import examples
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.profiling.cascades import Vertex, hull

POINTS = st.dictionaries(st.integers(1, 12), st.integers(-4, 12), max_size=9).map(lambda of: sorted(of.items()))


def is_vertex(point: tuple[int, int], others: list[tuple[int, int]]) -> bool:
    """Higher than all before it, and above the line between any two points around it."""
    x, y = point
    before, after = [each for each in others if each[0] < x], [each for each in others if each[0] > x]
    lines = (((bx - ax) * (y - ay), (by - ay) * (x - ax)) for ax, ay in before for bx, by in after)
    return all(y > each[1] for each in before) and all(own > line for own, line in lines)


@given(POINTS)
@examples(150, fuzzed=2000)
def test_on_tiny_sets_its_vertices_are_those_that_brute_force_finds(points: list[tuple[int, int]]) -> None:
    found = hull([(float(x), float(y)) for x, y in points])
    expected = [point for point in points if is_vertex(point, [(0, 0), *points])]
    assert [(vertex.x, vertex.y) for vertex in found] == expected
    assert [points[vertex.place] for vertex in found] == expected


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1))))
@examples(80, fuzzed=1000)
def test_it_rises_ever_more_slowly(points: list[tuple[float, float]]) -> None:
    found = [(0.0, 0.5), *((vertex.x, vertex.y) for vertex in hull(sorted(points), (0.0, 0.5)))]
    slopes = [(after[1] - before[1]) / (after[0] - before[0]) for before, after in pairwise(found)]
    assert all(slope > 0 for slope in slopes)
    assert all(steep > flat for steep, flat in pairwise(slopes))


def test_points_beside_each_other_count_once_and_none_before_the_origin() -> None:
    assert hull([(0.5, 9.0), (2.0, 1.0), (2.0, 3.0)], origin=(1.0, 0.0)) == [Vertex(2.0, 1.0, 1)]
