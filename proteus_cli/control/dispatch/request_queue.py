"""Requests that the same hosts may answer, and the rule that shares them among these hosts.

**The rule.** Requests wait in order of their deadlines. The first ``n`` rows are left to the hosts that come earlier in
the queue's order, which are more accurate, if these can make them. Each makes `MADE_FRAC` of its rate × the time until
the last of the ``n`` is due, less one of its batches. Rows beyond that are the *excess*, which the next host takes at
once. It also takes a row at the last moment at which it, or any earlier host, can still make it.

Shares of the demand follow from capacities: accurate hosts answer as much as they can in time, and other hosts the
rest. Standbys come last in the order: they answer requests that no active host can.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec

from proteus_cli.control.decision import Admitted, HostedVariant
from proteus_cli.control.devices.worker_phase import WorkerPhase
from proteus_cli.control.dispatch.deadline_queue import DeadlineQueue
from proteus_cli.control.dispatch.host_class import HostClass, classes_of
from proteus_cli.control.dispatch.shares import WeightedShares
from proteus_cli.control.dispatch.workers import WorkerState
from proteus_cli.domain.request import USUAL_LEVEL, Request

NOBODY = Admitted(())
MADE_FRAC = 0.8
"""The part of their rate that hosts are counted on for, as batches at the end of a queue are not full. With 1, the row
`made-up` of `benchmarks.arrivals` loses 0.15 points on time (``--alone --seeds tuning``); other rows move less."""


class Due(msgspec.Struct, frozen=True, gc=False):
    """The work that is due for a worker: ``rows`` that it may take now, or none before ``at_s``."""

    rows: int
    at_s: float = math.inf
    is_excess: bool = False


NOTHING = Due(0)


class Lane:
    """Requests by level of priority, highest first, and the classes of the hosts that take them, in order.

    ``answer_frac`` as in `DeadlineQueue`.
    """

    def __init__(self, classes: Sequence[HostClass], answer_frac: float) -> None:
        self.usual = DeadlineQueue(answer_frac)
        self.levels: dict[int, DeadlineQueue] = {USUAL_LEVEL: self.usual}
        self.classes = classes
        self._before: dict[HostClass, list[tuple[float, float, HostClass]]] = {}

    @property
    def rows(self) -> int:
        """Rows of all levels."""
        return self.usual.rows if len(self.levels) == 1 else self.rows_up_to(math.inf)

    def rows_up_to(self, level: float) -> int:
        """Rows of this priority and of higher ones."""
        return sum([queue.rows for each, queue in self.levels.items() if each <= level])

    def count(self) -> None:
        """The workers of the classes have changed: list, for each class, those before it, and what they carry."""
        active = [each for each in self.classes if each.serving and not each.host.is_standby]
        for own in self.classes:
            lead = 0.0 if own.host.is_standby else 1.0
            self._before[own] = [
                (each.capacity_qps, lead * each.takes_s(each.host.max_batch), each)
                for each in active
                if each.order < own.order
            ]

    def due_for(self, own: HostClass, own_slowdown: float, queue: DeadlineQueue, now_s: float) -> Due:
        """The rows of one level that a free worker of ``own`` may take, by the rule. Takes O(classes + log(requests)).

        Free workers of a class share the rows. A standby takes excess only if its device carries more with it.
        """
        before = self._before[own]
        if not before:
            return Due(-(-self.rows // max(len(own.free), 1)))  # of all levels, as lower ones may join a batch
        host, rows = own.host, queue.head().rows
        left_s = math.inf  # until one of them has made the first request
        for _, _, each in before:
            left_s = min(left_s, each.slowdown * each.host.latency(rows))
        if not host.is_standby:
            left_s = max(left_s, own_slowdown * host.latency(rows))
        at_s = _last_moment_s(queue.dues_s[0], left_s)
        excess = _excess(before, queue, now_s) if host.capacity_qps else 0
        if at_s <= now_s:
            return Due(max(rows, queue.place_after(now_s + left_s), excess))
        if excess >= 1:
            return Due(self.rows if host.is_standby else excess, is_excess=True)
        return NOTHING if host.is_standby else Due(0, at_s)

    def next_worker(self, queue: DeadlineQueue, now_s: float) -> Admitted:
        """One free worker to ask about a level at which requests wait: the first in order that can make the first.

        Else the first that can make the last, else any.
        """
        left_s, rows, anyone = queue.dues_s[0] - now_s, queue.head().rows, NOBODY
        for each in self.classes:
            if each.free:
                if (able := each.free_within(left_s, rows)) is not None:
                    return able
                if anyone is NOBODY:
                    anyone = next(iter(each.free.values()))
        if anyone is NOBODY or len(queue) == 1:
            return anyone
        left_s, rows = queue.dues_s[-1] - now_s, queue.last().rows
        for each in self.classes:
            if each.free and (able := each.free_within(left_s, rows)) is not None:
                return able
        return anyone


def _excess(before: Sequence[tuple[float, float, HostClass]], queue: DeadlineQueue, now_s: float) -> int:
    """Rows that the hosts ``before`` a class cannot make, as far as a few places in the queue show it.

    A standby takes the time of an active host, so it leaves the others all the time that is left.
    """
    excess, place, dues_s = 0.0, len(queue), queue.dues_s
    rows_each = queue.rows / place
    while place:
        left_s, carried = dues_s[place - 1] - now_s, 0.0
        for qps, batch_s, _ in before:
            if left_s > batch_s:
                carried += qps * (left_s - batch_s)
        excess = max(excess, place * rows_each - MADE_FRAC * carried)
        place //= 2
    return int(excess)


class RequestQueue:
    """The requests that a set of hosts may answer, and what these hosts carry together.

    A request is bound late, when a worker is free: then all hosts take from one *lane*. If it is bound at its arrival
    (the paper's assignment), each host has a lane of its own, and ``weight_of`` hosts says which shares these get.

    ``hosts`` includes standbys; their capacity is what they add to their devices. A queue of ``is_deferred`` requests
    has the second stages of cascades, and more accurate hosts. A queue ``is_of_canaries`` if the new version of a pair
    takes from it. The workers that serve carry ``capacity_qps`` at their slowdowns, in batches of ``batch_rows``
    together. ``slowdown`` is the mean slowdown of active hosts, weighted by capacity. ``least_row_s`` is the profiled
    time in which the fastest host answers one row; infinite without hosts. A queue ``is_lost`` if all devices of its
    hosts are lost. Changes of single workers update these values: a decision never looks at all workers.
    """

    def __init__(
        self,
        hosts: Sequence[HostedVariant],
        workers: Mapping[str, WorkerState],
        *,
        answer_frac: float,
        is_deferred: bool = False,
        is_of_canaries: bool = False,
        weight_of: Callable[[HostedVariant], float] | None = None,
    ) -> None:
        self.is_deferred, self.is_of_canaries, self.is_bound = is_deferred, is_of_canaries, weight_of is not None
        self.hosts = tuple(_with_added_capacity(hosts))
        self.classes = classes_of(self.hosts, of_deferred=is_deferred, is_bound=self.is_bound)
        self.capacity_qps = 0.0
        self.batch_rows, self.slowdown, self.is_lost = 0, 1.0, False
        self._lost, self._answer_frac = set[HostedVariant](), answer_frac
        self.lanes: tuple[Lane, ...] = (Lane(self.classes, answer_frac),)
        if weight_of is not None and self.classes:
            self.lanes = tuple(Lane((each,), answer_frac) for each in self.classes)
            self._shares = WeightedShares(self.lanes, [weight_of(each.host) for each in self.classes])
        for each in self.classes:
            for host in each.hosts:
                worker = workers[host.device]
                if worker.free > 0:
                    each.free[host.device] = worker.ask_self
                self._count(host, each, worker)
        self.least_row_s = self.least_s(1)
        self._sum_up()

    # --- requests

    def __len__(self) -> int:
        return sum([len(queue) for lane in self.lanes for queue in lane.levels.values()])

    def __iter__(self) -> Iterator[Request]:
        """All requests, by lane, level and deadline."""
        return (request for lane in self.lanes for queue in lane.levels.values() for request in queue)

    def push(self, request: Request) -> tuple[Lane, DeadlineQueue]:
        """Have a new request wait; returns the lane, and the queue of its level there. Shares count each call."""
        lane = self._shares.next(request.rows) if len(self.lanes) > 1 else self.lanes[0]
        level = request.level
        queue = lane.levels.get(level)
        if queue is None:
            queue = DeadlineQueue(self._answer_frac)
            lane.levels = dict(sorted({**lane.levels, level: queue}.items()))
        queue.push(request)
        return lane, queue

    def remove(self, request: Request) -> bool:
        """Remove a request; False if it does not wait here."""
        queues = [lane.levels.get(request.level) for lane in self.lanes]
        return any(queue.remove(request) for queue in queues if queue is not None)

    def drain(self) -> list[Request]:
        """Remove and return all requests."""
        return [request for lane in self.lanes for queue in lane.levels.values() for request in queue.drain()]

    def rows_up_to(self, level: float) -> int:
        """Rows that wait with this priority or a higher one."""
        return sum([lane.rows_up_to(level) for lane in self.lanes])

    # --- hosts

    def count(self, host: HostedVariant, host_class: HostClass, worker: WorkerState) -> None:
        """The phase or the slowdown of a worker has changed."""
        self._count(host, host_class, worker)
        self._sum_up()

    def max_rows_within(self, budget_s: float, at_most: int) -> int:
        """The most rows, up to ``at_most``, that a batch of one of the hosts answers in that time, as profiled."""
        return max([each.host.least_latency.max_rows_within(budget_s, at_most) for each in self.classes], default=0)

    def least_s(self, rows: int) -> float:
        """Seconds that the fastest host takes for ``rows``, as profiled; infinite without hosts."""
        return min([each.host.least_latency(rows) for each in self.classes], default=math.inf)

    def is_timely(self, rows: int, budget_s: float) -> bool:
        """Whether an idle host that serves answers ``rows`` in that time."""
        return any(each.serving and each.least_s(rows) <= budget_s for each in self.classes)

    def is_free_within(self, rows: int, budget_s: float) -> bool:
        """Whether a free worker answers ``rows`` in that time."""
        return any(each.free and each.free_within(budget_s, rows) is not None for each in self.classes)

    def rows_at_once(self, budget_s: float) -> int:
        """The rows that free workers which cut rows short have answers to in that time, in one batch each.

        The capacity counts whole answers; it does not apply where the time is too short for these.
        """
        cutting = [each for each in self.classes if each.host.cuts and each.free]
        return sum([len(each.free) * each.rows_within(budget_s) for each in cutting])

    def _count(self, host: HostedVariant, host_class: HostClass, worker: WorkerState) -> None:
        host_class.count(host, *worker.slowdowns)
        if worker.phase is WorkerPhase.LOST:
            self._lost.add(host)
        else:
            self._lost.discard(host)

    def _sum_up(self) -> None:
        active = [each for each in self.classes if not each.host.is_standby]
        self.is_lost = bool(self._lost) and len(self._lost) == len(self.hosts)
        self.capacity_qps = sum([each.capacity_qps for each in self.classes])
        self.batch_rows = sum([each.serving * each.host.max_batch for each in active or self.classes])
        active_qps = sum([each.capacity_qps for each in active])
        planned_qps = sum([each.serving * each.host.capacity_qps for each in active])
        self.slowdown = planned_qps / active_qps if active_qps > 0 else 1.0
        for lane in self.lanes:
            lane.count()


def _with_added_capacity(hosts: Sequence[HostedVariant]) -> Iterator[HostedVariant]:
    """The hosts, with the capacity of a standby as what its device carries more with it; 0 unless it is the fastest."""
    active_qps, fastest = defaultdict[str, float](float), dict[str, HostedVariant]()
    for host in hosts:
        if not host.is_standby:
            active_qps[host.device] = max(host.capacity_qps, active_qps[host.device])
        elif host.device not in fastest or host.capacity_qps > fastest[host.device].capacity_qps:
            fastest[host.device] = host
    for host in hosts:
        if host.is_standby:
            more_qps = host.capacity_qps - active_qps[host.device] if host is fastest[host.device] else 0.0
            yield replace(host, capacity_qps=max(more_qps, 0.0))
        else:
            yield host


def _last_moment_s(due_s: float, takes_s: float) -> float:
    """The last moment at which that much time is left."""
    moment_s = due_s - takes_s
    return moment_s if due_s - moment_s >= takes_s else math.nextafter(moment_s, -math.inf)
