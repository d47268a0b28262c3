"""How a device really runs, against its profile."""

from collections import deque

MEANINGFUL_S = 0.001  # shorter batches that are slow say more about threads, unless one follows another
LEARNED_S = 0.3  # of profiled time: after so much of it, what was known before counts for a third
LEAST, MOST = 0.005, 0.1  # weight of one batch
SLOW_S = 5.0  # whoever was slow within this time may be so again


class SlowdownEstimator:
    """Measured time of batches over their profiled p95, as a running mean, and how far they are from it.

    Batches count by the time that they should take, as what a device carries is a matter of time: short ones, which
    caches and threads slow down most, are many, and take little of it.

    ``factor``: batches take this many times what was profiled; never below 1. ``cautious``: what to count on where
    nothing makes up for batches that take longer than usual; the mean, and the mean distance from it on top.

    Something else may run on the cores that were profiled: the front end, a neighbour. Then the device is slower than
    its profile, and carries less than the plan says.
    """

    def __init__(self) -> None:
        self._ratio = self.factor = self.upper = 1.0
        self._distance = 0.0

    def ran(self, *, took_s: float, profiled_s: float, is_busy: bool = False) -> bool:
        """Learn from one batch, which followed another at once where the device ``is_busy``.

        Returns whether something is another now.
        """
        ratio = took_s / profiled_s
        if ratio == self._ratio or (ratio > self._ratio and profiled_s < MEANINGFUL_S and not is_busy):
            return False
        weight = min(max(profiled_s / LEARNED_S, LEAST), MOST)
        self._distance += weight * (abs(ratio - self._ratio) - self._distance)
        self._ratio += weight * (ratio - self._ratio)
        before = self.factor, self.upper
        self._settle()
        return before != (self.factor, self.upper)

    def rebase(self, ratio: float) -> None:
        """From now on batches are compared with a profile of ``ratio`` times the latencies."""
        self._ratio /= ratio
        self._distance /= ratio
        self._settle()

    def _settle(self) -> None:
        self.factor, self.upper = max(1.0, self._ratio), max(1.0, self._ratio + self._distance)


class SlidingMaximum:
    """The largest of the values added in the last `SLOW_S`; 0 where there is none."""

    def __init__(self) -> None:
        self._values: deque[tuple[float, float]] = deque()  # (time, value), values falling

    def add(self, value: float, now_s: float) -> None:
        while self._values and self._values[-1][1] <= value:
            self._values.pop()
        while self._values and self._values[0][0] < now_s - SLOW_S:
            self._values.popleft()
        self._values.append((now_s, value))

    def value(self, now_s: float) -> float:
        return next((value for at_s, value in self._values if at_s >= now_s - SLOW_S), 0.0)
