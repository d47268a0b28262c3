"""Thresholds of a cascade: those that defer the fewest rows for what they gain."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from proteus_cli.arrays import Bools, Singles

MAX_CANDIDATES = 256
"""Thresholds to choose from, at equal distances in deferred rows where a half has more."""


class Vertex(NamedTuple):
    """A point of a concave hull, and its place among the points."""

    x: float
    y: float
    place: int


def thresholds(confidences: Singles, first: Bools, second: Bools, most: int) -> list[float]:
    """At most ``most`` thresholds, rising, whose points are vertices of the concave hull of (deferred, right) rows.

    A row is deferred if its confidence is below the threshold. The hull begins where nothing is deferred, and ends
    where the most rows are right; where all are deferred is a point of it, and no threshold. ``first`` and ``second``:
    which rows each variant gets right.
    """
    order = np.argsort(confidences, kind="stable")
    by_confidence, rows = confidences[order], len(confidences)
    gain = np.concatenate(([0], np.cumsum(second[order].astype(np.int64) - first[order])))
    deferred = np.flatnonzero(by_confidence[1:] > by_confidence[:-1]) + 1  # where the next confidence is a higher one
    deferred = deferred[np.isfinite(by_confidence[deferred])]
    if len(deferred) > MAX_CANDIDATES:
        deferred = deferred[np.linspace(0, len(deferred) - 1, MAX_CANDIDATES).astype(np.int64)]
    points = [(float(count), float(gain[count])) for count in (*deferred, rows)]
    vertices = [vertex for vertex in hull(points) if vertex.x < rows]
    return [float(by_confidence[deferred[vertex.place]]) for vertex in fewest(vertices, most)]


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


def fewest(vertices: Sequence[Vertex], most: int) -> list[Vertex]:
    """At most ``most`` vertices of a hull from (0, 0): one by one, the one goes whose loss takes the least area.

    The last vertex stays.
    """
    kept = [Vertex(0.0, 0.0, -1), *vertices]
    while len(kept) - 1 > most:
        losses = [_area(*three) for three in zip(kept, kept[1:], kept[2:], strict=False)]
        del kept[1 + int(np.argmin(losses))]
    return kept[1:]


def _slope(left: Vertex, right: Vertex) -> float:
    return (right.y - left.y) / (right.x - left.x)


def _area(left: Vertex, middle: Vertex, right: Vertex) -> float:
    """Of the triangle of three vertices."""
    return abs((middle.x - left.x) * (right.y - left.y) - (right.x - left.x) * (middle.y - left.y)) / 2
