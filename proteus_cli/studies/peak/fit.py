"""Where the part of violations crosses what is allowed: a line through the odds of a violation near the peak.

ln(v / (1 - v)) = level + steepness · (ln rate - ln centre), fitted to the violations of stretches by the greatest
likelihood of binomial counts, with requests in clumps counting less. Two assumptions keep few data from absurd
answers, each as strong as a few violations: that the level is within some powers of what is allowed, and that the
steepness is that of a usual queue.

The line is straight near the peak only: beyond it, a server misses what it can't carry, and the odds rise slowly. So
stretches above the peak that miss many times what is allowed count as ones that miss `CLIPPED` times that. They say
that their rate is too high; by how much, they do not say. Below the peak, each miss counts: what is missed there is
missed in slow moments, and these are part of what a peak is. Which stretches are above it, a first fit says, in which
all of them are clipped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from proteus_cli.arrays import Bools, Floats
from proteus_cli.intervals import OF_95_PERCENT, wilson
from proteus_cli.studies.results import Stretch

WARM_UP_SLOS = 5.0
"""So many times the SLO are not counted: queues are empty at first."""
MIN_SLOS = 10.0
"""A stretch is so many times the SLO long, at least: shorter ones say nothing of what lasts."""
WARM_UP_FRAC = 0.05
WINDOWS = 16
"""Of a stretch: few, as clumps must fit into a window."""
_FEWEST = 2  # windows with requests that can scatter


@dataclass(frozen=True, slots=True)
class Offer:
    """So many requests at a rate, the warm-up not counted."""

    rate_qps: float
    requests: int


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


RateVerdict = Literal["carried", "violated", "open"]

SURE = 2.8
"""Standard deviations of a verdict: 0.5 % are wrong at each look, and a probe has few looks."""


def clump(stretches: Sequence[Stretch]) -> float:
    """How many violations come together, at least 1: the requests say as much as that many fewer that are independent.

    Kish's design effect, from all stretches together: of one alone it is known badly.
    """
    degrees = sum(each.windows - 1 for each in stretches if each.windows and each.violations)
    return max(1.0, sum(each.scatter for each in stretches) / degrees) if degrees else 1.0


def violation_interval(stretches: Sequence[Stretch], deviations: float = OF_95_PERCENT) -> tuple[float, float]:
    """The interval of the part that violates, of stretches of one rate; all of it where there was no request."""
    together = clump(stretches)
    requests, violations = sum(each.requests for each in stretches), sum(each.violations for each in stretches)
    return wilson(violations / together, requests / together, deviations) if requests else (0.0, 1.0)


def verdict(stretches: Sequence[Stretch], allowed_frac: float) -> RateVerdict:
    """What stretches of one rate say of it."""
    low, high = violation_interval(stretches, SURE)
    return "carried" if high <= allowed_frac else "violated" if low > allowed_frac else "open"


ASSUMED_STEEPNESS, STEEPNESS_SPREAD = 15.0, 15.0
LEVEL_SPREAD = 3.0
"""Standard deviations of what is assumed of the steepness, and of the level around what is allowed."""

MIN_STEEPNESS = 1.0
"""A flatter line does not say where it crosses."""

CLIPPED = 8.0
"""So many times what is allowed is the most that a stretch above the peak is taken to miss; or so many requests, where
that is more, as in stretches that are cut short."""

_STEPS, _CLOSE = 50, 1e-10
_LARGEST = 20.0  # a logarithm; a wider interval says no less
_OF_THE_LINE = 2  # parameters: level and steepness
_MIN_DEGREES = 4  # of stretches beyond those: fewer don't tell whether a line fits


@dataclass(frozen=True, slots=True)
class Crossing:
    """The rate at which the line crosses, with its 95 % interval; infinite where the line says nothing."""

    rate_qps: float
    low_qps: float
    high_qps: float
    steepness: float
    clump: float

    @property
    def half_width_frac(self) -> float:
        """How far the interval reaches from the rate, as a part of it: the geometric mean of both sides."""
        return math.sqrt(self.high_qps / self.low_qps) - 1 if self.low_qps > 0 else math.inf


def crossing(stretches: Sequence[Stretch], allowed_frac: float) -> Crossing:
    """Fit a line to stretches, at least one, and find where it crosses ``allowed_frac``."""
    centre = float(np.mean([math.log(each.rate_qps) for each in stretches]))
    x = np.array([math.log(each.rate_qps) - centre for each in stretches])
    requests = np.array([each.requests for each in stretches], dtype=np.float64)
    violations = np.array([each.violations for each in stretches], dtype=np.float64)
    wanted = math.log(allowed_frac / (1 - allowed_frac))
    together = clump(stretches)
    clipped = np.minimum(violations, CLIPPED * np.maximum(allowed_frac * requests, 1.0))
    line, _ = _fitted(x, requests / together, clipped / together, wanted)
    violations = np.where(_is_above(x, line, wanted), clipped, violations)
    line, covariance = _fitted(x, requests / together, violations / together, wanted)
    together *= (excess := _misfit(x, requests / together, violations / together, line))
    level, steepness = line.tolist()
    if steepness < MIN_STEEPNESS:
        return Crossing(math.exp(centre), 0.0, math.inf, steepness, together)
    at = (wanted - level) / steepness
    slope = np.array([1.0, at])
    deviation = math.sqrt(float(slope @ (excess * covariance) @ slope)) / steepness
    reach = student_t(max(len(stretches) - _OF_THE_LINE, 1)) * deviation
    rate_qps, factor = math.exp(centre + at), math.exp(min(reach, _LARGEST))
    return Crossing(rate_qps, rate_qps / factor, rate_qps * factor, steepness, together)


def student_t(degrees: int) -> float:
    """So many standard deviations hold 95 % where these are estimated with so many degrees of freedom.

    Fisher's expansion of Student's t around the normal distribution, to the second order: exact to 2 % from 4 on.
    """
    z = OF_95_PERCENT
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / degrees + second / degrees**2


def _fitted(x: Floats, requests: Floats, violations: Floats, wanted: float) -> tuple[Floats, Floats]:
    """Level and steepness, and their covariance, by Newton's method on a concave likelihood."""
    inputs = np.stack((np.ones_like(x), x))
    assumed = np.array([wanted, ASSUMED_STEEPNESS])
    trust = np.diag([LEVEL_SPREAD**-2, STEEPNESS_SPREAD**-2])
    line = assumed.copy()
    for _ in range(_STEPS):
        fraction = _odds_to_fraction(line @ inputs)
        curvature = (inputs * (requests * fraction * (1 - fraction))) @ inputs.T + trust
        step = np.linalg.solve(curvature, inputs @ (violations - requests * fraction) - trust @ (line - assumed))
        line = line + step / max(1.0, float(np.abs(step).max()) / ASSUMED_STEEPNESS)
        if float(np.abs(step).max()) < _CLOSE:
            break
    fraction = _odds_to_fraction(line @ inputs)
    covariance = np.linalg.inv((inputs * (requests * fraction * (1 - fraction))) @ inputs.T + trust)
    return line, covariance.astype(np.float64)


def _is_above(x: Floats, line: Floats, wanted: float) -> Bools:
    """Whether rates are beyond where the line crosses."""
    level, steepness = line.tolist()
    above: Bools = x >= (wanted - level) / max(steepness, MIN_STEEPNESS)
    return above


def _misfit(x: Floats, requests: Floats, violations: Floats, line: Floats) -> float:
    """By how much stretches scatter around the line more than their windows say, at least 1."""
    degrees = len(x) - _OF_THE_LINE
    if degrees < _MIN_DEGREES:
        return 1.0
    fraction = _odds_to_fraction(line @ np.stack((np.ones_like(x), x)))
    expected = np.maximum(requests * fraction, 1e-12)
    return max(1.0, float(((violations - requests * fraction) ** 2 / (expected * (1 - fraction))).sum()) / degrees)


def _odds_to_fraction(odds: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(odds, -50, 50)))
