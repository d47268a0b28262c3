"""How much is being asked for."""

import math
from collections import deque
from collections.abc import Iterable


class DemandEstimator:
    """Counts arrivals of each family in buckets of ``bucket_s`` and keeps ``horizon_s`` of them."""

    def __init__(self, families: Iterable[str], *, bucket_s: float = 0.1, horizon_s: float = 10.0) -> None:
        self.families = tuple(families)
        self._bucket_s = bucket_s
        self._keep = round(horizon_s / bucket_s)
        self._buckets: dict[str, deque[tuple[int, int]]] = {family: deque() for family in self.families}

    def arrived(self, family: str, rows: int, now_s: float) -> None:
        """Count the rows of one request."""
        buckets, index = self._buckets[family], int(now_s / self._bucket_s)
        if buckets and buckets[-1][0] == index:
            buckets[-1] = (index, buckets[-1][1] + rows)
            return
        buckets.append((index, rows))
        while buckets[0][0] < index - self._keep:  # the running bucket comes on top of the horizon
            buckets.popleft()

    def rate_qps(self, family: str, window_s: float, now_s: float) -> float:
        """Mean rate over the last ``window_s`` (whole buckets, the running one left out)."""
        running = int(now_s / self._bucket_s)
        return self._rows(family, running - round(window_s / self._bucket_s), running) / window_s

    def peak_qps(self, family: str, window_s: float, over_s: float, now_s: float) -> float:
        """The highest rate of any window of ``window_s`` in the last ``over_s``, in steps of a bucket."""
        running, width = int(now_s / self._bucket_s), round(window_s / self._bucket_s)
        starts = range(running - round(over_s / self._bucket_s), running - width + 1)
        return max(self._rows(family, start, start + width) for start in starts) / window_s

    def _rows(self, family: str, first: int, stop: int) -> int:
        return sum(rows for index, rows in self._buckets[family] if first <= index < stop)


def proven_qps(rate_qps: float, window_s: float, sigmas: float) -> float:
    """The rate that a Poisson process must exceed to show ``rate_qps`` over a window, less ``sigmas`` deviations."""
    return max(0.0, rate_qps - sigmas * math.sqrt(rate_qps / window_s))
