"""The simulator: one trace through the controller in virtual time.

One class, though a long one: each event asks the controller, and what that decides becomes further events of the same
run. Devices that are lost, stages of cascades and exits, and the times of batches have modules beside it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count, islice, repeat
from types import MappingProxyType
from typing import Any

import numpy as np
from msgspec.structs import replace

from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import (
    Admitted,
    Delegate,
    Effects,
    Host,
    Idle,
    Launch,
    Load,
    StandbyEnd,
    StandbyLoad,
    WaitUntil,
)
from proteus_cli.control.policies import Policy
from proteus_cli.control.replanning.replan_rules import ReplanRequest
from proteus_cli.control.topology.hosting import device_memory, hosted_by, slots_of
from proteus_cli.control.topology.plan_rollout import LoadBeside, PlanRollout, Switch
from proteus_cli.control.topology.plan_steps import keys
from proteus_cli.control.topology.standbys import DeviceMemory
from proteus_cli.control.topology.warming import ASK_S
from proteus_cli.domain.base import require
from proteus_cli.domain.catalog.catalog import Catalog, VariantKey, variant_labels
from proteus_cli.domain.plan.plan import Plan
from proteus_cli.domain.plan_changes.change_text import hosting_text
from proteus_cli.domain.profile.profile import Profile
from proteus_cli.domain.report import Replan
from proteus_cli.domain.request import Bounds, Outcome, Request, RequestRecord
from proteus_cli.domain.stages.walk import Walk
from proteus_cli.domain.trace import Trace
from proteus_cli.errors import NoFeasiblePlan
from proteus_cli.simulation.cascades import SimulatedCascades
from proteus_cli.simulation.conditions import Conditions
from proteus_cli.simulation.confidences import Confidences
from proteus_cli.simulation.eval_rows import EvalRows, RowAnswersOf
from proteus_cli.simulation.events import Events, Timer
from proteus_cli.simulation.exits import SimulatedExits, exit_answers
from proteus_cli.simulation.fleet import SimulatedDevice, SimulatedFleet
from proteus_cli.simulation.losses import Losses
from proteus_cli.simulation.result import SimulationResult
from proteus_cli.simulation.timing import SharedTimes, batch_times, load_time_s

NEVER_S = math.inf
SERVED, LATE = Outcome.SERVED, Outcome.LATE  # to look an enum member up takes as long as to make a `RequestRecord`
PROGRESS_EVERY = 1000  # requests

ReplanFunction = Callable[..., Plan]
"""Called with a demand and the plan in force, and by name with ``without``, ``standbys`` and ``measured``.

