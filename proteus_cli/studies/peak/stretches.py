"""From what happened to requests to a `Stretch`: the warm-up left out, violations counted in windows of time."""

import numpy as np

from proteus_cli.arrays import Floats
from proteus_cli.studies.peak.search import Offer
from proteus_cli.studies.results import Stretch

WARM_UP_SLOS = 5.0
"""So many times the SLO are not counted: queues are empty at first."""
MIN_SLOS = 10.0
"""A stretch is so many times the SLO long, at least: shorter ones say nothing of what lasts."""
WARM_UP_FRAC = 0.05
WINDOWS = 16
"""Of a stretch: few, as clumps must fit into a window."""
_FEWEST = 2  # windows with requests that can scatter


def warm_up_s(offer: Offer, slo_s: float) -> float:
    """Seconds that do not count at the beginning of a stretch."""
    return WARM_UP_SLOS * slo_s + WARM_UP_FRAC * counted_s(offer, slo_s)


def counted_s(offer: Offer, slo_s: float) -> float:
    """Seconds that count."""
    return max(offer.requests / offer.rate_qps, MIN_SLOS * slo_s)


def duration_s(offer: Offer, slo_s: float) -> float:
    """Seconds of a stretch."""
    return warm_up_s(offer, slo_s) + counted_s(offer, slo_s)


def stretch_of(
    offer: Offer,
    slo_s: float,
    arrival_s: Floats,
    is_violation: Floats,
    lag_s: float = 0.0,
    accuracy: Floats | None = None,
) -> Stretch:
    """A stretch of requests by arrival, each 1 where it missed its SLO, else 0; NaN is an accuracy that is unknown."""
    start_s, length_s = warm_up_s(offer, slo_s), counted_s(offer, slo_s)
    counts = arrival_s >= start_s
    window = np.minimum(((arrival_s[counts] - start_s) * WINDOWS / length_s).astype(np.int64), WINDOWS - 1)
    requests: Floats = np.bincount(window, minlength=WINDOWS).astype(np.float64)
    violations: Floats = np.bincount(window, weights=is_violation[counts], minlength=WINDOWS).astype(np.float64)
    return Stretch(
        rate_qps=offer.rate_qps,
        requests=int(requests.sum()),
        violations=int(violations.sum()),
        scatter=_scatter(requests, violations),
        windows=int((requests > 0).sum()),
        lag_s=lag_s,
        accuracy=None if accuracy is None else _mean(accuracy[counts]),
    )


def _mean(values: Floats) -> float | None:
    """The mean of what is known; None where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _scatter(requests: Floats, violations: Floats) -> float:
    """Pearson's chi-squared of the windows; 0 where no request, or each, missed its SLO."""
    has_requests = requests > 0
    requests, violations = requests[has_requests], violations[has_requests]
    if len(requests) < _FEWEST:
        return 0.0
    fraction = violations.sum() / requests.sum()
    if fraction in {0.0, 1.0}:
        return 0.0
    expected = requests * fraction
    return float(((violations - expected) ** 2 / (expected * (1 - fraction))).sum())
