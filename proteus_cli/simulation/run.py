"""One trace through the controller in virtual time."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from proteus_cli.control.controller import Controller, Refused
from proteus_cli.control.decision import Drop, HandOver, Idle, Launch, WaitUntil
from proteus_cli.control.hosting import hosted_by
from proteus_cli.control.policies import Policy
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import LatencyTable, Profile
from proteus_cli.domain.report import Replan
from proteus_cli.domain.request import Ended, Outcome, Request
from proteus_cli.domain.trace import Trace
from proteus_cli.simulation.events import Events

SOLVE_S = 0.05  # virtual time from asking for a plan to having it: what a solve in another process takes
NEVER_S = float("inf")

Replanner = Callable[[Demand, Plan], Plan]


@dataclass(slots=True)
class Simulated:
    """What happened: one record per request, in the order in which they ended, and the changes of plan."""

    ended: list[Ended] = field(default_factory=list)
    replans: list[Replan] = field(default_factory=list)
    launches: list[tuple[float, Launch]] = field(default_factory=list)


def simulate(
    trace: Trace,
    plan: Plan,
    catalog: Catalog,
    profiles: Mapping[str, Profile],
    policy: Policy,
    replan: Replanner,
    *,
    progress: Callable[[float], None] = lambda _done_frac: None,
) -> Simulated:
    """Replay a trace on the devices of a plan. A batch takes the mean time that the profile says of its size.

    New variants are loaded beside the old ones in the profile's load time, then all lanes switch at once, as in the
    live server. Raises `ArtefactError` where the plan hosts what was never profiled.
    """
    simulation = _Simulation(plan, catalog, profiles, policy, replan)
    slo_s = catalog.slo_s()
    for index in range(len(trace)):
        arrival_s, family = float(trace.arrival_s[index]), trace.families[trace.family[index]]
        own_slo_s = float(trace.slo_s[index])
        allowed_s = slo_s[family] if own_slo_s != own_slo_s else own_slo_s  # noqa: PLR0124 - NaN: the family's holds
        simulation.arrive(Request(index, family, arrival_s, arrival_s + allowed_s, patience_s=slo_s[family]))
        if index % 1000 == 0:
            progress(index / len(trace))
    simulation.finish()
    return simulation.result


class _Simulation:
    def __init__(
        self, plan: Plan, catalog: Catalog, profiles: Mapping[str, Profile], policy: Policy, replan: Replanner
    ) -> None:
        self.result = Simulated()
        self._profiles, self._replan = profiles, replan
        self._controller = Controller(catalog.names, dict.fromkeys(plan.devices, 1), policy)
        self._events = Events()
        self._timer = dict.fromkeys(plan.devices, 0)
        self._run_s = _mean_latencies(profiles)
        self._arrivals_over = False
        self._adopt(plan, 0.0)
        if policy.replanning is not None:
            self._every_s = policy.replanning.every_s
            self._events.at(self._every_s, self._tick)

    def arrive(self, request: Request) -> None:
        now_s = request.arrival_s
        self._events.run_until(now_s)
        match self._controller.offer(request, now_s):
            case Refused():
                self._end((request,), Outcome.REJECTED)
            case admitted:
                for device in admitted.devices:
                    self._ask(device, now_s)

    def finish(self) -> None:
        self._arrivals_over = True
        self._events.run_until(NEVER_S)

    def _ask(self, device: str, now_s: float) -> None:
        while True:
            match self._controller.decide(device, now_s):
                case Launch() as launch:
                    self._launch(launch, now_s)
                case Drop(requests=requests):
                    self._end(requests, Outcome.DROPPED)
                case HandOver(to=other):
                    self._ask(other, now_s)
                case WaitUntil(at_s=at_s):
                    self._wake(device, at_s)
                    return
                case Idle():
                    return

    def _wake(self, device: str, at_s: float) -> None:
        """Set the lane's one timer anew; an earlier setting no longer counts."""
        self._timer[device] += 1
        setting = self._timer[device]
        self._events.at(at_s, lambda now_s: self._ask(device, now_s) if self._timer[device] == setting else None)

    def _launch(self, launch: Launch, now_s: float) -> None:
        hosted = launch.hosted
        self.result.launches.append((now_s, launch))
        run_s = self._run_s[hosted.device, hosted.family, hosted.variant](launch.rows)
        self._events.at(now_s + run_s, lambda end_s: self._finished(launch, run_s, end_s))

    def _finished(self, launch: Launch, took_s: float, now_s: float) -> None:
        self._controller.finished(launch, took_s)
        rows = launch.rows
        for request in launch.requests:
            outcome = Outcome.SERVED if now_s <= request.deadline_s else Outcome.LATE
            self.result.ended.append(
                Ended(
                    family=request.family,
                    arrival_s=request.arrival_s,
                    outcome=outcome,
                    latency_s=now_s - request.arrival_s,
                    accuracy=launch.hosted.accuracy,
                    variant=launch.hosted.variant,
                    device=launch.hosted.device,
                    batch=rows,
                )
            )
        self._ask(launch.hosted.device, now_s)

    def _end(self, requests: Iterable[Request], outcome: Outcome) -> None:
        self.result.ended += (Ended(r.family, r.arrival_s, outcome) for r in requests)

    def _tick(self, now_s: float) -> None:
        if self._arrivals_over:
            return
        wanted = self._controller.replan(now_s)
        if wanted is None:
            self._events.at(now_s + self._every_s, self._tick)
            return
        plan = self._replan(wanted.demand_qps, self._controller.plan)
        swaps, load_s = plan.swaps_from(self._controller.plan), self._load_s(plan)

        def switch(then_s: float) -> None:
            self.result.replans.append(Replan(then_s, wanted.reason, SOLVE_S, swaps))
            self._adopt(plan, then_s)
            self._events.at(then_s + self._every_s, self._tick)

        self._events.at(now_s + SOLVE_S + load_s, switch)

    def _adopt(self, plan: Plan, now_s: float) -> None:
        orphans = self._controller.adopt(plan, hosted_by(plan, self._profiles), now_s)
        self._end(orphans, Outcome.DROPPED)
        for device in plan.devices:
            self._ask(device, now_s)

    def _load_s(self, plan: Plan) -> float:
        """Seconds until the last device has loaded what it doesn't host yet."""
        hosted = self._controller.plan.hosted()
        new = (p for p in plan.placements if (p.family, p.variant) not in hosted.get(p.device, ()))
        measured = (self._profiles[p.device].of(p.family, p.variant) for p in new)
        return max((variant.load_s for variant in measured if variant is not None), default=0.0)


def _mean_latencies(profiles: Mapping[str, Profile]) -> dict[tuple[str, str, str], LatencyTable]:
    """By device, family and variant; devices that share their measurements share the tables."""
    measured = {id(variant): variant for profile in profiles.values() for variant in profile.variants}
    tables = {
        key: LatencyTable(variant.points, of=lambda point: point.mean_s)
        for key, variant in measured.items()
        if variant.points
    }
    return {
        (device, variant.family, variant.variant): tables[id(variant)]
        for device, profile in profiles.items()
        for variant in profile.variants
        if variant.points
    }
