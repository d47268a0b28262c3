"""The two arms of a version roll-out, compared with each other: differences of which the mean is that of the arms.

Of each value of the new version, the mean of values that the old one had at about the same time is subtracted. Each
value is used once, so that the differences are independent of each other; and as both are of the same time, a change
of the queries changes both.
"""

from collections import deque
from collections.abc import Iterator

MOST_WAITING = 1_000
"""Values of either arm that wait for the other one; of more, the oldest are forgotten."""


class Arms:
    """Takes values of both arms in the order in which they come; makes differences, each as soon as it can."""

    __slots__ = ("_new", "_old", "_per_new")

    def __init__(self) -> None:
        self._new: deque[float] = deque(maxlen=MOST_WAITING)
        self._old: deque[float] = deque(maxlen=MOST_WAITING)
        self._per_new = 1

    def split(self, new_frac: float) -> None:
        """From now on the new version has this part of all values."""
        self._per_new = max(1, min(round((1 - new_frac) / new_frac), MOST_WAITING))

    def saw_new(self, value: float) -> Iterator[float]:
        self._new.append(value)
        return self._differences()

    def saw_old(self, value: float) -> Iterator[float]:
        self._old.append(value)
        return self._differences()

    def _differences(self) -> Iterator[float]:
        """Each with as many values of the old version as its share gives, or at least half of them."""
        while self._new and len(self._old) >= (self._per_new + 1) // 2:
            taken = [self._old.popleft() for _ in range(min(self._per_new, len(self._old)))]
            yield self._new.popleft() - sum(taken) / len(taken)
