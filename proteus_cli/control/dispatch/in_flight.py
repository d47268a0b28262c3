"""Batches that one device was given, and when it should be free again."""

from collections import deque


class InFlightBatches:
    """Batches that a device runs one after another, in the order of their submission."""

    def __init__(self) -> None:
        self._take_s: deque[float] = deque()
        self._first_start_s: float | None = None  # None: not noted yet

    def __len__(self) -> int:
        return len(self._take_s)

    def add(self, takes_s: float, at_s: float) -> None:
        """Add a batch that should take ``takes_s``; on an idle device it begins ``at_s``."""
        if not self._take_s:
            self._first_start_s = at_s
        self._take_s.append(takes_s)

    def ended(self) -> None:
        """The first batch has ended; when the next began is not known before `note_start`."""
        self._take_s.popleft()
        self._first_start_s = None

    def note_start(self, now_s: float) -> None:
        """The first batch runs by ``now_s``: that is its start where no earlier one is known."""
        if self._first_start_s is None:
            self._first_start_s = now_s

    def ends_s(self, now_s: float) -> float:
        """When all batches should have ended; a batch that takes longer than it should may end at any moment."""
        if not self._take_s:
            return now_s
        ran_s = now_s - self._first_start_s if self._first_start_s is not None else 0.0
        return now_s + (sum(self._take_s) - min(ran_s, self._take_s[0]))  # never before now, whatever is rounded
