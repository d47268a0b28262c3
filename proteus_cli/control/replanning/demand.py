"""The demand, estimated from arrivals. Rates are in rows per second: a request of n rows counts as n queries."""

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from proteus_cli.arrays import Ints

WINDOWS_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)  # from two buckets to all that is kept
TREND_S = 2.0  # a change of rate over more than this is a trend, which the estimate follows, and no scatter
PARTS = 10  # of a window, between which arrivals scatter
AGREEMENT_SIGMAS = 3.0  # chance alone breaks it in 1 of 370 comparisons


class DemandEstimator:
    """Counts arrivals of each family in buckets of ``bucket_s``, for the last ``horizon_s``; ``slo_s`` by family.

    ``families``: the families to plan for, without any that is being taken out of service.
    """

    def __init__(self, slo_s: Mapping[str, float], *, bucket_s: float = 0.1, horizon_s: float = max(WINDOWS_S)) -> None:
        self.bucket_s = bucket_s
        self._size = round(horizon_s / bucket_s) + 2  # beside the horizon, the running bucket and its end
        self._windows = [(window_s, round(window_s / bucket_s)) for window_s in WINDOWS_S]
        self._counts = dict[str, Counts]()
        self._estimates = dict[str, tuple[tuple[float, float], Rate]]()  # the last one, and when it was asked for
        self.use_families(slo_s, slo_s)

    def use_families(self, slo_s: Mapping[str, float], planned: Iterable[str]) -> None:
        """From now on these are all families; plans are made for the ``planned`` ones."""
        self.families, self.slo_s = tuple(planned), dict(slo_s)
        self._counts = {family: self._counts.get(family) or Counts(self._size, self.bucket_s) for family in slo_s}

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
        arrived: list[int] = np.diff(self._marks(family, over_s, now_s)).tolist()
        return arrived

    def is_silent(self, family: str, now_s: float) -> bool:
        """No row has arrived within the known past."""
        counts = self._counts[family]
        return counts.total == counts.before(int(now_s / self.bucket_s) - round(max(WINDOWS_S) / self.bucket_s))

    def may_exceed(self, family: str, qps: float, sigmas: float, now_s: float) -> bool:
        """Whether `estimate` may be ``sigmas`` deviations above a rate. It takes a tenth of the time of `estimate`.

        It is the mean of some window, and scatters no less than Poisson arrivals do.
        """
        running, before = int(now_s / self.bucket_s), self._counts[family].before
        so_far = before(running)
        for window_s, buckets in self._windows:
            seen_qps = (so_far - before(running - buckets)) / window_s
            if seen_qps > qps and seen_qps - sigmas * math.sqrt(seen_qps / window_s) > qps:
                return True
        return False

    def estimate(self, family: str, served_s: float, now_s: float) -> "Rate":
        """The present rate: the mean of the longest of `WINDOWS_S` that agrees with all shorter ones and with itself.

        A short window sees a change early, a long one says more of a rate that stays (Lepski's method). Windows agree
        where they differ by `AGREEMENT_SIGMAS` standard deviations of the shorter one at most; so do the halves of one
        of `TREND_S` or more, which show a trend soonest. Windows that began before the server did, ``served_s`` ago,
        are left out.
        """
        asked = served_s, now_s
        before, rate = self._estimates.get(family, (None, None))
        if before != asked or rate is None:
            rate = self._estimate(family, served_s, now_s)
            self._estimates[family] = asked, rate
        return rate

    def _estimate(self, family: str, served_s: float, now_s: float) -> "Rate":
        known_s = [window_s for window_s in WINDOWS_S if window_s <= served_s] or [WINDOWS_S[0]]
        marks = self._marks(family, known_s[-1], now_s)
        rates_qps = [float(marks[-1] - marks[-1 - round(window_s / self.bucket_s)]) / window_s for window_s in known_s]
        widths = [max(1, round(window_s / self.bucket_s / PARTS)) for window_s in known_s]
        scatter = [dispersion(marks, widths[0])]
        found = 0
        for place in range(1, len(known_s)):
            is_same = widths[place] == widths[place - 1]
            scatter.append(scatter[-1] if is_same else dispersion(marks, widths[place]))
            bound = AGREEMENT_SIGMAS**2 * rates_qps[place]
            if any((rates_qps[place] - rates_qps[i]) ** 2 * known_s[i] > bound * scatter[i] for i in range(place)):
                break
            growth_qps = _growth_qps(marks, known_s[place], self.bucket_s) if known_s[place] >= TREND_S else 0.0
            if growth_qps**2 * known_s[place] > 4 * bound * scatter[place]:
                break
            found = place
        return Rate(rates_qps[found], math.sqrt(rates_qps[found] * scatter[found] / known_s[found]), known_s[found])

    def _marks(self, family: str, over_s: float, now_s: float) -> Ints:
        """Rows before each of the last buckets, and before the running one: one more than there are buckets."""
        running, number = int(now_s / self.bucket_s), round(over_s / self.bucket_s)
        return np.frombuffer(self._counts[family].before_each(range(running - number, running + 1)), np.int64)


