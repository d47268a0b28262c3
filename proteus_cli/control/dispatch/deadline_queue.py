"""Queues in order of deadlines."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from operator import attrgetter

from proteus_cli.domain.request import Request

_ID = attrgetter("id")


class DeadlineQueue:
    """Requests in order of deadline, then of arrival; ``rows`` counts their rows.

    The batch of a request must have ended by its entry in ``dues_s``: its deadline less ``answer_frac`` of its time.

    It keeps three lists in step: deadlines, due times and requests. An arrival is mostly the last to be due, a batch is
    cut off the front, and bisection finds a request that is cancelled. A heap is slower in all three cases.
    """

    __slots__ = ("_answer_frac", "_deadlines_s", "_requests", "dues_s", "rows")

    def __init__(self, answer_frac: float = 0.0) -> None:
        self._answer_frac = answer_frac
        self._deadlines_s: list[float] = []
        self._requests: list[Request] = []
        self.dues_s: list[float] = []
        self.rows = 0

    def push(self, request: Request) -> None:
        """Add a request."""
        deadline_s, deadlines_s = request.deadline_s, self._deadlines_s
        due_s = deadline_s - self._answer_frac * (deadline_s - request.arrival_s)
        self.rows += request.rows
        if not deadlines_s or deadline_s > deadlines_s[-1]:
            deadlines_s.append(deadline_s)
            self.dues_s.append(due_s)
            self._requests.append(request)
            return
        place = self._place(request)
        deadlines_s.insert(place, deadline_s)
        self.dues_s.insert(place, due_s)
        self._requests.insert(place, request)

    def head(self) -> Request:
        """The first request. Raises `IndexError` if there is none."""
        return self._requests[0]

    def last(self) -> Request:
        """The least urgent request. Raises `IndexError` if there is none."""
        return self._requests[-1]

    def pop(self, count: int) -> tuple[Request, ...]:
        """Remove and return the first ``count`` requests."""
        first = tuple(self._requests[:count])
        del self._requests[:count], self._deadlines_s[:count], self.dues_s[:count]
        self.rows -= sum([request.rows for request in first])
        return first

    def at(self, place: int) -> Request:
        """The request at a place, from 0 on."""
        return self._requests[place]

    def place_due(self, at_s: float) -> int:
        """The place of the first request that is due ``at_s`` or later."""
        return bisect_left(self.dues_s, at_s)

    def place_after(self, at_s: float) -> int:
        """The place of the first request that is due later than ``at_s``."""
        return bisect_right(self.dues_s, at_s)

    def has_rows(self, rows: int, place: int) -> bool:
        """At least ``rows`` rows wait from ``place`` on."""
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
        del requests[place:end], self._deadlines_s[place:end], self.dues_s[place:end]
        self.rows -= rows
        return taken, rows

    def remove(self, request: Request) -> bool:
        """Remove a request; False if it does not wait here."""
        place = self._place(request)
        if place == len(self._requests) or self._requests[place] is not request:
            return False
        del self._requests[place], self._deadlines_s[place], self.dues_s[place]
        self.rows -= request.rows
        return True

    def drain(self) -> list[Request]:
        """Remove all, most urgent first."""
        drained = self._requests
        self._requests, self._deadlines_s, self.dues_s, self.rows = [], [], [], 0
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
