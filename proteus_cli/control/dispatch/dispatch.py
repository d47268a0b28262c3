"""Requests on their way: admitted, queued, put into batches, finished or given up.

One class, though a long one: each of these steps changes the queues of families and the workers' batches together.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from proteus_cli.arrays import Ints
from proteus_cli.control.batching import Delay, Start
from proteus_cli.control.decision import (
    IDLE,
    NO_EFFECTS,
    Admitted,
    BeyondHosts,
    Decision,
    Delegate,
    Drop,
    Effects,
    Host,
    Launch,
    NeverInTime,
    OtherPlanNeeded,
    Refused,
    TooManyRows,
    Unfit,
    WaitUntil,
)
from proteus_cli.control.dispatch.cascades import Cascades
from proteus_cli.control.dispatch.family import FamilyState
from proteus_cli.control.dispatch.in_flight import InFlightBatches
from proteus_cli.control.dispatch.queues.deadline_queue import DeadlineQueue
from proteus_cli.control.dispatch.queues.host_class import HostClass
from proteus_cli.control.dispatch.work_selector import WorkSelector
from proteus_cli.control.dispatch.workers import (
    NOBODY,
    AccuracyTier,
    WorkerState,
    WorkSource,
    sources_of,
    takes_standby,
    warm_sources,
)
from proteus_cli.control.policies import Policy
from proteus_cli.control.replanning.demand import DemandEstimator
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.request import MAX_RUNS, Request
from proteus_cli.domain.stages.stage_forecast import first_stage_s, profiled_s

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
    ends. A driver that needs time to submit a batch would leave the device idle otherwise.
    """

    def __init__(
        self,
        families: Mapping[str, FamilyState],
        workers: Mapping[str, WorkerState],
        demand: DemandEstimator,
        policy: Policy,
        dispatch_ahead_s: float,
    ) -> None:
        self._families, self._workers, self._demand = families, workers, demand
        self._batcher = policy.batching.fresh()
        self._is_shared, self._admits_timely = policy.assignment == "late", policy.admits == "timely"
        self._selector = WorkSelector(self._batcher, is_shared=self._is_shared)
        self.cascades = Cascades()
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
        is_unusual = request.priority or request.min_accuracy or request.bounds is not None
        tier = self._tier_for(family, request) if is_unusual else family.base
        if tier is None:
            return family.unfit(request)
        # `Batcher.due_s`, without a call for each request
        due_s = request.deadline_s - self._answer_frac * (request.deadline_s - request.arrival_s)
        if self._admits_timely and (rows > 1 or due_s - request.arrival_s < tier.least_row_s):
            refused = self._beyond_hosts(family, tier, request, now_s)
            if refused is not None:
                return refused
        family.counts.arrived(rows, now_s)
        if not tier.classes or (self._admits_timely and tier.is_lost):
            return Refused(RETRY_WITHOUT_CAPACITY_S, is_lost=tier.is_lost or family.was_lost)
        # With nothing before it, a request can be too late only for its own deadline. That is not overload, so it is
        # admitted and the workers decide.
        if self._admits_timely and family.rows:
            timely_rows = tier.capacity_qps * (due_s - now_s)
            if family.rows + rows > self._admitted_frac * timely_rows:
                limit_rows = admitted_rows(timely_rows, tier.batch_rows, self._admitted_frac)
                before_rows = family.rows_before(request, tier)  # no more than `family.rows`, but slower to count
                is_over = before_rows and before_rows + rows > limit_rows
                is_over = is_over and family.waiting_rows + rows > tier.rows_at_once(due_s - now_s)
                if is_over and (family.waiting_rows or self._selector.next_warm(tier, request, now_s) is None):
                    _count_given_up(family, tier, rows, due_s - now_s)
                    return Refused(retry_after_s(before_rows, tier.capacity_qps))
        family.rows += rows
        owner = tier.queue.push(request)
        if owner.free:
            return next(iter(owner.free.values()))
        waiting = tier.waiting
        goes_on = tier.is_full or (waiting is not None and waiting.goes_on(request, owner, now_s))
        if not self._is_shared or (goes_on and (rows == 1 or not tier.warm)):
            return NOBODY
        return self._next_worker(tier, tier.queue.queues_of(owner)[request.level], now_s)

    def defer(self, request: Request, now_s: float, room_frac: float = 1.0) -> Admitted | None:
        """Have a deferred request wait for the second stage; None where that cannot answer it in time.

        It has been counted as an arrival. What runs and waits before it on the hosts that may answer it counts as for
        `offer`, and may take ``room_frac`` of what these make in time. The driver keeps the first answer. It sends that
        answer if this returns None, if the deferred request is dropped, or at `last_moment_s`; then it also cancels the
        request that waits.
        """
        family, rows = self._families[request.family], request.rows
        tier, left_s = self._tier_for(family, request), self._batcher.due_s(request) - now_s
        if tier is None or tier.is_lost or left_s <= 0:
            return None
        if self._admits_timely:
            if not tier.is_timely(rows, left_s):
                return None
            limit_rows = admitted_rows(tier.capacity_qps * left_s, tier.batch_rows, self._admitted_frac)
            before_rows = family.rows_before(request, tier)
            if before_rows and before_rows + rows > room_frac * limit_rows:
                return None
        family.rows += rows
        owner = tier.queue.push(request)
        for ask_it in owner.free.values():
            return ask_it
        if not self._is_shared:
            return NOBODY
        return tier.next_worker(tier.queue.queues_of(owner)[request.level], self._batcher.due_s, now_s)

    def launch_if_idle(self, request: Request, by: VariantKey, now_s: float) -> Launch | None:
        """A batch of a background request alone, on an idle worker that hosts ``by``; None where there is none.

        The request waits nowhere and is no arrival. While it runs, it counts like any other batch, whose end the driver
        reports.
        """
        family, rows = self._families[request.family], request.rows
        source = self._idle_source((family.base, *family.canary_tiers), by)
        if source is None:
            return None
        self.cascades.ever_in_use = True
        hosted, worker = source.hosted, self._workers[source.hosted.device]
        family.rows += rows
        family.ran(hosted, rows)
        worker.launched(hosted.latency(rows) * worker.slowdown.factor, now_s)
        return Launch(hosted, (request,), rows, now_s)

    def _idle_source(self, tiers: Iterable[AccuracyTier], by: VariantKey) -> WorkSource | None:
        """Find the source of the longest idle worker that hosts ``by``; None without one."""
        for each in (each for tier in tiers for each in tier.classes if each.host.variant == by.variant):
            for device in each.free:
                if self._workers[device].is_idle:
                    return next(source for source in self._workers[device].sources if source.host_class is each)
        return None

    def last_moment_s(self, request: Request) -> float:
        """When the first answer to a deferred request must be sent, if the second is not there by then."""
        return self._batcher.due_s(request)

    def max_rows(self, hosts: Sequence[Host], within_s: float, at_most: int) -> int:
        """The most rows of one request that one of the hosts answers ``within_s`` where nothing waits; at least one.

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
        tier = self._families[request.family].tier_of(request)
        least_s = tier.least_s(request.rows) if tier is not None else math.inf
        due_s = self._batcher.due_s(request) - request.arrival_s
        if due_s >= least_s or least_s == math.inf:
            return None
        return least_s / (1 - self._answer_frac)

    def cancel(self, request: Request) -> Effects:
        """Drop a request that waits; no effects where it does not wait, as it runs or has ended."""
        family = self._families[request.family]
        if not family.remove(request):
            return NO_EFFECTS
        self._uncount((request,))
        return Effects(ask=family.longest_free(), dropped=(request,))

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

    def decide(self, device: str, now_s: float) -> Decision:
        """What the worker of ``device`` does now. To ask once too often is harmless."""
        worker = self._workers[device]
        if worker.free <= 0:
            return self._decide_busy(worker, now_s)
        best: tuple[WorkSource, Start] | None = None
        wake_s, decide_at = math.inf, self._selector.decide
        for source in worker.sources:
            if not source.queue.rows:
                continue
            batching = decide_at(worker, source, now_s, best)
            # Not `match`: class patterns take twice as long, which is 4 % of a simulation.
            if isinstance(batching, Start):
                if (
                    best is None
                    or source.is_before(best[0], batching.place, best[1].place)
                    or self._selector.relieves(source, best[0], now_s)
                ):
                    best = source, batching
            elif isinstance(batching, Delay):
                wake_s = min(wake_s, batching.until_s)
            elif batching is not None:
                if isinstance(batching, Drop):
                    self._given_up(worker, source.hosted, batching.requests)
                return batching
        if best is not None:
            return self._launch(worker, *best, now_s)
        return self._decide_warm(worker, now_s) or (WaitUntil(wake_s) if wake_s < math.inf else IDLE)

    def finished(self, launch: Launch, took_s: float | None, exits: Ints | None = None) -> None:
        """A batch has ended after ``took_s``, or failed (None): a slot of its worker is idle again.

        ``exits``, only where rows may be cut short: by row the exit that answered it.
        """
        hosted, rows = launch.hosted, launch.rows
        worker, family = self._workers[hosted.device], self._families[hosted.family]
        worker.finished()
        family.rows -= rows
        family.ran(hosted, -rows)
        if self._lost_runs:
            self._forget_lost_runs(launch.requests)
        if took_s is not None:
            mean_s, p95_s = hosted.mean_latency(rows), hosted.latency(rows)
            has_changed = worker.slowdown.ran(took_s=took_s, mean_s=mean_s, p95_s=p95_s, is_busy=launch.is_ahead)
            if exits is not None:
                family.patience.answered(rows, hosted.attainment)
                self._learn_of_stages(worker, launch, took_s, exits)
            if has_changed or exits is not None:
                self.count_capacity(worker)
            self._batcher.ran(launch, took_s)

    def answers_came(self, launch: Launch, way_s: float) -> None:
        """The answers of a batch that may be cut short were on their way for ``way_s`` since the end of the last stage.

        On another machine, ``way_s`` is the time beyond `Host.way_s`.
        """
        self._workers[launch.hosted.device].answer_way.took(way_s, launch.hosted.way_s(launch.rows))

    def requeue(self, running: Iterable[Launch], has_ended: Callable[[Request], bool]) -> Effects:
        """Queue the requests of batches again, with their deadlines, as the device that ran them is lost.

        Those that have ended do not wait. One that was running on `MAX_RUNS` lost devices may be the cause, and fails.
        So does a check: nobody waits for it.
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
                elif family.wait_again(request, self._workers):
                    family.rows += request.rows
                    self._lost_runs[request] = runs
                    requeued.append(request)
                else:
                    unhosted.append(request)
            self._assign_sources()
        return Effects(requeued=tuple(requeued), failed=tuple(failed), dropped=tuple(unhosted))

    def may_leave(self, launch: Launch) -> bool:
        """A batch of a multi-exit model may go on for some of its rows when others have left."""
        return self._families[launch.hosted.family].patience.is_left

    def give_up_lost(self) -> Sequence[Request]:
        """Deferred requests that wait only for lost devices: their first answers are to be sent now."""
        return self._uncount([request for family in self._families.values() for request in family.drain_lost()])

    def forget_all(self) -> tuple[Request, ...]:
        """Empty all queues and return what was in them, for a driver that stops."""
        return tuple(self._uncount([request for family in self._families.values() for request in family.drain()]))

    def host(self, hosted: Sequence[Host], warm: Sequence[Host] = ()) -> Sequence[Request]:
        """From now on workers host ``hosted``, which share anew what waits; returns what none of them may answer.

        ``warm`` standbys, which are on devices that host their family, answer requests of a shared queue that no host
        can answer in time.
        """
        unhosted: list[Request] = []
        for name, family in self._families.items():
            hosts = [host for host in hosted if host.family == name]
            others = [host for host in warm if host.family == name] if self._is_shared else []
            unhosted += family.rehost(hosts, others, self.cascades.by_first, self._workers)
        self._assign_sources()
        return self._uncount(unhosted)

    def loses_twins(self) -> bool:
        """The new version of some twins has stopped to serve: all hosts are to share what waits."""
        return any(family.loses_new(self._workers) for family in self._families.values())

    def use_slots(self, device: str, slots: int, now_s: float) -> Effects:
        """Run so many batches at once on a device. What it leaves others to do, one that is free is asked about."""
        worker = self._workers[device]
        worker.use_slots(slots)
        if worker.free > 0:
            return Effects(ask=(device,))
        if not self._is_shared:
            return NO_EFFECTS
        waiting = [source for source in worker.sources if source.queue.rows]
        others = (each.tier.next_worker(each.queue, self._batcher.due_s, now_s).devices for each in waiting)
        return Effects(ask=tuple(dict.fromkeys(chain.from_iterable(others))))

    def count_capacity(self, worker: WorkerState) -> None:
        """A worker's phase or slowdown has changed: count the capacity of its families anew."""
        for source in worker.by_class:
            source.tier.count(source.hosted, source.host_class, worker)
        for each, host in worker.warm.items():
            each.count(host, *worker.slowdowns)

    def _beyond_hosts(
        self, family: FamilyState, tier: AccuracyTier, request: Request, now_s: float
    ) -> BeyondHosts | None:
        """Why no host could answer a request in time, even when idle; None where a standby could, or none is there."""
        due_s, rows = self._batcher.due_s(request), request.rows
        max_rows = tier.max_rows_within(due_s - now_s, rows)
        if max_rows >= rows:
            return None
        hosted = [each.host for each in tier.classes]
        hosted_s = [host.least_latency(rows) * (self._fastest_stage if host.cuts else 1.0) for host in hosted]
        of_hosts_s, answered_frac = min(hosted_s, default=math.inf), 1 - self._answer_frac
        placeable_s = family.placeable_s(request)
        if placeable_s is None:
            return TooManyRows(max_rows, of_hosts_s / answered_frac) if max_rows else None
        whole_s, cut_s = placeable_s
        least_s, time_s = min(whole_s, cut_s * self._fastest_stage, of_hosts_s), due_s - request.arrival_s
        if time_s < least_s < math.inf:
            # where not even one row is in time, the deadline is too short, not the request too large
            least_s /= answered_frac
            return TooManyRows(max_rows, least_s) if max_rows else NeverInTime(least_s)
        if not time_s < of_hosts_s < math.inf or tier.is_lost:
            return None
        if any(takes_standby(request, each.host) and each.host.latency(rows) <= time_s for each in tier.warm):
            return None
        family.counts.arrived(rows, now_s)  # it is demand
        return OtherPlanNeeded(of_hosts_s / answered_frac, RETRY_WITHOUT_CAPACITY_S)

    def _tier_for(self, family: FamilyState, request: Request) -> AccuracyTier | None:
        """The tier of a request with any minimum, bounds and priority, opened where needed; None: no host is fit."""
        if request.bounds is not None:
            self.cascades.ever_in_use = True
        if (opened := family.open(request, self._workers)) is not None:
            self._assign_sources_of(opened)
        return family.tier_of(request)

    def _assign_sources(self) -> None:
        """Each worker has a source for each level of each tier that it takes from."""
        own = _sources_by_device(self._changed_tiers())
        warm = defaultdict[str, dict[HostClass, Host]](dict)
        for family in self._families.values():
            for each in family.warm:
                for host in each.hosts:
                    warm[host.device][each] = host
        for device, worker in self._workers.items():
            worker.warm = warm[device]
            worker.take_from(own[device])

    def _assign_sources_of(self, tier: AccuracyTier) -> None:
        """The same for a tier that is new or has a new level: only its workers get other sources."""
        self._changed_tiers()
        own = _sources_by_device([tier])
        for device in own:
            worker = self._workers[device]
            worker.take_from([*(each for each in worker.sources if each.tier is not tier), *own[device]])

    def _changed_tiers(self) -> list[AccuracyTier]:
        """All tiers, as no answer from before holds in any of them."""
        tiers = [tier for family in self._families.values() for tier in family.tiers]
        for tier in tiers:
            tier.changed()
        return tiers

    def _uncount(self, requests: Sequence[Request]) -> Sequence[Request]:
        """Count these requests no longer, as they neither wait nor will run; returns them."""
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
        stages.ran(took_s=took_s, mean_s=way_s + profiled_s(hosted.exits, exits), tail=tail)
        self._fastest_stage = min(self._fastest_stage, stages.least)

    def _given_up(self, worker: WorkerState, hosted: Host, dropped: Sequence[Request]) -> None:
        """A worker with a free slot drops requests.

        Where it does so only because it is slowed, its slowdown is doubted: no batch would ever show that it is over.
        So is the way of its answers.
        """
        for request in self._uncount(dropped):
            time_s, alone_s = self._batcher.due_s(request) - request.arrival_s, hosted.least_latency(request.rows)
            slowed_s = worker.slowdown_at(hosted) * alone_s
            if slowed_s <= time_s and not request.is_deferred:  # which has an answer already
                self._families[hosted.family].patience.gave_up(request.rows)
            if worker.least_at(hosted) * alone_s <= time_s < slowed_s:
                if worker.doubt(hosted):
                    self.count_capacity(worker)
            elif hosted.cuts and slowed_s <= time_s < slowed_s + worker.answer_way.within_s:
                worker.answer_way.doubt()

    def _decide_busy(self, worker: WorkerState, now_s: float) -> Decision:
        """Submit a batch ahead, or nothing."""
        if worker.in_flight is None or not worker.is_serving:
            return IDLE
        return self._decide_ahead(worker, worker.in_flight, now_s)

    def _decide_warm(self, worker: WorkerState, now_s: float) -> Launch | Delegate | None:
        """Start a batch of a standby for requests that no host can answer in time.

        Where a free device has a better standby for one of them, that device is asked.
        """
        delegate: Delegate | None = None
        for tier in [tier for name in worker.families for tier in self._families[name].tiers if tier.warm]:
            for source in warm_sources(tier):
                by_warm = self._selector.by_warm(worker, source, now_s)
                if isinstance(by_warm, Start):
                    return self._launch(worker, source, by_warm, now_s)
                delegate = delegate or by_warm
        return delegate

    def _decide_ahead(self, worker: WorkerState, in_flight: InFlightBatches, now_s: float) -> Decision:
        """The batch to submit shortly before a busy worker is free.

        A batch that is not full is submitted only if it is long, and is the next to start.
        """
        in_flight.note_start(now_s)
        start_s = in_flight.ends_s(now_s)
        if start_s - self._dispatch_ahead_s > now_s:
            return WaitUntil(start_s - self._dispatch_ahead_s)
        selected = self._selector.select_ahead(worker, start_s)
        if selected is None:
            return IDLE
        source, start = selected
        if self._selector.or_overflow(worker, source, start, self._rows_of(source), start_s)[0] is not source:
            return IDLE
        rows, is_next = start.rows, len(in_flight) == 1 and start_s > now_s
        if rows < source.hosted.max_batch and not (is_next and source.hosted.latency(rows) >= MIN_PARTIAL_AHEAD_S):
            return IDLE
        return self._launch(worker, source, start, start_s, is_ahead=True)

    def _next_worker(self, tier: AccuracyTier, queue: DeadlineQueue, now_s: float) -> Admitted:
        """Ask one free worker about a queue in which requests wait.

        Where there is none, ask one with a standby if no host has the time for the first request.
        """
        asked = tier.next_worker(queue, self._batcher.due_s, now_s)
        if asked is not NOBODY or not tier.warm:
            return asked
        by_warm = self._selector.next_warm(tier, queue.head(), now_s)
        return NOBODY if by_warm is None else by_warm[1]

    def _rows_of(self, source: WorkSource) -> int:
        """Rows of the family that wait or run."""
        return self._families[source.hosted.family].rows

    def _launch(
        self, worker: WorkerState, source: WorkSource, start: Start, start_s: float, *, is_ahead: bool = False
    ) -> Launch:
        if start.standby is not None:
            source = replace(source, hosted=start.standby)
        elif source.overflow is not None:
            source, start = self._selector.or_overflow(worker, source, start, self._rows_of(source), start_s)
        hosted = source.hosted
        if source.is_only:
            requests, rows = source.family_queue.take(source.host_class, start.rows, source.level, start.place)
        else:
            requests, rows = self._selector.gather(worker, source, start, start_s)
        self._families[hosted.family].ran(hosted, rows)
        has_slots = worker.in_flight is not None  # only then is the end of each batch estimated
        worker.launched(hosted.latency(rows) * worker.slowdown.factor if has_slots else 0.0, start_s)
        wake: tuple[str, ...] = ()
        if self._is_shared and worker.free == 0:
            for each in worker.sources:
                if each.queue.rows:
                    wake += self._next_worker(each.tier, each.queue, start_s).devices
        return Launch(hosted, requests, rows, start_s, is_more_to_do=worker.free > 0, is_ahead=is_ahead, wake=wake)


