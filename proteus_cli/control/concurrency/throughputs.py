"""Throughput by the number of running batches, estimated over windows, and how sure each comparison is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from proteus_cli.arrays import Floats
from proteus_cli.control.concurrency.slot_bins import SlotWindow

MIN_ERROR = 0.002  # the relative standard error of devices without any scatter: clocks have some
SURE_ERRORS = 2.0  # standard errors on one side: 97.7 %
RIDGE = 1e-9  # of the trace: numbers that were never seen have no equation
MIN_WINDOWS = 3  # that a number must have been seen in
SEEN_FRAC = 0.02  # of the time of batches in a window, that it was seen there
MAX_GROUPS = 12  # of windows, one of which is left out at a time


@dataclass(frozen=True, slots=True, eq=False)
class Throughputs:
    """Profiled seconds of work a second with 1, 2, … batches running; NaN where that was not seen often enough.

    ``without`` has the same of all windows but one group, a row each.
    """

    values: Floats
    without: Floats

    @property
    def levels(self) -> list[int]:
        """The numbers that are known, rising."""
        return [place + 1 for place, value in enumerate(self.values.tolist()) if value == value]  # noqa: PLR0124 - NaN

    def of(self, running: int) -> float:
        """Profiled seconds of work a second with so many batches running, from 1 on; NaN where it is not known."""
        return float(self.values[running - 1])

    def error(self, running: int) -> float:
        """The standard error of the throughput with so many running."""
        return self._jackknife(self.without[:, running - 1])

    def at_least(self, running: int, other: int) -> float:
        """The lower bound of the throughput with ``running`` batches over that with another number."""
        return self._bound(running, other, -SURE_ERRORS)

    def at_most(self, running: int, other: int) -> float:
        """The upper bound of the same ratio."""
        return self._bound(running, other, SURE_ERRORS)

    def _bound(self, running: int, other: int, errors: float) -> float:
        if running == other:
            return 1.0
        ratios = self.without[:, running - 1] / self.without[:, other - 1]
        return self.of(running) / self.of(other) + errors * self._error(ratios)

    def _error(self, without: Floats) -> float:
        """The standard error; larger where few windows tell it, about as Student's t has it."""
        return (1 + 2 / max(len(without) - 1, 1)) * max(self._jackknife(without), MIN_ERROR)

    def _jackknife(self, without: Floats) -> float:
        groups = len(without)
        return float(np.sqrt((groups - 1) * np.mean((without - without.mean()) ** 2)))


def throughputs(windows: Sequence[SlotWindow]) -> Throughputs | None:
    """The estimate over these windows; None where no number was seen in enough of them."""
    windows = [window for window in windows if window.batches]
    if len(windows) < MIN_WINDOWS:
        return None
    products, work = np.array([each.products for each in windows]), np.array([each.work for each in windows])
    batch_s = products.sum(axis=2)
    seen = batch_s >= SEEN_FRAC * batch_s.sum(axis=1, keepdims=True)
    is_known = (seen & (batch_s > 0)).sum(axis=0) >= MIN_WINDOWS
    if not is_known.any():
        return None
    groups = min(len(windows), MAX_GROUPS)
    of_group = np.arange(len(windows)) % groups
    grouped_products = np.array([products[of_group == group].sum(axis=0) for group in range(groups)])
    grouped_work = np.array([work[of_group == group].sum(axis=0) for group in range(groups)])
    all_products, all_work = grouped_products.sum(axis=0), grouped_work.sum(axis=0)
    values = _solved(all_products[np.newaxis], all_work[np.newaxis])[0]
    without = _solved(all_products - grouped_products, all_work - grouped_work)
    is_known &= (values > 0) & (without > 0).all(axis=0)
    return Throughputs(np.where(is_known, values, np.nan), without)


def _solved(products: Floats, work: Floats) -> Floats:
    """X(n) = n·r(n) of the regressions: a row each."""
    levels = work.shape[1]
    ridge = RIDGE * np.trace(products, axis1=1, axis2=2)[:, np.newaxis, np.newaxis] * np.eye(levels)
    speeds = np.linalg.solve(products + ridge, work[..., np.newaxis])[..., 0]
    return np.asarray(speeds * np.arange(1, levels + 1))
