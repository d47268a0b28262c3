"""How a device really runs, against its profile."""

MEANINGFUL_S = 0.001  # shorter batches that are slow say more about threads and timers than about the device
FORGETTING = 0.03  # weight of the newest batch


class Pace:
    """Measured time of batches over their profiled p95, as a running mean.

    ``factor``: batches take this many times what was profiled; never below 1.

    Something else may run on the cores that were profiled: the front end, a neighbour. Then the device is slower than
    its profile, and carries less than the plan says.
    """

    def __init__(self) -> None:
        self._ratio = self.factor = 1.0

    def ran(self, *, took_s: float, profiled_s: float) -> bool:
        """Learn from one batch; whether the factor is another now."""
        ratio = took_s / profiled_s
        if ratio == self._ratio or (ratio > self._ratio and profiled_s < MEANINGFUL_S):
            return False
        self._ratio += FORGETTING * (ratio - self._ratio)
        before, self.factor = self.factor, max(1.0, self._ratio)
        return self.factor != before
