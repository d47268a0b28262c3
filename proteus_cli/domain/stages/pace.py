"""The present pace of stages and answers, measured while they serve.

The speed of a device changes for seconds at a time, as other programs share its caches, its memory and its clock. A
percentile of a profile mixes fast and slow times: it is too high while the device is fast, and too low while it is
slow. At any one moment, stages scatter far less.
"""

from dataclasses import dataclass

LEVEL_GAIN = 1 / 4
"""The weight of one stage. After a change of speed, four stages show two thirds of it, and eight nine tenths."""
SCATTER_GAIN = 1 / 64
"""Less than the 1/4 of Jacobson's timer. The margin outlasts a time in which few stages deviate much."""
FIRST = 32
"""Stages that are measured before their pace counts. In the scatter, each of them has the same weight."""
INTERRUPTED = 1.5
"""Stages longer than this multiple of the level were interrupted. They count as exactly that long, without scatter."""
OUTLIER_DEVIATIONS = 4.0
"""A way of answers was interrupted only if it also took more mean deviations than this beyond the mean."""
MIN_LEVEL = 0.1
"""The least level, whatever a clock says."""
MIN_MARGIN = 0.02
"""The least margin, as a fraction of the level, for devices without scatter, such as emulated ones."""
DOUBT_GAIN = 0.1
"""The fraction of the level above the fastest one that each `doubt` gives up."""


@dataclass(slots=True)
class WayTime:
    """The time of answers on a way: a running mean and a mean deviation, in seconds.

    It may be the part of the way beyond its profile.
    """

    mean_s: float = 0.0
    _deviation_s: float = 0.0

    @property
    def most_s(self) -> float:
        """The longest time that is expected: one mean deviation above the mean."""
        return self.mean_s + self._deviation_s

    def took(self, took_s: float, profiled_s: float = 0.0) -> None:
        """Learn from one answer, beyond the profiled time of the way. The first sets the mean."""
        mean_s = self.mean_s or took_s
        outlier_s = mean_s + OUTLIER_DEVIATIONS * self._deviation_s
        most_s = max(INTERRUPTED * (mean_s + profiled_s) - profiled_s, outlier_s)
        if took_s <= most_s:
            self._deviation_s += SCATTER_GAIN * (abs(took_s - mean_s) - self._deviation_s)
        self.mean_s = mean_s + LEVEL_GAIN * (min(took_s, most_s) - mean_s)

    def doubt(self) -> None:
        """Expect less, after a time without answers that could show it."""
        self.mean_s -= DOUBT_GAIN * self.mean_s
        self._deviation_s -= DOUBT_GAIN * self._deviation_s


class StagePace:
    """The time of stages as a multiple of their profiled mean: ``factor`` is the level plus one mean deviation.

    The level is a running mean over all stages, as in the timer of TCP (Jacobson 1988). Answers have a margin of their
    own deviation on their way out of the chain.
    """

    def __init__(self) -> None:
        self.level = self.fastest = 1.0
        self._out, self._parting = WayTime(), WayTime()
        self._scatter, self._seen = 0.0, 0

    @property
    def is_known(self) -> bool:
        """Whether enough stages were measured."""
        return self._seen >= FIRST

    @property
    def factor(self) -> float:
        """The longest time of a stage that is expected, over its profiled mean. Interruptions are not covered."""
        return self.level + max(self._scatter, MIN_MARGIN * self.level)

    @property
    def out_s(self) -> float:
        """The mean time of answers out of the chain, in seconds."""
        return self._out.mean_s

    @property
    def max_out_s(self) -> float:
        """The same with a margin."""
        return self._out.most_s

    @property
    def parting_s(self) -> float:
        """The mean time to send the answers of some rows between two stages, in seconds."""
        return self._parting.mean_s

    def ran(self, took_s: float, mean_s: float) -> None:
        """Learn from one stage with its profiled mean time."""
        ratio = took_s / mean_s
        if not self._seen:
            self.level = ratio
        self._seen += 1
        error = ratio - self.level
        if ratio <= INTERRUPTED * self.level:
            self._scatter += max(SCATTER_GAIN, 1 / self._seen) * (abs(error) - self._scatter)
        self.level = max(self.level + LEVEL_GAIN * min(error, (INTERRUPTED - 1) * self.level), MIN_LEVEL)
        self.fastest = min(self.fastest, self.level)

    def doubt(self) -> None:
        """Expect less, after a time without stages that could show it."""
        self.level -= DOUBT_GAIN * (self.level - self.fastest)
        self._scatter -= DOUBT_GAIN * self._scatter

    @property
    def learned(self) -> tuple[float, float]:
        """Level and scatter, which decide the factor."""
        return self.level, self._scatter

    def forget_beyond(self, learned: tuple[float, float]) -> None:
        """Expect no more than what was ``learned`` earlier, as the cause of later slowness is over."""
        self.level, self._scatter = map(min, self.learned, learned)

    def came_out(self, took_s: float) -> None:
        """Learn the time of answers out of the chain."""
        self._out.took(took_s)

    def parted(self, took_s: float) -> None:
        """Learn the time to send some answers between two stages."""
        self._parting.took(took_s)
