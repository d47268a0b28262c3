"""How much is being asked for."""

import math
from collections.abc import Iterable, Sequence
from operator import sub


class DemandEstimator:
    """Counts arrivals of each family in buckets of ``bucket_s`` and keeps ``horizon_s`` of them."""

    def __init__(self, families: Iterable[str], *, bucket_s: float = 0.1, horizon_s: float = 10.0) -> None:
        self.families = tuple(families)
        self._bucket_s = bucket_s
        size = round(horizon_s / bucket_s) + 2  # the running bucket, and its end, come on top of the horizon
        self._counts = {family: _Counts(size) for family in self.families}

    def arrived(self, family: str, rows: int, now_s: float) -> None:
        """Count the rows of one request."""
        counts, bucket = self._counts[family], int(now_s / self._bucket_s)
        if bucket > counts.last:
            counts.advance(bucket)
        counts.total += rows

    def rate_qps(self, family: str, window_s: float, now_s: float) -> float:
        """Mean rate over the last ``window_s`` (whole buckets, the running one left out)."""
        return self.rates_qps(family, (window_s,), now_s)[0]

    def rates_qps(self, family: str, windows_s: Sequence[float], now_s: float) -> list[float]:
        """The mean rates over several windows up to now."""
        running, counts, bucket_s = int(now_s / self._bucket_s), self._counts[family], self._bucket_s
        so_far, before = counts.before(running), counts.before
        return [(so_far - before(running - round(window_s / bucket_s))) / window_s for window_s in windows_s]

    def peak_qps(self, family: str, window_s: float, over_s: float, now_s: float) -> float:
        """The highest rate of any window of ``window_s`` in the last ``over_s``, in steps of a bucket."""
        running, width = int(now_s / self._bucket_s), round(window_s / self._bucket_s)
        totals = self._counts[family].before_each(range(running - round(over_s / self._bucket_s), running + 1))
        return float(max(map(sub, totals[width:], totals))) / window_s


class _Counts:
    """How many rows came before each of the last ``size`` buckets, of which ``last`` is running, and in ``total``."""

    __slots__ = ("_before", "_oldest", "last", "total")

    def __init__(self, size: int) -> None:
        self._before = [0] * size
        self.last = self._oldest = self.total = 0

    def before(self, bucket: int) -> int:
        """Rows before the start of a bucket; of what is forgotten, all."""
        if bucket > self.last:
            return self.total
        bucket = max(bucket, self._oldest)
        return self._before[bucket % len(self._before)]

    def before_each(self, buckets: range) -> Sequence[int]:
        """Rows before the start of each of these buckets, which follow one another."""
        ring, size, oldest = self._before, len(self._before), self._oldest
        known = range(buckets.start, min(buckets.stop, self.last + 1))
        counts = [ring[max(bucket, oldest) % size] for bucket in known]
        return counts + [self.total] * (len(buckets) - len(counts))

    def advance(self, bucket: int) -> None:
        size = len(self._before)
        for each in range(max(self.last + 1, bucket - size + 1), bucket + 1):
            self._before[each % size] = self.total
        self.last, self._oldest = bucket, max(bucket - size + 1, 0)


def proven_qps(rate_qps: float, window_s: float, sigmas: float) -> float:
    """The rate that a Poisson process must exceed to show ``rate_qps`` over a window, less ``sigmas`` deviations."""
    return max(0.0, rate_qps - sigmas * math.sqrt(rate_qps / window_s))
