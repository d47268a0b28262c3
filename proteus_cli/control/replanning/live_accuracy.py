"""How accurate answers are while serving, by labels that clients send, beside what was promised.

With each labelled row, the *evidence* that a variant is less accurate than promised grows or shrinks. With e the
promised part of wrong answers, a wrong one multiplies it by q / e, and a right one by (1 - q) / (1 - e), for several q
above e at once, as nobody knows how much accuracy is lost; the evidence is their mean. Before each row, each is raised
to 1 where it is lower. So it is an e-detector (J. Shin, A. Ramdas, A. Rinaldo, E-detectors: a nonparametric framework
for sequential change detection, 2022): however often somebody looks, a false alarm takes `ALARM_AT` rows in the mean
at least, as long as a row is wrong with a probability of e at most.
"""

from collections import deque
from collections.abc import Iterator
from typing import Self

from proteus_cli.intervals import wilson

ALARM_AT = 1e4
TIMES = (1.25, 1.5, 2.0, 4.0)
"""Of the promised part of wrong answers: what is tested. A loss between two of them is found about as soon."""
RECENT_ROWS = 1_000
"""Labelled rows that tell how accurate a variant is now."""
MIN_WRONG = 0.005
"""The part of wrong answers that is promised at least: eval splits are too small to promise less."""


class LiveAccuracy:
    """How accurate a variant is while serving: ``rows`` with labels, those that were ``right``, and those ``promised``.

    Fractions count where feedback is a score. ``is_lower``: answers are less accurate than promised, by more than
    chance. That ends once the evidence is back at 1.
    """

    __slots__ = ("_evidence", "_recent", "_recent_right", "is_lower", "promised", "right", "rows")

    def __init__(self) -> None:
        self.rows, self.right, self.promised = 0, 0.0, 0.0
        self.is_lower = False
        self._evidence = [1.0] * len(TIMES)
        self._recent: deque[float] = deque(maxlen=RECENT_ROWS)
        self._recent_right = 0.0

    @classmethod
    def of_record(cls, accuracy: float, rows: int) -> Self:
        """As an earlier server has left it: lower than promised, by as many of the last rows as it had."""
        live = cls()
        live.is_lower, live._evidence = True, [ALARM_AT] * len(TIMES)
        live._recent.extend([accuracy] * min(rows, RECENT_ROWS))
        live._recent_right = accuracy * len(live._recent)
        return live

    def saw(self, score: float, promised: float) -> bool:
        """Count one row, which is right by ``score`` (0 to 1); True where ``is_lower`` changes. O(1)."""
        self.rows += 1
        self.right += score
        self.promised += promised
        if len(self._recent) == RECENT_ROWS:
            self._recent_right -= self._recent[0]
        self._recent.append(score)
        self._recent_right += score
        wrong = max(1 - promised, MIN_WRONG)
        if wrong >= 1:
            return False
        self._evidence = [
            min(max(before, 1.0) * by, len(TIMES) * ALARM_AT)
            for before, by in zip(self._evidence, _factors(wrong, score), strict=True)
        ]
        mean = sum(self._evidence) / len(TIMES)
        before, self.is_lower = self.is_lower, mean > 1 if self.is_lower else mean >= ALARM_AT
        return self.is_lower != before

    @property
    def recent(self) -> float:
        """The accuracy over the last `RECENT_ROWS`, or as many as there are; at least one."""
        return self._recent_right / len(self._recent)

    @property
    def recent_rows(self) -> int:
        """How many labelled rows the recent accuracy is taken of."""
        return len(self._recent)

    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of `recent`."""
        return wilson(self._recent_right, len(self._recent))


def _factors(wrong: float, score: float) -> Iterator[float]:
    """What one row multiplies the evidence by; of a score between 0 and 1, as much of either."""
    for times in TIMES:
        tested = _raised(wrong, times)
        yield score * (1 - tested) / (1 - wrong) + (1 - score) * tested / wrong


def _raised(expected: float, times: float) -> float:
    """The probability that is tested against an expected one: ``times`` that, and no nearer to 1 than half way."""
    return min(times * expected, (1 + expected) / 2)
