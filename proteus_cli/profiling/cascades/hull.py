"""The concave hull of points, from one on."""

from collections.abc import Sequence
from typing import NamedTuple


class Vertex(NamedTuple):
    """A point of a concave hull, and its place among the points."""

    x: float
    y: float
    place: int


def hull(points: Sequence[tuple[float, float]], origin: tuple[float, float] = (0.0, 0.0)) -> list[Vertex]:
    """The vertices of the concave hull of points, in order of x, from the ``origin``, left out, to the highest.

    Each is higher than the one before, and the slope falls from vertex to vertex (Andrew's monotone chain). Of points
    with one x, the first counts.
    """
    found = [Vertex(*origin, -1)]
    for place, (x, y) in enumerate(points):
        if x <= found[-1].x:
            continue
        while len(found) > 1 and _slope(found[-2], found[-1]) <= _slope(found[-1], Vertex(x, y, place)):
            found.pop()
        if y > found[-1].y:
            found.append(Vertex(x, y, place))
    return found[1:]


def _slope(left: Vertex, right: Vertex) -> float:
    return (right.y - left.y) / (right.x - left.x)
