"""Stretches of requests, and the rate at which the fraction of violations crosses the allowed one.

Near the peak a line is fitted: ln(v / (1 - v)) = level + steepness · (ln rate - ln centre), with v the fraction of
violations. The fit maximises the likelihood of binomial counts, in which requests in clumps count less. Two priors keep
few data from absurd answers, each as strong as a few violations. The level is within some powers of the allowed
fraction, and the steepness is near the steepness of a usual queue.

The line is straight near the peak only. Beyond it a server misses what it cannot carry, and the odds rise slowly. A
stretch above the peak that misses many times the allowed fraction therefore counts as `CLIPPED` times that: its rate is
too high, by an unknown amount. Below the peak each miss counts, as slow moments are part of a peak. A first fit, in
which all stretches are clipped, tells which stretches are above it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from proteus_cli.arrays import Floats
from proteus_cli.intervals import OF_95_PERCENT, wilson
from proteus_cli.studies.results import Stretch

WARM_UP_SLOS, WARM_UP_FRAC = 5.0, 0.05
"""The warm-up of a stretch: SLOs, as queues are empty at first, and a fraction of the counted time."""
MIN_SLOS = 10.0
"""Minimum length of a stretch in SLOs: a shorter one does not show the long run."""
WINDOWS = 16
"""Windows of a stretch: few, as clumps must fit into a window."""
_FEWEST = 2  # windows with requests that can scatter

SURE = 2.8
"""Standard deviations of a verdict: 0.5 % are wrong at each look, and a probe has few looks."""

ASSUMED_STEEPNESS, STEEPNESS_SPREAD = 15.0, 15.0
LEVEL_SPREAD = 3.0
"""Standard deviations of the priors of the steepness, and of the level around the allowed fraction."""
MIN_STEEPNESS = 1.0
"""A flatter line does not tell where it crosses."""
CLIPPED = 8.0
"""Maximum of violations of a stretch above the peak, as a multiple of the allowed ones, or of one request if more."""

_STEPS, _CLOSE = 50, 1e-10
_LARGEST = 20.0  # a logarithm; a wider interval says no less
_OF_THE_LINE = 2  # parameters: level and steepness
_MIN_DEGREES = 4  # of stretches beyond the parameters: fewer do not tell whether a line fits

RateVerdict = Literal["carried", "violated", "open"]


@dataclass(frozen=True, slots=True)
class Offer:
    """Requests to offer at a rate, the warm-up not counted."""

    rate_qps: float
    requests: int


def warm_up_s(offer: Offer, slo_s: float) -> float:
    """Seconds at the beginning of a stretch that do not count."""
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
    """A stretch of requests by arrival, each 1 if it missed its SLO, else 0; NaN is an unknown accuracy."""
    start_s, length_s = warm_up_s(offer, slo_s), counted_s(offer, slo_s)
    counts = arrival_s >= start_s
    window = np.minimum(((arrival_s[counts] - start_s) * WINDOWS / length_s).astype(np.int64), WINDOWS - 1)
    requests = np.bincount(window, minlength=WINDOWS)
    violations = np.bincount(window, weights=is_violation[counts], minlength=WINDOWS)[requests > 0]
    requests = requests[requests > 0]
    total, missed = int(requests.sum()), int(violations.sum())
    scatter = 0.0
    if len(requests) >= _FEWEST and 0 < missed < total:
        expected = requests * (missed / total)
        scatter = float(((violations - expected) ** 2 / (expected * (1 - missed / total))).sum())
    known = np.array([]) if accuracy is None else accuracy[counts & ~np.isnan(accuracy)]
    mean = float(known.mean()) if len(known) else None
    return Stretch(offer.rate_qps, total, missed, scatter, len(requests), lag_s, mean)


# --- violations at one rate


def clump(stretches: Sequence[Stretch]) -> float:
    """The number of violations that come together, at least 1: requests count as that many fewer independent ones.

    Kish's design effect, from all stretches together: one alone knows it badly.
    """
    degrees = sum(each.windows - 1 for each in stretches if each.windows and each.violations)
    return max(1.0, sum(each.scatter for each in stretches) / degrees) if degrees else 1.0


def violation_interval(stretches: Sequence[Stretch], deviations: float = OF_95_PERCENT) -> tuple[float, float]:
    """The interval of the fraction of violations, over stretches of one rate; 0 to 1 without a request."""
    together = clump(stretches)
    requests, violations = sum(each.requests for each in stretches), sum(each.violations for each in stretches)
    return wilson(violations / together, requests / together, deviations) if requests else (0.0, 1.0)


def verdict(stretches: Sequence[Stretch], allowed_frac: float) -> RateVerdict:
    """The verdict on a rate, by a sequential test of its stretches."""
    low, high = violation_interval(stretches, SURE)
    return "carried" if high <= allowed_frac else "violated" if low > allowed_frac else "open"


# --- the line near the peak


@dataclass(frozen=True, slots=True)
class Crossing:
    """The rate at which the line crosses, with its 95 % interval; infinite where the line tells nothing."""

    rate_qps: float
    low_qps: float
    high_qps: float
    steepness: float
    clump: float

    @property
    def half_width_frac(self) -> float:
        """The distance of the interval's ends from the rate, as a fraction of it: the geometric mean of both sides."""
        return math.sqrt(self.high_qps / self.low_qps) - 1 if self.low_qps > 0 else math.inf


