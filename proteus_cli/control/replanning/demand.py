"""The demand, estimated from arrivals."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from proteus_cli.control.replanning.change_points import LEAST_BUCKETS, Rate, present_rates

HORIZON_S = 20.0  # of arrivals that are kept


class DemandEstimator:
    """Counts arrivals of each family in buckets of ``bucket_s``, for the last ``horizon_s``; ``slo_s`` by family."""

    def __init__(self, slo_s: Mapping[str, float], *, bucket_s: float = 0.1, horizon_s: float = HORIZON_S) -> None:
        self.families, self.slo_s = tuple(slo_s), slo_s
        self.bucket_s = bucket_s
        size = round(horizon_s / bucket_s) + 2  # beside the horizon, the running bucket and its end
        self._counts = {family: Counts(size, bucket_s) for family in self.families}

    def counts_of(self, family: str) -> "Counts":
        """The counter of a family's arrivals."""
        return self._counts[family]

    def rate_qps(self, family: str, window_s: float, now_s: float) -> float:
        """The mean rate over the last ``window_s``, in whole buckets, without the running one."""
        return self.rates_qps(family, (window_s,), now_s)[0]

    def rates_qps(self, family: str, windows_s: Sequence[float], now_s: float) -> list[float]:
        """The mean rates over several windows up to now."""
        running, counts, bucket_s = int(now_s / self.bucket_s), self._counts[family], self.bucket_s
        so_far, before = counts.before(running), counts.before
        return [(so_far - before(running - round(window_s / bucket_s))) / window_s for window_s in windows_s]

    def arrivals(self, family: str, over_s: float, now_s: float) -> list[int]:
        """Rows in each of the last buckets, without the running one, the latest last."""
        running, number = int(now_s / self.bucket_s), round(over_s / self.bucket_s)
        before = self._counts[family].before_each(range(running - number, running + 1))
        return [late - early for early, late in pairwise(before)]

    def estimates(self, over_s: float, now_s: float) -> list[Rate]:
        """The present rate of each family, from the arrivals of the last ``over_s``."""
        over_s = min(max(over_s, LEAST_BUCKETS * self.bucket_s), HORIZON_S)
        return present_rates(
            np.array([self.arrivals(family, over_s, now_s) for family in self.families]), self.bucket_s
        )


class Counts:
    """Rows before each of the last ``size`` buckets, and in ``total``; ``last`` is the running bucket."""

    __slots__ = ("_before", "_bucket_s", "_ends_s", "_oldest", "last", "total")

    def __init__(self, size: int, bucket_s: float) -> None:
        self._before, self._bucket_s, self._ends_s = [0] * size, bucket_s, 0.0
        self.last = self._oldest = self.total = 0

    def arrived(self, rows: int, now_s: float) -> None:
        """Count the rows of one request."""
        if now_s >= self._ends_s:  # of the running bucket: within it, no division is needed
            self._advance(int(now_s / self._bucket_s))
        self.total += rows

    def before(self, bucket: int) -> int:
        """Rows before the start of a bucket; for a forgotten one, before the oldest known."""
        if bucket > self.last:
            return self.total
        bucket = max(bucket, self._oldest)
        return self._before[bucket % len(self._before)]

    def before_each(self, buckets: range) -> Sequence[int]:
        """Rows before the start of each of these consecutive buckets."""
        ring, size, oldest = self._before, len(self._before), self._oldest
        known = range(buckets.start, min(buckets.stop, self.last + 1))
        counts = [ring[max(bucket, oldest) % size] for bucket in known]
        return counts + [self.total] * (len(buckets) - len(counts))

    def _advance(self, bucket: int) -> None:
        if bucket <= self.last:
            return
        size = len(self._before)
        for each in range(max(self.last + 1, bucket - size + 1), bucket + 1):
            self._before[each % size] = self.total
        self.last, self._oldest = bucket, max(bucket - size + 1, 0)
        self._ends_s = (bucket + 1) * self._bucket_s * (1 - 1e-12)  # a rounding may make it early, never late
