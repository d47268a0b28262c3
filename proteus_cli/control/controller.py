"""The one controller that two clocks drive: the live server's and the simulator's."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from proteus_cli.control import admission
from proteus_cli.control.batcher import Hold, Start
from proteus_cli.control.decision import IDLE, Decision, Drop, HandOver, Hosted, Launch, WaitUntil
from proteus_cli.control.demand import DemandEstimator
from proteus_cli.control.pace import Pace
from proteus_cli.control.policies import Policy
from proteus_cli.control.queue import DeadlineQueue
from proteus_cli.control.replanning import Replan
from proteus_cli.control.router import Router
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.request import Request


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request waits now; ask these lanes what to do."""

    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """The plan can't carry it; asking again after ``retry_after_s`` may help."""

    retry_after_s: float


@dataclass(slots=True)
class _Lane:
    slots: int
    pace: Pace = field(default_factory=Pace)
    busy: int = 0
    hosted: tuple[Hosted, ...] = ()


@dataclass(slots=True)
class _Line:
    """What waits for one family, and who hosts it."""

    queue: DeadlineQueue = field(default_factory=DeadlineQueue)
    router: Router | None = None
    running_rows: int = 0


class Controller:
    """Routes, batches and admits requests, and says when the plan no longer fits.

    The driver tells it the time with each call, does what it is told, and asks again after each change: a new
    request, a finished batch, a timer, a new plan. Asking once too often is harmless.
    """

    def __init__(self, families: Sequence[str], slots: Mapping[str, int], policy: Policy) -> None:
        self.policy = policy
        self.demand = DemandEstimator(families)
        self._lines = {family: _Line() for family in families}
        self._lanes = {device: _Lane(count) for device, count in slots.items()}
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
        return sum(len(line.queue) for line in self._lines.values())

    def waiting_of(self, family: str) -> int:
        """Requests of one family that wait."""
        return len(self._lines[family].queue)

    def hosting(self, family: str) -> tuple[Hosted, ...]:
        """The variants that answer a family now."""
        router = self._lines[family].router
        return router.hosts if router is not None else ()

    def pace_of(self, device: str) -> float:
        """How many times longer than profiled the batches of a device take."""
        return self._lanes[device].pace.factor

    def adopt(self, plan: Plan, hosted: Sequence[Hosted], now_s: float) -> tuple[Request, ...]:
        """From now on lanes host ``hosted`` (all of it is loaded); what waits is shared anew. Ask all lanes next.

        Returns the requests that no lane can answer any more, as the plan hosts nothing of their family: drop them.
        """
        if self._plan is None:
            self._started_s = now_s
        self._plan, self._since_s = plan, now_s
        for device, lane in self._lanes.items():
            lane.hosted = tuple(host for host in hosted if host.device == device)
        orphans: list[Request] = []
        for family, line in self._lines.items():
            hosts = [host for host in hosted if host.family == family]
            line.router = Router(hosts) if hosts else None
            if line.router is None:
                orphans += self._empty(line)
            else:
                for rows in line.queue.row_counts():
                    line.router.give(rows)
        return tuple(orphans)

    def offer(self, request: Request, now_s: float) -> Admitted | Refused:
        """Take a request in, or refuse it where the plan can't carry it in time."""
        self.demand.arrived(request.family, request.rows, now_s)
        line = self._lines[request.family]
        waiting_rows, capacity_qps = line.queue.rows, self._capacity_qps(line)
        ahead_rows = waiting_rows + line.running_rows
        budget_s = self.policy.batching.due_s(request) - now_s
        # With nobody ahead it isn't load that makes it late: then a lane says whether it can be answered in time.
        is_crowded = ahead_rows > 0 and not admission.fits(ahead_rows + request.rows, capacity_qps, budget_s)
        if line.router is None or is_crowded:
            return Refused(admission.retry_after_s(ahead_rows, capacity_qps))
        first = line.queue.push(request)
        turn = line.router.give(request.rows)
        # Only who got the turn has something new to do, unless the request overtook others.
        overtook = first and waiting_rows > 0
        return Admitted(tuple(host.device for host in line.router.hosts) if overtook else (turn.device,))

    def decide(self, device: str, now_s: float) -> Decision:
        """What the lane of ``device`` should do now."""
        lane = self._lanes[device]
        if lane.busy >= lane.slots:
            return IDLE
        launch: tuple[float, Hosted, int] | None = None
        wake_s = float("inf")
        for hosted in lane.hosted:
            line = self._lines[hosted.family]
            batching = self._batching(line, hosted, now_s)
            match batching:
                case Start(rows=rows):
                    head_s = self._head(line).deadline_s
                    if launch is None or head_s < launch[0]:
                        launch = (head_s, hosted, rows)
                case Hold(until_s=until_s):
                    wake_s = min(wake_s, until_s)
                case Drop() | HandOver():
                    return batching
                case None:
                    pass
        if launch is not None:
            return self._launch(lane, launch[1], launch[2])
        return WaitUntil(wake_s) if wake_s < float("inf") else IDLE

    def finished(self, launch: Launch, took_s: float | None) -> None:
        """That batch is done in ``took_s``, or failed (None): a slot of its lane is free. Ask the lane next."""
        lane = self._lanes[launch.hosted.device]
        lane.busy -= 1
        if took_s is not None:
            lane.pace.ran(took_s=took_s, profiled_s=launch.hosted.latency(launch.rows))
        self._lines[launch.hosted.family].running_rows -= launch.rows

    def forget_all(self) -> tuple[Request, ...]:
        """Empty all queues and return what was in them, for a driver that stops."""
        return tuple(request for line in self._lines.values() for request in self._empty(line))

    def replan(self, now_s: float) -> Replan | None:
        """Whether the plan should change, and for which demand."""
        rule = self.policy.replanning
        if rule is None:
            return None
        pace = {family: self._pace_of(line) for family, line in self._lines.items()}
        return rule.decide(self.plan, self.demand, pace, now_s=now_s, started_s=self._started_s, since_s=self._since_s)

    def _capacity_qps(self, line: _Line) -> float:
        """What the lanes that host a family carry at their pace."""
        hosts = line.router.hosts if line.router is not None else ()
        return sum(host.capacity_qps / self.pace_of(host.device) for host in hosts)

    def _pace_of(self, line: _Line) -> float:
        hosts = line.router.hosts if line.router is not None else ()
        return sum(host.capacity_qps for host in hosts) / self._capacity_qps(line) if hosts else 1.0

    def _batching(self, line: _Line, hosted: Hosted, now_s: float) -> Start | Hold | Drop | HandOver | None:
        router = self._router(line)
        pace = self.pace_of(hosted.device)
        batching = self.policy.batching.decide(line.queue, hosted, router.turns_of(hosted), now_s, pace)
        if batching is None or isinstance(batching, Start | Hold):
            return batching
        return self._hopeless_here(line, router, hosted, now_s)

    def _hopeless_here(self, line: _Line, router: Router, hosted: Hosted, now_s: float) -> Hold | Drop | HandOver:
        """The most urgent request can't be made by ``hosted``: perhaps by the fastest variant, else by none."""
        head = self._head(line)
        fastest = router.fastest(head.rows)
        needs_s = fastest.latency(head.rows) * self.pace_of(fastest.device)
        last_moment_s = self.policy.batching.due_s(head) - needs_s
        if fastest is hosted or last_moment_s < now_s:
            return Drop((self._give_up(line),))
        if router.turns_of(fastest) > 0:  # it has a turn for that, and will use it or be too late
            return Hold(until_s=max(last_moment_s, math.nextafter(now_s, math.inf)))
        router.pass_on(hosted, fastest, head.rows)
        return HandOver(to=fastest.device)

    def _launch(self, lane: _Lane, hosted: Hosted, rows: int) -> Launch:
        line = self._lines[hosted.family]
        launch = Launch(hosted, line.queue.take(rows))
        self._router(line).use(hosted, launch.rows)
        lane.busy += 1
        line.running_rows += launch.rows
        return launch

    def _give_up(self, line: _Line) -> Request:
        request = line.queue.pop()
        if line.router is not None:
            line.router.give_up(request.rows)
        return request

    def _empty(self, line: _Line) -> list[Request]:
        return [self._give_up(line) for _ in range(len(line.queue))]

    @staticmethod
    def _head(line: _Line) -> Request:
        head = line.queue.peek()
        assert head is not None  # noqa: S101 - only asked where something waits
        return head

    @staticmethod
    def _router(line: _Line) -> Router:
        assert line.router is not None  # noqa: S101 - a lane hosts only what has a router
        return line.router
