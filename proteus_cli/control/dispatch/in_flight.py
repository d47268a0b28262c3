"""Batches that a device has been given."""

from collections import deque


class InFlightBatches:
    """Batches that a device runs one after another, in the order of their submission."""

    def __init__(self) -> None:
        self._take_s: deque[float] = deque()
        self._since_s: float | None = None  # start of the first batch; None: now

    def __len__(self) -> int:
        return len(self._take_s)

    def add(self, takes_s: float, at_s: float) -> None:
        """Add a batch that should take ``takes_s``; on an idle device it begins ``at_s``."""
        if not self._take_s:
            self._since_s = at_s
        self._take_s.append(takes_s)

    def ended(self) -> None:
        """The first batch has ended, and the next begins when `until_s` is next called."""
        self._take_s.popleft()
        self._since_s = None

    def until_s(self, now_s: float) -> float:
        """When all batches should have ended; a batch that takes longer than it should may end at any moment."""
        if not self._take_s:
            return now_s
        if self._since_s is None:
            self._since_s = now_s
        first_s = self._take_s[0]
        return now_s + sum(self._take_s) - min(now_s - self._since_s, first_s)
