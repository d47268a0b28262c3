"""The accuracy of the best plans as the demand grows."""

from proteus_cli.domain.base import Value


class FrontierPoint(Value, frozen=True):
    """The best plan for one total demand: rates in queries per second, accuracies as fractions over what is served.

    ``gap`` and ``solve_s`` as in a plan's `Solver`.
    """

    demand_qps: float
    served_qps: float
    unserved_qps: float
    effective_accuracy: float | None
    relative_accuracy: float | None
    devices_used: int
    gap: float
    solve_s: float
