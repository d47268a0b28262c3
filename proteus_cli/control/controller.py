"""The one controller that two clocks drive: the live server's and the simulator's."""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from proteus_cli.control import admission
from proteus_cli.control.batcher import Delay, Start
from proteus_cli.control.decision import IDLE, Decision, Delegate, Drop, Hosted, Launch, WaitUntil
from proteus_cli.control.demand import DemandEstimator
from proteus_cli.control.dispatcher import Dispatcher
from proteus_cli.control.family import FamilyState
from proteus_cli.control.family_queue import FamilyQueue, PerDeviceQueue, SharedQueue
from proteus_cli.control.in_flight import InFlightBatches
from proteus_cli.control.policies import Policy
from proteus_cli.control.replanning import ReplanContext, ReplanRequest
from proteus_cli.control.safety_margin import shared_margin
from proteus_cli.control.slowdown import SlidingMaximum
from proteus_cli.control.workers import AccuracyTier, Admitted, WorkerState, WorkSource, sources_of
from proteus_cli.domain.outages import Outages
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.request import Request

__all__ = ["Admitted", "Controller", "Refused", "Unfit"]

LONG_S = 1e-3  # of a batch that isn't full and may follow another at once: shorter ones are worth more with company


@dataclass(frozen=True, slots=True)
class Refused:
    """The plan can't carry it; asking again after ``retry_after_s`` may help.

    ``is_lost``: none of the devices that host its family is there, or the plan does without it as they aren't.
    """

    retry_after_s: float
    is_lost: bool = False


@dataclass(frozen=True, slots=True)
class Unfit:
    """No variant that the plan hosts is as accurate as asked; ``available`` are those, the most accurate first."""

    available: Mapping[str, float]


