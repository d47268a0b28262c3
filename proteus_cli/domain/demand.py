"""Queries per second by family: as a demand, and as a forecast, which says what would miss its SLO by capacity."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from proteus_cli.domain.base import is_amount
from proteus_cli.domain.catalog import Catalog
from proteus_cli.errors import UsageError

Demand = Mapping[str, float]
"""Queries per second by family; families that are left out have none."""


def check_demand(demand: Demand, catalog: Catalog) -> None:
    """Raise `UsageError` unless every rate is a finite amount of a family that the catalog has."""
    for name, qps in demand.items():
        catalog.family(name)
        if not is_amount(qps):
            raise UsageError(f"The demand of `{name}` is {qps}.", hint="give finite rates that are not negative")


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

    def attainment(self, family: str, capacity_qps: float) -> float | None:
        """The fraction of a family's queries that are in time with that capacity; None without demand."""
        qps, curve = self.demand_qps.get(family, 0.0), self.curves.get(family)
        if curve is None or qps <= 0:
            return None
        return max(1 - curve.at(capacity_qps / qps), 0.0)  # of 1 but for the last bit

    def __getitem__(self, family: str) -> float:
        return self.demand_qps[family]

    def __iter__(self) -> Iterator[str]:
        return iter(self.demand_qps)

    def __len__(self) -> int:
        return len(self.demand_qps)
