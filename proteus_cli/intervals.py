"""How sure a fraction is that was seen in so many cases."""

import math

_Z = 1.959963984540054  # standard deviations on either side that hold 95 % of a normal distribution


def wilson(right: float, rows: int) -> tuple[float, float]:
    """The 95 % confidence interval of a fraction of which ``right`` of ``rows`` were seen: Wilson's score interval.

    E. B. Wilson, Probable inference, JASA 22 (1927), 209-212. Unlike mean ± 1.96 standard errors, it holds near 0 and 1
    (Brown, Cai & DasGupta, Interval estimation for a binomial proportion, Statistical Science 16 (2001), 101-133).
    """
    fraction, z2 = right / rows, _Z * _Z
    centre = (fraction + z2 / (2 * rows)) / (1 + z2 / rows)
    half = _Z / (1 + z2 / rows) * math.sqrt(fraction * (1 - fraction) / rows + z2 / (4 * rows * rows))
    return max(min(centre - half, fraction), 0.0), min(max(centre + half, fraction), 1.0)
