"""Whether rows that come are distributed otherwise than those that were profiled: a shift, noticed without labels.

Of each row that is looked at there are a few numbers, such as the confidence of its answer, or the mean of its inputs.
Each time `STEP` more rows have come, the last `WINDOWS` of them are compared with reference rows, number by number, by
the two-sample Kolmogorov-Smirnov statistic D, the largest distance between both distribution functions. That rows are
*shifted* is said where one D is as large as chance lets it be in at most one look of very many. It is over once all of
them are below `OVER` of that.

**False alarms.** As long as the rows of a window and those of the reference are drawn alike, D with m and n of them is
t or more with a probability of at most C · exp(-2 · t² · m · n / (m + n)): the two-sample form of the inequality of
Dvoretzky, Kiefer, Wolfowitz and Massart (F. Wei, R. M. Dudley, Two-sample Dvoretzky-Kiefer-Wolfowitz inequalities,
2012; they prove it for m = n, compute it for m < n ≤ 200, and conjecture it beyond). What one look may err by is
divided among its windows and numbers (Bonferroni, as in S. Rabanser, S. Günnemann, Z. C. Lipton, Failing Loudly, 2019,
who find univariate tests of what a model answers about as good as multivariate ones). Means add up however much looks
depend on each other, as they do, having a reference in common. So in `ALARM_ROWS` rows there is one false alarm in the
mean at most, whenever somebody looks at them, and the mean time to the first is half of that at least.

**What is too small to be noticed.** Windows do not grow: a shift that moves no distribution function by the D of the
largest window is none for this test, however long it lasts. Queries of a camera are never quite those of an eval split,
and a test that grew would raise an alarm sooner or later.
"""

import math
from collections.abc import Sequence

import numpy as np

from proteus_cli.arrays import Floats

ALARM_ROWS = 10_000_000
"""Rows in which one false alarm is allowed in the mean: at 5 a second, three weeks."""
STEP = 50
WINDOWS = (100, 500, 1_000)
"""A large shift shows in few rows. The largest window is full of what comes after a shift within 1,000 rows."""
BOUND = 2.17
"""C of the inequality above, for any number of rows (at most 2.16863 for m = n of 4 and more; 2 beyond 458)."""
OVER = 0.75
MIN_REFERENCE_ROWS = 30
"""Of fewer rows, nothing but chance is to be told."""


def critical_distance(rows: int, reference_rows: int, probability: float) -> float:
    """The D that as many rows reach by chance with that probability at most; more than 1: they never tell anything."""
    return math.sqrt(math.log(BOUND / probability) / 2 * (rows + reference_rows) / (rows * reference_rows))


def distances(rows: Floats, reference: Floats) -> Floats:
    """D by column, of rows and reference rows, both with each column sorted."""
    found = np.empty(reference.shape[1])
    for column in range(len(found)):
        mine, theirs = rows[:, column], reference[:, column]
        both = np.concatenate((mine, theirs))
        ours = np.searchsorted(mine, both, side="right") / len(mine)
        found[column] = np.abs(ours - np.searchsorted(theirs, both, side="right") / len(theirs)).max()
    return found


class ShiftWatch:
    """Compares rows of numbers, which have ``names``, with ``reference``, rows × numbers; there must be enough of them.

    ``ratio`` is the largest D of the last look, as a part of what makes an alarm; ``largest`` names its number.
    """

    __slots__ = ("_critical", "_next", "_recent", "_reference", "is_shifted", "largest", "names", "ratio", "rows")

    def __init__(self, names: Sequence[str], reference: Floats) -> None:
        self.names, self._reference = tuple(names), np.sort(_comparable(reference), axis=0)
        probability = STEP / ALARM_ROWS / (len(WINDOWS) * len(names))
        self._critical = [critical_distance(rows, len(reference), probability) for rows in WINDOWS]
        self._recent = np.empty((WINDOWS[-1], len(names)))
        self._next = 0
        self.rows, self.ratio, self.largest, self.is_shifted = 0, 0.0, self.names[0], False

    @property
    def reference_rows(self) -> int:
        return len(self._reference)

    def saw(self, values: Floats) -> bool:
        """Count one row; True where ``is_shifted`` changes. Every `STEP` rows it takes half a millisecond."""
        self._recent[self._next] = _comparable(values)
        self._next = (self._next + 1) % WINDOWS[-1]
        self.rows += 1
        return self.rows % STEP == 0 and self._look()

    def _look(self) -> bool:
        windows = zip(WINDOWS, self._critical, strict=True)
        parts = [self._parts(window, critical) for window, critical in windows if window <= self.rows]
        if not parts:
            return False
        by_name = np.max(parts, axis=0)
        worst = int(by_name.argmax())
        self.ratio, self.largest = float(by_name[worst]), self.names[worst]
        before, self.is_shifted = self.is_shifted, self.ratio >= (OVER if self.is_shifted else 1.0)
        return self.is_shifted != before

    def _parts(self, window: int, critical: float) -> Floats:
        """D of the last so many rows, as parts of the critical one."""
        places = np.arange(self._next - window, self._next) % WINDOWS[-1]
        return distances(np.sort(self._recent[places], axis=0), self._reference) / critical


def _comparable(values: Floats) -> Floats:
    """What is no number counts as the largest."""
    return np.where(np.isnan(values), np.inf, values)
