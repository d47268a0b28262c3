"""How a device really runs, against its profile."""

MEANINGFUL_S = 0.001  # shorter batches that are slow say more about threads and timers than about the device
FORGETTING = 0.03  # weight of the newest batch


class Pace:
    """Measured time of batches over their profiled p95, as a running mean; never below 1.

    Something else may run on the cores that were profiled: the front end, a neighbour. Then the device is slower than
    its profile, and carries less than the plan says.
    """

    def __init__(self) -> None:
        self._ratio = 1.0

    @property
    def factor(self) -> float:
        """Batches take this many times what was profiled."""
        return max(1.0, self._ratio)

    def ran(self, *, took_s: float, profiled_s: float) -> None:
        """Learn from one batch."""
        ratio = took_s / profiled_s
        if profiled_s >= MEANINGFUL_S or ratio < self._ratio:
            self._ratio += FORGETTING * (ratio - self._ratio)
