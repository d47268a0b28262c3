"""What stages take now, measured while they serve.

The speed of a device changes for seconds at a time, as other programs share its caches, its memory and its clock. A
percentile of a profile then holds the slow times alone: too much while the device is fast, and too little in a time
that is slower yet. At any one moment, stages scatter far less.
"""

from threading import Lock

LEVEL_GAIN = 1 / 4
"""The weight of one stage: of a speed that has changed, four stages show two thirds, and eight nine tenths."""
SCATTER_GAIN = 1 / 64
"""Jacobson's timer has 1/4. Less keeps the margin of a time in which few stages deviate much."""
ERROR_GAIN, SLOW_GAIN = 1 / 128, 1 / 16
"""The weight of one run of a stage in how far its profile is off, which is no matter of the moment; and in the level
that this is relative to. By the level of the moment, stages would seem slow that run only after fast ones; by one as
slow as that, the profile of a stage would seem wrong that runs alone while the device is slow."""
MAX_ERROR = 2.0
"""A profile is taken to be off by no larger factor between stages, whatever a clock says."""
FIRST = 32
"""Stages that are measured before their pace counts; in the scatter, each of them then weighs the same."""
INTERRUPTED = 1.5
"""Times the level: a stage that took longer was interrupted. It counts as if it took just that, and is no scatter."""
MIN_LEVEL = 0.1
"""A stage is not expected to take less of the profile, whatever a clock says."""
MIN_MARGIN = 0.02
"""Of the level: the device, not scatter, is what is trusted where nothing scatters, as in an emulation."""
MIN_MULTIPLE, MAX_MULTIPLE = 1.0, 4.0
"""Mean deviations in the margin; it begins in the middle. By the least, few of the rows whose deadline is close are
late, however many others are in time; TCP has the most."""
STEP = 0.5
"""What one late row adds to the multiple: six lead from the least to the most."""
PREDICTABLE = 1 / 6
"""Of the late rows that the attainment allows, those that are risked. The others are for interruptions, which no margin
prevents, and for the way of answers out of the chain."""
DOUBT_GAIN = 0.1
"""Of what is expected beyond the fastest level, so much is given up each time that it is doubted."""


