"""How long the results of a device are on their way to the driver."""

import math
from bisect import bisect_left, insort
from collections import deque

SEEN = 1000
"""Results that are remembered: enough that five of them are slower than 99.5 %."""


class AnswerWay:
    """Times from the end of a last stage to the driver: of copies, pipes, threads and a loop that has other work.

    They are measured as they are, since they depend on the machine and on what else it does. Those of another machine
    are beyond what was profiled of the network.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def saw(self, took_s: float) -> None:
        """One more result."""
        if len(self._recent) == SEEN:
            self._forget(self._recent.popleft())
        self._recent.append(took_s)
        insort(self._sorted, took_s)

    def within_s(self, share: float) -> float:
        """How long that share of them took at most; 0 where none is known."""
        return self._sorted[math.ceil(share * len(self._sorted)) - 1] if self._sorted else 0.0

    def doubt(self) -> None:
        """Expect less, as nothing runs any more that could show it: forget the slowest."""
        if self._sorted:
            self._recent.remove(self._sorted.pop())

    def _forget(self, took_s: float) -> None:
        del self._sorted[bisect_left(self._sorted, took_s)]
