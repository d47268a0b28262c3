"""The one controller that two clocks drive: the live server's and the simulator's."""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from proteus_cli.control import admission
from proteus_cli.control.batcher import Hold, Hopeless, Start
from proteus_cli.control.decision import IDLE, Decision, Drop, HandOver, Hosted, Launch, WaitUntil
from proteus_cli.control.demand import DemandEstimator
from proteus_cli.control.line import EarlyLine, LateLine, Line
from proteus_cli.control.pace import Pace
from proteus_cli.control.policies import Policy
from proteus_cli.control.queue import DeadlineQueue
from proteus_cli.control.replanning import Replan
from proteus_cli.control.router import Router
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.request import Request


class Admitted(msgspec.Struct, frozen=True, gc=False):
    """The request waits now; ask these lanes what to do."""

    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """The plan can't carry it; asking again after ``retry_after_s`` may help."""

    retry_after_s: float


@dataclass(frozen=True, slots=True)
class _Seat:
    """A variant that a lane hosts, the line that it serves, and the queue that it takes from there."""

    hosted: Hosted
    line: Line
    queue: DeadlineQueue


@dataclass(slots=True)
class _Lane:
    """``free`` slots; ``calls``: lanes that should be asked, as this one leaves them work.

    A lane that is ``away`` has no free slots; ``held`` are those that it will have again.
    """

    free: int
    held: int = 0
    is_away: bool = False
    pace: Pace = field(default_factory=Pace)
    seats: tuple[_Seat, ...] = ()
    calls: list[str] = field(default_factory=list)

    @property
    def families(self) -> frozenset[str]:
        return frozenset(seat.hosted.family for seat in self.seats)