def crossing(stretches: Sequence[Stretch], allowed_frac: float) -> Crossing:
    """Fit a line to stretches, at least one, and find the rate at which it crosses ``allowed_frac``."""
    logs = np.array([math.log(each.rate_qps) for each in stretches])
    centre = float(logs.mean())
    inputs = np.stack((np.ones_like(logs), logs - centre))
    together = clump(stretches)
    requests = np.array([each.requests / together for each in stretches])
    violations = np.array([each.violations / together for each in stretches])
    wanted = math.log(allowed_frac / (1 - allowed_frac))
    clipped = np.minimum(violations, CLIPPED * np.maximum(allowed_frac * requests, 1 / together))
    line, _ = _fitted(inputs, requests, clipped, wanted)
    is_above = inputs[1] >= (wanted - line[0]) / max(float(line[1]), MIN_STEEPNESS)
    violations = np.where(is_above, clipped, violations)
    line, covariance = _fitted(inputs, requests, violations, wanted)
    level, steepness = line.tolist()
    excess, degrees = 1.0, len(stretches) - _OF_THE_LINE  # stretches may scatter around the line more than windows do
    if degrees >= _MIN_DEGREES:
        fraction = _odds_to_fraction(line @ inputs)
        expected = np.maximum(requests * fraction, 1e-12)
        misfit = ((violations - requests * fraction) ** 2 / (expected * (1 - fraction))).sum()
        excess = max(1.0, float(misfit) / degrees)
    if steepness < MIN_STEEPNESS:
        return Crossing(math.exp(centre), 0.0, math.inf, steepness, excess * together)
    at = (wanted - level) / steepness
    slope = np.array([1.0, at])
    deviation = math.sqrt(float(slope @ (excess * covariance) @ slope)) / steepness
    factor = math.exp(min(float(stdtrit(max(degrees, 1), 0.975)) * deviation, _LARGEST))
    rate_qps = math.exp(centre + at)
    return Crossing(rate_qps, rate_qps / factor, rate_qps * factor, steepness, excess * together)


def _fitted(inputs: Floats, requests: Floats, violations: Floats, wanted: float) -> tuple[Floats, Floats]:
    """Level and steepness, and their covariance, by Newton's method on a concave likelihood."""
    assumed = np.array([wanted, ASSUMED_STEEPNESS])
    trust = np.diag([LEVEL_SPREAD**-2, STEEPNESS_SPREAD**-2])
    line, curvature = assumed.copy(), trust
    for _ in range(_STEPS):
        fraction = _odds_to_fraction(line @ inputs)
        curvature = (inputs * (requests * fraction * (1 - fraction))) @ inputs.T + trust
        step = np.linalg.solve(curvature, inputs @ (violations - requests * fraction) - trust @ (line - assumed))
        line = line + step / max(1.0, float(np.abs(step).max()) / ASSUMED_STEEPNESS)
        if float(np.abs(step).max()) < _CLOSE:
            break
    return line, np.linalg.inv(curvature).astype(np.float64)


def _odds_to_fraction(odds: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(odds, -50, 50)))
