"""The peak of a device, a plan or a server: the highest rate that it carries within the SLO (`proteus study peak`)."""

import math
from typing import Literal

from proteus_cli.domain.base import Value, is_amount, is_count, is_rate, require

Limit = Literal["slo", "generator", "late_generator", "none"]
"""What ends the rise: the SLO; the load generator, which can't offer more, or which is late itself (the peak may be
higher); nothing, as single requests are late."""

NARROW = 1.25
"""An interval whose ends are farther apart than this ratio is no result."""


class PeakRules(Value, frozen=True):
    """What counts as carried: at most ``allowed_frac`` of the requests, in the long run, miss their SLO.

    The peak is to be known to ±``precision_frac`` with 95 % confidence; rates up to ``most_qps`` are offered, with
    ``most_requests`` in all at most. Each request asks for a variant of at least ``min_accuracy``; 0: any.
    """

    allowed_frac: float
    precision_frac: float = 0.02
    most_qps: float = 1e6
    most_requests: int = 2_000_000
    min_accuracy: float = 0.0

    def __post_init__(self) -> None:
        require(0 < self.allowed_frac < 1, "allowed_frac must be a fraction between 0 and 1")
        require(0 < self.precision_frac < 1, "precision_frac must be a fraction between 0 and 1")
        require(0 <= self.min_accuracy <= 1, "min_accuracy must be a fraction")
        require(is_rate(self.most_qps) and is_count(self.most_requests, 1), "limits of a peak must be amounts")


class Stretch(Value, frozen=True):
    """Requests that were offered at one rate, without those of the warm-up: how many, and how many missed their SLO.

    Violations come in clumps: ``scatter`` is how much their number varied between ``windows`` windows of time, in sums
    of squares that would be one per window if each request missed by itself (Pearson's chi-squared).
    ``lag_s``: how late the p99 of them was sent. ``accuracy``: the mean of the answers, None where it is unknown.
    """

    rate_qps: float
    requests: int
    violations: int
    scatter: float
    windows: int
    lag_s: float = 0.0
    accuracy: float | None = None

    def __post_init__(self) -> None:
        require(is_rate(self.rate_qps) and is_amount(self.scatter), "rates and scatter must be amounts")
        require(is_count(self.violations, 0, self.requests), "violations must be a part of the requests")
        require(is_count(self.windows), "windows must be a count")


class Probe(Value, frozen=True):
    """All stretches of one rate; from ``low_frac`` to ``high_frac`` is the 95 % interval of the violations."""

    rate_qps: float
    requests: int
    violations: int
    low_frac: float
    high_frac: float


class Peak(Value, frozen=True):
    """The peak, with its 95 % confidence interval, and the probes that it was found by, lowest rate first.

    ``high_qps`` is None where nothing says how high it may be.
    ``steepness``: by how many percent the odds of a violation rise with one percent of rate, near the peak; None where
    nothing was measured near it. ``is_precise``: the interval is as narrow as was asked for. ``clump``: violations
    that come together, about. ``lag_s``: the worst p99 by which the generator was late. ``accuracy``: the effective
    accuracy near the peak, the mean of the answers; None where the server does not tell it.
    """

    rate_qps: float
    low_qps: float
    high_qps: float | None
    limit: Limit
    is_precise: bool
    requests: int
    steepness: float | None
    clump: float
    lag_s: float
    probes: tuple[Probe, ...]
    slo_s: float = 0.0
    family: str = ""
    variant: str = ""
    batching: str = ""
    accuracy: float | None = None

    @property
    def is_found(self) -> bool:
        """Whether the interval is a result."""
        return self.is_precise or self.spread <= NARROW

    @property
    def spread(self) -> float:
        """The ratio of both ends of the interval, infinite where one is unknown."""
        return self.high_qps / self.low_qps if self.high_qps and self.low_qps else math.inf
