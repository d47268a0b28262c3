"""The rules that hold for whatever arrives, however long batches take, and through changes of plan and lost devices."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import combinations, count
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from builders import hosted, make_cascade, make_deferred, make_placement, make_plan, requests_waiting, routes_of
from drawing import examples
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.control.batching import (
    AimdBatcher,
    Batcher,
    GreedyBatcher,
    NexusBatcher,
    ProactiveBatcher,
    StaticBatcher,
)
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import (
    NO_EFFECTS,
    Admitted,
    Drop,
    Effects,
    HostedVariant,
    Idle,
    Launch,
    Load,
    Refused,
    StandbyEnd,
    Unfit,
    WaitUntil,
    keys,
)
from proteus_cli.control.policies import Policy
from proteus_cli.control.topology.standbys import DeviceMemory, Loadable
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.request import MAX_RUNS, Bounds, Request
from proteus_cli.domain.stages.cascade import PlannedCascade

FAMILIES = ("a", "b")
DEVICES = ("cpu0", "cpu1", "cpu2")
LOAD_S = 0.05


@dataclass(frozen=True)
class Query:
    gap_s: float
    family: str
    slo_s: float
    rows: int
    priority: int = 0
    min_accuracy: float = 0.0
    bounds: Bounds | None = None
    cancelled_after_s: float | None = None
    is_malformed: bool = False


@dataclass(frozen=True)
class Adopt:
    """From now on these; devices ``in_place`` load in turns, each for a while."""

    hosts: Sequence[HostedVariant]
    in_place: frozenset[str] = frozenset()
    cascades: tuple[PlannedCascade, ...] = ()


@dataclass(frozen=True)
class Lose:
    device: str


@dataclass(frozen=True)
class Return:
    device: str


@dataclass(frozen=True)
class UseSlots:
    """From now on so many batches run at once on a device: more or fewer than before."""

    device: str
    slots: int


@dataclass(frozen=True)
class StandBy:
    """The next standby is loaded, wherever the controller wants one."""


@dataclass(frozen=True)
class MemoryShort:
    device: str


Change = Adopt | Lose | Return | UseSlots | StandBy | MemoryShort


@dataclass
class Driver:
    """Obeys a controller on a virtual clock, and checks each of its decisions.

    A batch takes ``slowdown`` × its latency, and the controller learns that if it is ``measured``. A batch that is
    launched ahead begins when the one before it ends. A first stage is unsure of a row where ``is_unsure`` says so.
    """

    controller: Controller
    slots: dict[str, int]
    slowdown: Callable[[], float]
    measured: bool = False
    dispatch_ahead_s: float = 0.0
    is_unsure: Callable[[], bool] = lambda: False
    ended: Counter[int] = field(default_factory=Counter)
    waiting: dict[int, Request] = field(default_factory=dict)
    planned: Sequence[HostedVariant] = ()
    launches: int = 0
    by_standbys: int = 0
    ahead: int = 0
    deferred: int = 0
    second_answers: int = 0
    _wakes_s: dict[str, float] = field(default_factory=dict)
    _fallen_back: set[int] = field(default_factory=set)
    _lost_runs: Counter[Request] = field(default_factory=Counter)
    _busy_until_s: dict[str, float] = field(default_factory=dict)
    _loading: dict[str, Load] = field(default_factory=dict)
    _lost: set[str] = field(default_factory=set)
    _running: dict[str, list[Launch]] = field(default_factory=lambda: {device: [] for device in DEVICES})
    _timer: Counter[str] = field(default_factory=Counter)
    _heap: list[tuple[float, int, Callable[[float], None]]] = field(default_factory=list)
    _order: "count[int]" = field(default_factory=count)

    def change(self, change: Change, now_s: float) -> None:
        match change:
            case Adopt(hosts=hosts, in_place=in_place, cascades=cascades):
                plan = make_plan(
                    *(make_placement(h.device, h.family, h.variant) for h in hosts),
                    demand_qps=dict.fromkeys(FAMILIES, 1000.0),
                    devices=DEVICES,
                    cascades=cascades,
                )
                self._loading = {d: load for d, load in self._loading.items() if _is_same(d, hosts, self.planned)}
                self.planned = hosts
                self._apply(self.controller.adopt(plan, hosts, now_s, in_place), now_s)
            case Lose(device=device) if device not in self._lost:
                self._lose(device, now_s)
            case Return(device=device) if device in self._lost:
                self._lost.remove(device)
                self._apply(self.controller.device_recovered(device, now_s), now_s)
            case UseSlots(device=device, slots=slots):
                self.slots[device] = slots
                self._ask_those_of(self.controller.dispatch.use_slots(device, slots, now_s), now_s)
                self._check_nobody_idles(now_s)
            case StandBy():
                effects = self.controller.topology.next_standby(now_s)
                self._ask_those_of(effects, now_s)
                if effects.standby is not None:
                    ended = self.controller.topology.standby_ended(effects.standby, StandbyEnd.LOADED, now_s)
                    self._ask_those_of(ended, now_s)
            case MemoryShort(device=device):
                self._ask_those_of(self.controller.topology.memory_short(device, now_s), now_s)
        self._check_queues()

    def _ask_those_of(self, effects: Effects, now_s: float) -> None:
        for each in effects.ask:
            self._ask(each, now_s)

    def _apply(self, effects: Effects, now_s: float) -> None:
        assert {*effects.ask} == {*DEVICES}
        for load in effects.load:
            assert load.device not in self._away
            assert load.hosts == tuple(host for host in self.planned if host.device == load.device)
            self._loading[load.device] = load
            self._at(now_s + LOAD_S, lambda then_s, load=load: self._loaded(load, then_s))  # type: ignore[misc]
        self._end_unhosted(effects.dropped)
        self._ask_all(now_s)

    def _loaded(self, load: Load, now_s: float) -> None:
        effects = self.controller.loaded(load, keys(load.hosts), now_s)
        if effects != NO_EFFECTS:
            if self._loading.get(load.device) is load:
                del self._loading[load.device]
            self._apply(effects, now_s)

    def _lose(self, device: str, now_s: float) -> None:
        self._lost.add(device)
        self._loading.pop(device, None)
        running, self._running[device] = self._running[device], []
        ran = [request for launch in running for request in launch.requests]
        self.waiting |= {request.id: request for request in ran}
        effects = self.controller.device_lost(device, running)
        assert {*ran} == ({*effects.requeued} | {*effects.failed} | ({*effects.dropped} & {*ran}))
        for request in ran:
            self._lost_runs[request] += 1
            assert (self._lost_runs[request] >= MAX_RUNS) == (request in effects.failed)
        for request in effects.failed:
            self._end(request)
        self._apply(effects, now_s)

    @property
    def _away(self) -> set[str]:
        return {*self._lost, *self._loading}

    @property
    def hosted(self) -> list[HostedVariant]:
        return [host for family in FAMILIES for host in self.controller.families[family].hosts]

    def offer(self, request: Request, *, is_malformed: bool = False) -> None:
        """Offer a request, and take it back if it proves malformed."""
        now_s = request.arrival_s
        self.run_until(now_s)
        answer = self.controller.offer(request, now_s)
        fit = self._fit(request)
        if isinstance(answer, Unfit):
            assert not fit
            assert max(answer.available.values()) == max(host.accuracy for host in self._hosting(request.family))
        if isinstance(answer, Refused):
            assert answer.retry_after_s >= 1
        if not isinstance(answer, Admitted):
            self.ended[request.id] += 1
            return
        assert fit
        self.waiting[request.id] = request
        self._check_queues()
        devices = answer.devices
        if is_malformed:
            devices = self.controller.dispatch.withdraw(request, now_s).ask
            self._end(request)
            self._check_queues()
        for device in devices:
            self._ask(device, now_s)
        self._check_nobody_idles(now_s)

    def cancel_at(self, request: Request, time_s: float) -> None:
        """Its client vanishes then, or its deadline passes."""

        def cancel(now_s: float) -> None:
            waits = self.waiting.get(request.id)
            assert self.controller.dispatch.cancel(waits or request).dropped == ((waits,) if waits else ())
            assert self.controller.dispatch.cancel(waits or request) == NO_EFFECTS
            if waits:
                self._end(waits)
                self._ask_all(now_s)

        self._at(time_s, cancel)

    def run_until(self, time_s: float) -> None:
        while self._heap and self._heap[0][0] <= time_s:
            due_s, _, action = heappop(self._heap)
            action(due_s)
            self._check_nobody_idles(due_s)

    def stop(self) -> None:
        """Let everything end; what waits for a device that never comes back is given up."""
        self.run_until(float("inf"))
        for request in self.controller.dispatch.forget_all():
            assert self._away
            self._end(request)

    def _ask_all(self, now_s: float) -> None:
        self._check_queues()
        for device in DEVICES:
            self._ask(device, now_s)
        self._check_nobody_idles(now_s)

    def _ask(self, device: str, now_s: float) -> None:
        while True:
            decision = self.controller.decide(device, now_s)
            match decision:
                case Launch():
                    self._launch(device, decision, now_s)
                    assert device not in decision.wake
                    for other in decision.wake:
                        self._ask(other, now_s)
                case Drop(requests=requests):
                    for request in requests:
                        self._end(request)
                case WaitUntil(at_s=at_s):
                    assert at_s > now_s
                    self._wake(device, at_s)
                case Idle():
                    pass
            self._check_queues()
            if isinstance(decision, WaitUntil | Idle):
                return

    def _wake(self, device: str, at_s: float) -> None:
        self._wakes_s[device] = at_s
        self._timer[device] += 1
        setting = self._timer[device]
        self._at(at_s, lambda now_s: self._ask(device, now_s) if self._timer[device] == setting else None)

    def _launch(self, device: str, launch: Launch, now_s: float) -> None:
        host = launch.hosted
        assert host.device == device
        assert device not in self._away
        if host.is_standby:
            assert host.key in self.controller.change.resident_on(device)
            assert not launch.is_ahead
            self.by_standbys += 1
        else:
            assert any(host is loaded for loaded in self.hosted)
            assert all(host in self._fit(request) for request in launch.requests)
        start_s = launch.at_s
        if launch.is_ahead:
            assert self.slots[device] == 1
            assert self._running[device]
            assert now_s <= start_s <= now_s + self.dispatch_ahead_s + 1e-9
            assert launch.rows >= host.max_batch or len(launch.requests) < host.max_batch
            self.ahead += 1
        else:
            assert len(self._running[device]) < self.slots[device]
            assert start_s == now_s
        assert launch.rows <= host.max_batch or len(launch.requests) == 1
        assert launch.rows == sum(request.rows for request in launch.requests)
        assert all(request.family == host.family for request in launch.requests)
        assert all(request.min_accuracy <= host.accuracy for request in launch.requests)
        assert list(launch.requests) == sorted(launch.requests, key=lambda r: (r.level, r.deadline_s, r.id))
        for level in {request.level for request in launch.requests}:
            self._check_order(launch, [request for request in launch.requests if request.level == level])
        takes_s = self.controller.slowdown_of(device) * host.latency(launch.rows)
        if isinstance(self.controller.policy.batching, AimdBatcher):
            takes_s = 0.0  # it knows no latencies: it only gives up what is late already
        assert start_s + takes_s <= min(request.deadline_s for request in launch.requests) + 1e-9
        self._running[device].append(launch)
        self.launches += 1
        for request in launch.requests:
            del self.waiting[request.id]
        run_s = self.slowdown() * host.latency(launch.rows)
        begins_s = max(now_s, self._busy_until_s.get(device, 0.0)) if launch.is_ahead else now_s
        self._busy_until_s[device] = begins_s + run_s
        self._at(begins_s + run_s, lambda end_s: self._finished(launch, run_s, end_s))

    def _check_order(self, launch: Launch, mine: Sequence[Request]) -> None:
        """Of a level, a batch takes the first requests that its worker can make with it, without a gap."""
        family = self.controller.families[launch.hosted.family]
        queue = family.queue_for(mine[0])
        first, last = mine[0], mine[-1]
        others = [
            request
            for request in self.waiting.values()
            if request.family == first.family and request.level == first.level and request not in launch.requests
            if family.queue_for(request) is queue
        ]
        if self.controller.policy.assignment != "late":
            others = []
        assert not any(_order(first) < _order(other) < _order(last) for other in others)

    def _finished(self, launch: Launch, took_s: float, now_s: float) -> None:
        device = launch.hosted.device
        if not any(launch is running for running in self._running[device]):
            return  # lost with its device
        self._running[device].remove(launch)
        self.controller.finished(launch, took_s if self.measured else None)
        woken = {device: None}
        for request, route in zip(launch.requests, routes_of(self.controller, launch), strict=True):
            rows = sum(self.is_unsure() for _ in range(request.rows)) if route is not None else 0
            if route is not None and rows:
                taken_j = launch.hosted.energy_j(request.rows, launch.rows)
                bounds = request.bounds and request.bounds.without(taken_j)
                woken |= dict.fromkeys(self._defer(make_deferred(request, route, rows=rows, bounds=bounds), now_s))
            else:
                self.second_answers += request.is_deferred and request.id not in self._fallen_back
                self._count_end(request)
        self._check_queues()
        for each in woken:
            self._ask(each, now_s)

    def _defer(self, request: Request, now_s: float) -> tuple[str, ...]:
        """Rows that the first stage is unsure of: the second stage answers, or the first answer is sent in time."""
        self.deferred += 1
        answer = self.controller.dispatch.defer(request, now_s)
        if answer is None:
            self._count_end(request)
            return ()
        assert self._fit(request)
        self.waiting[request.id] = request

        def send_first(now_s: float) -> None:
            if request.id not in self.ended:
                self._fallen_back.add(request.id)
                if self.controller.dispatch.cancel(request).dropped:
                    self._end(request)
                    self._ask_all(now_s)
                else:
                    self.ended[request.id] += 1

        assert now_s < self.controller.dispatch.last_moment_s(request) <= request.deadline_s
        self._at(self.controller.dispatch.last_moment_s(request), send_first)
        return answer.devices

    def _end(self, request: Request) -> None:
        del self.waiting[request.id]
        self._count_end(request)

    def _count_end(self, request: Request) -> None:
        if not (request.is_deferred and self.ended[request.id]):  # else its first answer was sent as it ran
            self.ended[request.id] += 1

    def _end_unhosted(self, requests: Sequence[Request]) -> None:
        for request in requests:
            able = self._fit(request)
            assert not able or (request.is_deferred and {host.device for host in able} <= self._lost)
            self._end(request)

    def _at(self, time_s: float, action: Callable[[float], None]) -> None:
        heappush(self._heap, (time_s, next(self._order), action))

    def _hosting(self, family: str) -> list[HostedVariant]:
        return [host for host in self.hosted if host.family == family]

    def _fit(self, request: Request) -> list[HostedVariant]:
        """The hosts that may answer a request; tests of `Eligibility` try all ways to answer beside it."""
        if request.bounds is None:
            return [host for host in self._hosting(request.family) if host.accuracy >= request.min_accuracy]
        eligibility = self.controller.families[request.family]._eligibility
        return [host for host in eligibility.hosts(eligibility.of(request)) if not host.is_standby]

    def _check_queues(self) -> None:
        for name in FAMILIES:
            family = self.controller.families[name]
            mine = [request for request in self.waiting.values() if request.family == name]
            for queue in family.queues:
                here = {request.id for request in mine if family.queue_for(request) is queue}
                assert {request.id for request in queue} == here
                active = [host for host in queue.hosts if not host.is_standby]
                assert all(host in self._fit(request) for host in active for request in queue)
            assert self.controller.families[name].waiting == len(mine)
            running = [launch.rows for ran in self._running.values() for launch in ran if launch.hosted.family == name]
            assert family.rows == sum(request.rows for request in mine) + sum(running)

    def _check_nobody_idles(self, now_s: float) -> None:
        """Work-conserving batches: no worker is free while requests wait that it can make, and should.

        It leaves them only to busy workers that come first, and the first request only to one that can make it. Where
        slowdowns are measured, classes know only their mean.
        """
        rule, policy = self.controller.policy.batching, self.controller.policy
        if type(rule) is not GreedyBatcher or policy.assignment != "late" or self.measured:
            return
        lanes = [lane for name in FAMILIES for each in self.controller.families[name].queues for lane in each.lanes]
        for lane in lanes:
            active = [each for each in lane.classes if not each.host.is_standby]
            free = [each for each in active if any(self._is_free(host.device) for host in each.hosts)]
            assert free == [each for each in active if each.free]
            for queue in lane.levels.values():
                for place, request in enumerate(queue):
                    left_s = rule.due_s(request) - now_s - 1e-9
                    able = [each.order for each in free if each.host.latency(request.rows) < left_s]
                    if able:
                        before = [each for each in active if each.serving and each.order < min(able)]
                        assert before
                        assert place or any(each.host.latency(request.rows) < left_s + 1e-6 for each in before)

    def _is_free(self, device: str) -> bool:
        return device not in self._away and len(self._running[device]) < self.slots[device]


def _order(request: Request) -> tuple[float, int]:
    return request.deadline_s, request.id


def _is_same(device: str, hosts: Sequence[HostedVariant], before: Sequence[HostedVariant]) -> bool:
    """A device is wanted to host the same variants as before."""
    return keys([h for h in hosts if h.device == device]) == keys([h for h in before if h.device == device])


# Made once: to make strategies where they are drawn from takes a quarter of the time of these tests.
SOME_DEVICES = st.frozensets(st.sampled_from(DEVICES))
HOSTED_FAMILIES = st.lists(st.sampled_from(FAMILIES), max_size=2, unique=True)
FIRST_S, ROW_S, MAX_BATCH = st.floats(0.001, 0.05), st.floats(0.0001, 0.02), st.integers(1, 8)
WEIGHT = st.sampled_from([0.0, 1.0, 3.7])
DEFERRED_QPS, SECOND_S = st.sampled_from([0.0, 0.0, 1.0, 2.5]), st.sampled_from([0.0, 0.02])
POWER_W, CASCADE_QPS = st.sampled_from([None, 1.0, 5.0]), st.sampled_from([0.0, 3.0, 10.0])


@st.composite
def hosting(draw: st.DrawFn, accuracies: Sequence[float] = (0.9,)) -> list[HostedVariant]:
    """One or two variants on each device, or none."""
    found = []
    for device in DEVICES:
        for family in draw(HOSTED_FAMILIES):
            first_s, row_s, max_batch = draw(FIRST_S), draw(ROW_S), draw(MAX_BATCH)
            latency_s = {batch: first_s + row_s * batch for batch in sorted({1, 2, max_batch})}
            capacity_qps = max_batch / latency_s[max_batch]
            found.append(
                hosted(
                    device,
                    family,
                    latency_s=latency_s,
                    max_batch=max_batch,
                    weight=draw(WEIGHT),
                    capacity_qps=capacity_qps,
                    accuracy=draw(st.sampled_from(accuracies)),
                )
            )
    return found


def queries(max_rows: int, **special: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Query]]:
    one = st.builds(
        Query,
        gap_s=st.sampled_from([0.0, 0.001, 0.01, 0.05]) | st.floats(0, 0.1),
        family=st.sampled_from(FAMILIES),
        slo_s=st.sampled_from([0.05, 0.1, 0.3]) | st.floats(0.001, 1.0),
        rows=st.integers(1, max_rows),
        **special,
    )
    return st.lists(one, min_size=1, max_size=40)


def play(
    load: Sequence[Query],
    changes: Sequence[Change],
    slots: dict[str, int],
    slowdown: Callable[[], float],
    policy: Policy,
    *,
    measured: bool = False,
    dispatch_ahead_s: float = 0.0,
    is_unsure: Callable[[], bool] = lambda: False,
    memory: Mapping[str, DeviceMemory] = MappingProxyType({}),
) -> Driver:
    """Offer all, with changes at even distances; then let everything end."""
    slo_s = dict.fromkeys(FAMILIES, 0.1)
    controller = Controller(slo_s, slots, policy, dispatch_ahead_s=dispatch_ahead_s, memory=memory)
    driver = Driver(controller, dict(slots), slowdown, measured, dispatch_ahead_s, is_unsure)
    now_s, coming = 0.0, list(changes)
    driver.change(coming.pop(0), now_s)
    while coming and isinstance(coming[0], StandBy):  # before anything arrives
        driver.change(coming.pop(0), now_s)
    every = -(-len(load) // len(changes))
    for number, query in enumerate(load):
        now_s += query.gap_s
        if number and number % every == 0 and coming:
            driver.run_until(now_s)
            driver.change(coming.pop(0), now_s)
        request = Request(
            number,
            query.family,
            now_s,
            now_s + query.slo_s,
            query.rows,
            priority=query.priority,
            min_accuracy=query.min_accuracy,
            bounds=query.bounds,
        )
        if query.cancelled_after_s is not None:
            driver.cancel_at(request, now_s + query.cancelled_after_s)
        driver.offer(request, is_malformed=query.is_malformed)
    driver.stop()
    return driver


GREEDY = Policy("test", "all", GreedyBatcher(), None)


def proactive(margin_frac: float) -> Policy:
    return Policy("test", "all", ProactiveBatcher(answer_frac=margin_frac / 2, margin_frac=margin_frac), None)


SLOTS = st.fixed_dictionaries({device: st.integers(1, 2) for device in DEVICES})
ADOPT = st.builds(Adopt, hosting())
PLANS = st.lists(ADOPT, min_size=1, max_size=3)
POLICIES = st.sampled_from([0.0, 0.1, 0.5]).map(proactive)
SLOWDOWNS = st.lists(st.floats(0.2, 3.0), min_size=1, max_size=5)

BATCHERS: tuple[Batcher, ...] = (
    ProactiveBatcher(),
    GreedyBatcher(),
    AimdBatcher(),
    AimdBatcher(timeout_s=0.02),
    NexusBatcher(),
    StaticBatcher(rows=3),
)
OTHER_POLICIES = st.builds(
    Policy,
    name=st.just("test"),
    variants=st.just("all"),
    batching=st.sampled_from(BATCHERS),
    replanning=st.none(),
    assignment=st.sampled_from(["late", "late", "early", "uniform"]),
    admits=st.sampled_from(["timely", "all"]),
)
CHANGES = st.lists(
    st.builds(Adopt, hosting(), SOME_DEVICES)
    | st.builds(Lose, st.sampled_from(DEVICES))
    | st.builds(Return, st.sampled_from(DEVICES))
    | st.builds(UseSlots, st.sampled_from(DEVICES), st.integers(1, 3)),
    max_size=6,
)


Drawn = TypeVar("Drawn")


def in_turn(values: Sequence[Drawn]) -> Callable[[], Drawn]:
    turn = count()
    return lambda: values[next(turn) % len(values)]


@st.composite
def cascading(draw: st.DrawFn) -> Adopt:
    """Variants by accuracy on the devices, and any pairs of them as cascades, at any rates."""
    hosts = []
    for host in draw(hosting(ACCURACIES)):
        deferred_qps, second_s = draw(DEFERRED_QPS), draw(SECOND_S)
        hosts.append(
            replace(
                host, variant=f"{host.family}-{host.accuracy}", deferred_qps=deferred_qps, second_s=second_s,
                power_w=draw(POWER_W),
            )
        )  # fmt: skip
    cascades = []
    for family in FAMILIES:
        variants = sorted({host.variant for host in hosts if host.family == family})
        for first, second in combinations(variants, 2):
            if draw(st.booleans()):
                cascades.append(make_cascade(family, first, second, rate_qps=draw(CASCADE_QPS)))
    return Adopt(hosts, draw(SOME_DEVICES), tuple(cascades))


@given(queries(1), PLANS, SLOTS, SLOWDOWNS, POLICIES)
@examples(60, fuzzed=150)
def test_single_rows_end_once_in_deadline_order_within_slots_and_batch_sizes(
    load: list[Query], plans: list[Adopt], slots: dict[str, int], slowdowns: list[float], policy: Policy
) -> None:
    driver = play(load, plans, slots, in_turn(slowdowns), policy)
    assert driver.ended == Counter(range(len(load)))
    assert requests_waiting(driver.controller) == 0


@given(queries(6), PLANS, SLOTS, POLICIES)
@examples(60, fuzzed=150)
def test_requests_of_many_rows_end_once_in_deadline_order_within_slots_and_batch_sizes(
    load: list[Query], plans: list[Adopt], slots: dict[str, int], policy: Policy
) -> None:
    driver = play(load, plans, slots, lambda: 1.0, policy)
    assert driver.ended == Counter(range(len(load)))
    assert requests_waiting(driver.controller) == 0


@given(queries(3), ADOPT, CHANGES, SLOTS, SLOWDOWNS, OTHER_POLICIES)
@examples(150, fuzzed=400)
def test_all_rules_hold_for_any_batching_and_assignment_while_devices_load_are_lost_return_and_change_their_slots(
    load: list[Query],
    first: Adopt,
    changes: list[Change],
    slots: dict[str, int],
    slowdowns: list[float],
    policy: Policy,
) -> None:
    driver = play(load, [first, *changes], slots, in_turn(slowdowns), policy, measured=True)
    assert driver.ended == Counter(range(len(load)))
    assert requests_waiting(driver.controller) == 0


ACCURACIES = (0.7, 0.8, 0.9)
PRIORITIES = st.sampled_from([0, 0, 1, 2, 3, 99])
BOUNDS = st.none() | st.builds(
    Bounds,
    min_confidence=st.sampled_from([-math.inf, 0.5]),
    min_expected_accuracy=st.sampled_from([0.0, 0.0, 0.8, 0.92]),
    max_energy_j=st.sampled_from([math.inf, 0.01, 0.03, 0.1, 0.3, 1.0]),
)
MINIMA = st.sampled_from([0.0, 0.0, 0.7, 0.75, 0.9, 0.95])
DISPATCH_AHEADS_S = st.sampled_from([0.0, 0.002, 0.1])
CANCELLED = st.none() | st.sampled_from([0.0, 0.01, 0.05]) | st.floats(0, 0.2)
UNEQUAL = st.builds(Adopt, hosting(ACCURACIES), SOME_DEVICES)
UNEQUAL_CHANGES = st.lists(
    UNEQUAL | st.builds(Lose, st.sampled_from(DEVICES)) | st.builds(Return, st.sampled_from(DEVICES)), max_size=6
)


@given(
    queries(3, priority=PRIORITIES, min_accuracy=MINIMA, cancelled_after_s=CANCELLED, is_malformed=st.booleans()),
    UNEQUAL,
    UNEQUAL_CHANGES,
    SLOTS,
    SLOWDOWNS,
    OTHER_POLICIES,
    DISPATCH_AHEADS_S,
)
@examples(150, fuzzed=400)
def test_all_rules_hold_for_any_priorities_minima_cancellations_withdrawals_and_dispatch_ahead(
    load: list[Query],
    first: Adopt,
    changes: list[Change],
    slots: dict[str, int],
    slowdowns: list[float],
    policy: Policy,
    dispatch_ahead_s: float,
) -> None:
    """Nothing is answered by a less accurate variant than it asked for, and nobody is forgotten."""
    driver = play(
        load, [first, *changes], slots, in_turn(slowdowns), policy, measured=True, dispatch_ahead_s=dispatch_ahead_s
    )
    assert driver.ended == Counter(range(len(load)))
    assert requests_waiting(driver.controller) == 0


@given(
    queries(3, priority=PRIORITIES, min_accuracy=MINIMA, cancelled_after_s=CANCELLED),
    UNEQUAL,
    UNEQUAL_CHANGES,
    SLOTS,
    st.sampled_from(["timely", "all"]),
)
@examples(120, fuzzed=300)
def test_no_worker_idles_while_requests_wait_that_it_should_take(
    load: list[Query], first: Adopt, changes: list[Change], slots: dict[str, int], admits: Literal["timely", "all"]
) -> None:
    """Batches take as long as profiled; so nothing is late but what was not in time when it was taken."""
    policy = replace(GREEDY, admits=admits)
    driver = play(load, [first, *changes], slots, lambda: 1.0, policy)
    assert driver.ended == Counter(range(len(load)))
    assert requests_waiting(driver.controller) == 0


@st.composite
def one_family(draw: st.DrawFn) -> Adopt:
    """A variant on each device: an accurate one that has quota on the first, on others also one with less or none."""
    kinds = {
        0.95: ({1: 0.25, 4: 0.3}, 0.0),
        0.85: ({1: 0.25, 4: 0.3}, 0.0),
        0.9: ({1: 0.09, 4: 0.13}, 1.0),
        0.8: ({1: 0.05, 4: 0.06}, draw(st.sampled_from([0.0, 0.2, 1.0]))),
        0.7: ({1: 0.015, 4: 0.02}, draw(st.sampled_from([0.0, 0.0, 0.2]))),
    }
    found = []
    for device in DEVICES:
        accuracy = 0.9 if device == DEVICES[0] else draw(st.sampled_from(sorted(kinds)))
        latency_s, weight = kinds[accuracy]
        found.append(
            hosted(
                device, "a", f"a-{accuracy}", latency_s=latency_s, max_batch=4, weight=weight,
                capacity_qps=4 / latency_s[4], accuracy=accuracy,
            )
        )  # fmt: skip
    return Adopt(found)


ONE_FAMILY = one_family()
FEW_CHANGES = st.lists(
    ONE_FAMILY
    | st.builds(Lose, st.sampled_from(DEVICES))
    | st.builds(Return, st.sampled_from(DEVICES))
    | st.builds(UseSlots, st.sampled_from(DEVICES), st.integers(1, 2)),
    max_size=3,
)
CLOSE = st.builds(
    Query,
    gap_s=st.sampled_from([0.001, 0.003, 0.01, 0.02, 0.04]),
    family=st.just("a"),
    slo_s=st.sampled_from([0.3, 0.3, 0.3, 0.4, 0.2]),
    rows=st.sampled_from([1, 1, 1, 2]),
    min_accuracy=st.sampled_from([*[0.0] * 19, 0.9]),
    cancelled_after_s=st.sampled_from([*[None] * 9, 0.01]),
)


@given(
    st.lists(CLOSE, min_size=30, max_size=60),
    ONE_FAMILY,
    FEW_CHANGES,
    st.sampled_from([[1.0], [1.0, 1.3, 0.9]]),
    st.sampled_from([GREEDY, proactive(0.1)]),
)
@examples(150, fuzzed=2000)
def test_workers_that_arrivals_leave_waiting_would_wait_all_the_same(
    load: list[Query], first: Adopt, changes: list[Change], slowdowns: list[float], policy: Policy
) -> None:
    slots = dict.fromkeys(DEVICES, 1)
    driver = play(load, [first, *changes], slots, in_turn(slowdowns), policy, measured=len(slowdowns) > 1)
    assert driver.ended == Counter(range(len(load)))


CASCADING = cascading()
CASCADING_CHANGES = st.lists(
    CASCADING | st.builds(Lose, st.sampled_from(DEVICES)) | st.builds(Return, st.sampled_from(DEVICES)), max_size=6
)
UNSURE = st.lists(st.booleans(), min_size=1, max_size=7)


@given(
    queries(
        3,
        priority=PRIORITIES,
        min_accuracy=MINIMA,
        bounds=BOUNDS,
        cancelled_after_s=CANCELLED,
        is_malformed=st.booleans(),
    ),
    CASCADING,
    CASCADING_CHANGES,
    SLOTS,
    SLOWDOWNS,
    OTHER_POLICIES,
    DISPATCH_AHEADS_S,
    UNSURE,
)
@examples(150, fuzzed=400)
def test_all_rules_hold_with_cascades_whatever_the_first_stage_is_sure_of(
    load: list[Query],
    first: Adopt,
    changes: list[Change],
    slots: dict[str, int],
    slowdowns: list[float],
    policy: Policy,
    dispatch_ahead_s: float,
    unsure: list[bool],
) -> None:
    """What has a first answer ends with it in time, if not with a second one; and quotas count what is deferred."""
    driver = play(
        load, [first, *changes], slots, in_turn(slowdowns), policy,
        measured=True, dispatch_ahead_s=dispatch_ahead_s, is_unsure=in_turn(unsure),
    )  # fmt: skip
    assert driver.ended == Counter(range(len(load)))
    assert requests_waiting(driver.controller) == 0


@given(queries(3, priority=PRIORITIES, min_accuracy=MINIMA, bounds=BOUNDS), CASCADING, CASCADING_CHANGES, SLOTS, UNSURE)
@examples(120, fuzzed=300)
def test_with_cascades_no_worker_idles_that_is_not_reserved(
    load: list[Query], first: Adopt, changes: list[Change], slots: dict[str, int], unsure: list[bool]
) -> None:
    driver = play(load, [first, *changes], slots, lambda: 1.0, GREEDY, is_unsure=in_turn(unsure))
    assert driver.ended == Counter(range(len(load)))
    assert requests_waiting(driver.controller) == 0


STANDBYS = {
    f"a-{name}": hosted(
        variant=f"a-{name}", latency_s={1: row_s, 8: 8 * row_s}, max_batch=8, weight=0.0, capacity_qps=1 / row_s,
        accuracy=accuracy,
    )
    for name, row_s, accuracy in (("fast", 0.001, 0.6), ("faster", 0.0005, 0.5))
}  # fmt: skip
MEMORY = DeviceMemory(
    3,
    {
        VariantKey("a", name): Loadable(1, 1.0, host.capacity_qps, replace(host, is_standby=True))
        for name, host in STANDBYS.items()
    }
    | {VariantKey(family, "a-s"): Loadable(1, 1.0, 10.0) for family in FAMILIES},
)
STANDBY_CHANGES = st.lists(
    UNEQUAL
    | st.builds(Lose, st.sampled_from(DEVICES))
    | st.builds(Return, st.sampled_from(DEVICES))
    | st.builds(StandBy)
    | st.builds(MemoryShort, st.sampled_from(DEVICES)),
    max_size=8,
)


@given(
    queries(3, priority=PRIORITIES, min_accuracy=st.sampled_from([0.0, 0.0, 0.0, 0.55, 0.7]), bounds=BOUNDS),
    UNEQUAL,
    STANDBY_CHANGES,
    SLOTS,
    SLOWDOWNS,
    OTHER_POLICIES,
    DISPATCH_AHEADS_S,
)
@examples(150, fuzzed=400)
def test_all_rules_hold_where_standbys_answer_the_overflow(
    load: list[Query],
    first: Adopt,
    changes: list[Change],
    slots: dict[str, int],
    slowdowns: list[float],
    policy: Policy,
    dispatch_ahead_s: float,
) -> None:
    driver = play(
        load, [first, *[StandBy()] * 3, *changes], slots, in_turn(slowdowns), policy, measured=True,
        dispatch_ahead_s=dispatch_ahead_s, memory=dict.fromkeys(DEVICES, MEMORY),
    )  # fmt: skip
    assert driver.ended == Counter(range(len(load)))
    assert requests_waiting(driver.controller) == 0


def test_the_rules_are_tested_on_runs_with_overflow() -> None:
    """40 queries at once: the device has time for two batches, and a standby that takes a tenth of that."""
    host = hosted("cpu0", "a", latency_s={1: 0.03, 4: 0.09}, capacity_qps=40.0)
    load = [Query(0.0, "a", 0.2, 1)] * 40
    plans: list[Change] = [Adopt([host]), StandBy(), StandBy()]
    slots = dict.fromkeys(DEVICES, 1)
    driver = play(load, plans, slots, lambda: 1.0, GREEDY, memory={"cpu0": MEMORY})
    assert driver.ended == Counter(range(40))
    assert driver.by_standbys > 0


def test_the_rules_are_tested_on_runs_that_defer() -> None:
    """Half of 40 queries are deferred, and each gets its second answer."""
    quick = hosted("cpu0", "a", "a-0.7", latency_s={1: 0.01, 4: 0.02}, capacity_qps=200.0, accuracy=0.7)
    best = replace(quick, device="cpu1", variant="a-0.9", accuracy=0.9, weight=0.0, deferred_qps=10.0)
    cascade = make_cascade("a", "a-0.7", "a-0.9", rate_qps=10.0)
    load = [Query(0.01, "a", 0.2, 1)] * 40
    driver = play(
        load, [Adopt([quick, best], cascades=(cascade,))], dict.fromkeys(DEVICES, 1), lambda: 1.0, GREEDY,
        is_unsure=in_turn([True, False]),
    )  # fmt: skip
    assert driver.deferred == driver.second_answers == 20
    assert driver.ended == Counter(range(40))


def test_the_rules_are_tested_on_runs_that_launch_and_change_plans() -> None:
    """Guards the properties above against running empty: 40 queries, three plans, batches on every one of them."""
    host = hosted("cpu0", "a", latency_s={1: 0.01, 4: 0.02}, capacity_qps=200.0)
    other = hosted("cpu1", "a", latency_s={1: 0.01, 4: 0.02}, capacity_qps=200.0)
    load = [Query(0.01, "a", 0.2, 1)] * 40
    plans = [Adopt([host]), Adopt([other]), Adopt([host, other])]
    driver = play(load, plans, dict.fromkeys(DEVICES, 1), lambda: 1.0, proactive(0.0))
    assert driver.launches >= 10
    assert driver.ended == Counter(range(40))


def test_the_rules_are_tested_on_runs_that_launch_ahead() -> None:
    host = hosted("cpu0", "a", latency_s={1: 0.01, 4: 0.02}, max_batch=4, capacity_qps=200.0)
    load = [Query(0.001, "a", 1.0, 1)] * 40
    driver = play(load, [Adopt([host])], dict.fromkeys(DEVICES, 1), lambda: 1.0, GREEDY, dispatch_ahead_s=0.005)
    assert driver.ahead >= 5
    assert driver.ended == Counter(range(40))
