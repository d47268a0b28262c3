"""How much slower a device runs than its profile says."""

from collections import deque

MEANINGFUL_S = 0.001  # s; a shorter batch that is slow tells about threads, unless it follows another at once
LEARNED_S = 0.3  # s of profiled time, after which earlier batches count for a third (1/e)
MIN_WEIGHT, MAX_WEIGHT = 0.005, 0.1  # of one batch
SLOW_S = 5.0  # s; a device that was slow within this time may be slow again


class SlowdownEstimator:
    """Measured over profiled mean time of batches, as running means. Another program on the same cores slows a device.

    ``factor``: the mean, at least 1. Rates are divided by it, and the profile's percentiles multiplied. ``upper``, at
    least ``factor``: the mean plus the mean absolute deviation, as far as these exceed the profile's p95; admission
    counts with it, as nothing makes up for batches that take longer than usual. Scatter that was profiled is usual.

    Batches are weighted by their profiled time, since capacity is a matter of time: short batches, which caches and
    threads slow down most, are many and take little of it.
    """

    def __init__(self) -> None:
        self._ratio = self._p95_ratio = self.factor = self.upper = 1.0
        self._deviation = 0.0
        self._before_load: tuple[float, float] | None = None  # ratio and deviation

    def ran(self, *, took_s: float, mean_s: float, p95_s: float, is_busy: bool = False) -> bool:
        """Learn from one batch, by its profiled times; it followed another at once if the device ``is_busy``.

        True where ``factor`` or ``upper`` changed.
        """
        ratio = took_s / mean_s
        if ratio == self._ratio or (ratio > self._ratio and mean_s < MEANINGFUL_S and not is_busy):
            return False
        weight = min(max(mean_s / LEARNED_S, MIN_WEIGHT), MAX_WEIGHT)
        self._p95_ratio += weight * (p95_s / mean_s - self._p95_ratio)
        self._deviation += weight * (abs(ratio - self._ratio) - self._deviation)
        self._ratio += weight * (ratio - self._ratio)
        before = self.factor, self.upper
        self._settle()
        return before != (self.factor, self.upper)

    def rebase(self, ratio: float) -> None:
        """The profile has changed to ``ratio`` times its latencies."""
        self._ratio /= ratio
        self._deviation /= ratio
        if self._before_load is not None:
            self._before_load = self._before_load[0] / ratio, self._before_load[1] / ratio
        self._settle()

    def load_began(self) -> None:
        """An engine is being loaded beside the batches, which take longer meanwhile."""
        self._before_load = self._before_load or (self._ratio, self._deviation)

    def load_ended(self) -> None:
        """No load slows batches any more: expect no more than before it."""
        if self._before_load is not None:
            ratio, deviation = self._before_load
            self._ratio, self._deviation = min(self._ratio, ratio), min(self._deviation, deviation)
            self._before_load = None
            self._settle()

    def doubt(self) -> None:
        """Expect less, as nothing runs any more that could show it: the device would be too slow for each request."""
        self._ratio -= MAX_WEIGHT * max(self._ratio - 1.0, 0.0)
        self._deviation -= MAX_WEIGHT * self._deviation
        self._settle()

    def _settle(self) -> None:
        self.factor = max(1.0, self._ratio)
        self.upper = max(self.factor, (self._ratio + self._deviation) / self._p95_ratio)


class SlidingMaximum:
    """The largest of the values added in the last `SLOW_S`; 0 where there is none."""

    def __init__(self) -> None:
        self._values: deque[tuple[float, float]] = deque()  # (time, value), values falling

    def add(self, value: float, now_s: float) -> None:
        """Add a value that was measured now; ``now_s`` never goes back."""
        while self._values and self._values[-1][1] <= value:
            self._values.pop()
        while self._values and self._values[0][0] < now_s - SLOW_S:
            self._values.popleft()
        self._values.append((now_s, value))

    def value(self, now_s: float) -> float:
        """The largest value of the last `SLOW_S` seconds; 0 where there is none."""
        return next((value for at_s, value in self._values if at_s >= now_s - SLOW_S), 0.0)
