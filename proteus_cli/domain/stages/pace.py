"""What stages take now, measured while they serve.

The speed of a device changes for seconds at a time, as other programs share its caches, its memory and its clock. A
percentile of a profile then holds the slow times alone: too much while the device is fast, and too little in a time
that is slower yet. At any one moment, stages scatter far less.
"""

from dataclasses import dataclass

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
MIN_MULTIPLE, MAX_MULTIPLE = 0.5, 4.0
"""Mean deviations in the margin; it begins in the middle. By the least, most of the rows whose deadline is close are in
time, however many others are; TCP has the most."""
FIRST_EXIT_MULTIPLE = 1.0
"""Mean deviations in the margin of first exits, by which requests are let in."""
STEP = 0.5
"""What one late row adds to the multiple: seven lead from the least to the most."""
PREDICTABLE = 1 / 4
"""Of the late rows that the attainment allows, those that stages risk, and as many the way of answers to a server. The
others are for interruptions, which no margin prevents."""
DOUBT_GAIN = 0.1
"""Of what is expected beyond the fastest level, so much is given up each time that it is doubted."""


@dataclass(slots=True)
class WayTime:
    """How long answers take on a way: a running mean, in seconds, and the mean deviation, for a margin.

    It may be the part of a way beyond what was profiled of it. Some ways scatter more than stages do. So one that was
    interrupted is told by both: it took more than `INTERRUPTED` times the mean, and more than is expected with the
    greatest margin.
    """

    mean_s: float = 0.0
    _deviation_s: float = 0.0

    def within_s(self, multiple: float) -> float:
        """What it takes at most, with a margin of so many mean deviations."""
        return self.mean_s + multiple * self._deviation_s

    def took(self, took_s: float, profiled_s: float = 0.0) -> bool:
        """Learn from one answer; the first is taken as it is. False where it was interrupted: it counts as the most.

        The way took ``took_s`` and what was profiled of it, where any was.
        """
        mean_s = self.mean_s or took_s
        most_s = max(INTERRUPTED * (mean_s + profiled_s) - profiled_s, self.within_s(MAX_MULTIPLE))
        if is_usual := took_s <= most_s:
            self._deviation_s += SCATTER_GAIN * (abs(took_s - mean_s) - self._deviation_s)
        self.mean_s = mean_s + LEVEL_GAIN * (min(took_s, most_s) - mean_s)
        return is_usual

    def doubt(self) -> None:
        """Expect less, as nothing is answered any more that could show it."""
        self.mean_s -= DOUBT_GAIN * self.mean_s
        self._deviation_s -= DOUBT_GAIN * self._deviation_s


class StagePace:
    """How long stages take, as a multiple of their profiled mean: ``factor``, the level and a margin.

    The level is a running mean of all stages. How far the profile is off is learned of each stage, relative to the
    level: one that was measured beside other programs is wrong by a tenth between stages. The margin is ``multiple``
    mean deviations, as in the timer of TCP (Jacobson 1988). The multiple is raised by each row that was late as its
    batch went on, and lowered by each that was in time, so much that as many are late as `PREDICTABLE` of what the
    attainment allows (adaptive conformal inference, Gibbs and Candès 2021). What interrupts a stage mostly lasts for
    the next ones, too: until a stage is as usual again, they are expected to take as many times of their mean as the
    last one did. The way of answers out of the chain has a margin of its own deviation.
    """

    def __init__(self, multiple: float = (MIN_MULTIPLE + MAX_MULTIPLE) / 2) -> None:
        self.level, self.multiple, self.fastest = 1.0, multiple, 1.0
        self._out, self._parting = WayTime(), WayTime()
        self._scatter, self._seen = 0.0, 0
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
    def out_s(self) -> float:
        """What answers take out of the chain in the mean, in seconds."""
        return self._out.mean_s

    @property
    def max_out_s(self) -> float:
        """What they take at most, with a margin like that of stages."""
        return self._out.within_s(self.multiple)

    @property
    def parting_s(self) -> float:
        """What a chain needs between two stages to send the answers of a part of its rows, in seconds."""
        return self._parting.mean_s

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
        self._out.took(took_s)

    def parted(self, took_s: float) -> None:
        """Learn how long it takes to send a part of the answers between two stages."""
        self._parting.took(took_s)

    def went_on(self, rows: int, late: int, attainment: float) -> None:
        """So many rows have their answers now whose batch went on; some of them are late."""
        self.multiple = multiple_after(self.multiple, rows, late, attainment)


def multiple_after(multiple: float, rows: int, late: int, attainment: float) -> float:
    """How many mean deviations a margin has after so many more rows, of which some were late by what it is for."""
    return min(max(multiple + STEP * (late - PREDICTABLE * (1 - attainment) * rows), MIN_MULTIPLE), MAX_MULTIPLE)
