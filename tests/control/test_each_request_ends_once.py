"""The rules that hold for whatever arrives, however long batches take, and through changes of plan."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from builders import hosted, make_placement, make_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from proteus_cli.control.batcher import ProactiveBatcher
from proteus_cli.control.controller import Controller, Refused
from proteus_cli.control.decision import Drop, HandOver, Hosted, Idle, Launch, WaitUntil
from proteus_cli.control.line import LateLine
from proteus_cli.control.policies import Policy
from proteus_cli.domain.request import Request

FAMILIES = ("a", "b")
DEVICES = ("cpu0", "cpu1", "cpu2")


@dataclass(frozen=True)
class Query:
    gap_s: float
    family: str
    slo_s: float
    rows: int


@dataclass
class Driver:
    """Obeys a controller on a virtual clock, and checks each of its decisions. A batch takes ``pace`` × its latency."""

    controller: Controller
    slots: dict[str, int]
    pace: Callable[[], float]
    ended: Counter[int] = field(default_factory=Counter)
    waiting: dict[int, Request] = field(default_factory=dict)
    hosted: Sequence[Hosted] = ()
    launches: int = 0
    _busy: Counter[str] = field(default_factory=Counter)
    _timer: Counter[str] = field(default_factory=Counter)
    _heap: list[tuple[float, int, Callable[[float], None]]] = field(default_factory=list)
    _order: "count[int]" = field(default_factory=count)

    def adopt(self, hosts: Sequence[Hosted], now_s: float) -> None:
        plan = make_plan(
            *(make_placement(h.device, h.family, h.variant) for h in hosts),
            demand_qps=dict.fromkeys(FAMILIES, 1000.0),
            devices=DEVICES,
        )
        self.hosted = hosts
        for request in self.controller.adopt(plan, hosts, now_s):
            assert not any(host.family == request.family for host in hosts)
            self._end(request)
        self._check_turns()
        for device in DEVICES:
            self._ask(device, now_s)

    def offer(self, request: Request) -> None:
        now_s = request.arrival_s
        self.run_until(now_s)
        answer = self.controller.offer(request, now_s)
        if isinstance(answer, Refused):
            assert answer.retry_after_s >= 1
            self.ended[request.id] += 1
            return
        self.waiting[request.id] = request
        self._check_turns()
        for device in answer.devices:
            self._ask(device, now_s)

    def run_until(self, time_s: float) -> None:
        while self._heap and self._heap[0][0] <= time_s:
            due_s, _, action = heappop(self._heap)
            action(due_s)

    def _ask(self, device: str, now_s: float) -> None:
        while True:
            decision = self.controller.decide(device, now_s)
            match decision:
                case Launch():
                    self._launch(device, decision, now_s)
                case Drop(requests=requests):
                    for request in requests:
                        self._end(request)
                case HandOver(to=other):
                    assert other != device
                    self._ask(other, now_s)
                case WaitUntil(at_s=at_s):
                    assert at_s > now_s
                    self._wake(device, at_s)
                case Idle():
                    pass
            self._check_turns()
            if isinstance(decision, WaitUntil | Idle):
                return

    def _wake(self, device: str, at_s: float) -> None:
        self._timer[device] += 1
        setting = self._timer[device]
        self._at(at_s, lambda now_s: self._ask(device, now_s) if self._timer[device] == setting else None)

    def _launch(self, device: str, launch: Launch, now_s: float) -> None:
        host = launch.hosted
        assert host.device == device
        assert any(host is loaded for loaded in self.hosted)
        assert self._busy[device] < self.slots[device]
        assert launch.rows <= host.max_batch or len(launch.requests) == 1
        assert all(request.family == host.family for request in launch.requests)
        stays = [r for r in self.waiting.values() if r.family == host.family and r not in launch.requests]
        latest_s = max(request.deadline_s for request in launch.requests)
        assert all(latest_s <= request.deadline_s for request in stays)
        most_urgent = min(launch.requests, key=lambda request: request.deadline_s)
        assert now_s + host.latency(launch.rows) <= most_urgent.deadline_s + 1e-9
        self._busy[device] += 1
        self.launches += 1
        for request in launch.requests:
            del self.waiting[request.id]
        self._at(now_s + self.pace() * host.latency(launch.rows), lambda end_s: self._finished(launch, end_s))

    def _finished(self, launch: Launch, now_s: float) -> None:
        self._busy[launch.hosted.device] -= 1
        self.controller.finished(launch, None)
        self.ended.update(request.id for request in launch.requests)
        self._ask(launch.hosted.device, now_s)

    def _end(self, request: Request) -> None:
        del self.waiting[request.id]
        self.ended[request.id] += 1

    def _at(self, time_s: float, action: Callable[[float], None]) -> None:
        heappush(self._heap, (time_s, next(self._order), action))

    def _check_turns(self) -> None:
        for family in FAMILIES:
            line = self.controller._lines[family]
            assert isinstance(line, LateLine)
            rows = sum(request.rows for request in self.waiting.values() if request.family == family)
            turns = line.router.turns or [0]
            assert line.queue.rows == rows == sum(turns)
            assert min(turns) >= 0
            assert self.controller.waiting_of(family) == sum(r.family == family for r in self.waiting.values())


@st.composite
def hosting(draw: st.DrawFn) -> list[Hosted]:
    """One or two variants on each device, or none."""
    found = []
    for device in DEVICES:
        for family in draw(st.lists(st.sampled_from(FAMILIES), max_size=2, unique=True)):
            first_s, row_s = draw(st.floats(0.001, 0.05)), draw(st.floats(0.0001, 0.02))
            max_batch = draw(st.integers(1, 8))
            latency_s = {batch: first_s + row_s * batch for batch in sorted({1, 2, max_batch})}
            capacity_qps = max_batch / latency_s[max_batch]
            weight = draw(st.sampled_from([0.0, 1.0, 3.7]))
            found.append(
                hosted(
                    device, family, latency_s=latency_s, max_batch=max_batch, weight=weight, capacity_qps=capacity_qps
                )
            )
    return found


def queries(most_rows: int) -> st.SearchStrategy[list[Query]]:
    one = st.builds(
        Query,
        gap_s=st.sampled_from([0.0, 0.001, 0.01, 0.05]) | st.floats(0, 0.1),
        family=st.sampled_from(FAMILIES),
        slo_s=st.sampled_from([0.05, 0.1, 0.3]) | st.floats(0.001, 1.0),
        rows=st.integers(1, most_rows),
    )
    return st.lists(one, min_size=1, max_size=40)


def play(
    load: Sequence[Query],
    plans: Sequence[Sequence[Hosted]],
    slots: dict[str, int],
    pace: Callable[[], float],
    margin_frac: float,
) -> Driver:
    """Offer all, changing the plan at even distances; then let everything end."""
    policy = Policy("test", "all", ProactiveBatcher(answer_frac=margin_frac / 2, margin_frac=margin_frac), None)
    driver = Driver(Controller(FAMILIES, slots, policy), slots, pace)
    now_s, coming = 0.0, list(plans)
    driver.adopt(coming.pop(0), now_s)
    every = -(-len(load) // len(plans))
    for number, query in enumerate(load):
        now_s += query.gap_s
        if number and number % every == 0 and coming:
            driver.run_until(now_s)
            driver.adopt(coming.pop(0), now_s)
        driver.offer(Request(number, query.family, now_s, now_s + query.slo_s, query.rows))
    driver.run_until(float("inf"))
    return driver


SLOTS = st.fixed_dictionaries({device: st.integers(1, 2) for device in DEVICES})
PLANS = st.lists(hosting(), min_size=1, max_size=3)
MARGINS = st.sampled_from([0.0, 0.1, 0.5])


@given(queries(1), PLANS, SLOTS, st.data(), MARGINS)
@settings(max_examples=150, deadline=None)
def test_single_rows_end_once_in_deadline_order_within_slots_and_batch_sizes(
    load: list[Query], plans: list[list[Hosted]], slots: dict[str, int], data: st.DataObject, margin_frac: float
) -> None:
    paces = data.draw(st.lists(st.floats(0.2, 3.0), min_size=1, max_size=5))
    turn = count()
    driver = play(load, plans, slots, lambda: paces[next(turn) % len(paces)], margin_frac)
    assert driver.ended == Counter(range(len(load)))
    assert driver.controller.waiting == 0


@given(queries(6), PLANS, SLOTS, MARGINS)
@settings(max_examples=150, deadline=None)
def test_requests_of_many_rows_end_once_in_deadline_order_within_slots_and_batch_sizes(
    load: list[Query], plans: list[list[Hosted]], slots: dict[str, int], margin_frac: float
) -> None:
    driver = play(load, plans, slots, lambda: 1.0, margin_frac)
    assert driver.ended == Counter(range(len(load)))
    assert driver.controller.waiting == 0


def test_the_rules_are_tested_on_runs_that_launch_and_change_plans() -> None:
    """Guards the properties above against running empty: 40 queries, three plans, batches on every one of them."""
    host = hosted("cpu0", "a", latency_s={1: 0.01, 4: 0.02}, capacity_qps=200.0)
    other = hosted("cpu1", "a", latency_s={1: 0.01, 4: 0.02}, capacity_qps=200.0)
    load = [Query(0.01, "a", 0.2, 1)] * 40
    driver = play(load, [[host], [other], [host, other]], dict.fromkeys(DEVICES, 1), lambda: 1.0, 0.0)
    assert driver.launches >= 10
    assert driver.ended == Counter(range(40))
