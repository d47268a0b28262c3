"""Synthetic traces: the times of queries (a shape) and their families (shares).

Shapes and families are drawn from the generator that is passed in, so a seed gives one trace. The Gamma and burst
shapes and the Zipf shares follow the evaluation of Ahmad et al., *Proteus*, ASPLOS 2024.
The bundled ``traces/burst.csv`` was made by::

    proteus trace make burst --rate 160qps --peak 1000qps --duration 40s --burst-start 14s --burst-stop 26s \
        --families digits=0.5,signals=0.5 --seed 7 --per-second -o traces/burst.csv
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from proteus_cli.arrays import Floats
from proteus_cli.domain.base import is_amount
from proteus_cli.domain.trace import Trace
from proteus_cli.errors import UsageError
from proteus_cli.replay.scaling import require_feasible
from proteus_cli.replay.trace import MAX_DURATION_S
from proteus_cli.units import parse_assignments

MIN_GAMMA_SHAPE = 1e-3  # below it, most gaps are too short for a float


class Shape(Protocol):
    """How arrivals spread over time."""

    def arrivals(self, rate_qps: float, duration_s: float, rng: np.random.Generator) -> Floats:
        """Sorted times from 0 to ``duration_s``. Raises `UsageError` where the shape doesn't fit in."""


@dataclass(frozen=True, slots=True)
class Constant:
    """Evenly spaced."""

    def arrivals(self, rate_qps: float, duration_s: float, rng: np.random.Generator) -> Floats:  # noqa: ARG002 - a Shape
        return np.arange(round(rate_qps * duration_s)) / rate_qps


@dataclass(frozen=True, slots=True)
class Poisson:
    """Independent arrivals at one rate."""

    def arrivals(self, rate_qps: float, duration_s: float, rng: np.random.Generator) -> Floats:
        return np.sort(rng.uniform(0.0, duration_s, rng.poisson(rate_qps * duration_s)))


@dataclass(frozen=True, slots=True)
class Gamma:
    """Gamma-distributed times between arrivals. ``gamma_shape`` 1 is Poisson, less is burstier: CV = shape^-1/2."""

    gamma_shape: float = 0.05

    def __post_init__(self) -> None:
        _require(MIN_GAMMA_SHAPE <= self.gamma_shape < math.inf, f"The Gamma shape must be at least {MIN_GAMMA_SHAPE}.")

    def arrivals(self, rate_qps: float, duration_s: float, rng: np.random.Generator) -> Floats:
        scale_s = 1 / (rate_qps * self.gamma_shape)
        ends_s = np.zeros(1)
        while ends_s[-1] < duration_s:
            chunk = 100 + round(rate_qps * (duration_s - ends_s[-1]))
            gaps_s = rng.gamma(self.gamma_shape, scale_s, chunk)
            ends_s = np.concatenate((ends_s, ends_s[-1] + np.cumsum(gaps_s)))
        return ends_s[1 : np.searchsorted(ends_s, duration_s)]


@dataclass(frozen=True, slots=True)
class Burst:
    """Poisson at the rate, but at ``peak_qps`` from ``start_s`` to ``stop_s`` (by default the middle third).

    The rate climbs in the ``ramp_s`` before ``start_s`` and falls in the ``ramp_s`` after ``stop_s``.
    """

    peak_qps: float
    start_s: float | None = None
    stop_s: float | None = None
    ramp_s: float = 2.0

    def arrivals(self, rate_qps: float, duration_s: float, rng: np.random.Generator) -> Floats:
        start_s = duration_s / 3 if self.start_s is None else self.start_s
        stop_s = duration_s * 2 / 3 if self.stop_s is None else self.stop_s
        _require(start_s < stop_s <= duration_s, "The burst must start before it stops, within the trace.")

        def rate_at(time_s: Floats) -> Floats:
            away_s = np.maximum(np.maximum(start_s - time_s, time_s - stop_s), 0.0)
            slope_s = max(self.ramp_s, 1e-9)  # none at all is a jump
            return rate_qps + (self.peak_qps - rate_qps) * np.maximum(1 - away_s / slope_s, 0.0)

        return _thinned(rate_at, rate_qps, self.peak_qps, duration_s, rng)


