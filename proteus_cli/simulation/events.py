"""The virtual clock: actions in order of their times, then of their scheduling."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Any, TypeVarTuple

Given = TypeVarTuple("Given")
Action = Callable[[float], None]
"""Called with the virtual time in seconds."""


@dataclass(slots=True)
class Timer:
    """An action at a time; when it is set again, the earlier setting no longer counts.

    ``due_s`` and ``setting``, a number in the sequence of all events, are the last setting. The queue has an event for
    the setting ``queued``, at ``queued_s``. It is the earliest setting since the last event.
    """

    action: Action
    due_s: float = math.inf
    setting: int = -1
    queued_s: float = math.inf
    queued: int = -1


class Events:
    """A queue of scheduled actions."""

    def __init__(self) -> None:
        # Time, sequence, action, and its arguments beside the time: a closure for each would take longer to make.
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = count()

    def __len__(self) -> int:
        """How many actions are queued."""
        return len(self._heap)

    def at(self, time_s: float, action: Callable[[float, *Given], None], *given: *Given) -> None:
        """Schedule an action; actions of the same time run in the order of scheduling."""
        heappush(self._heap, (time_s, next(self._sequence), action, given))

    def set_timer(self, timer: Timer, time_s: float) -> None:
        """Schedule the action of a timer as `at` would, in place of its last setting.

        A timer is set many times before it goes off, mostly to a later time. Therefore one event is queued, and moved
        when it is due. Void events would be most of the queue where thousands of workers wait.
        """
        timer.due_s, timer.setting = time_s, next(self._sequence)
        if time_s < timer.queued_s:
            self._queue(timer)

    def _queue(self, timer: Timer) -> None:
        timer.queued_s, timer.queued = timer.due_s, timer.setting
        heappush(self._heap, (timer.due_s, timer.setting, self._due, (timer, timer.setting)))

    def _due(self, now_s: float, timer: Timer, setting: int) -> None:
        if setting != timer.queued:  # set to an earlier time since
            return
        if setting != timer.setting:  # set to a later time since
            self._queue(timer)
            return
        timer.queued_s, timer.queued = math.inf, -1
        timer.action(now_s)

    def run_until(self, time_s: float) -> None:
        """Run all actions up to and including ``time_s``, and the actions that they schedule."""
        heap = self._heap
        while heap and heap[0][0] <= time_s:
            due_s, _, action, given = heappop(heap)
            action(due_s, *given)
