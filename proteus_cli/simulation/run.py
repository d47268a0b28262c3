"""The simulator: one trace through the controller in virtual time.

Each event asks the controller, and what that decides becomes further events of the same run: here, of requests and
their batches. Plan changes and loads, devices that are lost, stages of cascades and exits, and the times of batches
have modules beside it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count, islice, repeat
from types import MappingProxyType

import numpy as np
from msgspec.structs import replace

from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Admitted, Delegate, Effects, Idle, Launch, WaitUntil
from proteus_cli.control.policies import Policy
from proteus_cli.control.topology.hosting import device_memory, hosted_by, slots_of
from proteus_cli.control.topology.standbys import DeviceMemory
from proteus_cli.control.topology.topology import ASK_S
from proteus_cli.domain.base import require
from proteus_cli.domain.catalog.catalog import Catalog
from proteus_cli.domain.plan.plan import Plan
from proteus_cli.domain.profile.profile import Profile
from proteus_cli.domain.request import Bounds, Outcome, Request, RequestRecord
from proteus_cli.domain.stages.walk import Walk
from proteus_cli.domain.trace import Trace
from proteus_cli.simulation.cascades import SimulatedCascades
from proteus_cli.simulation.conditions import Conditions
from proteus_cli.simulation.confidences import Confidences
from proteus_cli.simulation.eval_rows import EvalRows, RowAnswersOf
from proteus_cli.simulation.events import Events, Timer
from proteus_cli.simulation.exits import SimulatedExits, exit_answers
from proteus_cli.simulation.fleet import SimulatedDevice, SimulatedFleet
from proteus_cli.simulation.loads import SimulatedLoads
from proteus_cli.simulation.losses import Losses
from proteus_cli.simulation.plan_changes import ReplanFunction, SimulatedPlanChanges
from proteus_cli.simulation.result import SimulationResult
from proteus_cli.simulation.timing import SharedTimes, batch_times, load_time_s

NEVER_S = math.inf
SERVED, LATE = Outcome.SERVED, Outcome.LATE  # to look an enum member up takes as long as to make a `RequestRecord`
PROGRESS_EVERY = 1000  # requests


def simulate(
    trace: Trace,
    plan: Plan,
    catalog: Catalog,
    profiles: Mapping[str, Profile],
    policy: Policy,
    replan: ReplanFunction,
    *,
    conditions: Conditions = Conditions(),  # noqa: B008 - frozen
    answers: RowAnswersOf = MappingProxyType({}),
    rng: np.random.Generator | None = None,
    progress: Callable[[float], object] = lambda _done_frac: None,
    saw: Callable[[RequestRecord], object] | None = None,
) -> SimulationResult:
    """Replay a trace on the devices of a plan.

    A batch takes the profiled mean time of its size, given the other variants that are active on the device
    (`shared_times`) and the number of batches that run when it begins. ``conditions.slow`` multiplies this time. A
    batch of a multi-exit model takes the times of its stages, each for the rows that get there. Variants
    load beside the old ones in the profiled load time, then all devices switch at once, as in a live server with memory
    for both; with ``conditions.load_time_s``, devices load in place. ``rng`` is needed for jitter, and for the
    confidences that the trace does not know, where the plan has cascades or exits. Queries that are rows of eval splits
    are deferred, and judged, by these ``answers`` of variants. Where ``saw`` takes the records, the result has neither
    these nor launches, which may be more than there is memory for; then there can be no failures. What ``progress`` or
    ``saw`` raises ends the simulation.

    Raises `ArtefactError` where a placement was never profiled.
    """
    confidences = Confidences(trace, (rng or np.random.default_rng(0)).spawn(1)[0])
    eval_rows = EvalRows(trace, answers)
    simulation = _Simulation(plan, catalog, profiles, policy, replan, conditions, confidences, eval_rows, rng, saw)
    requests, arrive = _requests(trace, catalog.slo_s()), simulation.arrive
    try:
        for done in range(0, len(trace), PROGRESS_EVERY):
            progress(done / len(trace))
            for request in islice(requests, PROGRESS_EVERY):
                arrive(request)
        simulation.finish()
    except KeyboardInterrupt:
        simulation.result.interrupted_s = simulation.arrived_s
    simulation.result.losses = simulation.losses.found
    return simulation.result


def _requests(trace: Trace, slo_s: Mapping[str, float]) -> Iterator[Request]:
    """The requests of a trace, numbered in order; a request without an SLO of its own has its family's."""
    family_slo_s = np.array([slo_s.get(family, np.nan) for family in trace.families])[trace.family]
    deadline_s = trace.arrival_s + np.where(np.isnan(trace.slo_s), family_slo_s, trace.slo_s)
    families = map(trace.families.__getitem__, trace.family.tolist())
    times = trace.arrival_s.tolist(), deadline_s.tolist()
    minima = trace.min_accuracy.tolist()
    bounds: Iterable[Bounds | None] = map(trace.bounds, range(len(trace))) if trace.has_bounds else repeat(None)
    return map(Request, count(), families, *times, repeat(1), family_slo_s.tolist(), repeat(0), minima, bounds)