class Controller:
    """Routes, batches and admits requests, and says when the plan no longer fits.

    The driver tells it the time with each call, does what it is told, and asks again after each change: a new
    request, a finished batch, a timer, a new plan. Asking once too often is harmless.

    ``runway_s``: so long before a device of one slot is free, the next batch may stand behind the one that runs, if it
    is full. A driver that needs time to hand batches over would leave the device idle meanwhile.
    """

    def __init__(
        self, slo_s: Mapping[str, float], slots: Mapping[str, int], policy: Policy, *, dispatch_ahead_s: float = 0.0
    ) -> None:
        self.policy = policy
        self._dispatch_ahead_s = dispatch_ahead_s
        self.demand = DemandEstimator(slo_s)
        self._batcher = policy.batching.fresh()
        self._is_shared, self._admits_timely = policy.assignment == "late", policy.admits == "timely"
        self._families = {name: FamilyState(self.demand.counts_of(name), partial(_new_queue, policy)) for name in slo_s}
        self._workers = {
            device: WorkerState(
                count, Admitted((device,)), in_flight=InFlightBatches() if dispatch_ahead_s and count == 1 else None
            )
            for device, count in slots.items()
        }
        self._dispatcher = Dispatcher(self._batcher, self._workers)
        self._hosted: tuple[Hosted, ...] = ()
        self._outages = Outages()
        self._lost_families: set[str] = set()  # families whose devices were all lost, until they are hosted again
        self._reason = ""
        self._recent_slowdowns = {name: SlidingMaximum() for name in slo_s}
        self._margins = dict.fromkeys(slo_s, 1.0)
        self._plan: Plan | None = None
        self._started_s = self._since_s = 0.0

    @property
    def plan(self) -> Plan:
        """The plan in force."""
        if self._plan is None:
            raise RuntimeError("adopt a plan first")
        return self._plan

    @property
    def placements(self) -> tuple[Placement, ...]:
        """What the plan in force hosts; nothing before the first."""
        return self._plan.placements if self._plan is not None else ()

    @property
    def waiting(self) -> int:
        """Requests in all queues."""
        return sum(map(len, self._families.values()))

    def waiting_of(self, family: str) -> int:
        """Requests of one family that wait."""
        return len(self._families[family])

    def hosting(self, family: str) -> tuple[Hosted, ...]:
        """The variants that answer a family now."""
        return self._families[family].hosts

    def is_lost(self, family: str) -> bool:
        """None of the devices that host a family is there, or the plan does without it as they aren't."""
        return self._families[family].whole.is_lost or family in self._lost_families

    def slowdown_of(self, device: str) -> float:
        """How many times longer than profiled the batches of a device take."""
        return self._workers[device].slowdown.factor

    def adopt(
        self, plan: Plan, hosted: Sequence[Hosted], now_s: float, loading: Container[str] = ()
    ) -> tuple[Request, ...]:
        """From now on lanes host ``hosted``; what waits is shared anew. Ask all lanes next.

        All of it is loaded, but on the devices that are ``loading``: they take nothing until they are `loaded`.
        Returns the requests that no lane can answer any more, as the plan hosts nothing of their family that is
        accurate enough: drop them.
        """
        if self._plan is None:
            self._started_s = now_s
        self._plan, self._since_s = plan, now_s
        self._hosted = tuple(hosted)
        self._margins = shared_margin(self._hosted, plan.demand_qps, self.demand.slo_s)
        orphans: list[Request] = []
        for name, family in self._families.items():
            orphans += family.rehost([host for host in hosted if host.family == name], self._workers)
        self._assign_sources()
        for device, worker in self._workers.items():
            worker.to_wake = []
            self._set_away(device, device in loading or worker.is_lost)
        for name, family in self._families.items():
            family.count_capacity()
            if family.hosts and not family.whole.is_lost:
                self._lost_families.discard(name)
        return self._left(orphans)

    def loaded(self, device: str) -> None:
        """A device that was loading can run what it hosts. Ask it next."""
        self._set_away(device, self._workers[device].is_lost)

    def device_lost(self, device: str, running: Sequence[Launch]) -> tuple[Request, ...]:
        """A device is gone, and with it the batches that it ran: their requests wait again. Ask all lanes next.

        Returns those that no lane can answer any more, as the plan hosts nothing of their family that is accurate
        enough: drop them.
        """
        self._outages = replace(self._outages, devices=self._outages.devices | {device})
        self._reason = f"{device} was lost"
        self._workers[device].is_lost = True
        self._set_away(device, True)
        self._lost_families.update(name for name, family in self._families.items() if family.whole.is_lost)
        orphans: list[Request] = []
        for launch in running:
            self.finished(launch, None)
            family = self._families[launch.hosted.family]
            for request in launch.requests:
                tier = self._tier_for(family, request)
                if tier is not None and tier.workers:
                    family.rows += request.rows
                    tier.queue.push(request)
                else:
                    orphans.append(request)
        return tuple(orphans)

    def device_recovered(self, device: str) -> None:
        """A device that was lost is there again, with nothing loaded: `adopt` a plan next."""
        self._outages = replace(self._outages, devices=self._outages.devices - {device})
        self._workers[device].is_lost = False
        self._reason = f"{device} is back"

    def engine_failed(self, device: str, family: str, variant: str) -> None:
        """An engine can't be loaded there, or fails on everything: plans do without it until it is `mended`."""
        self._outages = replace(self._outages, engines=self._outages.engines | {(device, family, variant)})
        self._reason = f"{variant} is broken on {device}"

    def engine_recovered(self, device: str, family: str, variant: str) -> None:
        """An engine that was broken may be tried again."""
        self._outages = replace(self._outages, engines=self._outages.engines - {(device, family, variant)})
        self._reason = f"{variant} is to be tried again on {device}"

    def offer(self, request: Request, now_s: float) -> Admitted | Refused | Unfit:
        """Take a request in, or refuse it where the plan can't carry it in time, or hosts nothing so accurate."""
        family, rows = self._families[request.family], request.rows
        is_usual = not request.priority and not request.min_accuracy
        tier = family.whole if is_usual else self._tier_for(family, request)
        if tier is None:
            return Unfit(family.available)  # and no demand: no plan is made for minima of single requests
        family.counts.arrived(rows, now_s)
        if not tier.workers or (self._admits_timely and tier.is_lost):
            return Refused(
                admission.retry_after_s(0, 0.0), is_lost=tier.is_lost or request.family in self._lost_families
            )
        # With nobody before it it isn't load that makes it late: then a lane says whether it can be answered in time.
        if self._admits_timely and family.rows:
            capacity_qps, budget_s = tier.capacity_qps, self._batcher.due_s(request) - now_s
            if not admission.fits(family.rows + rows, capacity_qps, budget_s):
                before_rows = family.rows_before(request, tier)  # which is no more, but takes longer to count
                if before_rows and not admission.fits(before_rows + rows, capacity_qps, budget_s):
                    self.demand.shed(request.family, rows, now_s)
                    return Refused(admission.retry_after_s(before_rows, capacity_qps))
        family.rows += rows
        owner, overtook = tier.queue.push(request)
        # Only whose turn it is has something new to do, unless the request overtook others, or others may help.
        worker = self._workers[owner.device]
        return worker.ask_self if worker.free > 0 and not overtook else tier.ask_free()

    def cancel(self, request: Request) -> bool:
        """Nobody wants the answer any more, or it can't come in time: if the request waits, it no longer does.

        False where it doesn't wait: it runs, or has ended. What stood behind it may now be done: ask the lanes that
        host its family next.
        """
        family = self._families[request.family]
        tier = family.tier_of(request)
        if tier is None or not tier.queue.remove(request):
            return False
        family.rows -= request.rows
        return True

    def decide(self, device: str, now_s: float) -> Decision:
        """What the lane of ``device`` should do now."""
        worker = self._workers[device]
        if worker.to_wake:
            return Delegate(worker.to_wake.pop())
        if worker.free <= 0:
            return IDLE if worker.in_flight is None or worker.is_away else self._ahead(worker, worker.in_flight, now_s)
        first: WorkSource | None = None
        max_rows, wake_s, decide_at = 0, math.inf, self._dispatcher.decide
        for source in worker.sources:
            if not source.queue.rows:
                continue
            batching = decide_at(worker, source, now_s)
            # Not `match`: class patterns take twice as long, which is 4 % of a simulation.
            if isinstance(batching, Start):
                if first is None or source.is_before(first):
                    first, max_rows = source, batching.rows
            elif isinstance(batching, Delay):
                wake_s = min(wake_s, batching.until_s)
            elif batching is not None:
                return self._dropped(batching, now_s) if isinstance(batching, Drop) else batching
        if first is not None:
            return self._launch(worker, first, max_rows, now_s)
        return WaitUntil(wake_s) if wake_s < math.inf else IDLE

    def finished(self, launch: Launch, took_s: float | None) -> None:
        """That batch is done in ``took_s``, or failed (None): a slot of its lane is free. Ask the lane next."""
        hosted, rows = launch.hosted, launch.rows
        worker = self._workers[hosted.device]
        if worker.is_away:
            worker.held += 1
        else:
            worker.free += 1
        if worker.in_flight is not None:
            worker.in_flight.ended()
        family = self._families[hosted.family]
        family.rows -= rows
        family.running[hosted.device] -= rows
        if took_s is not None:
            if worker.slowdown.ran(took_s=took_s, profiled_s=hosted.latency(rows), is_busy=launch.is_ahead):
                self._count_capacity(worker.families)
            self._batcher.ran(launch, took_s)

    def forget_all(self) -> tuple[Request, ...]:
        """Empty all queues and return what was in them, for a driver that stops."""
        return self._left([request for family in self._families.values() for request in family.drain()])

    def replan(self, now_s: float) -> ReplanRequest | None:
        """Whether the plan should change, and for which demand."""
        rule = self.policy.replanning
        if rule is None:
            return None
        now = self._context(now_s)
        if self._reason:
            wanted: ReplanRequest | None = ReplanRequest(rule.target_demand(now), self._reason)
            self._reason = ""
        else:
            wanted = rule.decide(now)
        return None if wanted is None else replace(wanted, without=self._outages)

    def replan_for(self, reason: str, now_s: float) -> ReplanRequest | None:
        """A plan for the demand as it is now, for a reason of the driver's; None where the first plan stays."""
        rule = self.policy.replanning
        if rule is None:
            return None
        return ReplanRequest(rule.target_demand(self._context(now_s)), reason, without=self._outages)

    def recalibrated(self, device: str, ratio: float) -> None:
        """What a device hosts was re-estimated, on the average to that many times the latencies: `adopt` next."""
        self._workers[device].slowdown.rebase(ratio)

    def _set_away(self, device: str, is_away: bool) -> None:  # noqa: FBT001 - reads as a setter
        worker = self._workers[device]
        if is_away and not worker.is_away:
            worker.held, worker.free = worker.free, 0
        elif worker.is_away and not is_away:
            worker.free = worker.held
        worker.is_away = is_away
        self._count_capacity(worker.families)

    def _tier_for(self, family: FamilyState, request: Request) -> AccuracyTier | None:
        """Where a request of any minimum and priority is to wait, made where there was none; None: it is unfit."""
        if family.open(request, self._workers):
            self._assign_sources()
        return family.tier_of(request)

    def _assign_sources(self) -> None:
        """Each lane has a seat at each level of each desk that it takes from."""
        sources: dict[str, list[WorkSource]] = {device: [] for device in self._workers}
        for host in self._hosted:
            for tier in self._families[host.family].tiers_for(host):
                sources[host.device] += sources_of(host, tier)
        for device, worker in self._workers.items():
            worker.sources = tuple(sources[device])

    def _context(self, now_s: float) -> ReplanContext:
        """How it stands now. By family, batches take so many times longer than profiled."""
        slowdowns = {name: family.whole.slowdown for name, family in self._families.items()}
        max_slowdown = {
            name: self._recent_slowdowns[name].with_(slowdown, now_s) for name, slowdown in slowdowns.items()
        }
        return ReplanContext(
            self.plan, self.demand, slowdowns, max_slowdown, self._margins, now_s, self._started_s, self._since_s
        )  # fmt: skip

    def _count_capacity(self, families: Iterable[str]) -> None:
        for name in families:
            self._families[name].count_capacity()

    def _dropped(self, drop: Drop, now_s: float) -> Drop:
        for request in self._left(drop.requests):
            self.demand.shed(request.family, request.rows, now_s)
        return drop

    def _left(self, requests: Sequence[Request]) -> tuple[Request, ...]:
        """These don't wait any more, and will not run."""
        for request in requests:
            self._families[request.family].rows -= request.rows
        return tuple(requests)

    def _ahead(self, worker: WorkerState, in_flight: InFlightBatches, now_s: float) -> Decision:
        """A batch that is to follow, shortly before a busy lane is free; if it isn't full, only one, and a long one."""
        start_s = in_flight.until_s(now_s)
        if start_s - self._dispatch_ahead_s > now_s:
            return WaitUntil(start_s - self._dispatch_ahead_s)
        found = self._dispatcher.ahead(worker, start_s)
        if found is None:
            return IDLE
        source, rows = found
        is_next = len(in_flight) == 1 and start_s > now_s
        if rows < source.hosted.max_batch and not (is_next and source.hosted.latency(rows) >= LONG_S):
            return IDLE
        return self._launch(worker, source, rows, start_s, is_ahead=True)

    def _launch(
        self, worker: WorkerState, source: WorkSource, max_rows: int, start_s: float, *, is_ahead: bool = False
    ) -> Launch:
        hosted = source.hosted
        if source.is_only:
            requests, rows = source.family_queue.take(hosted, max_rows)
        else:
            requests, rows = self._dispatcher.gather(worker, source, max_rows, start_s)
        self._families[hosted.family].running[hosted.device] += rows
        worker.free -= 1
        if worker.in_flight is not None:
            worker.in_flight.add(hosted.latency(rows) * worker.slowdown.factor, start_s)
        if self._is_shared and worker.free == 0:
            for each in worker.sources:
                if each.queue.rows and each.family_queue.quota_of(each.hosted) > 0:
                    worker.to_wake += each.tier.free()
        return Launch(
            hosted, requests, rows, start_s, is_more_to_do=worker.free > 0 or bool(worker.to_wake), is_ahead=is_ahead
        )


def _new_queue(policy: Policy) -> FamilyQueue:
    return SharedQueue() if policy.assignment == "late" else PerDeviceQueue(uniform=policy.assignment == "uniform")
