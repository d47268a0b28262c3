"""The time from nothing to the first answer (`proteus study startup`)."""

import math
from collections.abc import Sequence

from proteus_cli.domain.base import Value, is_amount, is_count, require

SURE = 0.95
"""Of intervals of the median."""


class ProcessStart(Value, frozen=True):
    """One start of a process, in seconds since it was asked for.

    Python runs, the backend is imported, the model is loaded, the first row is answered. ``read_bytes``: what it read
    from disks; None where the system does not say.
    """

    python_s: float
    backend_s: float
    loaded_s: float
    answered_s: float
    read_bytes: int | None = None

    def __post_init__(self) -> None:
        times = (0.0, self.python_s, self.backend_s, self.loaded_s, self.answered_s)
        require(all(map(is_amount, times)) and list(times) == sorted(times), "times of a start must rise")


class Starts(Value, frozen=True):
    """Starts under one condition, in the order in which they were made, with the median and its 95 % interval.

    The interval is between two of the starts, whatever their distribution; of fewer than six, it is that of all of them
    and less sure.
    """

    runs: int
    p50_s: float
    low_s: float
    high_s: float
    most_s: float
    starts: tuple[ProcessStart, ...]

    def __post_init__(self) -> None:
        require(is_count(self.runs, 1) and self.runs == len(self.starts), "runs must be the number of starts")


class Startup(Value, frozen=True):
    """A variant on a device. ``cold``: its files were not in the file cache; None where the system can't evict them."""

    family: str
    variant: str
    device: str
    backend: str
    warm: Starts
    cold: Starts | None


def starts_of(starts: Sequence[ProcessStart]) -> Starts:
    """Summarise starts, at least one."""
    times = sorted(start.answered_s for start in starts)
    low, high = median_ranks(len(times))
    middle = (times[(len(times) - 1) // 2] + times[len(times) // 2]) / 2
    return Starts(len(times), middle, times[low], times[high], times[-1], tuple(starts))


def median_ranks(count: int) -> tuple[int, int]:
    """The places, of so many sorted values, between which the median of what they are drawn from is with 95 %.

    The number of values below the median is binomial (H. A. David, H. N. Nagaraja, Order Statistics, 2003, 7.1). The
    first and the last where there are too few values for that.
    """
    outside, rank = 0.0, 0
    while rank < (count - 1) // 2:
        outside += math.comb(count, rank) / 2**count
        if 2 * outside > 1 - SURE:
            break
        rank += 1
    rank = max(rank - 1, 0)
    return rank, count - 1 - rank
