"""Thresholds of a cascade: quantiles of the first variant's confidence, which no label has a part in."""

import numpy as np

from proteus_cli.arrays import Singles

FRACTIONS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7)
"""Of rows to defer. A plan mixes two thresholds next to each other, so that finer steps gain little; and each threshold
more is one more that may look good by luck."""


def thresholds(confidences: Singles) -> list[float]:
    """The thresholds, rising, that defer the most nearly `FRACTIONS` of the rows: at most one for each.

    A row is deferred if its confidence is below the threshold. Rows of one confidence are deferred together, so that
    there are fewer thresholds where there are few confidences; each defers some rows, and not all.
    """
    by_confidence = np.sort(confidences)
    deferred = np.flatnonzero(by_confidence[1:] > by_confidence[:-1]) + 1  # where the next confidence is a higher one
    deferred = deferred[np.isfinite(by_confidence[deferred])]
    if not len(deferred):
        return []
    wanted = np.array(FRACTIONS) * len(confidences)
    nearest = np.abs(deferred[None, :] - wanted[:, None]).argmin(axis=1)
    return [float(by_confidence[deferred[place]]) for place in np.unique(nearest)]
