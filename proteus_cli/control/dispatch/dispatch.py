"""Requests on their way: admitted, queued, put into batches, finished or given up.

It is one long class: each step changes the queues of families and the batches of workers together.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from proteus_cli.arrays import Ints
from proteus_cli.control.decision import (
    IDLE,
    NO_EFFECTS,
    Admitted,
    BeyondHosts,
    Decision,
    Drop,
    Effects,
    HostedVariant,
    Launch,
    NeverInTime,
    OtherPlanNeeded,
    Refused,
    TooManyRows,
    Unfit,
    WaitUntil,
)
from proteus_cli.control.dispatch.cascades import Cascades
from proteus_cli.control.dispatch.exit_bounds import exit_bounds
from proteus_cli.control.dispatch.family import FamilyState
from proteus_cli.control.dispatch.request_queue import RequestQueue
from proteus_cli.control.dispatch.selection import Choice, Selector, WorkSource
from proteus_cli.control.dispatch.workers import InFlightBatches, WorkerState
from proteus_cli.control.policies import Policy
from proteus_cli.control.replanning.demand import DemandEstimator
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.conditions import Condition
from proteus_cli.domain.request import MAX_RUNS, Request
from proteus_cli.domain.stages.stage_forecast import ExitBounds, first_stage_s, profiled_s

# The shortest batch that is submitted ahead though it is not full: of a shorter one, more rows are worth more.
MIN_PARTIAL_AHEAD_S = 1e-3

# The part of what can be answered in time that is not admitted where the driver needs time for hand-overs. In a longer
# queue, the first request has just the time for a full batch: any delay makes batches smaller, and so devices slower.
HELD_BACK_FRAC = 0.1

# Full batches of each worker that are admitted all the same: a worker needs one that runs and one that waits.
FULL_BATCHES = 2

# Seconds after which to try again where nothing carries the family now: when it is carried again is not known.
RETRY_WITHOUT_CAPACITY_S = 1.0


class Dispatch:
    """Takes requests in and decides what workers run.

    ``dispatch_ahead_s``: on a device of one slot, the next batch may be submitted that long before the running one
    ends. A driver that needs time to submit a batch would leave the device idle otherwise. ``stop_when`` has the live
    conditions by family; they replace the conditions of the catalog.
    """

    def __init__(
        self,
        families: Mapping[str, FamilyState],
        workers: dict[str, WorkerState],
        demand: DemandEstimator,
        policy: Policy,
        dispatch_ahead_s: float,
    ) -> None:
        self._families, self._workers, self._demand = families, workers, demand
        self._batcher = policy.batching.fresh()
        self._admits_timely = policy.admits == "timely"
        self._selector = Selector(self._batcher)
        self._sources = defaultdict[str, list[WorkSource]](list)
        self.cascades = Cascades()
        self.stop_when = dict[str, Condition]()
        self._dispatch_ahead_s = dispatch_ahead_s
        self._admitted_frac = 1 - HELD_BACK_FRAC if dispatch_ahead_s else 1.0
        self._lost_runs = dict[Request, int]()  # of requests that wait or run again: on how many lost devices they were
        self._answer_frac = self._batcher.answer_frac
        self._fastest_stage = 1.0  # the least `StageSlowness.least` ever

    def offer(self, request: Request, now_s: float) -> Admitted | Refused | BeyondHosts | Unfit:
        """Admit a request, or refuse it because no host keeps its bounds, or the plan cannot carry it in time.

        A request that no host could answer in time even when idle does not count as demand, if no other plan could
        answer it either.
        """
        family, rows = self._families[request.family], request.rows
        is_unusual = request.min_accuracy or request.bounds is not None
        queue = self._queue_for(family, request) if is_unusual else family.base
        if queue is None:
            return family.unfit(request)
        # `Batcher.due_s`, without a call for each request
        due_s = request.deadline_s - self._answer_frac * (request.deadline_s - request.arrival_s)
        if self._admits_timely and (rows > 1 or due_s - request.arrival_s < queue.least_row_s):
            refused = self._beyond_hosts(family, queue, request, now_s)
            if refused is not None:
                return refused
        family.counts.arrived(rows, now_s)
        if not queue.classes or (self._admits_timely and queue.is_lost):
            return Refused(RETRY_WITHOUT_CAPACITY_S, is_lost=queue.is_lost or family.was_lost)
        # With nothing before it, a request can be too late only for its own deadline. That is not overload, so it is
        # admitted and the workers decide.
        if self._admits_timely and family.rows:
            timely_rows = queue.capacity_qps * (due_s - now_s)
            if family.rows + rows > self._admitted_frac * timely_rows:
                limit_rows = admitted_rows(timely_rows, queue.batch_rows, self._admitted_frac)
                before_rows = family.rows_before(request, queue)  # no more than `family.rows`, but slower to count
                is_over = before_rows and before_rows + rows > limit_rows
                is_over = is_over and family.waiting_rows + rows > queue.rows_at_once(due_s - now_s)
                if is_over and (family.waiting_rows or not queue.is_free_within(rows, due_s - now_s)):
                    _count_given_up(family, queue, rows, due_s - now_s)
                    return Refused(retry_after_s(before_rows, queue.capacity_qps))
        family.rows += rows
        if request.priority or queue.is_bound:
            lane, waiting = queue.push(request)
        else:  # the same, without a call for each request
            lane = queue.lanes[0]
            waiting = lane.usual
            waiting.push(request)
        return lane.next_worker(waiting, now_s)

    def defer(self, request: Request, now_s: float, room_frac: float = 1.0) -> Admitted | None:
        """Have a deferred request wait for the second stage; None where that cannot answer it in time.

        It has been counted as an arrival. Rows that run or wait before it on its hosts count as for `offer`; they may
        take ``room_frac`` of the rows that these make in time. The driver keeps the first answer. It sends that answer
        if this returns None, if the deferred request is dropped, or at `last_moment_s`; then it also cancels the
        request that waits.
        """
        family, rows = self._families[request.family], request.rows
        queue, left_s = self._queue_for(family, request), self._batcher.due_s(request) - now_s
        if queue is None or queue.is_lost or left_s <= 0:
            return None
        if self._admits_timely:
            if not queue.is_timely(rows, left_s):
                return None
            limit_rows = admitted_rows(queue.capacity_qps * left_s, queue.batch_rows, self._admitted_frac)
            before_rows = family.rows_before(request, queue)
            if before_rows and before_rows + rows > room_frac * limit_rows:
                return None
        family.rows += rows
        lane, waiting = queue.push(request)
        return lane.next_worker(waiting, now_s)

    def launch_if_idle(self, request: Request, by: VariantKey, now_s: float) -> Launch | None:
        """A batch of a background request alone, on an idle worker that hosts ``by``; None where there is none.

        The request waits nowhere and is no arrival. While it runs, it counts like any other batch, whose end the driver
        reports.
        """
        family, rows = self._families[request.family], request.rows
        source = self._idle_source(family, by.variant)
        if source is None:
            return None
        self.cascades.ever_in_use = True
        hosted, worker = source.hosted, self._workers[source.hosted.device]
        family.rows += rows
        family.running[hosted] += rows
        worker.launched(hosted.latency(rows) * worker.slowdown.factor, now_s)
        return Launch(hosted, (request,), rows, now_s)

    def _idle_source(self, family: FamilyState, variant: str) -> WorkSource | None:
        """The source of a worker that hosts a variant, runs nothing, and has nothing to take; None without one."""
        queues = [queue for queue in family.queues if queue is family.base or queue.is_of_canaries]
        for each in (each for queue in queues for each in queue.classes if each.host.variant == variant):
            for device in each.free:
                worker, sources = self._workers[device], self._sources[device]
                if worker.free == worker.slots and not any(source.lane.rows for source in sources):
                    return next(source for source in sources if source.host_class is each)
        return None

    def last_moment_s(self, request: Request) -> float:
        """When the first answer to a deferred request must be sent, if the second is not there by then."""
        return self._batcher.due_s(request)

    def max_rows(self, hosts: Sequence[HostedVariant], within_s: float, at_most: int) -> int:
        """The most rows of one request that one idle host answers ``within_s``; at least one.

        ``at_most`` where there is none.
        """
        if not hosts:
            return at_most
        due_s = self._batcher.due_s(Request(0, hosts[0].family, 0.0, within_s))
        return max(1, *[host.least_latency.max_rows_within(due_s, at_most) for host in hosts])

    def min_timeout_s(self, request: Request) -> float | None:
        """The least time in which a request could be answered with nothing before it, as profiled.

        None where it has that, or no host may answer it.
        """
        queue = self._families[request.family].queue_for(request)
        least_s = queue.least_s(request.rows) if queue is not None else math.inf
        due_s = self._batcher.due_s(request) - request.arrival_s
        if due_s >= least_s or least_s == math.inf:
            return None
        return least_s / (1 - self._answer_frac)

    def cancel(self, request: Request) -> Effects:
        """Drop a request that waits; no effects where it runs or has ended."""
        family = self._families[request.family]
        if not family.remove(request):
            return NO_EFFECTS
        self._uncount((request,))
        free = [next(iter(each.free), "") for queue in family.queues for each in queue.classes]
        return Effects(ask=tuple(dict.fromkeys(filter(None, free))), dropped=(request,))

    def count_refused(self, family: str, rows: int, now_s: float, within_s: float) -> None:
        """Count a request that the driver refuses as it refused one alike; it had ``within_s`` to be answered."""
        of = self._families[family]
        of.counts.arrived(rows, now_s)
        due_s = self._batcher.due_s(Request(0, family, now_s, now_s + within_s, rows))
        _count_given_up(of, of.base, rows, due_s - now_s)

    def withdraw(self, request: Request, now_s: float) -> Effects:
        """Take back a request that was admitted at ``now_s``, as if it had not been offered: its tensors are wrong."""
        self._families[request.family].counts.arrived(-request.rows, now_s)
        return self.cancel(request)

    def decide(  # noqa: C901, PLR0912 - a few steps one after another; a call for some would cost each batch
        self, device: str, now_s: float
    ) -> Decision:
        """What the worker of ``device`` does now. To ask once too often is harmless.

        A busy worker may get its next batch shortly before it is free (`_is_worth_ahead`).
        """
        worker = self._workers[device]
        start_s, in_flight = now_s, worker.in_flight
        if is_ahead := worker.free <= 0:
            if in_flight is None or not worker.is_serving:
                return IDLE
            in_flight.note_start(now_s)
            start_s = in_flight.ends_s(now_s)
            if start_s - self._dispatch_ahead_s > now_s:
                return WaitUntil(start_s - self._dispatch_ahead_s)
        best: Choice | None = None
        wake_s, select = math.inf, self._selector.select
        for source in self._sources[device]:
            lane = source.lane
            if not lane.usual.rows and len(lane.levels) == 1:
                continue
            found = select(worker, source, start_s)
            # Not `match`: class patterns take twice as long, which is 4 % of a simulation.
            if isinstance(found, Choice):
                if best is None or found.is_before(best):
                    best = found
            elif isinstance(found, float):
                wake_s = min(wake_s, found)
            elif not is_ahead:
                dropped = found.queue.pop(found.requests)
                self._given_up(worker, source.hosted, dropped)
                return Drop(dropped)
        if best is None:
            return IDLE if is_ahead or wake_s == math.inf else WaitUntil(wake_s)
        if is_ahead and (in_flight is None or not _is_worth_ahead(best, in_flight, ends_later=start_s > now_s)):
            return IDLE
        hosted, lane, start = best.source.hosted, best.source.lane, best.start
        if len(lane.levels) == 1:
            requests, rows = best.queue.take(start.rows, start.place)
        else:
            requests, rows = self._selector.take(worker, best, start_s)
        self._families[hosted.family].running[hosted] += rows
        takes_s = hosted.latency(rows) * worker.slowdown.factor if in_flight is not None else 0.0
        worker.launched(takes_s, start_s)
        wake = self._next_workers(device, start_s) if worker.free == 0 else ()
        return Launch(hosted, requests, rows, start_s, is_ahead=is_ahead, wake=wake)

    def finished(self, launch: Launch, took_s: float | None, exits: Ints | None = None) -> None:
        """A batch has ended after ``took_s``, or failed (None): a slot of its worker is idle again.

        ``exits``, only where rows may be cut short: by row the exit that answered it.
        """
        hosted, rows = launch.hosted, launch.rows
        worker, family = self._workers[hosted.device], self._families[hosted.family]
        worker.finished()
        family.rows -= rows
        family.running[hosted] -= rows
        if self._lost_runs:
            self._forget_lost_runs(launch.requests)
        if took_s is not None:
            mean_s = hosted.mean_latency(rows)
            has_changed = worker.slowdown.record_run(took_s=took_s, mean_s=mean_s, is_busy=launch.is_ahead)
            if exits is not None:
                family.budget.answered(rows, hosted.attainment)
                self._learn_of_stages(worker, launch, took_s, exits)
            if has_changed or exits is not None:
                self.count_capacity(worker)
            self._batcher.record_run(launch, took_s)

    def answers_came(self, launch: Launch, way_s: float) -> None:
        """The answers of a batch that may be cut short were on their way for ``way_s`` since the end of the last stage.

        On another machine, ``way_s`` is the time beyond `HostedVariant.way_s`.
        """
        self._workers[launch.hosted.device].answer_way.took(way_s, launch.hosted.way_s(launch.rows))

    def requeue(self, running: Iterable[Launch], has_ended: Callable[[Request], bool]) -> Effects:
        """Queue the requests of batches again, with their deadlines, as the device that ran them is lost.

        Requests that have ended do not wait. A request that was running on `MAX_RUNS` lost devices may be the cause,
        and fails. A background request fails, too.
        """
        requeued, failed, unhosted = list[Request](), list[Request](), list[Request]()
        for launch in running:
            family, lost_runs = self._families[launch.hosted.family], self._lost_runs.copy()
            self.finished(launch, None)
            for request in launch.requests:
                runs = lost_runs.get(request, 0) + 1
                if has_ended(request):
                    continue
                if request.is_background or runs >= MAX_RUNS:
                    failed.append(request)
                elif family.wait_again(request):
                    family.rows += request.rows
                    self._lost_runs[request] = runs
                    requeued.append(request)
                else:
                    unhosted.append(request)
            self._assign_sources()
        return Effects(requeued=tuple(requeued), failed=tuple(failed), dropped=tuple(unhosted))

    def exit_bounds(self, launch: Launch) -> ExitBounds | None:
        """When a multi-exit model must have answered each request of a batch; None for other variants."""
        worker, family = self._workers[launch.hosted.device], self._families[launch.hosted.family]
        way_s = launch.hosted.way_s(launch.rows) + worker.answer_way.most_s
        slowdown, may_leave = worker.stage_slowdown.factor, family.budget.is_left
        return exit_bounds(launch, self._batcher.due_s, way_s, slowdown, self.stop_when, may_leave=may_leave)

    def give_up_lost(self) -> Sequence[Request]:
        """Deferred requests that wait only for lost devices: their first answers are to be sent now."""
        return self._uncount([request for family in self._families.values() for request in family.drain_lost()])

    def forget_all(self) -> tuple[Request, ...]:
        """Empty all queues and return what was in them, for a driver that stops."""
        return tuple(self._uncount([request for family in self._families.values() for request in family.drain()]))

    def host(self, hosted: Sequence[HostedVariant], warm: Sequence[HostedVariant] = ()) -> Sequence[Request]:
        """From now on workers host ``hosted``, which share anew what waits; returns what none of them may answer.

        ``warm`` standbys are on devices that host their family.
        """
        unhosted: list[Request] = []
        for name, family in self._families.items():
            hosts = [host for host in hosted if host.family == name]
            others = [host for host in warm if host.family == name]
            unhosted += family.rehost(hosts, others, self.cascades.by_first)
        self._assign_sources()
        return self._uncount(unhosted)

    def loses_new_version(self) -> bool:
        """Whether the new version of a pair has stopped to serve: all hosts are to share what waits."""
        return any(family.loses_new() for family in self._families.values())

    def add_worker(self, device: str, slots: int) -> None:
        """Add the worker of a device, which hosts nothing yet."""
        in_flight = InFlightBatches() if self._dispatch_ahead_s and slots == 1 else None
        self._workers[device] = WorkerState(device, slots, in_flight)

    def use_slots(self, device: str, slots: int, now_s: float) -> Effects:
        """Run at most ``slots`` batches at once on a device, from now on; running batches end as they would.

        Raises `ValueError` without a slot, and for a device of one slot, which may run a batch ahead.
        """
        worker = self._workers[device]
        if slots < 1 or worker.in_flight is not None:
            raise ValueError(f"{device} cannot use {slots} slots")
        worker.use_slots(slots)
        if worker.free > 0:
            return Effects(ask=(device,))
        return Effects(ask=self._next_workers(device, now_s))

    def recalibrated(self, device: str, ratio: float) -> None:
        """The profile of a device has changed: latencies are ``ratio`` times the earlier ones, on average."""
        self._workers[device].slowdown.rebase(ratio)

    def count_capacity(self, worker: WorkerState) -> None:
        """A worker's phase or slowdown has changed: count the capacity of its families anew."""
        for source in self._sources[worker.device]:
            source.queue.count(source.hosted, source.host_class, worker)

    def _beyond_hosts(
        self, family: FamilyState, queue: RequestQueue, request: Request, now_s: float
    ) -> BeyondHosts | None:
        """Why no host could answer a request in time, even when idle; None if one could, or none is there."""
        due_s, rows = self._batcher.due_s(request), request.rows
        max_rows = queue.max_rows_within(due_s - now_s, rows)
        if max_rows >= rows:
            return None
        hosted = [each.host for each in queue.classes]
        hosted_s = [host.least_latency(rows) * (self._fastest_stage if host.cuts else 1.0) for host in hosted]
        of_hosts_s, answered_frac = min(hosted_s, default=math.inf), 1 - self._answer_frac
        placeable_s = family.placeable_s(request)
        if placeable_s is None:
            return TooManyRows(max_rows, of_hosts_s / answered_frac) if max_rows else None
        whole_s, cut_s = placeable_s
        least_s, time_s = min(whole_s, cut_s * self._fastest_stage, of_hosts_s), due_s - request.arrival_s
        if time_s < least_s < math.inf:
            # if not even one row is in time, the deadline is too short, not the request too large
            least_s /= answered_frac
            return TooManyRows(max_rows, least_s) if max_rows else NeverInTime(least_s)
        if not time_s < of_hosts_s < math.inf or queue.is_lost:
            return None
        family.counts.arrived(rows, now_s)  # it is demand
        return OtherPlanNeeded(of_hosts_s / answered_frac, RETRY_WITHOUT_CAPACITY_S)

    def _queue_for(self, family: FamilyState, request: Request) -> RequestQueue | None:
        """The queue of a request with any minimum or bounds, opened if needed; None if no host is fit."""
        if request.bounds is not None:
            self.cascades.ever_in_use = True
        opened = family.open(request)
        if opened is not None:
            self._add_sources(opened)
            return opened
        return family.queue_for(request)

    def _assign_sources(self) -> None:
        """Each worker takes from the lanes of all queues that it hosts for."""
        self._sources.clear()
        for worker in self._workers.values():
            worker.take_from(())
        for family in self._families.values():
            for queue in family.queues:
                self._add_sources(queue)

    def _add_sources(self, queue: RequestQueue) -> None:
        added = defaultdict[str, list[WorkSource]](list)
        for lane in queue.lanes:
            for each in lane.classes:
                for host in each.hosts:
                    added[host.device].append(WorkSource(host, each, queue, lane))
        for device, sources in added.items():
            self._sources[device] += sources
            self._workers[device].take_from([each.host_class for each in self._sources[device]])

    def _uncount(self, requests: Sequence[Request]) -> Sequence[Request]:
        """Stop counting requests that neither wait nor will run; returns them."""
        for request in requests:
            self._families[request.family].rows -= request.rows
        if self._lost_runs:
            self._forget_lost_runs(requests)
        return requests

    def _forget_lost_runs(self, ended: Iterable[Request]) -> None:
        for request in ended:
            self._lost_runs.pop(request, None)

    def _learn_of_stages(self, worker: WorkerState, launch: Launch, took_s: float, exits: Ints) -> None:
        """Learn what stages take on a worker from a batch of a multi-exit model."""
        hosted, rows, stages = launch.hosted, launch.rows, worker.stage_slowdown
        way_s = hosted.way_s(rows)
        tail = hosted.least_latency(rows) / (way_s + first_stage_s(hosted.exits, rows))
        stages.record_run(took_s=took_s, mean_s=way_s + profiled_s(hosted.exits, exits), tail=tail)
        self._fastest_stage = min(self._fastest_stage, stages.least)

    def _given_up(self, worker: WorkerState, hosted: HostedVariant, dropped: Sequence[Request]) -> None:
        """A worker with a free slot drops requests.

        Where it does so only because it is slowed, its slowdown decays: no batch would ever show that it is over. The
        time of the way of its answers decays likewise.
        """
        for request in self._uncount(dropped):
            time_s, alone_s = self._batcher.due_s(request) - request.arrival_s, hosted.least_latency(request.rows)
            slowed_s = worker.slowdown_at(hosted) * alone_s
            if slowed_s <= time_s and not request.is_deferred:  # which has an answer already
                self._families[hosted.family].budget.gave_up(request.rows)
            if worker.least_at(hosted) * alone_s <= time_s < slowed_s:
                if worker.decay_slowdown(hosted):
                    self.count_capacity(worker)
            elif hosted.cuts and slowed_s <= time_s < slowed_s + worker.answer_way.most_s:
                worker.decay_way()

    def _next_workers(self, device: str, now_s: float) -> tuple[str, ...]:
        """The free workers to ask about the requests that a worker could take, and leaves."""
        found = dict[str, None]()
        for source in self._sources[device]:
            for queue in source.lane.levels.values():
                if queue.rows:
                    found |= dict.fromkeys(source.lane.next_worker(queue, now_s).devices)
        return tuple(found)


