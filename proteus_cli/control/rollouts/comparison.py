"""The two arms of a version roll-out, compared with each other: differences of which the mean is that of the arms.

Of each value of the new version, the mean of values that the old one had at about the same time is subtracted. Each
value is used once, so that the differences are independent of each other; and as both are of the same time, a change
of the queries changes both.
"""

from collections import deque
from collections.abc import Iterator

MAX_WAITING = 1_000
"""Values of either arm that wait for the other one; of more, the oldest are forgotten."""
EXPECTED = 100
"""How many values each arm has for each one of the other is taken from its share at first: it counts like that of so
many values. Labels may come more often for one arm than for the other.
"""


class Arms:
    """Takes values of both arms in the order in which they come; makes differences, each as soon as it can."""

    __slots__ = ("_new", "_new_seen", "_old", "_old_seen")

    def __init__(self) -> None:
        self._new: deque[float] = deque(maxlen=MAX_WAITING)
        self._old: deque[float] = deque(maxlen=MAX_WAITING)
        self.split(0.5)

    def split(self, new_frac: float) -> None:
        """From now on the new version has about this part of all values."""
        self._new_seen, self._old_seen = EXPECTED * new_frac, EXPECTED * (1 - new_frac)

    def saw_new(self, value: float) -> Iterator[float]:
        """Add a value of the new version; returns the differences that can be told now, new less old."""
        self._new.append(value)
        self._new_seen += 1
        return self._differences()

    def saw_old(self, value: float) -> Iterator[float]:
        """Add a value of the old version; returns the differences that can be told now, new less old."""
        self._old.append(value)
        self._old_seen += 1
        return self._differences()

    def _differences(self) -> Iterator[float]:
        """Each with as many values of the old version as there are for one of the new one, or at least half of them.

        That hangs on how many there were, never on what they were.
        """
        if not self._new:
            return
        per_new = max(1, min(round(self._old_seen / self._new_seen), MAX_WAITING))
        while self._new and len(self._old) >= (per_new + 1) // 2:
            taken = [self._old.popleft() for _ in range(min(per_new, len(self._old)))]
            yield self._new.popleft() - sum(taken) / len(taken)
