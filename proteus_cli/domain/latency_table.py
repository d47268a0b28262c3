"""Latency by batch size, from measurements of some sizes."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np

from proteus_cli.arrays import Floats
from proteus_cli.domain.base import require


class Measured(Protocol):
    """A measurement of one batch size."""

    @property
    def batch(self) -> int:
        """The number of rows."""
        ...


MeasuredT = TypeVar("MeasuredT", bound=Measured)


class LatencyTable:
    """Latency in seconds of every batch size, linear between measured sizes and never falling.

    Beyond the largest measured batch each row costs as much as a row of that batch.
    """

    def __init__(self, points: Sequence[MeasuredT], of: Callable[[MeasuredT], float]) -> None:
        require(bool(points), "a latency table needs at least one point")
        batches = [point.batch for point in points]
        latencies_s = np.maximum.accumulate([of(point) for point in points])
        # A batch below the first measured one is padded to it, and costs as much.
        by_rows_s: Floats = np.interp(np.arange(batches[-1] + 1), batches, latencies_s)
        self._by_rows: tuple[float, ...] = (0.0, *by_rows_s[1:].tolist())
        self._per_row_s = self._by_rows[-1] / (len(self._by_rows) - 1)
        self._measured_s = by_rows_s[1:]

    def __call__(self, rows: int) -> float:
        """Seconds of a batch of ``rows`` rows."""
        try:
            return self._by_rows[rows]
        except IndexError:
            return self._by_rows[-1] + (rows - len(self._by_rows) + 1) * self._per_row_s

    def up_to(self, rows: int) -> Floats:
        """Seconds of batches of 1, 2, … ``rows`` rows."""
        if rows <= len(self._measured_s):
            return self._measured_s[:rows]
        beyond = np.arange(1, rows - len(self._measured_s) + 1)
        return np.append(self._measured_s, self._by_rows[-1] + beyond * self._per_row_s)

    def max_rows_within(self, budget_s: float, at_most: int) -> int:
        """The largest batch of at most ``at_most`` rows that takes at most ``budget_s``; 0 if there is none."""
        measured = len(self._by_rows) - 1
        rows = at_most
        while rows > measured and self(rows) > budget_s:
            rows -= 1
        return rows if rows > measured else bisect_right(self._by_rows, budget_s, 1, rows + 1) - 1