class _Simulation:
    """Drives a controller on the virtual clock of `Events`."""

    def __init__(
        self,
        plan: Plan,
        catalog: Catalog,
        profiles: Mapping[str, Profile],
        policy: Policy,
        replan: ReplanFunction,
        conditions: Conditions,
        confidences: Confidences,
        eval_rows: EvalRows,
        rng: np.random.Generator | None,
        saw: Callable[[RequestRecord], object] | None,
    ) -> None:
        require(saw is None or not conditions.failures, "failures are simulated by what has ended, so it must be kept")
        self.result = SimulationResult()
        self._saw = self.result.ended.append if saw is None else saw
        self._keeps_launches = saw is None
        rule = policy.replanning
        memory = _memory(plan, catalog, profiles, conditions) if policy.standbys and rule is not None else {}
        attainment = {family.name: family.attainment for family in catalog.families}
        self._controller = Controller(
            catalog.slo_s(),
            slots_of(plan.devices, profiles),
            policy,
            max_unavailable_frac=conditions.max_unavailable_frac,
            memory=memory,
            attainment=attainment,
        )
        mine = {device: profiles[device] for device in plan.devices if device in profiles}
        self._controller.placeable.use(mine, catalog.keys)
        self._events = Events()
        self._routes = self._controller.cascades
        self._judges = bool(eval_rows.answers)
        self._cascades = SimulatedCascades(
            self._controller, self._events, confidences, eval_rows, self._saw, apply=self._apply
        )
        self._exits = SimulatedExits(self._controller, profiles, confidences, conditions, rng)
        self._run_s, self._slow = batch_times(profiles, conditions, rng), conditions.slow
        self._shared_run_s = SharedTimes(profiles, conditions, rng)
        self._last: Request | None = None  # that has arrived
        self._arrivals_over = False
        self._devices = {device: SimulatedDevice() for device in plan.devices}
        self._loads = SimulatedLoads(
            self._devices, profiles, self._controller, self._events, conditions, apply=self._apply
        )
        self._timers = {device: Timer(partial(self._ask, device)) for device in plan.devices}
        self._apply(self._controller.adopt(plan, hosted_by(plan, profiles, attainment), 0.0), 0.0)
        fleet = SimulatedFleet(
            self._devices, profiles, self._controller, self._run_s, conditions, apply=self._apply, end=self._end
        )
        self.losses = Losses(conditions.failures, self._events, fleet, self._open_requests)
        self._plan_changes: SimulatedPlanChanges | None = None
        if rule is not None:  # after the losses, so that a decision knows what is found out at its moment
            self._plan_changes = SimulatedPlanChanges(
                rule, replan, profiles, self._controller, self._events, self._loads, conditions, self.result,
                apply=self._apply,
            )  # fmt: skip
            self._plan_changes.ask_later(0.0)
        if memory:
            self._events.at(ASK_S, self._loads.start_standbys)

    @property
    def arrived_s(self) -> float:
        """When the last request arrived; 0 before the first."""
        return 0.0 if self._last is None else self._last.arrival_s

    def arrive(self, request: Request) -> None:
        now_s = request.arrival_s
        self._events.run_until(now_s)
        self._last = request
        answer = self._controller.offer(request, now_s)
        if isinstance(answer, Admitted):
            for device in answer.devices:
                self._ask(device, now_s)
        else:
            self._end((request,), Outcome.REJECTED, now_s)

    def finish(self) -> None:
        """Run all events; drop the requests that no worker ever takes."""
        self._arrivals_over = self._loads.is_over = True
        if self._plan_changes is not None:
            self._plan_changes.is_over = True
        self._events.run_until(NEVER_S)
        self.result.expected_attainment = self._controller.expected.mean(self.arrived_s)
        self._end(self._controller.dispatch.forget_all(), Outcome.DROPPED, NEVER_S)

    def _open_requests(self) -> float:
        """How many requests have not ended; infinite while more may come."""
        arrived = 0 if self._last is None else self._last.id + 1
        return arrived - len(self.result.ended) if self._arrivals_over else math.inf

    def _apply(self, effects: Effects, now_s: float) -> None:
        """Do what a change of the controller's state asks for."""
        self._end(effects.dropped, Outcome.DROPPED, now_s)
        for load in effects.load:
            self._loads.start(load, now_s)
        for device in effects.ask:
            self._ask(device, now_s)

    def _ask(self, device: str, now_s: float) -> None:
        """Obey a worker's decisions, and those of the workers that these name, until there is nothing more to do."""
        decide = self._controller.decide
        to_ask: list[str] = []  # a stack, as there may be thousands
        while True:
            decision = decide(device, now_s)
            # Not `match`, unlike the live worker: class patterns take twice as long, which is 4 % of a simulation.
            if isinstance(decision, Idle):
                pass
            elif isinstance(decision, Launch):
                self._launch(decision, now_s)
                if decision.is_more_to_do:
                    to_ask.append(device)
                to_ask += decision.wake[::-1]
            elif isinstance(decision, WaitUntil):
                self._events.set_timer(self._timers[device], decision.at_s)
            elif isinstance(decision, Delegate):
                to_ask.append(device)
                device = decision.to
                continue
            else:
                self._end(decision.requests, Outcome.DROPPED, now_s)
                continue
            if not to_ask:
                return
            device = to_ask.pop()

    def _launch(self, launch: Launch, now_s: float) -> None:
        hosted = launch.hosted
        if self._keeps_launches:
            self.result.launches.append((now_s, launch))
        state = self._devices[hosted.device]
        walk = self._exits.walk(launch, now_s) if hosted.exits else None
        if walk is None:
            if hosted.others:
                times = self._shared_run_s.of(hosted)
            else:
                times = self._run_s[hosted.device, hosted.family, hosted.variant]
            run_s = times[len(state.running)](launch.rows) * self._slow.factor_at(now_s)
        else:
            way_s = hosted.way_s(launch.rows)
            run_s = walk.took_s + way_s
            for after_s, leaving in walk.left:
                self._events.at(now_s + after_s + way_s, self._left, launch, walk, leaving.parts, state.life)
        end_s = now_s + run_s
        state.running[id(launch)] = launch, now_s
        state.busy_until_s = max(state.busy_until_s, end_s)
        self._events.at(end_s, self._finished, launch, run_s, state.life, walk)

    def _left(self, now_s: float, launch: Launch, walk: Walk, parts: Sequence[int], life: int) -> None:
        """Queries are answered before their batch ends."""
        state = self._devices[launch.hosted.device]
        if state.life != life:
            return
        leaving = replace(launch, requests=tuple([launch.requests[place] for place in parts]))
        told = exit_answers(launch, walk)
        to_ask = self._cascades.finished(leaving, now_s, [told[place] for place in parts])
        state.answered.update([request.id for request in leaving.requests])
        for each in to_ask:
            self._ask(each, now_s)

    def _finished(self, now_s: float, launch: Launch, took_s: float, life: int, walk: Walk | None) -> None:
        hosted, rows = launch.hosted, launch.rows
        device, accuracy, variant = hosted.device, hosted.accuracy, hosted.variant
        state = self._devices[device]
        if state.life != life:
            return
        del state.running[id(launch)]
        if walk is not None and hosted.cuts:
            self._controller.finished(launch, took_s, walk.exits)
        else:
            self._controller.finished(launch, took_s)
        if walk is not None or self._routes.ever_in_use or self._judges:
            exits = exit_answers(launch, walk) if walk is not None else ()
            others = self._cascades.finished(launch, now_s, exits, state.answered)
            state.answered.difference_update([request.id for request in launch.requests])
            for each in dict.fromkeys((device, *others)):
                self._ask(each, now_s)
            return
        saw = self._saw
        for r in launch.requests:
            outcome = SERVED if now_s <= r.deadline_s else LATE
            saw(RequestRecord(r.family, r.arrival_s, outcome, now_s - r.arrival_s, accuracy, variant, device, rows))
        self._ask(device, now_s)

    def _end(self, requests: Iterable[Request], outcome: Outcome, now_s: float) -> None:
        """End requests that no batch answers; of those that are deferred, the first answer is sent."""
        for r in requests:
            if r.is_deferred:
                self._cascades.fall_back(r, now_s)
            else:
                self._saw(RequestRecord(r.family, r.arrival_s, outcome))


def _memory(
    plan: Plan, catalog: Catalog, profiles: Mapping[str, Profile], conditions: Conditions
) -> Mapping[str, DeviceMemory]:
    limit_bytes = {device: limit for device, limit in conditions.memory_bytes.items() if device in plan.devices}
    return device_memory(
        limit_bytes, profiles, catalog.slo_targets(), plan.rules, catalog.keys, load_time_s(conditions)
    )
