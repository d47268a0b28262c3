"""The result of a cell and the conclusion of a study, for each of the five kinds of studies."""

import math
from typing import Literal

from msgspec import field

from proteus_cli.domain.base import (
    Amount,
    Count,
    Fraction,
    OpenFraction,
    PositiveCount,
    Rate,
    Value,
    require,
)

# Peak: the highest rate that a device, a plan or a server carries within the SLO (`proteus study peak`).

Limit = Literal["slo", "generator", "late_generator", "none"]
"""The limit of the rates that were offered: the SLO, or the load generator, which is at its maximum or itself late.

With ``late_generator`` the peak may be higher. ``none``: single requests are late already.
"""

NARROW = 1.25
"""An interval is a result if the ratio of its ends is at most this."""


class PeakRules(Value, frozen=True):
    """The criterion of a peak: in the long run at most ``allowed_frac`` of the requests miss their SLO.

    The peak is to be known to ±``precision_frac`` with 95 % confidence. At most ``most_requests`` are offered in all,
    at rates up to ``most_qps``. Each request asks for a variant of at least ``min_accuracy``; 0: any.
    """

    allowed_frac: OpenFraction
    precision_frac: OpenFraction = 0.02
    most_qps: Rate = 1e6
    most_requests: PositiveCount = 2_000_000
    min_accuracy: Fraction = 0.0


class Stretch(Value, frozen=True):
    """Requests offered at one rate, without the warm-up, and the number that missed their SLO.

    Violations come in clumps. ``scatter`` is Pearson's chi-squared of their number over ``windows`` windows of time: 1
    per window if each request missed independently. ``lag_s``: the p99 by which they were sent late. ``accuracy``: the
    mean of the answers, None if unknown.
    """

    rate_qps: Rate
    requests: Count
    violations: Count
    scatter: Amount
    windows: Count
    lag_s: float = 0.0
    accuracy: float | None = None


class Probe(Value, frozen=True):
    """All stretches of one rate; from ``low_frac`` to ``high_frac`` is the 95 % interval of the violations."""

    rate_qps: float
    requests: int
    violations: int
    low_frac: float
    high_frac: float


class Peak(Value, frozen=True):
    """The peak, with its 95 % confidence interval, and the probes that found it, lowest rate first.

    ``high_qps`` is None if nothing limits the peak from above.
    ``steepness``: by how many percent the odds of a violation rise with one percent of rate near the peak; None if
    no probe was near. ``is_precise``: the interval is as narrow as required. ``clump``: the typical number of
    violations that come together. ``lag_s``: the worst p99 by which the generator was late. ``accuracy``: the mean of
    the answers
    near the peak; None if the server does not report it.
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
        """The ratio of both ends of the interval; infinite if one is unknown."""
        return self.high_qps / self.low_qps if self.high_qps and self.low_qps else math.inf


# Cost: the cheapest fleet for a trace (`proteus study cost`).

Usage = Literal["dedicated", "shared"]
"""A device serves one variant, or several."""


class FleetCost(Value, frozen=True):
    """The cheapest fleet found for a trace, and the cost of a million queries in the currency of the prices.

    ``fleet`` counts devices by type, and ``held`` by the variants that they hold (``a + b``). ``missed`` of the
    ``queries`` were late, dropped, rejected or failed. ``missed_frac`` is the fraction in the family that missed most,
    with its 95 % interval ``low_frac`` to ``high_frac``. ``percentile_s`` is the latency by family at the percentile of
    the study, None if that query was not answered. Plans were made for ``multiple`` times the demand of the trace's
    busiest seconds; ``tried`` of them were simulated, on devices slowed by the study's headroom. ``assumed`` lists
    costs of sharing that were not measured, with the command that measures them.
    """

    usage: Usage
    fleet: dict[str, int]
    held: dict[str, int]
    price_per_hour: Amount
    cost_per_million: Amount
    queries: PositiveCount
    missed: Count
    missed_frac: Fraction
    low_frac: Fraction
    high_frac: Fraction
    effective_accuracy: float | None
    multiple: float
    tried: int
    percentile_s: dict[str, float | None] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()

    @property
    def devices(self) -> int:
        return sum(self.fleet.values())


class Saving(Value, frozen=True):
    """The saving of shared over dedicated devices on one fleet; costs of a million queries."""

    scope: str
    dedicated: float
    shared: float
    saved_frac: float


class CostConclusion(Value, frozen=True):
    """``savings`` by scope, and the cell that costs the least."""

    savings: tuple[Saving, ...]
    cheapest: str


# Start-up: the time from nothing to the first answer (`proteus study startup`).


class ProcessStart(Value, frozen=True):
    """Times of one start of a process, in seconds since the request for it.

    In order: Python runs, the backend is imported, the model is loaded, the first row is answered. ``read_bytes``:
    bytes read from disks; None if the system does not report them.
    """

    python_s: Amount
    backend_s: Amount
    loaded_s: Amount
    answered_s: Amount
    read_bytes: int | None = None

    def __post_init__(self) -> None:
        times = [self.python_s, self.backend_s, self.loaded_s, self.answered_s]
        require(times == sorted(times), "times of a start must rise")


class Starts(Value, frozen=True):
    """Starts under one condition, in order, with the median and its 95 % interval.

    The interval holds for any distribution; its ends are two of the starts. With fewer than six starts it is the range
    of all of them, with less confidence.
    """

    runs: PositiveCount
    p50_s: float
    low_s: float
    high_s: float
    most_s: float
    starts: tuple[ProcessStart, ...]


class Startup(Value, frozen=True):
    """A variant on a device. ``cold``: its files were not in the file cache; None if the system can't evict them."""

    family: str
    variant: str
    device: str
    backend: str
    warm: Starts
    cold: Starts | None
