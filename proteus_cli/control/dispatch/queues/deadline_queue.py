"""Queues in order of deadlines."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import chain
from operator import attrgetter

from proteus_cli.domain.request import USUAL_LEVEL, Request

_ID = attrgetter("id")


class DeadlineQueue:
    """Requests in order of deadline, then of arrival; ``rows`` counts their rows.

    Two sorted lists, of deadlines and of requests: an arrival is mostly the last to be due, a batch is cut off the
    front, and bisection finds a request that is cancelled. A heap is slower at each of these.
    """

    __slots__ = ("_deadlines_s", "_requests", "rows")

    def __init__(self) -> None:
        self._deadlines_s: list[float] = []
        self._requests: list[Request] = []
        self.rows = 0

    def push(self, request: Request) -> None:
        """Add a request."""
        deadline_s, deadlines_s = request.deadline_s, self._deadlines_s
        self.rows += request.rows
        if not deadlines_s or deadline_s > deadlines_s[-1]:
            deadlines_s.append(deadline_s)
            self._requests.append(request)
            return
        place = self._place(request)
        deadlines_s.insert(place, deadline_s)
        self._requests.insert(place, request)

    def head(self) -> Request:
        """The first request. Raises `IndexError` where there is none."""
        return self._requests[0]

    def last(self) -> Request:
        """The least urgent request. Raises `IndexError` where there is none."""
        return self._requests[-1]

    def pop(self) -> Request:
        """Remove and return the first request. Raises `IndexError` where there is none."""
        request = self._requests.pop(0)
        del self._deadlines_s[0]
        self.rows -= request.rows
        return request

    def at(self, place: int) -> Request:
        """The request at a place, from 0 on."""
        return self._requests[place]

    def place_due(self, at_s: float, due_s: Callable[[Request], float]) -> int:
        """The place of the first request that is due ``at_s`` or later."""
        return bisect_left(self._requests, at_s, key=due_s)

    def place_after(self, at_s: float, due_s: Callable[[Request], float]) -> int:
        """The place of the first request that is due later than ``at_s``."""
        return bisect_right(self._requests, at_s, key=due_s)

    def has_rows(self, rows: int, place: int) -> bool:
        """Whether so many rows wait from a place on."""
        requests = self._requests
        count = len(requests) - place
        return count >= rows or (
            self.rows > len(requests) and sum([request.rows for request in requests[place:]]) >= rows
        )

    def take(self, max_rows: int, place: int = 0) -> tuple[tuple[Request, ...], int]:
        """Remove the first requests from a place on that fit ``max_rows``, or one; returns them and their rows."""
        requests = self._requests
        waiting = len(requests)
        if self.rows == waiting:  # a row each
            end = min(place + max_rows, waiting)
            rows = end - place
        else:
            rows, end = requests[place].rows, place + 1
            while end < waiting and rows + requests[end].rows <= max_rows:
                rows += requests[end].rows
                end += 1
        taken = tuple(requests[place:end])
        del requests[place:end], self._deadlines_s[place:end]
        self.rows -= rows
        return taken, rows

    def remove(self, request: Request) -> bool:
        """Remove a request; False where it does not wait here."""
        place = self._place(request)
        if place == len(self._requests) or self._requests[place] is not request:
            return False
        del self._requests[place], self._deadlines_s[place]
        self.rows -= request.rows
        return True

    def drain(self) -> list[Request]:
        """Remove all, most urgent first."""
        drained = self._requests
        self._requests, self._deadlines_s, self.rows = [], [], 0
        return drained

    def __iter__(self) -> Iterator[Request]:
        """Most urgent first."""
        return iter(self._requests)

    def __len__(self) -> int:
        return len(self._requests)

    def _place(self, request: Request) -> int:
        """The place of a request, or where it would be inserted."""
        first = bisect_left(self._deadlines_s, request.deadline_s)
        last = bisect_right(self._deadlines_s, request.deadline_s, first)
        return bisect_left(self._requests, request.id, first, last, key=_ID)


class LevelQueues:
    """A queue for each open level of priority, highest first; the usual level is always open."""

    def __init__(self) -> None:
        self.usual = DeadlineQueue()
        self.by_level: dict[int, DeadlineQueue] = {USUAL_LEVEL: self.usual}

    @property
    def rows(self) -> int:
        """Rows of all levels."""
        return sum(queue.rows for queue in self.by_level.values()) if len(self.by_level) > 1 else self.usual.rows

    def rows_below(self, level: int) -> int:
        """Rows of lower priority than that level."""
        if len(self.by_level) == 1 and level >= USUAL_LEVEL:
            return 0
        return sum(queue.rows for each, queue in self.by_level.items() if each > level)

    def open(self, level: int) -> bool:
        """Open a level; False where it is open."""
        if level in self.by_level:
            return False
        self.by_level = dict(sorted({**self.by_level, level: DeadlineQueue()}.items()))
        return True

    def close_empty(self) -> None:
        """Close the levels in which no request waits, except the usual one."""
        self.by_level = {level: queue for level, queue in self.by_level.items() if len(queue) or queue is self.usual}

    def push(self, request: Request) -> None:
        """Add a request, whose level must be open."""
        (self.by_level[request.level] if request.priority else self.usual).push(request)

    def remove(self, request: Request) -> bool:
        """Remove a request; False where it does not wait here."""
        queue = self.by_level.get(request.level)
        return queue is not None and queue.remove(request)

    def drain(self) -> list[Request]:
        """Remove all, most urgent first within each level."""
        return [request for queue in self.by_level.values() for request in queue.drain()]

    def __iter__(self) -> Iterator[Request]:
        return chain.from_iterable(self.by_level.values())

    def __len__(self) -> int:
        return sum(map(len, self.by_level.values()))
