"""Confidence intervals of measured fractions and means."""

import math
from collections.abc import Sequence

OF_95_PERCENT = 1.959963984540054
"""Standard deviations on either side that hold 95 % of a normal distribution."""


def wilson(right: float, rows: float, deviations: float = OF_95_PERCENT) -> tuple[float, float]:
    """Wilson's score interval of a fraction: ``right`` of ``rows`` were seen.

    E. B. Wilson, Probable inference, JASA 22 (1927), 209-212. Unlike mean ± 1.96 standard errors, it holds near 0 and 1
    (Brown, Cai & DasGupta, Interval estimation for a binomial proportion, Statistical Science 16 (2001), 101-133).
    """
    fraction, z2 = right / rows, deviations * deviations
    centre = (fraction + z2 / (2 * rows)) / (1 + z2 / rows)
    half = deviations / (1 + z2 / rows) * math.sqrt(fraction * (1 - fraction) / rows + z2 / (4 * rows * rows))
    return max(min(centre - half, fraction), 0.0), min(max(centre + half, fraction), 1.0)


def hodges_lehmann(values: Sequence[float]) -> tuple[float, float, float]:
    """The centre of values that scatter around it, and its 95 % confidence interval, whatever their distribution.

    The centre is the median of the means of all pairs of values, each with itself too (J. L. Hodges & E. L. Lehmann,
    Estimates of location based on rank tests, Annals of Mathematical Statistics 34 (1963), 598-611). The interval
    inverts Wilcoxon's signed-rank test; it is exact, and a few values far off do not move it much. With fewer than six
    values no interval holds 95 %; it is then all of their range.
    """
    means = sorted((one + other) / 2 for place, one in enumerate(values) for other in values[place:])
    middle = len(means) // 2
    centre = means[middle] if len(means) % 2 else (means[middle - 1] + means[middle]) / 2
    left_out = _signed_rank_quantile(len(values))
    return centre, means[left_out], means[-1 - left_out]


def _signed_rank_quantile(count: int) -> int:
    """How many of the smallest means may be left out: as many as 2.5 % of the sums of signed ranks are less than."""
    most = count * (count + 1) // 2
    ways = [1] + [0] * most  # of each sum of the ranks 1 to count, each taken or not
    for rank in range(1, count + 1):
        for total in range(most, rank - 1, -1):
            ways[total] += ways[total - rank]
    allowed, below = 0.025 * 2**count, 0
    for total, number in enumerate(ways):
        below += number
        if below > allowed:
            return max(total - 1, 0)
    raise AssertionError("all sums together are certain")
