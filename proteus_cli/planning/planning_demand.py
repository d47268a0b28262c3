"""The demand that is planned for, family by family in the order of the catalog."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from proteus_cli.arrays import Floats
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.demand import Demand, Forecast, LossCurve


@dataclass(frozen=True, slots=True)
class PlanningDemand:
    """A demand of all families in queries per second, the headroom over it, and curves; none without a forecast.

    A family that the forecast does not know has no queries, and any curve.
    """

    demand_qps: Mapping[str, float]
    headroom: float
    curves: tuple[LossCurve, ...]

    @classmethod
    def of(cls, demand: Demand, catalog: Catalog, headroom: float) -> "PlanningDemand":
        """The demand in the order of the catalog; a family that is not in it has none."""
        known = demand.curves if isinstance(demand, Forecast) else {}
        curves = tuple(known.get(name, any_curve) for any_curve in [*known.values()][:1] for name in catalog.names)
        return cls({name: float(demand.get(name, 0.0)) for name in catalog.names}, headroom, curves)

    @property
    def with_headroom_qps(self) -> Floats:
        """The demand of each family times the headroom [F]."""
        return np.array([qps * self.headroom for qps in self.demand_qps.values()])

    @property
    def lines(self) -> int:
        """How many lines each loss curve has; 1 where there are no curves."""
        return len(self.curves[0].lines) if self.curves else 1