def _sources_by_device(tiers: Iterable[AccuracyTier]) -> defaultdict[str, list[WorkSource]]:
    """The sources of these tiers."""
    found = defaultdict[str, list[WorkSource]](list)
    for tier in tiers:
        for host_class in tier.classes:
            for host in host_class.hosts:
                found[host.device] += sources_of(host, host_class, tier)
    return found


def _count_given_up(family: FamilyState, tier: AccuracyTier, rows: int, left_s: float) -> None:
    """Count rows that are refused, if an idle device would have had the time for them."""
    if tier.is_timely(rows, left_s):
        family.patience.gave_up(rows)


def admitted_rows(timely_rows: float, batch_rows: int, admitted_frac: float) -> float:
    """The most rows, a request's own and those before it, that are admitted if ``timely_rows`` would be in time.

    That is ``admitted_frac`` of them, but all of the first `FULL_BATCHES` batches of ``batch_rows``.
    """
    return min(timely_rows, max(admitted_frac * timely_rows, FULL_BATCHES * batch_rows))


def retry_after_s(rows: int, capacity_qps: float) -> float:
    """Whole seconds, at least one, until ``rows`` are answered at that rate."""
    return float(max(1, math.ceil(rows / capacity_qps))) if capacity_qps > 0 else RETRY_WITHOUT_CAPACITY_S
