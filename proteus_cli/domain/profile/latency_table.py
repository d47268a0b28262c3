"""How long a batch of any size takes, out of those that were measured."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np

from proteus_cli.domain.base import require


class OfBatch(Protocol):
    """Something measured of one batch size."""

    @property
    def batch(self) -> int:
        """The number of rows."""
        ...


MeasuredT = TypeVar("MeasuredT", bound=OfBatch)


class LatencyTable:
    """Latency in seconds of every batch size, linear between the measured ones and never falling.

    Beyond the largest measured batch it goes on with the cost per row of that batch.
    """

    def __init__(self, points: Sequence[MeasuredT], of: Callable[[MeasuredT], float]) -> None:
        require(bool(points), "a latency table needs at least one point")
        batches = [point.batch for point in points]
        latencies_s = np.maximum.accumulate([of(point) for point in points])
        # A batch below the first measured one costs what the first one does: it would be padded.
        by_rows_s = np.interp(np.arange(batches[-1] + 1), batches, latencies_s)
        self._by_rows: tuple[float, ...] = (0.0, *by_rows_s[1:].tolist())
        self._per_row_s = self._by_rows[-1] / (len(self._by_rows) - 1)

    def __call__(self, rows: int) -> float:
        """Seconds that a batch of ``rows`` takes."""
        try:
            return self._by_rows[rows]
        except IndexError:
            return self._by_rows[-1] + (rows - len(self._by_rows) + 1) * self._per_row_s

    def max_rows_within(self, budget_s: float, at_most: int) -> int:
        """The largest batch of ``at_most`` rows or fewer that takes ``budget_s`` or less; 0 if none does."""
        measured = len(self._by_rows) - 1
        rows = at_most
        while rows > measured and self(rows) > budget_s:
            rows -= 1
        return rows if rows > measured else bisect_right(self._by_rows, budget_s, 1, rows + 1) - 1