def _growth_qps(marks: Ints, window_s: float, bucket_s: float) -> float:
    """The rate in the later half of a window less that in the earlier, whose variance is four times the mean's."""
    half = round(window_s / bucket_s / 2)
    return float(marks[-1] - 2 * marks[-1 - half] + marks[-1 - 2 * half]) / (half * bucket_s)


def dispersion(marks: Ints, width: int) -> float:
    """Variance over mean of the arrivals in windows of ``width`` buckets; 1 is Poisson.

    ``marks``: the arrivals before the start of each bucket, and before the end of the last. Counted from the
    differences of neighbouring windows (Allan's variance), so that a trend is no scatter, and without the largest of
    them, which may be a step. At least 1: arrivals that look regular for seconds need not stay so.
    """
    of_windows = marks[::-width]
    totals = of_windows[:-1] - of_windows[1:]
    steps = totals[:-1] - totals[1:]
    squares = steps * steps
    arrived = float(of_windows[0] - of_windows[-1])
    if len(squares) < 2 or not arrived:  # noqa: PLR2004 - there is none beside the largest
        return 1.0
    scatter = float(np.add.reduce(squares) - np.maximum.reduce(squares)) / (2 * (len(squares) - 1))
    return max(1.0, scatter / (arrived / len(totals)))


@dataclass(frozen=True, slots=True)
class Rate:
    """The mean rate over ``window_s``, which is known but for a standard deviation, in queries per second."""

    qps: float
    deviation_qps: float
    window_s: float = max(WINDOWS_S)


class Counts:
    """Rows before each of the last ``size`` buckets, and in ``total``; ``last`` is the running bucket."""

    __slots__ = ("_before", "_bucket_s", "_ends_s", "_oldest", "last", "total")

    def __init__(self, size: int, bucket_s: float) -> None:
        self._before, self._bucket_s, self._ends_s = array("q", bytes(8 * size)), bucket_s, 0.0
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

    def before_each(self, buckets: range) -> "array[int]":
        """Rows before the start of each bucket of a range."""
        ring, size = self._before, len(self._before)
        first, stop = max(buckets.start, self._oldest), min(buckets.stop, self.last + 1)
        if first >= stop:
            return array("q", map(self.before, buckets))
        start, end = first % size, (stop - 1) % size + 1
        known = ring[start:end] if start < end else ring[start:] + ring[:end]
        return known[:1] * (first - buckets.start) + known + array("q", [self.total]) * (buckets.stop - stop)

    def _advance(self, bucket: int) -> None:
        if bucket <= self.last:
            return
        size = len(self._before)
        for each in range(max(self.last + 1, bucket - size + 1), bucket + 1):
            self._before[each % size] = self.total
        self.last, self._oldest = bucket, max(bucket - size + 1, 0)
        self._ends_s = (bucket + 1) * self._bucket_s * (1 - 1e-12)  # a rounding may make it early, never late
