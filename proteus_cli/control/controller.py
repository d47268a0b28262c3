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
        self, slo_s: Mapping[str, float], slots: Mapping[str, int], policy: Policy, *, runway_s: float = 0.0
    ) -> None:
        self.policy = policy
        self._runway_s = runway_s
        self.demand = DemandEstimator(slo_s)
        self._batcher = policy.batching.fresh()
        self._is_late, self._is_choosy = policy.assignment == "late", policy.admits == "timely"
        self._families = {name: FamilyState(self.demand.counts_of(name), partial(_line, policy)) for name in slo_s}
        self._lanes = {
            device: WorkerState(
                count, Admitted((device,)), flight=InFlightBatches() if runway_s and count == 1 else None
            )
            for device, count in slots.items()
        }
        self._seating = Dispatcher(self._batcher, self._lanes)
        self._hosted: tuple[Hosted, ...] = ()
        self._out = Outages()
        self._bereft: set[str] = set()  # families whose devices were all lost, until they are hosted again
        self._came_or_went = ""
        self._slowest = {name: SlidingMaximum() for name in slo_s}
        self._room = dict.fromkeys(slo_s, 1.0)
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
        return self._families[family].whole.is_lost or family in self._bereft

    def pace_of(self, device: str) -> float:
        """How many times longer than profiled the batches of a device take."""
        return self._lanes[device].pace.factor

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
        self._room = shared_margin(self._hosted, plan.demand_qps, self.demand.slo_s)
        orphans: list[Request] = []
        for name, family in self._families.items():
            orphans += family.rehost([host for host in hosted if host.family == name], self._lanes)
        self._seat_all()
        for device, lane in self._lanes.items():
            lane.calls = []
            self._set_away(device, device in loading or lane.is_lost)
        for name, family in self._families.items():
            family.count_capacity()
            if family.hosts and not family.whole.is_lost:
                self._bereft.discard(name)
        return self._left(orphans)

    def loaded(self, device: str) -> None:
        """A device that was loading can run what it hosts. Ask it next."""
        self._set_away(device, self._lanes[device].is_lost)

    def lost(self, device: str, running: Sequence[Launch]) -> tuple[Request, ...]:
        """A device is gone, and with it the batches that it ran: their requests wait again. Ask all lanes next.

        Returns those that no lane can answer any more, as the plan hosts nothing of their family that is accurate
        enough: drop them.
        """
        self._out = replace(self._out, devices=self._out.devices | {device})
        self._came_or_went = f"{device} was lost"
        self._lanes[device].is_lost = True
        self._set_away(device, True)
        self._bereft.update(name for name, family in self._families.items() if family.whole.is_lost)
        orphans: list[Request] = []
        for launch in running:
            self.finished(launch, None)
            family = self._families[launch.hosted.family]
            for request in launch.requests:
                desk = self._desk_for(family, request)
                if desk is not None and desk.team:
                    family.rows += request.rows
                    desk.line.push(request)
                else:
                    orphans.append(request)
        return tuple(orphans)

    def returned(self, device: str) -> None:
        """A device that was lost is there again, with nothing loaded: `adopt` a plan next."""
        self._out = replace(self._out, devices=self._out.devices - {device})
        self._lanes[device].is_lost = False
        self._came_or_went = f"{device} is back"

    def broke(self, device: str, family: str, variant: str) -> None:
        """An engine can't be loaded there, or fails on everything: plans do without it until it is `mended`."""
        self._out = replace(self._out, engines=self._out.engines | {(device, family, variant)})
        self._came_or_went = f"{variant} is broken on {device}"

    def mended(self, device: str, family: str, variant: str) -> None:
        """An engine that was broken may be tried again."""
        self._out = replace(self._out, engines=self._out.engines - {(device, family, variant)})
        self._came_or_went = f"{variant} is to be tried again on {device}"

    def offer(self, request: Request, now_s: float) -> Admitted | Refused | Unfit:
        """Take a request in, or refuse it where the plan can't carry it in time, or hosts nothing so accurate."""
        family, rows = self._families[request.family], request.rows
        is_usual = not request.priority and not request.min_accuracy
        desk = family.whole if is_usual else self._desk_for(family, request)
        if desk is None:
            return Unfit(family.available)  # and no demand: no plan is made for minima of single requests
        family.counts.arrived(rows, now_s)
        if not desk.team or (self._is_choosy and desk.is_lost):
            return Refused(admission.retry_after_s(0, 0.0), is_lost=desk.is_lost or request.family in self._bereft)
        # With nobody before it it isn't load that makes it late: then a lane says whether it can be answered in time.
        if self._is_choosy and family.rows:
            capacity_qps, budget_s = desk.capacity_qps, self._batcher.due_s(request) - now_s
            if not admission.fits(family.rows + rows, capacity_qps, budget_s):
                before_rows = family.rows_before(request, desk)  # which is no more, but takes longer to count
                if before_rows and not admission.fits(before_rows + rows, capacity_qps, budget_s):
                    self.demand.turned_away(request.family, rows, now_s)
                    return Refused(admission.retry_after_s(before_rows, capacity_qps))
        family.rows += rows
        owner, overtook = desk.line.push(request)
        # Only whose turn it is has something new to do, unless the request overtook others, or others may help.
        lane = self._lanes[owner.device]
        return lane.alone if lane.free > 0 and not overtook else desk.ask_free()

    def cancel(self, request: Request) -> bool:
        """Nobody wants the answer any more, or it can't come in time: if the request waits, it no longer does.

        False where it doesn't wait: it runs, or has ended. What stood behind it may now be done: ask the lanes that
        host its family next.
        """
        family = self._families[request.family]
        desk = family.desk_of(request)
        if desk is None or not desk.line.remove(request):
            return False
        family.rows -= request.rows
        return True

    def decide(self, device: str, now_s: float) -> Decision:
        """What the lane of ``device`` should do now."""
        lane = self._lanes[device]
        if lane.calls:
            return Delegate(lane.calls.pop())
        if lane.free <= 0:
            return IDLE if lane.flight is None or lane.is_away else self._ahead(lane, lane.flight, now_s)
        first: WorkSource | None = None
        max_rows, wake_s, decide_at = 0, math.inf, self._seating.decide
        for seat in lane.seats:
            if not seat.queue.rows:
                continue
            batching = decide_at(lane, seat, now_s)
            # Not `match`: class patterns take twice as long, which is 4 % of a simulation.
            if isinstance(batching, Start):
                if first is None or seat.is_before(first):
                    first, max_rows = seat, batching.rows
            elif isinstance(batching, Delay):
                wake_s = min(wake_s, batching.until_s)
            elif batching is not None:
                return self._dropped(batching, now_s) if isinstance(batching, Drop) else batching
        if first is not None:
            return self._launch(lane, first, max_rows, now_s)
        return WaitUntil(wake_s) if wake_s < math.inf else IDLE

    def finished(self, launch: Launch, took_s: float | None) -> None:
        """That batch is done in ``took_s``, or failed (None): a slot of its lane is free. Ask the lane next."""
        hosted, rows = launch.hosted, launch.rows
        lane = self._lanes[hosted.device]
        if lane.is_away:
            lane.held += 1
        else:
            lane.free += 1
        if lane.flight is not None:
            lane.flight.ended()
        family = self._families[hosted.family]
        family.rows -= rows
        family.running[hosted.device] -= rows
        if took_s is not None:
            if lane.pace.ran(took_s=took_s, profiled_s=hosted.latency(rows), is_busy=launch.is_ahead):
                self._count_capacity(lane.families)
            self._batcher.ran(launch, took_s)

    def forget_all(self) -> tuple[Request, ...]:
        """Empty all queues and return what was in them, for a driver that stops."""
        return self._left([request for family in self._families.values() for request in family.drain()])

    def replan(self, now_s: float) -> ReplanRequest | None:
        """Whether the plan should change, and for which demand."""
        rule = self.policy.replanning
        if rule is None:
            return None
        now = self._situation(now_s)
        if self._came_or_went:
            wanted: ReplanRequest | None = ReplanRequest(rule.needed(now), self._came_or_went)
            self._came_or_went = ""
        else:
            wanted = rule.decide(now)
        return None if wanted is None else replace(wanted, without=self._out)

    def replan_for(self, reason: str, now_s: float) -> ReplanRequest | None:
        """A plan for the demand as it is now, for a reason of the driver's; None where the first plan stays."""
        rule = self.policy.replanning
        if rule is None:
            return None
        return ReplanRequest(rule.needed(self._situation(now_s)), reason, without=self._out)

    def reprofiled(self, device: str, ratio: float) -> None:
        """What a device hosts was re-estimated, on the average to that many times the latencies: `adopt` next."""
        self._lanes[device].pace.rebase(ratio)

    def _set_away(self, device: str, is_away: bool) -> None:  # noqa: FBT001 - reads as a setter
        lane = self._lanes[device]
        if is_away and not lane.is_away:
            lane.held, lane.free = lane.free, 0
        elif lane.is_away and not is_away:
            lane.free = lane.held
        lane.is_away = is_away
        self._count_capacity(lane.families)

    def _desk_for(self, family: FamilyState, request: Request) -> AccuracyTier | None:
        """Where a request of any minimum and priority is to wait, made where there was none; None: it is unfit."""
        if family.open(request, self._lanes):
            self._seat_all()
        return family.desk_of(request)

    def _seat_all(self) -> None:
        """Each lane has a seat at each level of each desk that it takes from."""
        seats: dict[str, list[WorkSource]] = {device: [] for device in self._lanes}
        for host in self._hosted:
            for desk in self._families[host.family].desks_for(host):
                seats[host.device] += sources_of(host, desk)
        for device, lane in self._lanes.items():
            lane.seats = tuple(seats[device])

    def _situation(self, now_s: float) -> ReplanContext:
        """How it stands now. By family, batches take so many times longer than profiled."""
        paces = {name: family.whole.pace for name, family in self._families.items()}
        slowest = {name: self._slowest[name].with_(pace, now_s) for name, pace in paces.items()}
        return ReplanContext(
            self.plan, self.demand, paces, slowest, self._room, now_s, self._started_s, self._since_s
        )  # fmt: skip

    def _count_capacity(self, families: Iterable[str]) -> None:
        for name in families:
            self._families[name].count_capacity()

    def _dropped(self, drop: Drop, now_s: float) -> Drop:
        for request in self._left(drop.requests):
            self.demand.turned_away(request.family, request.rows, now_s)
        return drop

    def _left(self, requests: Sequence[Request]) -> tuple[Request, ...]:
        """These don't wait any more, and will not run."""
        for request in requests:
            self._families[request.family].rows -= request.rows
        return tuple(requests)

    def _ahead(self, lane: WorkerState, flight: InFlightBatches, now_s: float) -> Decision:
        """A batch that is to follow, shortly before a busy lane is free; if it isn't full, only one, and a long one."""
        start_s = flight.until_s(now_s)
        if start_s - self._runway_s > now_s:
            return WaitUntil(start_s - self._runway_s)
        found = self._seating.ahead(lane, start_s)
        if found is None:
            return IDLE
        seat, rows = found
        is_next = len(flight) == 1 and start_s > now_s
        if rows < seat.hosted.max_batch and not (is_next and seat.hosted.latency(rows) >= LONG_S):
            return IDLE
        return self._launch(lane, seat, rows, start_s, is_ahead=True)

    def _launch(
        self, lane: WorkerState, seat: WorkSource, max_rows: int, start_s: float, *, is_ahead: bool = False
    ) -> Launch:
        hosted = seat.hosted
        if seat.is_only:
            requests, rows = seat.line.take(hosted, max_rows)
        else:
            requests, rows = self._seating.gather(lane, seat, max_rows, start_s)
        self._families[hosted.family].running[hosted.device] += rows
        lane.free -= 1
        if lane.flight is not None:
            lane.flight.add(hosted.latency(rows) * lane.pace.factor, start_s)
        if self._is_late and lane.free == 0:
            for each in lane.seats:
                if each.queue.rows and each.line.turns_of(each.hosted) > 0:
                    lane.calls += each.desk.free()
        return Launch(
            hosted, requests, rows, start_s, is_more_to_do=lane.free > 0 or bool(lane.calls), is_ahead=is_ahead
        )


def _line(policy: Policy) -> FamilyQueue:
    return SharedQueue() if policy.assignment == "late" else PerDeviceQueue(uniform=policy.assignment == "uniform")