class StagePace:
    """How long stages take, as a multiple of their profiled mean: ``factor``, the level and a margin.

    The level is a running mean of all stages. How far the profile is off is learned of each stage, relative to the
    level: one that was measured beside other programs is wrong by a tenth between stages. The margin is ``multiple``
    mean deviations, as in the timer of TCP (Jacobson 1988). The multiple is raised by each row that was late as its
    batch went on, and lowered by each that was in time, so much that as many are late as `PREDICTABLE` of what the
    attainment allows (adaptive conformal inference, Gibbs and Candès 2021). What interrupts a stage mostly lasts for
    the next ones, too: until a stage is as usual again, they are expected to take as many times of their mean as the
    last one did. ``out_s``: the time from the end of the last stage until the answers are out of the chain, which has a
    margin of its own deviation (``max_out_s``). ``parting_s``: the time that a chain needs between two stages to send
    the answers of a part of its rows.
    """

    def __init__(self, multiple: float = (MIN_MULTIPLE + MAX_MULTIPLE) / 2) -> None:
        self.level, self.multiple, self.out_s = 1.0, multiple, 0.0
        self.fastest, self.parting_s = 1.0, 0.0
        self._scatter, self._out_scatter_s, self._seen = 0.0, 0.0, 0
        self._slow_level = 1.0
        self._interrupted = 0.0  # how many times its mean the last stage took, where that was interrupted
        self._profile_errors: dict[int, float] = {}  # by stage, what it takes of its profiled mean where the level is 1

    @property
    def is_known(self) -> bool:
        """Enough stages were measured to go by them alone."""
        return self._seen >= FIRST

    @property
    def factor(self) -> float:
        """What stages take at most, of their profiled mean, where they are not interrupted."""
        return self._with_margin(0.0)

    def factor_of(self, stage: int, more: float) -> float:
        """What a next ``stage`` takes at most, of its mean, with so many mean deviations ``more`` in the margin."""
        return max(self._with_margin(more), self._interrupted) * self._profile_errors.get(stage, 1.0)

    @property
    def max_out_s(self) -> float:
        """What answers take out of the chain at most, with a margin like that of stages, in seconds."""
        return self.out_s + self.multiple * self._out_scatter_s

    def ran(self, took_s: float, mean_s: float, stage: int = 0) -> bool:
        """Learn from one stage, by its profiled mean time. False where it was interrupted, which none can predict.

        Stages are counted from 1; 0: what ran was no single one.
        """
        ratio = took_s / (mean_s * self._profile_errors.get(stage, 1.0))
        if not self._seen:
            self.level = ratio
        self._seen += 1
        error, is_usual = ratio - self.level, ratio <= INTERRUPTED * self.level
        self._interrupted = 0.0 if is_usual else ratio
        if stage:
            self._learn_profile_error(stage, min(ratio, INTERRUPTED * self.level))
        if is_usual:
            self._scatter += max(SCATTER_GAIN, 1 / self._seen) * (abs(error) - self._scatter)
        self.level = max(self.level + LEVEL_GAIN * min(error, (INTERRUPTED - 1) * self.level), MIN_LEVEL)
        self.fastest = min(self.fastest, self.level)
        return is_usual

    def _learn_profile_error(self, stage: int, ratio: float) -> None:
        if self.is_known:
            known = self._profile_errors.get(stage, 1.0) * (1 + ERROR_GAIN * (ratio / self._slow_level - 1))
            self._profile_errors[stage] = min(max(known, 1 / MAX_ERROR), MAX_ERROR)
        slow_level = self._slow_level + max(SLOW_GAIN, 1 / self._seen) * (ratio - self._slow_level)
        self._slow_level = max(slow_level, MIN_LEVEL)

    def _with_margin(self, more: float) -> float:
        return self.level + max((self.multiple + more) * self._scatter, MIN_MARGIN * self.level)

    def doubt(self) -> None:
        """Expect less, as nothing runs any more that could show it."""
        self.level -= DOUBT_GAIN * (self.level - self.fastest)
        self._scatter -= DOUBT_GAIN * self._scatter

    @property
    def learned(self) -> tuple[float, float, float]:
        """What the factor goes by: level, scatter and multiple."""
        return self.level, self._scatter, self.multiple

    def forget_beyond(self, learned: tuple[float, float, float]) -> None:
        """What slowed stages since then is over: expect no more."""
        self.level, self._scatter, self.multiple = map(min, self.learned, learned)

    def came_out(self, took_s: float) -> None:
        """Learn how long answers take out of the chain."""
        if self.out_s and took_s <= INTERRUPTED * self.out_s:
            self._out_scatter_s += SCATTER_GAIN * (abs(took_s - self.out_s) - self._out_scatter_s)
        self.out_s = _averaged(self.out_s, took_s)

    def parted(self, took_s: float) -> None:
        """Learn how long it takes to send a part of the answers between two stages."""
        self.parting_s = _averaged(self.parting_s, took_s)

    def went_on(self, rows: int, late: int, attainment: float) -> None:
        """So many rows have their answers now whose batch went on; some of them are late."""
        multiple = self.multiple + STEP * (late - PREDICTABLE * (1 - attainment) * rows)
        self.multiple = min(max(multiple, MIN_MULTIPLE), MAX_MULTIPLE)


class SharedStagePace(StagePace):
    """A pace that several threads learn at once: to learn is to read and to write, and no thread comes in between.

    Where batches run one after another, a `StagePace` is enough, which needs no lock.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = Lock()

    def ran(self, took_s: float, mean_s: float, stage: int = 0) -> bool:
        with self._lock:
            return super().ran(took_s, mean_s, stage)

    def came_out(self, took_s: float) -> None:
        with self._lock:
            super().came_out(took_s)

    def parted(self, took_s: float) -> None:
        with self._lock:
            super().parted(took_s)

    def went_on(self, rows: int, late: int, attainment: float) -> None:
        with self._lock:
            super().went_on(rows, late, attainment)


def _averaged(known_s: float, took_s: float) -> float:
    """A running mean with one more time; the first is taken as it is, and interruptions count as `INTERRUPTED`."""
    known_s = known_s or took_s
    return known_s + LEVEL_GAIN * (min(took_s, INTERRUPTED * known_s) - known_s)