These are the outages, the standbys, and what cascades were measured to defer; empty ones are not passed. Raises
`NoFeasiblePlan`."""


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
        self._profiles, self._replan, self._rule, self._conditions = profiles, replan, policy.replanning, conditions
        self._variant_labels = variant_labels(v.key for profile in profiles.values() for v in profile.variants)
        memory = _memory(plan, catalog, profiles, conditions) if policy.standbys and self._rule is not None else {}
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
        self._load_time_s = load_time_s(conditions)
        self._last: Request | None = None  # that has arrived
        self._arrivals_over = False
        self._devices = {device: SimulatedDevice() for device in plan.devices}
        self._timers = {device: Timer(partial(self._ask, device)) for device in plan.devices}
        self._apply(self._controller.adopt(plan, hosted_by(plan, profiles, attainment), 0.0), 0.0)
        fleet = SimulatedFleet(
            self._devices, profiles, self._controller, self._run_s, conditions, apply=self._apply, end=self._end
        )
        self.losses = Losses(conditions.failures, self._events, fleet, self._open_requests)
        if self._rule is not None:  # after the losses, so that a decision knows what is found out at its moment
            self._events.at(self._rule.every_s, self._tick)
        if memory:
            self._events.at(ASK_S, self._load_standbys)

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
        self._arrivals_over = True
        self._events.run_until(NEVER_S)
        self.result.measured = self._routes.measured(self.arrived_s)
        self.result.expected_attainment = self._controller.expected.mean(self.arrived_s)
        self._end(self._controller.dispatch.forget_all(), Outcome.DROPPED, NEVER_S)

    def _hosted_by(self, plan: Plan) -> tuple[Host, ...]:
        return hosted_by(plan, self._profiles, self._controller.attainment)

    def _open_requests(self) -> float:
        """How many requests have not ended; infinite while more may come."""
        arrived = 0 if self._last is None else self._last.id + 1
        return arrived - len(self.result.ended) if self._arrivals_over else math.inf

    def _apply(self, effects: Effects, now_s: float) -> None:
        """Do what a change of the controller's state asks for."""
        self._end(effects.dropped, Outcome.DROPPED, now_s)
        for load in effects.load:
            idle_s = max(now_s, self._devices[load.device].busy_until_s)
            missing = [host for host in load.hosts if host.key not in load.keeps]
            self._events.at(self._loaded_s(load.device, missing, idle_s), self._loaded, load)
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
        """Queries are answered before their batch ends; where the device is stalled, when the batch ends."""
        state = self._devices[launch.hosted.device]
        if state.life != life or now_s < state.stalled_until_s:
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
        if now_s < state.stalled_until_s:
            if state.stalled_until_s < NEVER_S:
                self._events.at(state.stalled_until_s, self._finished, launch, took_s, life, walk)
            return
        del state.running[id(launch)]
        state.ended_s = now_s
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

    def _tick(self, now_s: float) -> None:
        """Ask for a plan, and solve for it; the next tick comes once it is in force, or given up."""
        if self._arrivals_over or self._rule is None:
            return
        every_s, replanning = self._rule.every_s, self._controller.replanning
        wanted = replanning.decide(now_s)
        if wanted is None:
            self._events.at(now_s + every_s, self._tick)
            return
        before, standbys = self._controller.plan, self._controller.topology.standbys
        try:
            known = _if_any(without=wanted.without, standbys=standbys, measured=wanted.measured)
            plan = self._replan(wanted.demand_qps, before, **known)
        except NoFeasiblePlan:  # what serves goes on serving, as in the live server
            replanning.failed(wanted, now_s)
            self._events.at(now_s + every_s, self._tick)
        else:
            solve_s = self._solve_s(now_s)
            self._events.at(now_s + solve_s, self._deploy, wanted, plan, solve_s)

    def _deploy(self, now_s: float, wanted: ReplanRequest, plan: Plan, solve_s: float) -> None:
        """Load a plan beside what serves, and put it in force then, if it is still wanted."""
        assert self._rule is not None  # noqa: S101 - it wanted the plan
        every_s, replanning = self._rule.every_s, self._controller.replanning
        before, standbys = self._controller.plan, self._controller.topology.standbys
        swaps, hosted = plan.swaps_from(before, standbys), self._hosted_by(plan)
        activated = plan.swaps_from(before) - swaps
        what = hosting_text(before, plan, self._loads_s(plan, before, standbys), self._variant_labels)
        # With `load_time_s`, nothing loads beside what serves; a load that takes no time takes no device away either.
        rollout, load_time_s = PlanRollout(self._controller.topology, hosted), self._conditions.load_time_s
        beside = rollout.begin(in_place=self._devices if load_time_s is not None else ())
        for standby in beside.cancel:
            self._devices[standby.device].standby = None
            self._apply(self._controller.topology.standby_ended(standby, StandbyEnd.GIVEN_UP, now_s), now_s)
        for device in beside.ask:
            self._ask(device, now_s)

        def adopt(then_s: float) -> None:
            switch = rollout.loaded_beside((), then_s)
            assert isinstance(switch, Switch)  # noqa: S101 - loads always succeed
            if replanning.why_not(wanted, plan, then_s) is not None:
                self._events.at(then_s + every_s, self._tick)
                return
            change = Replan(then_s, wanted.reason, solve_s, swaps, activated, what)
            self.result.replans.append(change)
            if not (wanted.is_routine and plan.hosts_as(before)):
                self.result.changes.append(change)
            replanning.planned(wanted)
            in_place = () if load_time_s == 0 else switch.in_place
            self._apply(self._controller.adopt(plan, hosted, then_s, in_place), then_s)
            replanning.succeeded()
            self._events.at(then_s + every_s, self._tick)

        self._events.at(self._loaded_beside_s(beside, now_s), adopt)

    def _solve_s(self, now_s: float) -> float:
        """Seconds until a plan that is asked for now is there."""
        back_s = max((until_s for from_s, until_s in self._conditions.no_solver if from_s <= now_s), default=now_s)
        return max(back_s - now_s, 0.0) + self._conditions.solve_s

    def _loads_s(
        self, plan: Plan, before: Plan, standbys: Mapping[str, frozenset[VariantKey]]
    ) -> dict[tuple[str, VariantKey], float]:
        """Seconds of the loads that the change from ``before`` takes, by device and variant."""
        load_s, hosted, nothing = self._load_time_s, before.hosted(), frozenset[VariantKey]()
        return {
            (device, key): load_s(measured)
            for device, wanted in plan.hosted().items()
            for key in wanted - hosted.get(device, nothing) - standbys.get(device, nothing)
            if (measured := self._profiles[device].of(*key)) is not None
        }

    def _loaded_beside_s(self, step: LoadBeside, now_s: float) -> float:
        """When the last device has loaded what it has not yet, beside what it hosts."""
        kept = {each.device: each.keys for each in step.keep}
        missing = dict[str, list[Host]]()
        for host in step.hosts:
            if host.key not in kept[host.device]:
                missing.setdefault(host.device, []).append(host)
        return max((self._loaded_s(device, hosts, now_s) for device, hosts in missing.items()), default=now_s)

    def _loaded_s(self, device: str, missing: Iterable[Host], from_s: float) -> float:
        """When a device has loaded what is missing, after the load of a standby that has begun there."""
        state = self._devices[device]
        loading = None if state.standby is None else state.standby.key
        measured = [self._profiles[device].of(*host.key) for host in missing if host.key != loading]
        load_s = sum([self._load_time_s(variant) for variant in measured if variant is not None])
        return max(from_s, state.loads_until_s) + load_s

    def _loaded(self, now_s: float, load: Load) -> None:
        self._apply(self._controller.loaded(load, keys(load.hosts) | load.keeps, now_s), now_s)

    def _load_standbys(self, now_s: float) -> None:
        """Start the loads of standbys that are worth it now; again and again."""
        if self._arrivals_over:
            return
        self._events.at(now_s + ASK_S, self._load_standbys)
        while (load := (effects := self._controller.topology.next_standby(now_s)).standby) is not None:
            measured = self._profiles[load.device].of(*load.key)
            assert measured is not None  # noqa: S101 - only what was profiled stands by
            state = self._devices[load.device]
            begins_s = max(now_s, state.loads_until_s)
            state.loads_until_s, state.standby = begins_s + self._load_time_s(measured), load
            self._events.at(state.loads_until_s, self._standby_loaded, load)
            self._apply(effects, now_s)

    def _standby_loaded(self, now_s: float, load: StandbyLoad) -> None:
        state = self._devices[load.device]
        if state.standby is load:  # else it was given up
            state.standby = None
            self._apply(self._controller.topology.standby_ended(load, StandbyEnd.LOADED, now_s), now_s)


def _if_any(**arguments: object) -> dict[str, Any]:
    """The arguments of a `ReplanFunction` that are not empty."""
    return {name: value for name, value in arguments.items() if value}


def _memory(
    plan: Plan, catalog: Catalog, profiles: Mapping[str, Profile], conditions: Conditions
) -> Mapping[str, DeviceMemory]:
    limit_bytes = {device: limit for device, limit in conditions.memory_bytes.items() if device in plan.devices}
    return device_memory(
        limit_bytes, profiles, catalog.slo_targets(), plan.rules, catalog.keys, load_time_s(conditions)
    )