@dataclass(frozen=True, slots=True)
class Diurnal:
    """Poisson along a sinusoid that starts low at the rate and reaches ``peak_qps`` half a period later.

    ``period_s`` is by default the duration.
    """

    peak_qps: float
    period_s: float | None = None

    def arrivals(self, rate_qps: float, duration_s: float, rng: np.random.Generator) -> Floats:
        period_s = duration_s if self.period_s is None else self.period_s
        _require(period_s > 0, "The period must be above zero.")

        def rate_at(time_s: Floats) -> Floats:
            return rate_qps + (self.peak_qps - rate_qps) * (1 - np.cos(2 * np.pi * time_s / period_s)) / 2

        return _thinned(rate_at, rate_qps, self.peak_qps, duration_s, rng)


SHAPES: Mapping[str, type[Constant | Poisson | Gamma | Burst | Diurnal]] = {
    "constant": Constant,
    "poisson": Poisson,
    "gamma": Gamma,
    "burst": Burst,
    "diurnal": Diurnal,
}


def _thinned(
    rate_at: Callable[[Floats], Floats], rate_qps: float, peak_qps: float, duration_s: float, rng: np.random.Generator
) -> Floats:
    """A Poisson process of a varying rate: draw at the peak, keep by the rate (Lewis and Shedler, 1979)."""
    _require(peak_qps >= rate_qps, "The peak must not be below the rate.")
    require_feasible(peak_qps * duration_s)
    drawn_s = Poisson().arrivals(peak_qps, duration_s, rng)
    return drawn_s[rng.random(len(drawn_s)) * peak_qps < rate_at(drawn_s)]


def make_trace(
    name: str,
    shape: Shape,
    *,
    rate_qps: float,
    duration_s: float,
    shares: Mapping[str, float],
    rng: np.random.Generator,
) -> Trace:
    """A trace of a shape whose arrivals each draw their family by the shares, which need not add up to 1.

    Raises `UsageError` where the numbers make no sense or the trace would be empty or too large.
    """
    _require(math.isfinite(rate_qps) and rate_qps > 0, "The rate must be above zero.")
    _require(0 < duration_s <= MAX_DURATION_S, "The duration must be above zero and at most a year.")
    require_feasible(rate_qps * duration_s)
    arrival_s = shape.arrivals(rate_qps, duration_s, rng)
    _require(len(arrival_s) > 0, "The trace has no arrivals at this rate and duration.")
    families = tuple(sorted(shares))
    family = families_at([shares[family] for family in families], rng.random(len(arrival_s)))
    return Trace(name, families, arrival_s, family)


def families_at(shares: Sequence[float], points: Floats) -> npt.NDArray[np.int64]:
    """Indexes into ``shares``. A uniform point from 0 up to but not including 1 gives each with its probability.

    Raises `UsageError` where a share is negative, or none is above zero.
    """
    fair = all(is_amount(share) for share in shares) and sum(shares) > 0
    _require(fair, "Shares of families must not be negative, and one must be above zero.")
    edges = np.cumsum(shares)
    return np.searchsorted(edges / edges[-1], points, side="right").astype(np.int64)


def parse_shares(text: str, zipf: float | None = None) -> dict[str, float]:
    """``"digits=0.7,signals=0.3"`` → shares by family; ``"a,b,c"`` → equal shares, or by Zipf's law.

    Raises `UsageError` for shares that are no numbers, families named twice, and Zipf's law beside shares.
    """
    given = parse_assignments(text, "`--families`")
    shares = {name: _share(name, share) for name, share in given.items()}
    known = {name: share for name, share in shares.items() if share is not None}
    if not known:
        return zipf_shares(list(shares), 0.0 if zipf is None else zipf)
    if zipf is not None or len(known) < len(shares):
        hint = "give each family its share, like `digits=0.7,signals=0.3`; or only names, and `--zipf`"
        raise UsageError(f"The families `{text}` have shares only in part, or beside Zipf's law.", hint=hint)
    return known


def _share(name: str, text: str | None) -> float | None:
    try:
        share = float(text) if text is not None else None
    except ValueError:
        share = math.nan
    if not name or not name.isprintable() or not (share is None or is_amount(share)):
        hint = "write families like `digits=0.7,signals=0.3` or `digits,signals`"
        raise UsageError(f"`{name}={text or ''}` is not a family with its share.", hint=hint)
    return share


def zipf_shares(names: Sequence[str], exponent: float) -> dict[str, float]:
    """The k-th name has a share proportional to 1 / k^exponent (Zipf's law). Raises `UsageError`."""
    _require(is_amount(exponent), "The exponent of Zipf's law must be a number that is not negative.")
    return {name: rank**-exponent for rank, name in enumerate(names, start=1)}


def _require(condition: bool, message: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not condition:
        raise UsageError(message, hint="`proteus trace make --help` describes the options")
