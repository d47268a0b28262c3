"""When queries of which family arrive."""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from proteus_cli.domain.base import require

PEAK_WINDOW_S = 10.0
WINDOWS_AT_ONCE = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Arrivals in order: ``arrival_s`` float64 [n], ``family`` int [n] indexes into ``families``.

    ``slo_s`` float64 [n] is a request's own latency target, NaN where the family's holds. ``min_accuracy`` float64 [n]
    is how accurate the variant that answers it must be at least, 0 where any may; without the column, any may.
    ``confidence`` float64 [n] is the part of all queries (0 to 1) of which the first stages of cascades are less sure,
    NaN where that is not known; without the column, it is known of none.
    """

    name: str
    families: tuple[str, ...]
    arrival_s: npt.NDArray[np.float64]
    family: npt.NDArray[np.int64]
    slo_s: npt.NDArray[np.float64]
    min_accuracy: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    confidence: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if not len(self.min_accuracy):
            object.__setattr__(self, "min_accuracy", np.zeros(len(self.arrival_s)))
        if not len(self.confidence):
            object.__setattr__(self, "confidence", np.full(len(self.arrival_s), np.nan))
        columns = (self.arrival_s, self.family, self.slo_s, self.min_accuracy, self.confidence)
        require(len(set(map(len, columns))) == 1, "columns must be equally long")
        require(bool(np.all((self.min_accuracy >= 0) & (self.min_accuracy <= 1))), "minima must be fractions")
        known = self.confidence[~np.isnan(self.confidence)]
        require(bool(np.all((known >= 0) & (known <= 1))), "confidences must be fractions")
        require(bool(np.all(np.isfinite(self.arrival_s))), "arrivals must be finite")
        require(bool(np.all(self.arrival_s >= 0)), "arrivals must not be negative")
        require(bool(np.all(np.diff(self.arrival_s) >= 0)), "arrivals must be sorted")

    def __len__(self) -> int:
        return len(self.arrival_s)

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
        latest_s = max(past_last_s - window_s, 0.0)
        start_s, most = self._busiest_before(latest_s, window_s)
        stop_s = start_s + window_s
        latest_stop_s = max(latest_s + window_s, past_last_s)  # rounding must not cost the last arrival
        if self._count(latest_s, latest_stop_s) > most:
            start_s, stop_s = latest_s, latest_stop_s
        return {name: count / window_s for name, count in self.counts(start_s, stop_s).items()}

    def _busiest_before(self, latest_s: float, window_s: float) -> tuple[float, int]:
        """The start of the busiest window that starts before ``latest_s``, and its arrivals; -1 where there is none.

        Some thousand windows are counted at a time, unless all arrivals that they cover are fewer than the most so far:
        a trace of a few arrivals may last a year.
        """
        step_s, start_s, most = window_s / 10, 0.0, -1
        number = math.ceil(latest_s / step_s)
        for first in range(0, number, WINDOWS_AT_ONCE):
            starts = np.arange(first, min(first + WINDOWS_AT_ONCE, number)) * step_s
            if self._count(starts[0], starts[-1] + window_s) <= most:
                continue
            totals = np.searchsorted(self.arrival_s, starts + window_s) - np.searchsorted(self.arrival_s, starts)
            busiest = int(np.argmax(totals))
            if totals[busiest] > most:
                start_s, most = float(starts[busiest]), int(totals[busiest])
        return start_s, most

    def _count(self, start_s: float, stop_s: float) -> int:
        first, last = np.searchsorted(self.arrival_s, (start_s, stop_s))
        return int(last - first)
