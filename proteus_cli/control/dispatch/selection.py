"""Selects the next batch of a free worker, and its requests."""

import math
from typing import NamedTuple

import msgspec

from proteus_cli.control.batching import CANNOT_MEET_DEADLINE, Batcher, Batching, CannotMeetDeadline, Delay, Start
from proteus_cli.control.decision import HostedVariant
from proteus_cli.control.dispatch.deadline_queue import DeadlineQueue
from proteus_cli.control.dispatch.host_class import HostClass
from proteus_cli.control.dispatch.request_queue import Lane, RequestQueue
from proteus_cli.control.dispatch.workers import WorkerState
from proteus_cli.domain.request import Request


class WorkSource(NamedTuple):
    """A lane that a worker takes from, for one variant that it hosts."""

    hosted: HostedVariant
    host_class: HostClass
    queue: RequestQueue
    lane: Lane

    @property
    def second_s(self) -> float:
        """How long before its deadline a request must have ended, to leave time for a second stage."""
        return 0.0 if self.queue.is_deferred else self.hosted.second_s


class Choice(msgspec.Struct, frozen=True, gc=False):
    """A batch that a worker may start: ``start.rows`` from a place in the queue of a level; others may join it.

    It ``is_excess`` if hosts that come first in the order of the lane cannot make these rows in time.
    """

    source: WorkSource
    level: int
    queue: DeadlineQueue
    start: Start
    is_excess: bool

    def is_before(self, other: "Choice") -> bool:
        """Whether this batch is to start rather than an ``other`` of the same worker, whose source comes first."""
        if self.level != other.level:
            return self.level < other.level
        if self.queue is other.queue and self.is_excess:
            return True
        return self.due_s < other.due_s

    @property
    def due_s(self) -> float:
        return self.queue.at(self.start.place).deadline_s - self.source.second_s


class Hopeless(msgspec.Struct, frozen=True, gc=False):
    """The first ``requests`` of a queue, which no host can make any more."""

    queue: DeadlineQueue
    requests: int


class Selector:
    """Applies the batching rule to the sources of workers.

    From a lane of its own, a worker takes the first requests (the paper's assignment). From a shared lane it takes the
    largest batch in which every request meets its deadline; ties go to the earliest requests. Faster workers can still
    make the requests that it leaves at the head of the queue.
    """

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    def select(self, worker: WorkerState, source: WorkSource, now_s: float) -> Choice | Hopeless | float:
        """The choice of a worker with a free slot at a source, or the time to ask again (infinite: never)."""
        hosted, lane, decide = source.hosted, source.lane, self._batcher.decide
        if hosted.first_exit is not None:  # what is cut short ends just in time, without the way of its answer
            now_s += worker.answer_way.most_s
        best: Choice | None = None
        wake_s = math.inf
        for level, queue in lane.levels.items():
            if not queue.rows:
                continue
            if source.queue.is_bound:
                is_excess = False
                batching = decide(queue.head(), lane.rows, hosted, now_s, worker.slowdown_at(hosted))
                if isinstance(batching, CannotMeetDeadline):
                    return Hopeless(queue, 1)
            else:
                due = lane.due_for(source.host_class, worker.slowdown.factor, queue, now_s)
                if not due.rows:
                    wake_s = min(wake_s, due.at_s)
                    continue
                is_excess, batching = due.is_excess, self._largest(worker, hosted, queue, due.rows, now_s)
                is_first = isinstance(batching, Start) and not batching.place
                if not is_first and (hopeless := self._hopeless(lane, queue, now_s)):
                    return Hopeless(queue, hopeless)
            if isinstance(batching, Delay):
                wake_s = min(wake_s, batching.until_s)
            elif isinstance(batching, Start) and best is None:
                best = Choice(source, level, queue, batching, is_excess)
        return best or wake_s

    def take(self, worker: WorkerState, choice: Choice, now_s: float) -> tuple[tuple[Request, ...], int]:
        """Remove the requests of a batch from a lane of several levels; returns them and their rows.

        Higher priorities come first. Each other level joins as far as the batch is still in time for its first request.
        """
        start, levels = choice.start, choice.source.lane.levels
        taken: list[Request] = []
        rows, max_rows = 0, start.rows
        for queue in levels.values():
            if not queue.rows:
                continue
            is_own = queue is choice.queue
            place = start.place if is_own else 0
            first = queue.at(place)
            limit = max_rows if is_own else self._rows_with(first, max_rows, choice.source.hosted, now_s, worker)
            if rows + first.rows <= limit or (is_own and not rows):
                more, more_rows = queue.take(limit - rows, place)
                taken += more
                rows, max_rows = rows + more_rows, limit
        return tuple(taken), rows

    def _hopeless(self, lane: Lane, queue: DeadlineQueue, now_s: float) -> int:
        """How many of the first requests not even the fastest hosts can make, each alone."""
        serving = [each for each in lane.classes if each.serving]
        for place, request in enumerate(queue):
            fastest = min(serving, key=lambda each: each.least_s(request.rows))
            batching = self._batcher.decide(request, request.rows, fastest.host, now_s, fastest.least_slowdown)
            if not isinstance(batching, CannotMeetDeadline):
                return place
        return len(queue)

    def _largest(
        self, worker: WorkerState, hosted: HostedVariant, queue: DeadlineQueue, max_rows: int, now_s: float
    ) -> Batching:
        """The largest batch of up to ``max_rows`` that is in time, from the earliest request from which it is.

        The sizes for which there is such a request are all those up to the largest, so bisection finds it.
        """
        decide, slowdown = self._batcher.decide, worker.slowdown_at(hosted)
        best, rows, most = decide(queue.head(), max_rows, hosted, now_s, slowdown), 0, min(max_rows, hosted.max_batch)
        if isinstance(best, Start):
            rows = best.rows
        elif isinstance(best, Delay):
            return best
        while rows < most:
            more = (rows + most + 1) // 2
            place = queue.place_due(now_s + slowdown * hosted.least_latency(more))
            batching: Batching = CANNOT_MEET_DEADLINE
            while queue.has_rows(more, place):
                batching = decide(queue.at(place), more, hosted, now_s, slowdown)
                if not isinstance(batching, CannotMeetDeadline):
                    break
                place += 1  # a request of more rows than that
            if isinstance(batching, Start) and batching.rows >= more:
                best, rows = Start(batching.rows, place), batching.rows
            else:
                most = more - 1
        return best

    def _rows_with(self, head: Request, max_rows: int, hosted: HostedVariant, now_s: float, worker: WorkerState) -> int:
        """How many of ``max_rows`` a batch may have that includes the first request of another level."""
        batching = self._batcher.decide(head, max_rows, hosted, now_s, worker.slowdown_at(hosted))
        if isinstance(batching, Start):
            return min(max_rows, batching.rows)
        return max_rows if isinstance(batching, Delay) else 0
