"""The demand, estimated from arrivals."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from operator import sub


class DemandEstimator:
    """Counts arrivals of each family in buckets of ``bucket_s``, for the last ``horizon_s``; ``slo_s`` by family."""

    def __init__(self, slo_s: Mapping[str, float], *, bucket_s: float = 0.1, horizon_s: float = 10.0) -> None:
        self.families, self.slo_s = tuple(slo_s), slo_s
        self._bucket_s = bucket_s
        size = round(horizon_s / bucket_s) + 2  # beside the horizon, the running bucket and its end
        self._counts = {family: Counts(size, bucket_s) for family in self.families}
        self._shed = {family: Counts(size, bucket_s) for family in self.families}

    def shed(self, family: str, rows: int, now_s: float) -> None:
        """Count the rows of a request that was refused or dropped because the plan carries too little."""
        self._shed[family].arrived(rows, now_s)

    def shed_qps(self, family: str, window_s: float, now_s: float) -> float:
        """The rate that was shed in the last ``window_s`` and the running bucket."""
        running = int(now_s / self._bucket_s)
        counts = self._shed[family]
        return (counts.total - counts.before(running - round(window_s / self._bucket_s))) / window_s

    def counts_of(self, family: str) -> "Counts":
        """The counter of a family's arrivals."""
        return self._counts[family]

    def rate_qps(self, family: str, window_s: float, now_s: float) -> float:
        """The mean rate over the last ``window_s``, in whole buckets, without the running one."""
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

    def dispersion(self, family: str, over_s: float, now_s: float) -> float:
        """Variance over mean of the arrivals in windows as long as the SLO in the last ``over_s``; 1 is Poisson.

        Counted from the differences of neighbouring windows (Allan's variance), so that a trend is no scatter. At least
        1: arrivals that look regular for seconds need not stay so. 1 where nothing arrived.
        """
        running, width = int(now_s / self._bucket_s), max(1, round(self.slo_s[family] / self._bucket_s))
        counts = self._counts[family]
        totals = [counts.before(end) for end in range(running - round(over_s / self._bucket_s), running + 1, width)]
        arrivals = [late - early for early, late in pairwise(totals)]
        if len(arrivals) < 2 or totals[-1] == totals[0]:  # noqa: PLR2004 - no neighbours
            return 1.0
        steps = sum((late - early) ** 2 for early, late in pairwise(arrivals)) / (2 * (len(arrivals) - 1))
        return max(1.0, steps / (sum(arrivals) / len(arrivals)))


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


def rate_lower_bound_qps(rate_qps: float, window_s: float, sigmas: float) -> float:
    """The lower bound of a Poisson process's rate that was ``rate_qps`` over a window, by ``sigmas`` deviations."""
    return max(0.0, rate_qps - sigmas * math.sqrt(rate_qps / window_s))
