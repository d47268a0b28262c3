"""The arrivals of queries by family."""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from proteus_cli.domain.base import require
from proteus_cli.domain.request import MAX_CONFIDENCE, Bounds

PEAK_WINDOW_S = 10.0


_UNSET = {
    "min_accuracy": 0.0, "confidence": np.nan, "min_expected_accuracy": 0.0, "max_energy_j": np.nan, "eval_row": np.nan,
    "min_confidence": np.nan,
}  # fmt: skip
"""Columns that a trace may lack, with what that says of each request; one value stands for all and takes no memory."""


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
    arrival_s: npt.NDArray[np.float64]
    family: npt.NDArray[np.int64]
    slo_s: npt.NDArray[np.float64]
    min_accuracy: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    confidence: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    min_expected_accuracy: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    max_energy_j: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    eval_row: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    min_confidence: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        for column, unset in _UNSET.items():
            if not len(getattr(self, column)):
                object.__setattr__(self, column, np.broadcast_to(np.float64(unset), len(self.arrival_s)))
        columns = (self.arrival_s, self.family, self.slo_s, *(getattr(self, column) for column in _UNSET))
        require(len(set(map(len, columns))) == 1, "columns must be equally long")
        for minima in (self.min_accuracy, self.min_expected_accuracy):
            require(bool(np.all((minima >= 0) & (minima <= 1))), "minima must be fractions")
        require(not np.any(self.max_energy_j <= 0), "limits of energy must be above zero")
        known = self.confidence[~np.isnan(self.confidence)]
        require(bool(np.all((known >= 0) & (known <= 1))), "confidences must be fractions")
        too_high, too_low = self.min_confidence > MAX_CONFIDENCE, self.min_confidence < -MAX_CONFIDENCE
        require(not np.any(too_high | too_low), "minimum confidences must be 32-bit floats")
        rows = self.eval_row[~np.isnan(self.eval_row)]
        require(bool(np.all((rows >= 0) & (rows == np.floor(rows)))), "rows of eval splits must be whole numbers")
        require(bool(np.all(np.isfinite(self.arrival_s))), "arrivals must be finite")
        require(bool(np.all(self.arrival_s >= 0)), "arrivals must not be negative")
        require(bool(np.all(self.arrival_s[1:] >= self.arrival_s[:-1])), "arrivals must be sorted")

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def has_bounds(self) -> bool:
        """Some request asks for more than a latency target and accurate variants."""
        may_be_unset = self.max_energy_j, self.min_confidence
        return bool(np.any(self.min_expected_accuracy)) or not all(np.all(np.isnan(each)) for each in may_be_unset)

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
