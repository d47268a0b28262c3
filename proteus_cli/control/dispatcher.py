"""What a lane with a free slot should do at one of its seats, and what its next batch is made of."""

import math
from collections.abc import Mapping, Sequence

from proteus_cli.control.batcher import Batcher, CannotMeetDeadline, Delay, Start
from proteus_cli.control.decision import Delegate, Drop, Hosted
from proteus_cli.control.family_queue import SharedQueue
from proteus_cli.control.quota import Quota
from proteus_cli.control.workers import WorkerState, WorkSource
from proteus_cli.domain.request import Request


class Dispatcher:
    """Knows the rule for batches, and what lanes do for each other.

    Each seat is decided on by itself, so whoever is first at it, and due before all others there, speaks for it. What
    is more urgent but of a lower priority is first at a seat of its own.
    """

    def __init__(self, batcher: Batcher, lanes: Mapping[str, WorkerState]) -> None:
        self._batcher, self._lanes = batcher, lanes

    def decide(self, lane: WorkerState, seat: WorkSource, now_s: float) -> Start | Delay | Drop | Delegate | None:
        """What to do at a seat where someone waits."""
        hosted, line, pace = seat.hosted, seat.line, lane.pace.factor
        turns = line.turns_of(hosted)
        if turns <= 0:
            return self._help(seat, line, pace, now_s) if isinstance(line, SharedQueue) else None
        batching = self._batcher.decide(seat.queue.head(), turns, hosted, now_s, pace)
        if not isinstance(batching, CannotMeetDeadline):
            return batching
        return self._hopeless_here(seat, line, now_s) if isinstance(line, SharedQueue) else _drop(seat)

    def ahead(self, lane: WorkerState, start_s: float) -> tuple[WorkSource, int] | None:
        """The seat whose turn it is once the lane is free, and as many rows as wait there or a batch may have.

        Only if all of them will be in time then: fewer may be more when the lane is free earlier than it should be.
        """
        first: WorkSource | None = None
        for seat in lane.seats:
            if seat.queue.rows and seat.line.turns_of(seat.hosted) > 0 and (first is None or seat.is_before(first)):
                first = seat
        if first is None:
            return None
        hosted = first.hosted
        rows = min(first.line.turns_of(hosted), hosted.max_batch)
        batching = self._batcher.decide(first.queue.head(), rows, hosted, start_s, lane.pace.factor)
        return (first, rows) if isinstance(batching, Start) and batching.rows >= rows else None

    def gather(
        self, lane: WorkerState, seat: WorkSource, max_rows: int, now_s: float
    ) -> tuple[tuple[Request, ...], int]:
        """Remove the requests of a batch that starts at a seat, of all levels there, of up to so many rows; how many.

        Those of a higher priority go first and the others follow, each level as far as the batch is in time for it.
        """
        line, hosted = seat.line, seat.hosted
        taken: list[Request] = []
        rows = 0
        for level, queue in line.queues_of(hosted).items():
            head = queue.peek()
            if head is None:
                continue
            most = max_rows if level == seat.level else self._max_rows(head, max_rows, hosted, now_s, lane.pace.factor)
            if rows + head.rows <= most or (level == seat.level and not rows):
                more, more_rows = line.take(hosted, most - rows, level)
                taken += more
                rows, max_rows = rows + more_rows, most
        return tuple(taken), rows

    def _max_rows(self, head: Request, max_rows: int, hosted: Hosted, now_s: float, pace: float) -> int:
        """How many of so many rows a batch may have that takes along the first request of a level."""
        batching = self._batcher.decide(head, max_rows, hosted, now_s, pace)
        if isinstance(batching, Start):
            return min(max_rows, batching.rows)
        return max_rows if isinstance(batching, Delay) else 0

    def _help(self, seat: WorkSource, line: SharedQueue, pace: float, now_s: float) -> Start | Delay | Drop | None:
        """What a free lane without a turn does for lanes that are busy.

        It takes at once what loses no accuracy with it; of more accurate lanes only what would otherwise be late, at
        the last moment at which it still can: until then they may become free. What nobody can make any more it
        drops, as others wait behind it.
        """
        head, hosted = seat.queue.head(), seat.hosted
        due_s = self._batcher.due_s(head)
        last_moment_s = due_s - pace * hosted.latency(head.rows)
        equal_rows, better_rows = _rows_of_busy(seat, line.router.turns)
        if equal_rows + better_rows == 0:
            return None
        if last_moment_s < now_s:
            return _drop(seat) if self._is_hopeless(line, head, now_s) else None
        if equal_rows == 0 and now_s < last_moment_s:
            return Delay(last_moment_s)
        most = max(min(equal_rows or better_rows, hosted.max_batch), head.rows)
        return Start(max(hosted.latency.max_rows_within((due_s - now_s) / pace, most), head.rows))

    def _hopeless_here(self, seat: WorkSource, line: SharedQueue, now_s: float) -> Delay | Drop | Delegate:
        """The first request can't be made by this lane: perhaps by the fastest variant, else by none."""
        head, hosted, router = seat.queue.head(), seat.hosted, line.router
        fastest = self._fastest(router, head.rows)
        needs_s = fastest.latency(head.rows) * self._lanes[fastest.device].pace.factor
        last_moment_s = self._batcher.due_s(head) - needs_s
        if fastest is hosted or last_moment_s < now_s:
            return _drop(seat)
        if router.turns_of(fastest) > 0:  # it has a turn for that, and will use it or be too late
            return Delay(until_s=max(last_moment_s, math.nextafter(now_s, math.inf)))
        router.pass_on(hosted, fastest, head.rows)
        return Delegate(to=fastest.device)

    def _is_hopeless(self, line: SharedQueue, head: Request, now_s: float) -> bool:
        """Not even the fastest variant can make a request."""
        fastest = self._fastest(line.router, head.rows)
        pace = self._lanes[fastest.device].pace.factor
        return isinstance(self._batcher.decide(head, head.rows, fastest, now_s, pace), CannotMeetDeadline)

    def _fastest(self, router: Quota, rows: int) -> Hosted:
        return router.fastest(rows, lambda host: not self._lanes[host.device].is_away)


def _drop(seat: WorkSource) -> Drop:
    return Drop((seat.line.give_up(seat.hosted, seat.level),))


def _rows_of_busy(seat: WorkSource, turns_of: Sequence[int]) -> tuple[int, int]:
    """Turns of lanes that are busy, with variants that are no more accurate than the seat's, and of the others."""
    equal_rows = better_rows = 0
    accuracy, team = seat.hosted.accuracy, seat.desk.team
    for place, turns in enumerate(turns_of):
        if turns:
            host, lane = team[place]
            if lane.free > 0:
                continue
            if host.accuracy <= accuracy:
                equal_rows += turns
            else:
                better_rows += turns
    return equal_rows, better_rows
