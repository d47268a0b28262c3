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

    def __init__(self, batcher: Batcher, workers: Mapping[str, WorkerState]) -> None:
        self._batcher, self._workers = batcher, workers

    def decide(self, worker: WorkerState, source: WorkSource, now_s: float) -> Start | Delay | Drop | Delegate | None:
        """What to do at a seat where someone waits."""
        hosted, queue, slowdown = source.hosted, source.family_queue, worker.slowdown.factor
        quota = queue.quota_of(hosted)
        if quota <= 0:
            return self._take_over(source, queue, slowdown, now_s) if isinstance(queue, SharedQueue) else None
        batching = self._batcher.decide(source.queue.head(), quota, hosted, now_s, slowdown)
        if not isinstance(batching, CannotMeetDeadline):
            return batching
        return self._cannot_meet_deadline(source, queue, now_s) if isinstance(queue, SharedQueue) else _drop(source)

    def ahead(self, worker: WorkerState, start_s: float) -> tuple[WorkSource, int] | None:
        """The seat whose turn it is once the lane is free, and as many rows as wait there or a batch may have.

        Only if all of them will be in time then: fewer may be more when the lane is free earlier than it should be.
        """
        first: WorkSource | None = None
        for source in worker.sources:
            if (
                source.queue.rows
                and source.family_queue.quota_of(source.hosted) > 0
                and (first is None or source.is_before(first))
            ):
                first = source
        if first is None:
            return None
        hosted = first.hosted
        rows = min(first.family_queue.quota_of(hosted), hosted.max_batch)
        batching = self._batcher.decide(first.queue.head(), rows, hosted, start_s, worker.slowdown.factor)
        return (first, rows) if isinstance(batching, Start) and batching.rows >= rows else None

    def gather(
        self, worker: WorkerState, source: WorkSource, max_rows: int, now_s: float
    ) -> tuple[tuple[Request, ...], int]:
        """Remove the requests of a batch that starts at a seat, of all levels there, of up to so many rows; how many.

        Those of a higher priority go first and the others follow, each level as far as the batch is in time for it.
        """
        family_queue, hosted = source.family_queue, source.hosted
        taken: list[Request] = []
        rows = 0
        for level, queue in family_queue.queues_of(hosted).items():
            head = queue.peek()
            if head is None:
                continue
            most = (
                max_rows
                if level == source.level
                else self._max_rows(head, max_rows, hosted, now_s, worker.slowdown.factor)
            )
            if rows + head.rows <= most or (level == source.level and not rows):
                more, more_rows = family_queue.take(hosted, most - rows, level)
                taken += more
                rows, max_rows = rows + more_rows, most
        return tuple(taken), rows

    def _max_rows(self, head: Request, max_rows: int, hosted: Hosted, now_s: float, slowdown: float) -> int:
        """How many of so many rows a batch may have that takes along the first request of a level."""
        batching = self._batcher.decide(head, max_rows, hosted, now_s, slowdown)
        if isinstance(batching, Start):
            return min(max_rows, batching.rows)
        return max_rows if isinstance(batching, Delay) else 0

    def _take_over(
        self, source: WorkSource, queue: SharedQueue, slowdown: float, now_s: float
    ) -> Start | Delay | Drop | None:
        """What a free lane without a turn does for lanes that are busy.

        It takes at once what loses no accuracy with it; of more accurate lanes only what would otherwise be late, at
        the last moment at which it still can: until then they may become free. What nobody can make any more it
        drops, as others wait behind it.
        """
        head, hosted = source.queue.head(), source.hosted
        due_s = self._batcher.due_s(head)
        last_moment_s = due_s - slowdown * hosted.latency(head.rows)
        equal_rows, better_rows = _rows_of_busy(source, queue.quota.rows_by_place)
        if equal_rows + better_rows == 0:
            return None
        if last_moment_s < now_s:
            return _drop(source) if self._is_late_everywhere(queue, head, now_s) else None
        if equal_rows == 0 and now_s < last_moment_s:
            return Delay(last_moment_s)
        most = max(min(equal_rows or better_rows, hosted.max_batch), head.rows)
        return Start(max(hosted.latency.max_rows_within((due_s - now_s) / slowdown, most), head.rows))

    def _cannot_meet_deadline(self, source: WorkSource, queue: SharedQueue, now_s: float) -> Delay | Drop | Delegate:
        """The first request can't be made by this lane: perhaps by the fastest variant, else by none."""
        head, hosted, quota = source.queue.head(), source.hosted, queue.quota
        fastest = self._fastest(quota, head.rows)
        needs_s = fastest.latency(head.rows) * self._workers[fastest.device].slowdown.factor
        last_moment_s = self._batcher.due_s(head) - needs_s
        if fastest is hosted or last_moment_s < now_s:
            return _drop(source)
        if quota.of(fastest) > 0:  # it has a turn for that, and will use it or be too late
            return Delay(until_s=max(last_moment_s, math.nextafter(now_s, math.inf)))
        quota.transfer(hosted, fastest, head.rows)
        return Delegate(to=fastest.device)

    def _is_late_everywhere(self, queue: SharedQueue, head: Request, now_s: float) -> bool:
        """Not even the fastest variant can make a request."""
        fastest = self._fastest(queue.quota, head.rows)
        slowdown = self._workers[fastest.device].slowdown.factor
        return isinstance(self._batcher.decide(head, head.rows, fastest, now_s, slowdown), CannotMeetDeadline)

    def _fastest(self, quota: Quota, rows: int) -> Hosted:
        return quota.fastest(rows, lambda host: not self._workers[host.device].is_away)


def _drop(source: WorkSource) -> Drop:
    return Drop((source.family_queue.pop_head(source.hosted, source.level),))


def _rows_of_busy(source: WorkSource, rows_by_place: Sequence[int]) -> tuple[int, int]:
    """Turns of lanes that are busy, with variants that are no more accurate than the seat's, and of the others."""
    equal_rows = better_rows = 0
    accuracy, workers = source.hosted.accuracy, source.tier.workers
    for place, rows in enumerate(rows_by_place):
        if rows:
            host, worker = workers[place]
            if worker.free > 0:
                continue
            if host.accuracy <= accuracy:
                equal_rows += rows
            else:
                better_rows += rows
    return equal_rows, better_rows
