"""The present rate of arrivals: the mean since it changed last.

A stretch of arrivals is split where two rates explain them much better than one does, by the likelihood ratio of
Poisson arrivals (Siegmund & Venkatraman, "Using the generalized likelihood ratio statistic for sequential detection of
a change-point", 1995), and its later part is split again until nothing is gained. So a step shows as early as it can,
the estimate has nothing of the time before it, and a rate that stays is known ever better. Arrivals that scatter more
than Poisson arrivals say less: ratios are divided by their dispersion.
"""

from dataclasses import dataclass

import numpy as np

from proteus_cli.domain.arrays import Floats, Ints

CHANGE_SIGMAS = 4.0  # by which a later part must differ from an earlier one; chance does in 1 of 16,000 comparisons
LEAST_BUCKETS = 2  # that have a rate of their own
SCALES = (1, 2, 5, 10, 20)  # buckets, between which arrivals scatter
LEAST_WINDOWS = 4  # that show scatter
NOTHING = 1e-9  # rows; instead of 0 where it would divide


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate that is known but for a standard deviation, in queries per second."""

    qps: float
    deviation_qps: float


def present_rates(arrivals: Ints, bucket_s: float) -> list[Rate]:
    """The rate of each family, from the rows of each of the last buckets [F, n], the latest last."""
    scatter = _dispersions(arrivals)
    latest = np.cumsum(arrivals[:, ::-1], axis=1, dtype=np.float64)
    family = np.arange(len(arrivals))
    last = _since_last_change(latest, scatter) - 1
    length_s = (last + 1) * bucket_s
    qps = latest[family, last] / length_s
    deviation_qps = np.sqrt(qps * scatter[family, last] / length_s)
    return [Rate(*each) for each in zip(qps.tolist(), deviation_qps.tolist(), strict=True)]


def dispersion(arrivals: Ints, width: int) -> Floats:
    """Variance over mean of the arrivals [F, n] in windows of ``width`` buckets, by family; 1 is Poisson.

    Counted from the differences of neighbouring windows (Allan's variance), so that a trend is no scatter, and without
    the largest of them, which may be a step. At least 1: arrivals that look regular for seconds need not stay so.
    """
    windows = arrivals.shape[1] // width
    totals = arrivals[:, arrivals.shape[1] - windows * width :].reshape(len(arrivals), windows, width).sum(axis=2)
    squares = np.sort(np.diff(totals, axis=1) ** 2, axis=1)[:, :-1]
    if not squares.size:
        return np.ones(len(arrivals))
    found: Floats = np.maximum(squares.mean(axis=1) / 2 / np.maximum(totals.mean(axis=1), NOTHING), 1.0)
    return found


def _dispersions(arrivals: Ints) -> Floats:
    """The dispersion of the last 1 … n buckets, by family [F, n]: that of the largest of `SCALES` that fits in."""
    size = arrivals.shape[1]
    scales = [scale for scale in SCALES if scale * LEAST_WINDOWS <= size] or [1]
    known = np.stack([dispersion(arrivals, scale) for scale in scales], axis=1)
    return known[:, np.searchsorted(scales, np.arange(1, size + 1), side="right") - 1]


def _since_last_change(latest: Floats, scatter: Floats) -> Ints:
    """How many of the last buckets have the present rate, by family.

    ``latest`` [F, n]: the rows of the last 1 … n buckets. Each round shortens some stretch, so the rounds end.
    """
    size = latest.shape[1]
    lengths, family = np.arange(1, size + 1), np.arange(len(latest))
    found: Ints = np.full(len(latest), size)
    while True:
        whole = found[:, None]
        total = latest[family, found - 1][:, None]
        expected = total * np.minimum(lengths / whole, 1.0)
        late = np.where(lengths < whole, latest, total)
        deviance = 2 * (_excess(late, expected) + _excess(total - late, total - expected)) / scatter
        deviance[:, : LEAST_BUCKETS - 1] = 0.0
        best = deviance.argmax(axis=1)
        has_changed = deviance[family, best] > CHANGE_SIGMAS**2
        if not has_changed.any():
            return found
        found = np.where(has_changed, best + 1, found)


def _excess(rows: Floats, expected: Floats) -> Floats:
    """The logarithm of how much likelier so many rows are if they were expected, but for a term that cancels out."""
    found: Floats = rows * np.log(np.maximum(rows, 1) / np.maximum(expected, NOTHING))
    return found
