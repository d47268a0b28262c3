"""What a worker does at one of its work sources, and which requests make up its next batch."""

import math
from collections.abc import Iterable
from itertools import chain, islice

from proteus_cli.control.batching import CANNOT_MEET_DEADLINE, Batcher, Batching, CannotMeetDeadline, Delay, Start
from proteus_cli.control.decision import Admitted, Delegate, Drop, Host
from proteus_cli.control.dispatch.queues.deadline_queue import DeadlineQueue
from proteus_cli.control.dispatch.queues.host_class import HostClass
from proteus_cli.control.dispatch.queues.waiting_worker import WaitingWorker
from proteus_cli.control.dispatch.workers import NOBODY, AccuracyTier, WorkerState, WorkSource, takes_standby
from proteus_cli.domain.request import Request


class WorkSelector:
    """Applies the batching rule to work sources, and decides how workers help each other.

    Each source is decided on by itself. Of a queue of its own, a worker takes the first requests (``is_shared`` false:
    the paper's assignment). Of a shared queue, it takes the largest batch that is in time for all of its requests, and
    of these batches the one with the earliest requests: what it leaves, faster workers still can make.
    """

    def __init__(self, batcher: Batcher, *, is_shared: bool) -> None:
        self._batcher, self._is_shared = batcher, is_shared

    def decide(
        self, worker: WorkerState, source: WorkSource, now_s: float, best: tuple[WorkSource, Start] | None
    ) -> Start | Delay | Drop | Delegate | None:
        """What a free worker does at a source where requests wait; None: nothing.

        ``best`` is what it does by the sources before. What that passes over, a faster variant may take first.
        """
        quota = source.host_class.quota
        if source.hosted.first_exit is not None:
            now_s = _as_if_s(worker, now_s)
        if not self._is_shared:
            return self._decide_alone(worker, source, now_s) if quota else None
        if quota <= 0:
            passed = islice(source.queue, best[1].place) if best is not None and best[0].queue is source.queue else ()
            passed_rows = sum([request.rows for request in passed])
            taken_over = self._rows_to_take_over(worker, source, now_s, passed_rows)
            if not isinstance(taken_over, int):
                return taken_over
            quota = taken_over
        else:
            quota = -(-quota // len(source.host_class.free))  # all free workers of the class are there for it
        batching = self._earliest(worker, source, quota, now_s)
        if isinstance(batching, Start) and not batching.place:
            return batching
        by_warm = self.by_warm(worker, source, now_s)
        if isinstance(by_warm, Start):
            return by_warm
        hopeless = self._hopeless(source, now_s)
        if hopeless:
            return self._by_standby(worker, source, now_s, before=hopeless) or _drop(source, hopeless)
        if isinstance(batching, CannotMeetDeadline):
            return None if by_warm is not None else self._delegate(worker, source, now_s)
        return batching

    def or_overflow(
        self, worker: WorkerState, source: WorkSource, start: Start, rows: int, now_s: float
    ) -> tuple[WorkSource, Start]:
        """The batch, or in its place one of the standby for the overflow, where that answers what would be late.

        ``rows`` of the family wait or run.
        """
        if source.overflow is None:
            return source, start
        by_standby = self.overflow_batch(worker, source, rows, now_s)
        return (source, start) if by_standby is None else (source.overflow, by_standby)

    def overflow_batch(self, worker: WorkerState, source: WorkSource, rows: int, now_s: float) -> Start | None:
        """A batch of the standby for the overflow, where more waits than active variants can answer in time.

        ``rows`` of the family wait, or run on its own devices.
        """
        queues = source.family_queue.queues_of(source.host_class).values()
        is_overflow = self.left_s_of_overflow(source.tier, queues, rows, now_s) > 0
        return self._by_standby(worker, source, now_s) if is_overflow else None

    def left_s_of_overflow(self, tier: AccuracyTier, queues: Iterable[DeadlineQueue], rows: int, now_s: float) -> float:
        """The time until all that waits in ``queues`` of a tier is due, where its active variants make less by then.

        0 where there is no overflow. These variants are all of the family, of which ``rows`` wait or run on its own
        devices; batches are in the mean half done.
        """
        some = [each for each in queues if each.rows]
        left_s = max([self._batcher.due_s(each.last()) for each in some]) - now_s
        waiting = sum([each.rows for each in some])
        return left_s if (waiting + rows) / 2 > left_s * tier.usual_qps else 0.0

    def select_ahead(self, worker: WorkerState, start_s: float) -> tuple[WorkSource, Start] | None:
        """The source to serve once the worker is free at ``start_s``, and that batch.

        It has all rows of the quota, or is full; None where they would not all be in time. A smaller batch is left
        undecided: the worker may be free earlier than it should be, and then a larger one is possible. So is whether
        a faster variant takes over what is too much for this one, or what it passes over.
        """
        first: WorkSource | None = None
        for source in worker.sources:
            if not source.queue.rows:
                continue
            if first is not None and self.relieves(source, first, start_s):
                return None
            if source.host_class.quota > 0 and (first is None or source.is_before(first)):
                first = source
        if first is None:
            return None
        rows = min(first.host_class.quota, first.hosted.max_batch)
        if first.hosted.first_exit is not None:
            start_s = _as_if_s(worker, start_s)
        batching = self._earliest(worker, first, rows, start_s)
        if not isinstance(batching, Start) or batching.rows < rows:
            return None
        is_left_to_another = batching.place and any(
            each.queue is first.queue and each is not first for each in worker.sources
        )
        return None if is_left_to_another else (first, batching)

    def gather(
        self, worker: WorkerState, source: WorkSource, start: Start, now_s: float
    ) -> tuple[tuple[Request, ...], int]:
        """Remove the requests of a batch from all levels of a family queue; returns them and their rows.

        ``source`` is the level that the batch was decided for. Higher priorities come first, and each other level joins
        as far as the batch is still in time for its first request.
        """
        host_class, max_rows = source.host_class, start.rows
        taken: list[Request] = []
        rows = 0
        for level, queue in source.family_queue.queues_of(host_class).items():
            if not queue.rows:
                continue
            is_source = level == source.level
            place = start.place if is_source else 0
            first = queue.at(place)
            limit = max_rows if is_source else self._max_rows_with(first, max_rows, source.hosted, now_s, worker)
            if rows + first.rows <= limit or (is_source and not rows):
                more, more_rows = source.family_queue.take(host_class, limit - rows, level, place)
                taken += more
                rows, max_rows = rows + more_rows, limit
        return tuple(taken), rows

    def _decide_alone(self, worker: WorkerState, source: WorkSource, now_s: float) -> Start | Delay | Drop:
        """What a worker does with a queue of its own; the first request goes that it cannot make."""
        quota, slowdown = source.host_class.quota, worker.slowdown_at(source.hosted)
        batching = self._batcher.decide(source.queue.head(), quota, source.hosted, now_s, slowdown)
        return batching if not isinstance(batching, CannotMeetDeadline) else _drop(source, 1)

    def _by_standby(
        self, worker: WorkerState, source: WorkSource, now_s: float, before: int | None = None
    ) -> Start | None:
        """The largest batch of the standby for the overflow, from one of the first requests, ``before`` that place.

        None where there is no such batch, or a request in it asks for more than the standby gives.
        """
        own, queues = source.overflow, source.family_queue.queues_of(source.host_class).values()
        if own is None:
            return None
        rows = min(sum([each.rows for each in queues]), own.hosted.max_batch)
        start = self._earliest(worker, own, rows, now_s)
        if not isinstance(start, Start) or (before is not None and start.place >= before):
            return None
        asking = chain.from_iterable(islice(each, start.place + start.rows) for each in queues)
        if any(not takes_standby(request, own.hosted) for request in asking):
            return None
        return Start(start.rows, start.place, own.hosted)

    def next_warm(self, tier: AccuracyTier, head: Request, now_s: float) -> tuple[HostClass, Admitted] | None:
        """The most accurate standbys by which a free device answers a request that no host has the time for."""
        left_s = self._batcher.due_s(head) - now_s
        return None if tier.is_timely(head.rows, left_s) else tier.next_warm(head, left_s)

    def by_warm(self, worker: WorkerState, source: WorkSource, now_s: float) -> Start | Delegate | None:
        """Have the most accurate standby that is in time answer the first request of a source.

        None where a host has the time for it, or no free device such a standby. Another device is asked where that has
        the most accurate one.
        """
        head, left_s = source.queue.head(), self._batcher.due_s(source.queue.head()) - now_s
        found = self.next_warm(source.tier, head, now_s)
        if found is None:
            return None
        host_class, ask_it = found
        standby, queues = host_class.host, source.family_queue.queues_of(source.host_class).values()
        waiting = [each for each in queues if each.rows]
        first = chain.from_iterable(islice(each, standby.max_batch) for each in waiting)
        takes_all = all(takes_standby(each, standby) for each in first)
        if not takes_all and len(waiting) > 1:
            return None
        slowdown = worker.slowdown_at(standby)
        is_able = worker.device in host_class.free and slowdown * standby.least_latency(head.rows) <= left_s
        if not is_able and ask_it is not worker.ask_self:
            return Delegate(ask_it.devices[0])
        rows = sum([each.rows for each in waiting]) if takes_all else head.rows
        batching = self._batcher.decide(head, rows, standby, now_s, slowdown)
        return Start(batching.rows if isinstance(batching, Start) else head.rows, 0, worker.warm[host_class])

    def _earliest(self, worker: WorkerState, source: WorkSource, quota: int, now_s: float) -> Batching:
        """The largest batch of ``quota`` rows or fewer that is in time, from the earliest request from which it is.

        The sizes for which there is such a request are all those up to the largest, so bisection finds it.
        """
        queue, hosted, decide = source.queue, source.hosted, self._batcher.decide
        slowdown = (worker.slowdown if hosted.first_exit is None else worker.stage_slowdown).factor
        best, rows, most = decide(queue.head(), quota, hosted, now_s, slowdown), 0, min(quota, hosted.max_batch)
        if isinstance(best, Start):
            rows = best.rows
        elif isinstance(best, Delay):
            return best
        while rows < most:
            more = (rows + most + 1) // 2
            place = queue.place_due(now_s + slowdown * hosted.least_latency(more), self._batcher.due_s)
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

    def _rows_to_take_over(
        self, worker: WorkerState, source: WorkSource, now_s: float, passed_rows: int
    ) -> int | Delay | None:
        """How many rows a worker without quota may take for busy workers now; if none, until when it waits.

        It takes rows at once where accuracy does not fall by that, and what is too much for more accurate workers. Of
        the rest of a more accurate class, it takes the rows that the class cannot make any more, and each row at its
        own last moment. A class that is reserved for a second stage takes of all others only what is too much for them.
        So does a variant of a worker that hosts a more accurate one of the family: for its free slot, that one comes
        first; and it takes the first ``passed_rows``, which that one passes over, as far as no other class may.
        """
        queue, own, tier, head = source.queue, source.host_class, source.tier, source.queue.head()
        due_s = self._batcher.due_s(head)
        own_s = worker.slowdown.factor * own.host.latency(head.rows)
        rows, wait_s = 0, 0.0
        overflow = at_first = tier.overflow(own, worker.device, queue.rows, due_s - now_s)
        rank = -math.inf if own.is_reserved else own.host.rank
        for each in source.tier.classes:
            if not each.quota:
                continue
            if each.free:
                if len(each.free) == 1 and worker.device in each.free and each.host.rank > rank:
                    others = sum([other.quota for other in source.tier.classes if other is not each])
                    rows += max(min(each.quota, math.ceil(overflow)), passed_rows - others, 0)
                    overflow -= each.quota
                continue
            if each.host.rank <= rank:
                rows += each.quota
                continue
            if overflow >= 1:
                rows += min(each.quota, int(overflow))
                overflow -= each.quota
                continue
            left_s = max(own_s, each.row_s)
            if _last_moment_s(due_s, left_s) > now_s:
                wait_s = max(wait_s, left_s)
            else:
                rows += min(each.quota, max(1, queue.place_after(now_s + left_s, self._batcher.due_s)))
        if rows or not wait_s:
            return rows or None
        until_s = _last_moment_s(due_s, wait_s)
        # Other queues, ways of answers, and what is spared may change the answer with time.
        if tier.asked is worker.ask_self and worker.has_one_queue and not own.host.cuts and not own.spared_qps:
            room_rows = 1 - at_first + queue.rows + tier.usual_qps * now_s
            tier.waiting = WaitingWorker(queue, head, until_s, room_rows, tier.usual_qps)
        return Delay(until_s)

    def relieves(self, source: WorkSource, other: WorkSource, at_s: float) -> bool:
        """Whether more waits in the queue of both than the other's more accurate variant makes, on the same worker."""
        if source.queue is not other.queue:
            return False
        left_s = self._batcher.due_s(source.queue.head()) - at_s
        return source.tier.overflow(source.host_class, source.hosted.device, source.queue.rows, left_s) > 0

    def _delegate(self, worker: WorkerState, source: WorkSource, now_s: float) -> Delegate | None:
        """What a worker does that can make none of the requests: it transfers its quota to a faster class.

        That is the most accurate one which has a free worker that can make the first request, else the fastest. Which
        is faster depends on the rows of that request. Where none is, a less slowed device of its own class is asked.
        That worker may be this one, by another variant of the family.
        """
        queue, own, tier = source.queue, source.host_class, source.tier
        if not own.quota:
            return None
        rows = queue.head().rows
        left_s = self._batcher.due_s(queue.head()) - now_s
        own_s = own.least_s(rows)
        faster = [each for each in tier.classes if each.serving and each.least_s(rows) < own_s]
        able = [each for each in faster if each.free and each.least_s(rows) <= left_s]
        if not faster:
            peer = min(own.free, key=own.slowdown_of)
            return Delegate(peer) if own.slowdown_of(peer) < worker.slowdown.factor else None
        target = able[0] if able else min(faster, key=lambda each: each.least_s(rows))
        moved = min(own.quota, queue.rows)
        own.quota -= moved
        target.quota += moved
        tier.changed()
        next_worker = tier.next_worker(queue, self._batcher.due_s, now_s)
        if next_worker in {NOBODY, worker.ask_self}:
            return Delegate(worker.device) if worker.device in target.free else None
        return Delegate(next_worker.devices[0])

    def _hopeless(self, source: WorkSource, now_s: float) -> int:
        """How many of the first requests not even the fastest workers can make, each alone, nor a standby."""
        queue, serving = source.queue, [each for each in source.tier.classes if each.serving]
        for place, request in enumerate(queue):
            fastest = min(serving, key=lambda each: each.least_s(request.rows), default=source.host_class)
            batching = self._batcher.decide(request, request.rows, fastest.host, now_s, fastest.least_slowdown)
            left_s = self._batcher.due_s(request) - now_s
            if not isinstance(batching, CannotMeetDeadline) or source.tier.is_timely_by_warm(request, left_s):
                return place
        return len(queue)

    def _max_rows_with(self, head: Request, max_rows: int, hosted: Host, now_s: float, worker: WorkerState) -> int:
        """How many of ``max_rows`` a batch may have that includes the first request of another level."""
        batching = self._batcher.decide(head, max_rows, hosted, now_s, worker.slowdown_at(hosted))
        if isinstance(batching, Start):
            return min(max_rows, batching.rows)
        return max_rows if isinstance(batching, Delay) else 0


def _as_if_s(worker: WorkerState, now_s: float) -> float:
    """What is cut short ends just in time, so the way of its answer is missing: as if it were later by that."""
    return now_s + worker.answer_way.within_s


def _drop(source: WorkSource, count: int) -> Drop:
    source.tier.changed()
    return Drop(source.family_queue.drop(source.host_class, count, source.level))


def _last_moment_s(due_s: float, takes_s: float) -> float:
    """The last moment at which that much time is left."""
    moment_s = due_s - takes_s
    return moment_s if due_s - moment_s >= takes_s else math.nextafter(moment_s, -math.inf)
