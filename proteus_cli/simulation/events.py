"""The virtual clock: actions in order of their times, then of their scheduling."""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any, TypeVarTuple

Given = TypeVarTuple("Given")
Action = Callable[[float], None]
"""Called with the virtual time in seconds."""


class Events:
    """A queue of scheduled actions."""

    def __init__(self) -> None:
        # Time, sequence, action, and its arguments beside the time: a closure for each would take longer to make.
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = count()

    def __bool__(self) -> bool:
        """Some action is scheduled."""
        return bool(self._heap)

    def at(self, time_s: float, action: Callable[[float, *Given], None], *given: *Given) -> None:
        """Schedule an action; actions of the same time run in the order of scheduling."""
        heappush(self._heap, (time_s, next(self._sequence), action, given))

    def run_until(self, time_s: float) -> None:
        """Run all actions up to and including ``time_s``, with those that they schedule."""
        heap = self._heap
        while heap and heap[0][0] <= time_s:
            due_s, _, action, given = heappop(heap)
            action(due_s, *given)
