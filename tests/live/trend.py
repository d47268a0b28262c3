"""By how much something has grown, told from samples that scatter."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BLOCKS = 20
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Growth:
    """From the first sample to the last: the estimate, and the ends of its confidence interval."""

    likely: float
    least: float
    most: float


def growth(at_s: Sequence[float], values: Sequence[float]) -> Growth:
    """The Theil–Sen slope of the medians of 20 blocks, with Sen's 95 % confidence interval (two-sided), times the time.

    That slope is the median of the slopes between all pairs: what happens now and then, such as a process being
    replaced, doesn't move it. Its interval supposes errors that know nothing of each other; samples that follow
    one another do, medians of blocks hardly. Source: Sen, *Estimates of the regression coefficient based on Kendall's
    tau*, 1968.
    """
    from scipy.stats import theilslopes  # noqa: PLC0415 - it takes long, and few tests need it

    blocks = min(BLOCKS, len(values))
    times_s, medians = (
        [float(np.median(block)) for block in np.array_split(np.array(each, float), blocks)] for each in (at_s, values)
    )
    slope, _, low, high = theilslopes(medians, times_s, alpha=CONFIDENCE)
    took_s = at_s[-1] - at_s[0]
    return Growth(float(slope) * took_s, float(low) * took_s, float(high) * took_s)
