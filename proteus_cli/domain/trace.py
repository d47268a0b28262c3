"""The arrivals of queries by family."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from proteus_cli.arrays import Floats, Ints
from proteus_cli.domain.base import LARGEST_FLOAT, require
from proteus_cli.domain.request import MAX_CONFIDENCE, Bounds

PEAK_WINDOW_S = 10.0


class OwnColumn(NamedTuple):
    """A column of values that requests have of their own: the value of a request without one, and the limits."""

    unset: float = math.nan
    least: float = math.ulp(0.0)
    most: float = LARGEST_FLOAT


OWN: Mapping[str, OwnColumn] = {
    "slo_s": OwnColumn(),
    "min_accuracy": OwnColumn(0.0, 0.0, 1.0),
    "confidence": OwnColumn(least=0.0, most=1.0),
    "min_expected_accuracy": OwnColumn(0.0, 0.0, 1.0),
    "max_energy_j": OwnColumn(),
    "eval_row": OwnColumn(least=0.0),
    "min_confidence": OwnColumn(least=-MAX_CONFIDENCE, most=MAX_CONFIDENCE),
}
"""Columns that a trace may lack; one value then stands for all requests and takes no memory."""


def _unset() -> Floats:
    return np.zeros(0)


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Arrivals in order: ``arrival_s`` float64 [n], ``family`` int [n] indexes into ``families``.

    ``slo_s`` float64 [n] is a request's own latency target, NaN where the family's holds. ``min_accuracy`` float64 [n]
    is how accurate the variant that answers it must be at least, 0 where any may; without the column, any may.
    ``min_expected_accuracy`` float64 [n] is the same for the answer. ``max_energy_j`` float64 [n] is NaN where there is
    no limit. ``confidence`` float64 [n] is the fraction of queries with less confidence in first stages of cascades,
    NaN if unknown. ``eval_row`` float64 [n] is the row of its family's eval split that a query is, from 0, NaN where it
    is none of them. ``min_confidence`` float64 [n] is how confident a variant must be of its answer, on the scale of
    the family's confidence, NaN where that does not matter.
    """

    name: str
    families: tuple[str, ...]
    arrival_s: Floats
    family: Ints
    slo_s: Floats = field(default_factory=_unset)
    min_accuracy: Floats = field(default_factory=_unset)
    confidence: Floats = field(default_factory=_unset)
    min_expected_accuracy: Floats = field(default_factory=_unset)
    max_energy_j: Floats = field(default_factory=_unset)
    eval_row: Floats = field(default_factory=_unset)
    min_confidence: Floats = field(default_factory=_unset)

    def __post_init__(self) -> None:
        times_s = self.arrival_s
        require(len(self.family) == len(times_s), "columns must be equally long")
        for name, (unset, least, most) in OWN.items():
            values = getattr(self, name)
            if not len(values):
                object.__setattr__(self, name, np.broadcast_to(np.float64(unset), len(times_s)))
                continue
            require(len(values) == len(times_s), "columns must be equally long")
            is_known = (values >= least) & (values <= most)
            require(bool(np.all(is_known | np.isnan(unset) & np.isnan(values))), f"{name} is out of its limits")
        rows = self.eval_row[~np.isnan(self.eval_row)]
        require(bool(np.all(rows == np.floor(rows))), "eval_row must have whole numbers")
        require(bool(np.all(np.isfinite(times_s) & (times_s >= 0))), "arrivals must be finite and not negative")
        require(bool(np.all(times_s[1:] >= times_s[:-1])), "arrivals must be sorted")

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def own(self) -> dict[str, Floats]:
        """The columns of `OWN` in which some request has a value, by name."""
        columns = {name: getattr(self, name) for name in OWN}
        return {
            name: values
            for name, values in columns.items()
            if (np.any(values) if OWN[name].unset == 0 else not np.all(np.isnan(values)))
        }

    @property
    def has_bounds(self) -> bool:
        """Some request asks for more than a latency target and accurate variants."""
        return not {"min_expected_accuracy", "max_energy_j", "min_confidence"}.isdisjoint(self.own)

    def bounds(self, number: int) -> Bounds | None:
        """The bounds of the request of that number besides its latency target and accurate variants."""
        confidence, energy_j = float(self.min_confidence[number]), float(self.max_energy_j[number])
        expected = float(self.min_expected_accuracy[number])
        if not expected and math.isnan(energy_j) and math.isnan(confidence):
            return None
        return Bounds(
            min_confidence=-math.inf if math.isnan(confidence) else confidence,
            min_expected_accuracy=expected,
            max_energy_j=math.inf if math.isnan(energy_j) else energy_j,
        )

    def last_eval_rows(self) -> dict[str, int]:
        """The last row of the eval split among the queries, by family; without families that have none."""
        named = ~np.isnan(self.eval_row)
        last = np.full(len(self.families), -1)
        np.maximum.at(last, self.family[named], self.eval_row[named].astype(np.int64))
        return {name: row for name, row in zip(self.families, last.tolist(), strict=True) if row >= 0}

    @property
    def duration_s(self) -> float:
        """From 0 to the last arrival."""
        return float(self.arrival_s[-1]) if len(self) else 0.0

    def counts(self, start_s: float, stop_s: float) -> dict[str, int]:
        """Arrivals by family from ``start_s`` up to but not including ``stop_s``."""
        first, last = np.searchsorted(self.arrival_s, (start_s, stop_s))
        per_family = np.bincount(self.family[first:last], minlength=len(self.families))
        return {name: int(count) for name, count in zip(self.families, per_family, strict=True)}

    def demand(self, start_s: float, window_s: float) -> dict[str, float]:
        """Queries per second by family in a window that starts at ``start_s``."""
        return {name: n / window_s for name, n in self.counts(start_s, start_s + window_s).items()}

    def peak_demand(self, window_s: float = PEAK_WINDOW_S) -> dict[str, float]:
        """Queries per second by family in the busiest window, found in steps of a tenth of it.

        A trace shorter than the window is taken as one window of its own length, but no less than a second.
        """
        past_last_s = float(np.nextafter(self.duration_s, np.inf))
        window_s = min(window_s, max(past_last_s, 1.0))
        latest_s, step_s = max(past_last_s - window_s, 0.0), window_s / 10
        # A busiest window can start in the step of its first arrival, or with rounding in the one before.
        steps = np.unique(np.minimum(np.floor(self.arrival_s / step_s), math.ceil(latest_s / step_s) - 1))
        steps = np.union1d(steps, steps - 1)
        starts_s = np.append(steps[steps >= 0] * step_s, latest_s)
        stops_s = starts_s + window_s
        stops_s[-1] = max(stops_s[-1], past_last_s)  # rounding must not cost the last arrival
        busiest = np.argmax(np.searchsorted(self.arrival_s, stops_s) - np.searchsorted(self.arrival_s, starts_s))
        return {name: count / window_s for name, count in self.counts(starts_s[busiest], stops_s[busiest]).items()}
