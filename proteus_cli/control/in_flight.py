"""What a busy device was given to do."""

from collections import deque


class InFlightBatches:
    """Batches that a device runs one after another, in the order in which it was given them."""

    def __init__(self) -> None:
        self._take_s: deque[float] = deque()
        self._since_s: float | None = None  # when the first began; None where that is now

    def __len__(self) -> int:
        return len(self._take_s)

    def add(self, takes_s: float, at_s: float) -> None:
        """A batch that should take so long; where the device did nothing, it begins ``at_s``."""
        if not self._take_s:
            self._since_s = at_s
        self._take_s.append(takes_s)

    def ended(self) -> None:
        """The first is done, and the next begins now: ask for `until_s` next."""
        self._take_s.popleft()
        self._since_s = None

    def until_s(self, now_s: float) -> float:
        """When all of them should be done. One that takes longer than it should is taken to end any moment."""
        if not self._take_s:
            return now_s
        if self._since_s is None:
            self._since_s = now_s
        first_s = self._take_s[0]
        return now_s + sum(self._take_s) - min(now_s - self._since_s, first_s)