class Controller:
    """Routes, batches and admits requests, and says when the plan no longer fits.

    The driver tells it the time with each call, does what it is told, and asks again after each change: a new
    request, a finished batch, a timer, a new plan. Asking once too often is harmless.
    """

    def __init__(self, slo_s: Mapping[str, float], slots: Mapping[str, int], policy: Policy) -> None:
        self.policy = policy
        families = tuple(slo_s)
        self.demand = DemandEstimator(slo_s)
        self._batcher = policy.batching.fresh()
        self._is_late, self._is_choosy = policy.assignment == "late", policy.admits == "timely"
        self._lines: dict[str, Line] = {family: _line(policy) for family in families}
        self._rows = dict.fromkeys(families, 0)  # that wait or run
        self._capacity_qps, self._paces = dict.fromkeys(families, 0.0), dict.fromkeys(families, 1.0)
        self._lanes = {device: _Lane(count) for device, count in slots.items()}
        self._teams: dict[str, tuple[tuple[Hosted, _Lane], ...]] = dict.fromkeys(families, ())
        self._lost: frozenset[str] = frozenset()
        self._came_or_went = ""
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
        return sum(len(line) for line in self._lines.values())

    def waiting_of(self, family: str) -> int:
        """Requests of one family that wait."""
        return len(self._lines[family])

    def hosting(self, family: str) -> tuple[Hosted, ...]:
        """The variants that answer a family now."""
        return self._lines[family].hosts

    def pace_of(self, device: str) -> float:
        """How many times longer than profiled the batches of a device take."""
        return self._lanes[device].pace.factor

    def adopt(
        self, plan: Plan, hosted: Sequence[Hosted], now_s: float, loading: Container[str] = ()
    ) -> tuple[Request, ...]:
        """From now on lanes host ``hosted``; what waits is shared anew. Ask all lanes next.

        All of it is loaded, but on the devices that are ``loading``: they take nothing until they are `loaded`.
        Returns the requests that no lane can answer any more, as the plan hosts nothing of their family: drop them.
        """
        if self._plan is None:
            self._started_s = now_s
        self._plan, self._since_s = plan, now_s
        orphans: list[Request] = []
        for family, line in self._lines.items():
            orphans += line.rehost([host for host in hosted if host.family == family])
            self._teams[family] = tuple((host, self._lanes[host.device]) for host in line.hosts)
        for device, lane in self._lanes.items():
            lane.seats, lane.calls = tuple(self._seat(host) for host in hosted if host.device == device), []
            self._set_away(device, device in loading or device in self._lost)
        self._count_capacity(self._lines)
        return self._left(orphans)

    def loaded(self, device: str) -> None:
        """A device that was loading can run what it hosts. Ask it next."""
        self._set_away(device, device in self._lost)

    def lost(self, device: str, running: Sequence[Launch]) -> tuple[Request, ...]:
        """A device is gone, and with it the batches that it ran: their requests wait again. Ask all lanes next.

        Returns those that no lane can answer any more, as the plan hosts nothing of their family: drop them.
        """
        self._lost |= {device}
        self._came_or_went = f"{device} was lost"
        self._set_away(device, True)
        orphans: list[Request] = []
        for launch in running:
            self.finished(launch, None)
            line = self._lines[launch.hosted.family]
            for request in launch.requests:
                if line.hosts:
                    self._rows[request.family] += request.rows
                    line.push(request)
                else:
                    orphans.append(request)
        return tuple(orphans)

    def returned(self, device: str) -> None:
        """A device that was lost is there again, with nothing loaded: `adopt` a plan next."""
        self._lost -= {device}
        self._came_or_went = f"{device} is back"

    def offer(self, request: Request, now_s: float) -> Admitted | Refused:
        """Take a request in, or refuse it where the plan can't carry it in time."""
        family = request.family
        self.demand.arrived(family, request.rows, now_s)
        line = self._lines[family]
        if not line.hosts:
            return Refused(admission.retry_after_s(0, 0.0))
        if self._is_choosy:
            ahead_rows = self._rows[family]
            # With nobody ahead it isn't load that makes it late: then a lane says whether it can be answered in time.
            if ahead_rows > 0:
                capacity_qps, budget_s = self._capacity_qps[family], self._batcher.due_s(request) - now_s
                if not admission.fits(ahead_rows + request.rows, capacity_qps, budget_s):
                    return Refused(admission.retry_after_s(ahead_rows, capacity_qps))
        self._rows[family] += request.rows
        owner, overtook = line.push(request)
        # Only whose turn it is has something new to do, unless the request overtook others, or others may help.
        if overtook or not self._lanes[owner.device].free:
            return Admitted(tuple(self._free(family)))
        return Admitted((owner.device,))

    def decide(self, device: str, now_s: float) -> Decision:
        """What the lane of ``device`` should do now."""
        lane = self._lanes[device]
        if lane.calls:
            return HandOver(lane.calls.pop())
        if not lane.free:
            return IDLE
        first: _Seat | None = None
        most_rows, wake_s = 0, math.inf
        for seat in lane.seats:
            if not seat.queue.rows:
                continue
            batching = self._batching(lane, seat, now_s)
            # Not `match`: class patterns take twice as long, which is 4 % of a simulation.
            if isinstance(batching, Start):
                if first is None or seat.queue.is_before(first.queue):
                    first, most_rows = seat, batching.rows
            elif isinstance(batching, Hold):
                wake_s = min(wake_s, batching.until_s)
            elif batching is not None:
                return batching
        if first is not None:
            return self._launch(lane, first, most_rows, now_s)
        return WaitUntil(wake_s) if wake_s < math.inf else IDLE

    def finished(self, launch: Launch, took_s: float | None) -> None:
        """That batch is done in ``took_s``, or failed (None): a slot of its lane is free. Ask the lane next."""
        hosted, rows = launch.hosted, launch.rows
        lane = self._lanes[hosted.device]
        if lane.is_away:
            lane.held += 1
        else:
            lane.free += 1
        self._rows[hosted.family] -= rows
        if took_s is not None:
            if lane.pace.ran(took_s=took_s, profiled_s=hosted.latency(rows)):
                self._count_capacity(lane.families)
            most_urgent = launch.requests[0]
            self._batcher.ran(hosted, rows, is_late=launch.at_s + took_s > most_urgent.deadline_s)

    def forget_all(self) -> tuple[Request, ...]:
        """Empty all queues and return what was in them, for a driver that stops."""
        return self._left([request for line in self._lines.values() for request in line.drain()])

    def replan(self, now_s: float) -> Replan | None:
        """Whether the plan should change, and for which demand."""
        rule = self.policy.replanning
        if rule is None:
            return None
        if self._came_or_went:
            wanted: Replan | None = Replan(rule.needed(self.demand, self._paces, now_s), self._came_or_went)
            self._came_or_went = ""
        else:
            wanted = rule.decide(
                self.plan, self.demand, self._paces, now_s=now_s, started_s=self._started_s, since_s=self._since_s
            )
        return None if wanted is None else replace(wanted, without=self._lost)

    def _set_away(self, device: str, is_away: bool) -> None:  # noqa: FBT001 - reads as a setter
        lane = self._lanes[device]
        if is_away and not lane.is_away:
            lane.held, lane.free = lane.free, 0
        elif lane.is_away and not is_away:
            lane.free = lane.held
        lane.is_away = is_away
        self._count_capacity(lane.families)

    def _seat(self, hosted: Hosted) -> _Seat:
        line = self._lines[hosted.family]
        return _Seat(hosted, line, line.queue_of(hosted))

    def _free(self, family: str) -> list[str]:
        """The lanes with a free slot that host a family."""
        return [host.device for host, lane in self._teams[family] if lane.free]

    def _count_capacity(self, families: Iterable[str]) -> None:
        """Count anew what the lanes that host a family, and are there, carry at their pace, and what pace that is."""
        for family in families:
            there = [(host.capacity_qps, lane.pace.factor) for host, lane in self._teams[family] if not lane.is_away]
            carried_qps = sum(qps / factor for qps, factor in there)
            self._capacity_qps[family] = carried_qps
            self._paces[family] = sum(qps for qps, _ in there) / carried_qps if carried_qps > 0 else 1.0

    def _batching(self, lane: _Lane, seat: _Seat, now_s: float) -> Start | Hold | Drop | HandOver | None:
        """What a lane with a free slot should do for one of its seats, in whose queue someone waits."""
        hosted, line, pace = seat.hosted, seat.line, lane.pace.factor
        turns = line.turns_of(hosted)
        if turns <= 0:
            return self._help(line, hosted, pace, now_s) if isinstance(line, LateLine) else None
        batching = self._batcher.decide(seat.queue, hosted, turns, now_s, pace)
        if not isinstance(batching, Hopeless):
            return batching
        if isinstance(line, LateLine):
            return self._hopeless_here(line, hosted, now_s)
        return self._drop(line, hosted)

    def _drop(self, line: Line, hosted: Hosted) -> Drop:
        return Drop(self._left([line.give_up(hosted)]))

    def _left(self, requests: Sequence[Request]) -> tuple[Request, ...]:
        """These don't wait any more, and will not run."""
        for request in requests:
            self._rows[request.family] -= request.rows
        return tuple(requests)

    def _help(self, line: LateLine, hosted: Hosted, pace: float, now_s: float) -> Start | Hold | Drop | None:
        """What a free lane without a turn does for lanes that are busy.

        It takes at once what loses no accuracy with it; of more accurate lanes only what would otherwise be late, at
        the last moment at which it still can: until then they may become free. What nobody can make any more it
        drops, as others wait behind it.
        """
        head = line.queue.peek()
        assert head is not None  # noqa: S101 - something waits
        due_s = self._batcher.due_s(head)
        last_moment_s = due_s - pace * hosted.latency(head.rows)
        equal_rows, better_rows = self._rows_of_busy(line, hosted)
        if equal_rows + better_rows == 0:
            return None
        if last_moment_s < now_s:
            return self._drop(line, hosted) if self._is_hopeless(line, head, now_s) else None
        if equal_rows == 0 and now_s < last_moment_s:
            return Hold(last_moment_s)
        most = max(min(equal_rows or better_rows, hosted.max_batch), head.rows)
        return Start(max(hosted.latency.most_rows_within((due_s - now_s) / pace, most), head.rows))

    def _rows_of_busy(self, line: LateLine, hosted: Hosted) -> tuple[int, int]:
        """Turns of lanes that are busy, with variants that are no more accurate than ``hosted``, and of the others."""
        equal_rows = better_rows = 0
        team = self._teams[hosted.family]
        for place, turns in enumerate(line.router.turns):
            if turns:
                host, lane = team[place]
                if lane.free:
                    continue
                if host.accuracy <= hosted.accuracy:
                    equal_rows += turns
                else:
                    better_rows += turns
        return equal_rows, better_rows

    def _hopeless_here(self, line: LateLine, hosted: Hosted, now_s: float) -> Hold | Drop | HandOver:
        """The most urgent request can't be made by ``hosted``: perhaps by the fastest variant, else by none."""
        head, router = line.queue.peek(), line.router
        assert head is not None  # noqa: S101 - something waits
        fastest = self._fastest(router, head.rows)
        needs_s = fastest.latency(head.rows) * self.pace_of(fastest.device)
        last_moment_s = self._batcher.due_s(head) - needs_s
        if fastest is hosted or last_moment_s < now_s:
            return self._drop(line, hosted)
        if router.turns_of(fastest) > 0:  # it has a turn for that, and will use it or be too late
            return Hold(until_s=max(last_moment_s, math.nextafter(now_s, math.inf)))
        router.pass_on(hosted, fastest, head.rows)
        return HandOver(to=fastest.device)

    def _is_hopeless(self, line: LateLine, head: Request, now_s: float) -> bool:
        """Not even the fastest variant can make the most urgent request."""
        fastest = self._fastest(line.router, head.rows)
        verdict = self._batcher.decide(line.queue, fastest, head.rows, now_s, self.pace_of(fastest.device))
        return isinstance(verdict, Hopeless)

    def _fastest(self, router: Router, rows: int) -> Hosted:
        return router.fastest(rows, lambda host: not self._lanes[host.device].is_away)

    def _launch(self, lane: _Lane, seat: _Seat, most_rows: int, now_s: float) -> Launch:
        hosted = seat.hosted
        requests, rows = seat.line.take(hosted, most_rows)
        lane.free -= 1
        if self._is_late and not lane.free:
            for each in lane.seats:
                if each.queue.rows and each.line.turns_of(each.hosted) > 0:
                    lane.calls += self._free(each.hosted.family)
        return Launch(hosted, requests, rows, now_s, is_more_to_do=lane.free > 0 or bool(lane.calls))


def _line(policy: Policy) -> Line:
    return LateLine() if policy.assignment == "late" else EarlyLine(uniform=policy.assignment == "uniform")
