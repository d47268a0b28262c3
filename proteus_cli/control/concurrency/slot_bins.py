"""What runs on a device at once, in bins: the sums that a regression over batches needs, and no batch."""

from dataclasses import dataclass

import numpy as np

from proteus_cli.arrays import Floats

Exposure = tuple[float, ...]
"""The device's seconds so far with 1, 2, … batches running, when a batch began."""


@dataclass(frozen=True, slots=True, eq=False)
class SlotWindow:
    """A stretch of time with so many ``slots``.

    ``seconds`` by the number of running batches, from 0 on. Over its ``batches``, with t(n) the seconds of a batch
    with n running, T their sum and w what the profile says: ``products`` has Σ t(n)·t(m)/T, ``work`` Σ t(n)·w/T.
    """

    slots: int
    seconds: Floats
    products: Floats
    work: Floats
    batches: int
    work_s: float
    service_s: float

    @property
    def lasted_s(self) -> float:
        """The length of the window, idle time included."""
        return float(self.seconds.sum())

    @property
    def mean_running(self) -> float:
        """Batches that ran at once, in the mean."""
        return float(self.seconds @ np.arange(len(self.seconds)) / self.lasted_s)

    @property
    def batch_seconds(self) -> Floats:
        """The seconds of all batches with 1, 2, … running."""
        return np.asarray(self.products.sum(axis=1))

    def full_frac(self, slots: int) -> float:
        """The part of the time in which so many slots, or more, were busy."""
        return float(self.seconds[slots:].sum() / self.lasted_s) if self.lasted_s > 0 else 0.0


class SlotBins:
    """Follows the batches of a device that has so many slots."""

    def __init__(self, slots: int, now_s: float) -> None:
        self._levels = slots
        self._clock = [0.0] * (slots + 1)  # seconds so far, by running batches
        self._at_s = now_s
        self.running = 0
        self._begin_window(now_s)

    def began(self, now_s: float) -> Exposure:
        """A batch begins; the answer is for `ended`."""
        self._advance(now_s)
        self.running += 1
        return tuple(self._clock)

    def ended(self, exposure: Exposure, work_s: float | None, now_s: float) -> None:
        """A batch has ended that the profile gives ``work_s``; None: it failed, and tells nothing."""
        self._advance(now_s)
        self.running -= 1
        if work_s is None:
            return
        seen = [(level, clock - exposure[level]) for level, clock in enumerate(self._clock) if clock > exposure[level]]
        took_s = sum([seconds for _, seconds in seen])
        if took_s <= 0:
            return
        for level, seconds in seen:
            part = seconds / took_s
            self._work[level] += part * work_s
            row = self._products[level]
            for other, other_s in seen:
                row[other] += part * other_s
        self.batches += 1
        self._work_s += work_s
        self._service_s += took_s

    def lost(self, now_s: float) -> None:
        """The device is lost with all that runs."""
        self._advance(now_s)
        self.running = 0

    def seconds(self, now_s: float) -> list[float]:
        """The seconds so far with 0, 1, 2 … batches running."""
        self._advance(now_s)
        return list(self._clock)

    def window_s(self, now_s: float) -> float:
        """How long the present window has lasted."""
        return now_s - self._since_s

    def window(self, slots: int, now_s: float) -> SlotWindow:
        """What was counted since the last window, with so many slots; and begin the next one."""
        self._advance(now_s)
        found = SlotWindow(
            slots,
            np.array(self._clock) - self._clock_before,
            np.array(self._products)[1:, 1:],
            np.array(self._work)[1:],
            self.batches,
            self._work_s,
            self._service_s,
        )
        self._begin_window(now_s)
        return found

    def _begin_window(self, now_s: float) -> None:
        self._since_s = now_s
        self._clock_before = np.array(self._clock)
        self._products = [[0.0] * (self._levels + 1) for _ in range(self._levels + 1)]
        self._work = [0.0] * (self._levels + 1)
        self._work_s = self._service_s = 0.0
        self.batches = 0

    def _advance(self, now_s: float) -> None:
        self._clock[min(self.running, self._levels)] += max(0.0, now_s - self._at_s)
        self._at_s = max(self._at_s, now_s)
