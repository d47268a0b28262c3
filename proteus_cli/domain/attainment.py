"""Attainment: the share of requests that are answered in time, and the error budget that its target leaves.

Source: Beyer et al., "Site Reliability Engineering" (2016), chapters 3 and 4.
"""

from typing import Self

from proteus_cli.domain.base import Value

DEFAULT_ATTAINMENT = 0.995
"""The target of a family that sets none."""


class Attainment(Value, frozen=True):
    """How many of some requests were in time, beside the ``target``; fractions.

    ``error_budget_used`` is the part of the violations that the target allows which there were: more than 1 where the
    target is not ``met``. All but the target are None where there were no requests.
    """

    target: float
    reached: float | None
    met: bool | None
    error_budget_used: float | None

    @classmethod
    def of(cls, requests: int, violations: int, target: float) -> Self:
        """The attainment of so many requests, of which some were not in time."""
        if not requests:
            return cls(target, None, None, None)
        reached = (requests - violations) / requests
        return cls(target, reached, reached >= target, violations / ((1 - target) * requests))


class SloTarget(Value, frozen=True):
    """An SLO, and the share of a family's queries that must be answered within it."""

    slo_s: float
    attainment: float = DEFAULT_ATTAINMENT

    def of_part(self, part: float) -> "SloTarget":
        """The same for a part of the SLO, as a stage of a cascade may take it."""
        return SloTarget(part * self.slo_s, self.attainment)


def is_attainment_target(share: float) -> bool:
    """Whether a target asks for some requests in time, and allows some that are not."""
    return 0 < share < 1
