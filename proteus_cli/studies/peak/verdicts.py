"""Whether a rate is carried: a test of the part of requests that miss their SLO, as requests come."""

from collections.abc import Sequence
from typing import Literal

from proteus_cli.intervals import OF_95_PERCENT, wilson
from proteus_cli.studies.results import Stretch

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
