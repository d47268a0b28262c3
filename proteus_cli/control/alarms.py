"""Alarms of a running server: answers less accurate than promised, and rows unlike the profiled rows.

**Accuracy** (`LiveAccuracy`) is the sequential test of `control/evidence.py` with restarts. Its values are the losses
of labelled rows, in units of the promised loss: their mean is at most 1 while the promise is kept. A false alarm takes
`ACCURACY_ALARM_ROWS` rows in the mean, at least. The alarm ends once the evidence is back at 1.

**Shifts** (`ShiftWatch`) have no labels, and any change of a distribution matters, so another test is used. Each row
has some numbers, such as the confidence of its answer or the mean of its inputs. After each `STEP` rows, the last
`WINDOWS` rows are compared with reference rows, number by number, by the two-sample Kolmogorov-Smirnov statistic D:
the largest distance between both distribution functions. The alarm is raised if one D reaches its critical value, and
ends once all are below `OVER` of that.

*False alarms.* For m and n rows from the same distribution, D reaches t with a probability of at most
C exp(-2 t² m n / (m + n)) (F. Wei, R. M. Dudley, Two-sample Dvoretzky-Kiefer-Wolfowitz inequalities, 2012; proved for
m = n, computed for m < n ≤ 200, conjectured beyond). The error of one look is divided among its windows and numbers
(Bonferroni, as in S. Rabanser, S. Günnemann, Z. C. Lipton, Failing Loudly, 2019). The mean number of false alarms adds
up over looks, whatever their dependence: at most one in `SHIFT_ALARM_ROWS` rows.

*Small shifts.* Windows do not grow: queries of a camera always differ a little from an eval split. A shift that moves
no distribution function by the critical D of the largest window never raises an alarm.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Self

import numpy as np

from proteus_cli.arrays import Floats
from proteus_cli.control.evidence import Evidence
from proteus_cli.intervals import wilson

ACCURACY_ALARM_ROWS = 1e4
"""Mean number of labelled rows, at least, up to a false alarm on accuracy."""
LOSS_GAPS = {0.25: 0.25, 0.5: 0.25, 1.0: 0.25, 3.0: 0.25}
"""Tested increases of the promised loss, as multiples of it. A loss in between is detected about as soon."""
RECENT_ROWS = 1_000
"""Labelled rows for the present accuracy."""
MIN_WRONG = 0.005
"""The smallest promised loss: eval splits are too small for less."""

SHIFT_ALARM_ROWS = 10_000_000
"""Mean number of rows, at least, up to a false alarm of a shift: three weeks at 5 rows a second."""
STEP = 50
"""Rows between two looks."""
WINDOWS = (100, 500, 1_000)
"""A large shift shows in few rows. The largest window is full of shifted rows within 1,000 rows."""
BOUND = 2.17
"""C of the inequality above, for any number of rows (at most 2.16863 for m = n of 4 and more; 2 beyond 458)."""
OVER = 0.75
"""The alarm of a shift ends below this part of the critical distance."""
MIN_REFERENCE_ROWS = 30
"""The smallest useful reference."""


class LiveAccuracy:
    """The accuracy of a variant in service: labelled ``rows``, how many were ``right``, and how many were ``promised``.

    Scores between 0 and 1 count in part. ``is_lower``: answers are less accurate than promised, beyond chance.
    """

    __slots__ = ("_evidence", "_recent", "_recent_right", "is_lower", "promised", "right", "rows")

    def __init__(self) -> None:
        self.rows, self.right, self.promised = 0, 0.0, 0.0
        self.is_lower = False
        self._evidence = Evidence(1.0, LOSS_GAPS, restarts=True, most=ACCURACY_ALARM_ROWS)
        self._recent: deque[float] = deque(maxlen=RECENT_ROWS)
        self._recent_right = 0.0

    @classmethod
    def of_record(cls, accuracy: float, rows: int) -> Self:
        """The state that an earlier server recorded: lower than promised, over its last ``rows``."""
        live = cls()
        live.is_lower = True
        live._evidence.fill()
        live._recent.extend([accuracy] * min(rows, RECENT_ROWS))
        live._recent_right = accuracy * len(live._recent)
        return live

    def observe(self, score: float, promised: float) -> bool:
        """Count one row, right by ``score`` (0 to 1); returns whether ``is_lower`` changes. O(1)."""
        self.rows += 1
        self.right += score
        self.promised += promised
        if len(self._recent) == RECENT_ROWS:
            self._recent_right -= self._recent[0]
        self._recent.append(score)
        self._recent_right += score
        wrong = max(1 - promised, MIN_WRONG)
        self._evidence.observe((1 - score) / wrong, (1 - wrong) / wrong)
        before, wealth = self.is_lower, self._evidence.wealth
        self.is_lower = wealth > 1 if before else wealth >= ACCURACY_ALARM_ROWS
        return self.is_lower != before

    @property
    def recent(self) -> float:
        """The accuracy over the last `RECENT_ROWS` or fewer; requires one row."""
        return self._recent_right / len(self._recent)

    @property
    def recent_rows(self) -> int:
        """The number of labelled rows behind `recent`."""
        return len(self._recent)

    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of `recent`, valid for one look."""
        return wilson(self._recent_right, len(self._recent))


def critical_distance(rows: int, reference_rows: int, probability: float) -> float:
    """The smallest D that chance reaches with at most this probability; more than 1 if there are too few rows."""
    return math.sqrt(math.log(BOUND / probability) / 2 * (rows + reference_rows) / (rows * reference_rows))


def distances(rows: Floats, reference: Floats) -> Floats:
    """D of each column. Both arguments have sorted columns."""
    found = np.empty(reference.shape[1])
    for column in range(len(found)):
        mine, theirs = rows[:, column], reference[:, column]
        both = np.concatenate((mine, theirs))
        ours = np.searchsorted(mine, both, side="right") / len(mine)
        found[column] = np.abs(ours - np.searchsorted(theirs, both, side="right") / len(theirs)).max()
    return found


class ShiftWatch:
    """Compares rows of the numbers ``names`` with ``reference`` (rows × numbers).

    ``ratio`` is the largest D of the last look, in units of its critical value; ``largest`` is the name of its number.
    """

    __slots__ = ("_critical", "_next", "_recent", "_reference", "is_shifted", "largest", "names", "ratio", "rows")

    def __init__(self, names: Sequence[str], reference: Floats) -> None:
        self.names, self._reference = tuple(names), np.sort(_comparable(reference), axis=0)
        probability = STEP / SHIFT_ALARM_ROWS / (len(WINDOWS) * len(names))
        self._critical = [critical_distance(rows, len(reference), probability) for rows in WINDOWS]
        self._recent = np.empty((WINDOWS[-1], len(names)))
        self._next = 0
        self.rows, self.ratio, self.largest, self.is_shifted = 0, 0.0, self.names[0], False

    @property
    def reference_rows(self) -> int:
        return len(self._reference)

    def observe(self, values: Floats) -> bool:
        """Count one row; returns whether ``is_shifted`` changes. Each `STEP` rows it takes half a millisecond."""
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
        """D of each number over the last ``window`` rows, in units of the ``critical`` value."""
        places = np.arange(self._next - window, self._next) % WINDOWS[-1]
        return distances(np.sort(self._recent[places], axis=0), self._reference) / critical


def _comparable(values: Floats) -> Floats:
    """Values with NaN as the largest."""
    return np.where(np.isnan(values), np.inf, values)