def _is_worth_ahead(choice: Choice, in_flight: InFlightBatches, *, ends_later: bool) -> bool:
    """Whether a batch is submitted while another runs, which ``ends_later``.

    A batch with less than all that waits must be full: the worker may be free earlier than expected, and then a larger
    one is possible. One that is not full must be long, and the next to start. Excess is left undecided.
    """
    rows, hosted = choice.start.rows, choice.source.hosted
    if choice.is_excess or rows >= hosted.max_batch:
        return not choice.is_excess
    is_next = len(in_flight) == 1 and ends_later
    return rows >= choice.queue.rows and is_next and hosted.latency(rows) >= MIN_PARTIAL_AHEAD_S


def _count_given_up(family: FamilyState, queue: RequestQueue, rows: int, left_s: float) -> None:
    """Count rows that are refused, if an idle device would have had the time for them."""
    if queue.is_timely(rows, left_s):
        family.budget.gave_up(rows)


def admitted_rows(timely_rows: float, batch_rows: int, admitted_frac: float) -> float:
    """The most rows, a request's own and those before it, that are admitted if ``timely_rows`` would be in time.

    That is ``admitted_frac`` of them, but all of the first `FULL_BATCHES` batches of ``batch_rows``.
    """
    return min(timely_rows, max(admitted_frac * timely_rows, FULL_BATCHES * batch_rows))


def retry_after_s(rows: int, capacity_qps: float) -> float:
    """Whole seconds, at least one, until ``rows`` are answered at that rate."""
    return float(max(1, math.ceil(rows / capacity_qps))) if capacity_qps > 0 else RETRY_WITHOUT_CAPACITY_S
