"""The simulated devices: they obey the controller on the virtual clock, run batches, and load variants."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import (
    Admitted,
    Effects,
    HostedVariant,
    Idle,
    Launch,
    Load,
    StandbyLoad,
    WaitUntil,
    keys,
)
from proteus_cli.domain.report import Loss, Replan
from proteus_cli.domain.request import Outcome, Request, RequestRecord
from proteus_cli.domain.stages.pace import StagePace
from proteus_cli.domain.stages.walk import Walk
from proteus_cli.simulation.answers import Answers, Queries
from proteus_cli.simulation.conditions import AS_PROFILED, Conditions
from proteus_cli.simulation.events import Events, Timer
from proteus_cli.simulation.timing import BatchTimes

NEVER_S = math.inf
SERVED, LATE = Outcome.SERVED, Outcome.LATE  # the look-up of an enum member takes as long as to make a `RequestRecord`


@dataclass(slots=True)
class SimulationResult:
    """A record for each request, in the order of their ends, and the plans that were made.

    ``changes`` are the ``replans`` that changed more than shares and batches; ``losses`` are in order.
    ``expected_attainment``, by family: the mean that the plans in force expected, over the queries they were for.
    ``interrupted_s``: the virtual time at which Ctrl-C ended the run; requests that waited or ran have no record.
    """

    ended: list[RequestRecord] = field(default_factory=list)
    replans: list[Replan] = field(default_factory=list)
    changes: list[Replan] = field(default_factory=list)
    launches: list[tuple[float, Launch]] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    expected_attainment: dict[str, float] = field(default_factory=dict)
    interrupted_s: float | None = None


@dataclass(slots=True)
class SimulatedDevice:
    """A device and its ``running`` batches. The last one ends at ``busy_until_s``.

    Its last load of a standby ends at ``loads_until_s``, even if it is given up; ``standby`` is the load that is not.
    ``life`` counts losses of the device: an event that refers to an earlier life is void. The queries of the ids
    ``answered`` have left batches that still run. ``timer`` asks for a decision.
    """

    timer: Timer
    running: dict[int, Launch] = field(default_factory=dict)
    busy_until_s: float = 0.0
    loads_until_s: float = 0.0
    standby: StandbyLoad | None = None
    life: int = 0
    answered: set[int] = field(default_factory=set)

    def has_answered(self, request: Request) -> bool:
        """The request has left a batch that still runs."""
        return request.id in self.answered


class Fleet:
    """Drives a controller on the virtual clock of its ``events``, for plan changes and losses, too.

    ``now_s`` is the time of the last arrival.

    ``saw`` takes the records; None: ``result`` keeps them, with launches. The fleet ``is_over`` once the last request
    has ``arrived``; then no plan and no standby is asked for.
    """

    def __init__(
        self,
        controller: Controller,
        devices: Iterable[str],
        queries: Queries,
        times: BatchTimes,
        conditions: Conditions,
        saw: Callable[[RequestRecord], object] | None,
    ) -> None:
        self.controller, self.times, self.conditions = controller, times, conditions
        self.events, self.result = Events(), SimulationResult()
        self.devices = {device: SimulatedDevice(Timer(partial(self.ask, device))) for device in devices}
        self.is_over, self.arrived, self.now_s = False, 0, 0.0
        self._keeps_launches = saw is None
        self._saw = self.result.ended.append if saw is None else saw
        self._answers = Answers(controller, self.events, queries, self._saw, self.apply)
        self._queries, self._slow, self._is_slowed = queries, conditions.slow, conditions.slow != AS_PROFILED
        self._paces: dict[tuple[str, str, str], StagePace] = {}

    # --- requests

    def arrive(self, request: Request) -> None:
        """A request arrives, after all events up to then."""
        now_s = request.arrival_s
        self.events.run_until(now_s)
        self.now_s = now_s
        self.arrived += 1
        answer = self.controller.offer(request, now_s)
        if isinstance(answer, Admitted):
            for device in answer.devices:
                self.ask(device, now_s)
        else:
            self.end((request,), Outcome.REJECTED, now_s)

    def finish(self) -> None:
        """Run all events; drop the requests that no worker ever takes."""
        self.is_over = True
        self.events.run_until(NEVER_S)
        self.result.expected_attainment = self.controller.expected.mean(self.now_s)
        self.end(self.controller.dispatch.forget_all(), Outcome.DROPPED, NEVER_S)

    def end(self, requests: Iterable[Request], outcome: Outcome, now_s: float) -> None:
        """End requests that no batch answers; the first answer of a deferred one is sent."""
        for request in requests:
            if request.is_deferred:
                self._answers.fall_back(request, now_s)
            else:
                self._saw(RequestRecord(request.family, request.arrival_s, outcome))

    # --- decisions

    def apply(self, effects: Effects, now_s: float) -> None:
        """Do what a change of the controller's state asks for."""
        self.end(effects.dropped, Outcome.DROPPED, now_s)
        for load in effects.load:
            missing = [host for host in load.hosts if host.key not in load.keeps]
            idle_s = max(now_s, self.devices[load.device].busy_until_s)
            self.events.at(self.loaded_s(load.device, missing, idle_s), self._loaded, load)
        for device in effects.ask:
            self.ask(device, now_s)

    def ask(self, device: str, now_s: float) -> None:
        """Obey the decisions of a worker, and of the workers that these name, until there is nothing more to do."""
        decide, workers = self.controller.decide, self.controller.workers
        to_ask: list[str] = []  # a stack: there may be thousands
        while True:
            decision = decide(device, now_s)
            # Not `match`, unlike the live worker: class patterns take twice as long, which is 4 % of a simulation.
            if isinstance(decision, Idle):
                pass
            elif isinstance(decision, Launch):
                self._launch(decision, now_s)
                if workers[device].free > 0:  # a worker without a free slot would answer `Idle`
                    to_ask.append(device)
                to_ask += decision.wake[::-1]
            elif isinstance(decision, WaitUntil):
                self.events.set_timer(self.devices[device].timer, decision.at_s)
            else:
                self.end(decision.requests, Outcome.DROPPED, now_s)
                continue
            if not to_ask:
                return
            device = to_ask.pop()

    # --- batches

    def _launch(self, launch: Launch, now_s: float) -> None:
        hosted = launch.hosted
        if self._keeps_launches:
            self.result.launches.append((now_s, launch))
        state = self.devices[hosted.device]
        walk = self._walk(launch, now_s) if hosted.exits else None
        if walk is None:
            times = self.times.of(hosted.device, hosted.family, hosted.variant, hosted.others)
            run_s = times[len(state.running)](launch.rows)
            if self._is_slowed:
                run_s *= self._slow.factor_at(now_s)
        else:
            way_s = hosted.way_s(launch.rows)
            run_s = walk.took_s + way_s
            for after_s, leaving in walk.left:
                self.events.at(now_s + after_s + way_s, self._left, launch, walk, leaving.parts, state.life)
        end_s = now_s + run_s
        state.running[id(launch)] = launch
        state.busy_until_s = max(state.busy_until_s, end_s)
        self.events.at(end_s, self._finished, launch, run_s, state.life, walk)

    def _walk(self, launch: Launch, now_s: float) -> Walk | None:
        """The way of a batch that starts now through the stages of its model; None if their times are not known."""
        hosted, bounds = launch.hosted, self.controller.dispatch.exit_bounds(launch)
        if bounds is None:
            return None
        chain = self.times.chain_of(hosted)
        ranks = self._queries.ranks_of([request.id for request in launch.requests], bounds.rows)
        pace = self._paces.setdefault((hosted.device, hosted.family, hosted.variant), StagePace())
        return chain.walk(chain.stops_at(ranks), bounds, pace, now_s, self._slow.factor_at(now_s))

    def _left(self, now_s: float, launch: Launch, walk: Walk, places: Sequence[int], life: int) -> None:
        """Queries are answered before their batch ends."""
        state = self.devices[launch.hosted.device]
        if state.life == life:
            to_ask = self._answers.record(launch, now_s, places, walk)
            state.answered.update([launch.requests[place].id for place in places])
            for each in to_ask:
                self.ask(each, now_s)

    def _finished(self, now_s: float, launch: Launch, took_s: float, life: int, walk: Walk | None) -> None:
        hosted, rows = launch.hosted, launch.rows
        device, accuracy, variant = hosted.device, hosted.accuracy, hosted.variant
        state = self.devices[device]
        if state.life != life:
            return
        del state.running[id(launch)]
        if walk is not None and hosted.cuts:
            self.controller.finished(launch, took_s, walk.exits)
        else:
            self.controller.finished(launch, took_s)
        if walk is None and not self.controller.cascades.ever_in_use and not self._queries.has_answers:
            saw = self._saw
            for r in launch.requests:
                outcome = SERVED if now_s <= r.deadline_s else LATE
                saw(RequestRecord(r.family, r.arrival_s, outcome, now_s - r.arrival_s, accuracy, variant, device, rows))
            self.ask(device, now_s)
            return
        answered = state.answered
        places = [place for place, request in enumerate(launch.requests) if request.id not in answered]
        others = self._answers.record(launch, now_s, places, walk)
        answered.difference_update([request.id for request in launch.requests])
        for each in dict.fromkeys((device, *others)):
            self.ask(each, now_s)

    # --- loads

    def loaded_s(self, device: str, missing: Iterable[HostedVariant], from_s: float) -> float:
        """When a device has loaded what is missing, after the load of a standby that has begun there."""
        state = self.devices[device]
        loading = None if state.standby is None else state.standby.key
        measured = [self.times.measured(device, *host.key) for host in missing if host.key != loading]
        return max(from_s, state.loads_until_s) + sum(map(self.conditions.load_s, measured))

    def _loaded(self, now_s: float, load: Load) -> None:
        self.apply(self.controller.loaded(load, keys(load.hosts) | load.keeps, now_s), now_s)

    # --- losses

    def lose(self, devices: Sequence[str], now_s: float) -> None:
        """Lose these devices, all in this instant, with what they run."""
        effects = list[Effects]()
        for device in devices:
            state = self.devices[device]
            running = tuple(state.running.values())
            state.running, state.busy_until_s = {}, 0.0
            state.loads_until_s, state.standby = 0.0, None
            state.life += 1
            effects.append(self.controller.device_lost(device, running, state.has_answered))
            state.answered.clear()
        for each in effects:
            self.end(each.failed, Outcome.FAILED, now_s)
        for each in effects:  # only now: the lost devices must not be asked
            self.apply(each, now_s)
