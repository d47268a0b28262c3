"""What a worker with a free slot does at one of its work sources, and which requests make up its next batch."""

import math
from collections.abc import Mapping, Sequence

from proteus_cli.control.batching import Batcher, CannotMeetDeadline, Delay, Start
from proteus_cli.control.decision import Delegate, Drop, Host
from proteus_cli.control.dispatch.family_queue import SharedQueue
from proteus_cli.control.dispatch.quota import Quota
from proteus_cli.control.dispatch.workers import WorkerState, WorkSource
from proteus_cli.domain.request import Request


class WorkSelector:
    """Applies the batching rule to work sources, and decides how workers help each other.

    Each source is decided on by itself, from its first request: the one with the earliest deadline. An earlier deadline
    at a lower priority is first at a source of its own.
    """

    def __init__(self, batcher: Batcher, workers: Mapping[str, WorkerState]) -> None:
        self._batcher, self._workers = batcher, workers

    def decide(self, worker: WorkerState, source: WorkSource, now_s: float) -> Start | Delay | Drop | Delegate | None:
        """What to do at a source where requests wait; None: nothing."""
        hosted, queue, slowdown = source.hosted, source.family_queue, worker.slowdown.factor
        quota = queue.quota_of(hosted)
        if quota <= 0:
            return self._take_over(source, queue, slowdown, now_s) if isinstance(queue, SharedQueue) else None
        batching = self._batcher.decide(source.queue.head(), quota, hosted, now_s, slowdown)
        if not isinstance(batching, CannotMeetDeadline):
            return batching
        return self._too_slow(source, queue, now_s) if isinstance(queue, SharedQueue) else _drop(source)

    def select_ahead(self, worker: WorkerState, start_s: float) -> tuple[WorkSource, int] | None:
        """The source to serve once the worker is free at ``start_s``, and the rows of that batch.

        These are all rows of the quota, or a full batch; None where they would not all be in time. A smaller batch is
        left undecided: the worker may be free earlier than it should be, and then a larger one is possible.
        """
        first: WorkSource | None = None
        for source in worker.sources:
            has_work = source.queue.rows and source.family_queue.quota_of(source.hosted) > 0
            if has_work and (first is None or source.is_before(first)):
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
        """Remove the requests of a batch from all levels of a family queue; returns them and their rows.

        ``source`` is the level that the batch was decided for. Higher priorities come first, and each other level joins
        as far as the batch is still in time for its first request.
        """
        family_queue, hosted = source.family_queue, source.hosted
        taken: list[Request] = []
        rows = 0
        for level, queue in family_queue.queues_of(hosted).items():
            head = queue.peek()
            if head is None:
                continue
            is_source = level == source.level
            limit = max_rows if is_source else self._max_rows_with(head, max_rows, hosted, now_s, worker)
            if rows + head.rows <= limit or (is_source and not rows):
                more, more_rows = family_queue.take(hosted, limit - rows, level)
                taken += more
                rows, max_rows = rows + more_rows, limit
        return tuple(taken), rows

    def _max_rows_with(self, head: Request, max_rows: int, hosted: Host, now_s: float, worker: WorkerState) -> int:
        """How many of ``max_rows`` a batch may have that includes the first request of another level."""
        batching = self._batcher.decide(head, max_rows, hosted, now_s, worker.slowdown.factor)
        if isinstance(batching, Start):
            return min(max_rows, batching.rows)
        return max_rows if isinstance(batching, Delay) else 0

    def _take_over(
        self, source: WorkSource, queue: SharedQueue, slowdown: float, now_s: float
    ) -> Start | Delay | Drop | None:
        """What a worker without quota does with the rows that busy workers have quota for.

        It takes rows at once where accuracy does not fall by that. Rows of more accurate workers it takes at the last
        moment at which it can still meet the deadline, as these workers may become free until then. It drops a request
        whose deadline no worker can meet any more, because others wait behind it.
        """
        head, hosted = source.queue.head(), source.hosted
        due_s = self._batcher.due_s(head)
        last_moment_s = due_s - slowdown * hosted.latency(head.rows)
        lossless_rows, lossy_rows = _rows_of_busy(source, queue.quota.rows_by_place)
        if lossless_rows + lossy_rows == 0:
            return None
        if last_moment_s < now_s:
            return _drop(source) if self._is_late_everywhere(queue, head, now_s) else None
        if lossless_rows == 0 and now_s < last_moment_s:
            return Delay(last_moment_s)
        max_rows = max(min(lossless_rows or lossy_rows, hosted.max_batch), head.rows)
        return Start(max(hosted.latency.max_rows_within((due_s - now_s) / slowdown, max_rows), head.rows))

    def _too_slow(self, source: WorkSource, queue: SharedQueue, now_s: float) -> Delay | Drop | Delegate:
        """What a worker does that cannot meet the deadline of the first request: the fastest one may, or none."""
        head, hosted, quota = source.queue.head(), source.hosted, queue.quota
        fastest = self._fastest(quota, head.rows)
        takes_s = fastest.latency(head.rows) * self._workers[fastest.device].slowdown.factor
        last_moment_s = self._batcher.due_s(head) - takes_s
        if fastest is hosted or last_moment_s < now_s:
            return _drop(source)
        if quota.of(fastest) > 0:  # it has quota for this request, and uses it or is too late
            return Delay(until_s=max(last_moment_s, math.nextafter(now_s, math.inf)))
        quota.transfer(hosted, fastest, head.rows)
        return Delegate(to=fastest.device)

    def _is_late_everywhere(self, queue: SharedQueue, head: Request, now_s: float) -> bool:
        """Not even the fastest variant can meet the deadline."""
        fastest = self._fastest(queue.quota, head.rows)
        slowdown = self._workers[fastest.device].slowdown.factor
        return isinstance(self._batcher.decide(head, head.rows, fastest, now_s, slowdown), CannotMeetDeadline)

    def _fastest(self, quota: Quota, rows: int) -> Host:
        return quota.fastest(rows, lambda host: self._workers[host.device].is_serving)


def _drop(source: WorkSource) -> Drop:
    return Drop((source.family_queue.pop_head(source.hosted, source.level),))


def _rows_of_busy(source: WorkSource, rows_by_place: Sequence[int]) -> tuple[int, int]:
    """Quota of busy workers that the source's variant can take over without a loss of accuracy, and with a loss."""
    lossless_rows = lossy_rows = 0
    accuracy, workers = source.hosted.accuracy, source.tier.workers
    for place, rows in enumerate(rows_by_place):
        if rows:
            host, worker = workers[place]
            if worker.free > 0:
                continue
            if host.accuracy <= accuracy:
                lossless_rows += rows
            else:
                lossy_rows += rows
    return lossless_rows, lossy_rows
