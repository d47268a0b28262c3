"""A virtual clock: what happens when, in order of time and then of scheduling."""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

Action = Callable[[float], None]
"""Told the virtual time in seconds."""


class Events:
    """Actions to come."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Action]] = []
        self._sequence = count()

    def at(self, time_s: float, action: Action) -> None:
        """Schedule an action; those at the same time run in the order in which they were scheduled."""
        heappush(self._heap, (time_s, next(self._sequence), action))

    def run_until(self, time_s: float) -> None:
        """Run all actions up to and including ``time_s``, also those that they schedule themselves."""
        heap = self._heap
        while heap and heap[0][0] <= time_s:
            due_s, _, action = heappop(heap)
            action(due_s)
