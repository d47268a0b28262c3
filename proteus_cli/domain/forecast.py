"""A demand with its scatter: how much of it would miss its SLO, by the capacity that a family has."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class LossCurve:
    """The part of a family's queries that miss their SLO, by its capacity in multiples of its rate.

    ``lost`` at each of ``capacities``, and straight between them: convex and falling, from 1 without capacity. More
    than the last capacity saves no more.
    """

    capacities: tuple[float, ...]
    lost: tuple[float, ...]

    @property
    def lines(self) -> tuple[tuple[float, float], ...]:
        """The lines whose largest is the curve: what is lost without capacity, and how much each multiple saves."""
        points = tuple(zip(self.capacities, self.lost, strict=True))
        falls = [(before[1] - after[1]) / (after[0] - before[0]) for before, after in pairwise(points)]
        return tuple((lost + fall * at, fall) for (at, lost), fall in zip(points, falls, strict=False))

    def at(self, capacity: float) -> float:
        """The part that is lost with that capacity."""
        return max(self.lost[-1], *(lost - fall * capacity for lost, fall in self.lines))


@dataclass(frozen=True)
class Forecast(Mapping[str, float]):
    """Queries per second by family, and a `LossCurve` for each; as a mapping, the demand alone."""

    demand_qps: Mapping[str, float]
    curves: Mapping[str, LossCurve]

    def __getitem__(self, family: str) -> float:
        return self.demand_qps[family]

    def __iter__(self) -> Iterator[str]:
        return iter(self.demand_qps)

    def __len__(self) -> int:
        return len(self.demand_qps)
