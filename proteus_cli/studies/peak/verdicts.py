"""Whether a rate is carried: a test of the part of requests that miss their SLO, as requests come."""

import math
from collections.abc import Sequence
from typing import Literal

from proteus_cli.domain.studies.peak import Stretch

Verdict = Literal["carried", "violated", "open"]

SURE = 2.8
"""Standard deviations of a verdict: 0.5 % are wrong at each look, and a probe has few looks."""

INTERVAL = 1.959963984540054
"""Standard deviations on either side that hold 95 %."""


def clump(stretches: Sequence[Stretch]) -> float:
    """How many violations come together, at least 1: the requests say as much as that many fewer that are independent.

    Kish's design effect, from all stretches together: of one alone it is known badly.
    """
    degrees = sum(each.windows - 1 for each in stretches if each.windows and each.violations)
    return max(1.0, sum(each.scatter for each in stretches) / degrees) if degrees else 1.0


def interval(violations: float, requests: float, deviations: float = INTERVAL) -> tuple[float, float]:
    """Wilson's score interval of a fraction, for numbers that need not be whole."""
    if requests <= 0:
        return 0.0, 1.0
    fraction, z2 = violations / requests, deviations * deviations
    centre = (fraction + z2 / (2 * requests)) / (1 + z2 / requests)
    spread = fraction * (1 - fraction) / requests + z2 / (4 * requests * requests)
    half = deviations / (1 + z2 / requests) * math.sqrt(spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def violation_interval(stretches: Sequence[Stretch], deviations: float = INTERVAL) -> tuple[float, float]:
    """The interval of the part that violates, of stretches of one rate."""
    together = clump(stretches)
    requests, violations = sum(each.requests for each in stretches), sum(each.violations for each in stretches)
    return interval(violations / together, requests / together, deviations)


def verdict(stretches: Sequence[Stretch], allowed_frac: float) -> Verdict:
    """What stretches of one rate say of it."""
    low, high = violation_interval(stretches, SURE)
    return "carried" if high <= allowed_frac else "violated" if low > allowed_frac else "open"
