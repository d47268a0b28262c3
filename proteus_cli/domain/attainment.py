"""Attainment: the fraction of requests that are answered in time, and the error budget that its target leaves.

Source: Beyer et al., "Site Reliability Engineering" (2016), chapters 3 and 4.
"""

from typing import Self

from proteus_cli.domain.base import Value

DEFAULT_ATTAINMENT = 0.995
"""The target of a family that sets none."""


class Attainment(Value, frozen=True):
    """The fraction of requests in time (``reached``), and its ``target``.

    ``error_budget_used`` is the number of violations over the number that the target allows: above 1 if the target is
    not ``met``. Without requests all but the target are None.
    """

    target: float
    reached: float | None
    met: bool | None
    error_budget_used: float | None

    @classmethod
    def of(cls, requests: int, violations: int, target: float) -> Self:
        """The attainment of ``requests`` requests with ``violations`` that were not in time."""
        if not requests:
            return cls(target, None, None, None)
        reached = (requests - violations) / requests
        return cls(target, reached, reached >= target, violations / ((1 - target) * requests))


class SloTarget(Value, frozen=True):
    """An SLO, and the fraction of a family's queries that must be answered within it."""

    slo_s: float
    attainment: float = DEFAULT_ATTAINMENT

    def of_part(self, part: float) -> "SloTarget":
        """The target for a part of the SLO, for one stage of a cascade."""
        return SloTarget(part * self.slo_s, self.attainment)
