"""A host of GPUs in virtual time, on which the knee of each GPU depends on how many of them serve.

The real `Controller` decides. Batches share what a GPU can do; a GPU can do as much as a part of the host allows: PCIe,
host memory and cores are shared. Beyond its knee a GPU loses by each further batch at once, as caches and copies clash.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

import numpy as np

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Drop, Effects, Host, Launch, WaitUntil
from proteus_cli.control.policies import Policy
from proteus_cli.control.slot_tuner import Exposure
from proteus_cli.domain.base import MadeBy
from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.plan import PLAN_FORMAT, Placement, Plan, Solver
from proteus_cli.domain.profile import Point
from proteus_cli.domain.request import Request
from proteus_cli.domain.rules import Rules

FAMILY, VARIANT, SLOTS, MAX_BATCH = "f", "f-a", 4, 4
BATCH_S = {1: 0.04, 2: 0.05, 4: 0.07}  # alone
CAPACITY_QPS = SLOTS * MAX_BATCH / BATCH_S[MAX_BATCH]  # with all slots busy, as profiled without neighbours
SCATTER = 0.2  # of a batch's work, as a part of its mean
SLO_S = 3600.0  # no request is refused or dropped: all of them count
LOOK_S = 0.1

Curve = Sequence[float]
"""What a GPU does with 1, 2, … batches at once, in batches that run alone."""


class Chooser(Protocol):
    """Chooses the slots of one GPU."""

    def began(self, now_s: float) -> Exposure: ...
    def ended(self, exposure: Exposure, work_s: float | None, now_s: float) -> None: ...
    def lost(self, now_s: float) -> None: ...
    def begin_anew(self, now_s: float) -> None: ...
    def look(self, now_s: float) -> int: ...


@dataclass(slots=True)
class _Running:
    launch: Launch
    left_s: float
    exposure: Exposure
    began_s: float


@dataclass(slots=True)
class _Gpu:
    running: list[_Running] = field(default_factory=list)
    at_s: float = 0.0
    setting: int = 0  # of its timer for the next end
    timer: int = 0  # of the timer that the controller asked for


class SharedHost:
    """Feeds arrivals to a controller, with so many GPUs serving as ``serving`` says, and so many slots as choosers do.

    ``curve`` of a GPU by the number of those that serve.
    """

    def __init__(
        self, devices: int, curve: Callable[[int], Curve], choosers: Callable[[], Chooser], rng: np.random.Generator
    ) -> None:
        self._curve, self._rng = curve, rng
        self._names = [f"gpu{place}" for place in range(devices)]
        self._gpus = {name: _Gpu() for name in self._names}
        self._choosers = {name: choosers() for name in self._names}
        self._serving = list(self._names)
        self._hosts = [_host(name) for name in self._names]
        policy = Policy("bench", "all", GreedyBatcher(), None, admits="all")
        self._controller = Controller({FAMILY: SLO_S}, dict.fromkeys(self._names, SLOTS), policy)
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()
        self.latencies_s: list[float] = []
        self.slots: list[tuple[float, int]] = []  # of the first GPU, by time
        self._controller.adopt(_plan(self._names), self._hosts, 0.0)

    def run(self, arrivals_s: Sequence[float], serving: Sequence[tuple[float, int]]) -> None:
        """All arrivals, and from each of these times on so many GPUs; then until the last request has ended."""
        for at_s, number in serving:
            self._at(at_s, lambda now_s, number=number: self._serve_with(number, now_s))  # type: ignore[misc]
        end_s = arrivals_s[-1]
        for number, arrival_s in enumerate(arrivals_s):
            self._run_until(arrival_s)
            if not number:
                self._at(arrival_s, self._look)
            answer = self._controller.offer(Request(number, FAMILY, arrival_s, arrival_s + SLO_S), arrival_s)
            for device in getattr(answer, "devices", ()):
                self._ask(device, arrival_s)
        while len(self.latencies_s) < len(arrivals_s) and self._heap and self._heap[0][0] < end_s + SLO_S:
            self._run_until(self._heap[0][0])
        assert len(self.latencies_s) == len(arrivals_s), "a request has no end"

    def _look(self, now_s: float) -> None:
        for device in self._serving:
            slots = self._choosers[device].look(now_s)
            if slots != self._controller.workers[device].slots:
                self._apply(self._controller.dispatch.use_slots(device, slots, now_s), now_s)
        self.slots.append((now_s, self._controller.workers[self._names[0]].slots))
        self._at(now_s + LOOK_S, self._look)

    def _serve_with(self, number: int, now_s: float) -> None:
        """GPUs leave or come back: those that stay are told, as a server tells its tuners of neighbours."""
        before, self._serving = self._serving, self._names[:number]
        for gpu in self._gpus.values():
            self._advance(gpu, now_s, len(before))
        for device in [each for each in before if each not in self._serving]:
            gpu = self._gpus[device]
            launches = [each.launch for each in gpu.running]
            gpu.running.clear()
            gpu.setting += 1
            self._choosers[device].lost(now_s)
            self._apply(self._controller.device_lost(device, launches), now_s)
        for device in self._serving:
            if device not in before:
                hosts = (self._hosts[self._names.index(device)],)
                self._choosers[device].begin_anew(now_s)
                self._apply(self._controller.device_recovered(device, now_s, hosts), now_s)
            else:
                self._choosers[device].begin_anew(now_s)
        for device in self._serving:
            self._set_end(device, now_s)

    def _ask(self, device: str, now_s: float) -> None:
        if device not in self._serving:
            return
        while True:
            match self._controller.decide(device, now_s):
                case Launch() as launch:
                    self._launch(device, launch, now_s)
                    for other in launch.wake:
                        self._ask(other, now_s)
                case Drop():
                    raise AssertionError("no request is late")
                case WaitUntil(at_s=at_s):
                    self._wake(device, at_s)
                    return
                case _:
                    return

    def _wake(self, device: str, at_s: float) -> None:
        gpu = self._gpus[device]
        gpu.timer += 1
        timer = gpu.timer
        self._at(at_s, lambda now_s: self._ask(device, now_s) if gpu.timer == timer else None)

    def _launch(self, device: str, launch: Launch, now_s: float) -> None:
        gpu = self._gpus[device]
        self._advance(gpu, now_s)
        work_s = float(_LATENCY(launch.rows) * self._rng.gamma(1 / SCATTER**2) * SCATTER**2)
        gpu.running.append(_Running(launch, work_s, self._choosers[device].began(now_s), now_s))
        self._set_end(device, now_s)

    def _set_end(self, device: str, now_s: float) -> None:
        gpu = self._gpus[device]
        gpu.setting += 1
        setting = gpu.setting
        if gpu.running:
            left_s = min(each.left_s for each in gpu.running) / self._speed(gpu, len(self._serving))
            self._at(now_s + left_s, lambda end_s: self._end(device, end_s) if gpu.setting == setting else None)

    def _end(self, device: str, now_s: float) -> None:
        gpu = self._gpus[device]
        self._advance(gpu, now_s)
        ended = min(gpu.running, key=lambda each: each.left_s)
        gpu.running.remove(ended)
        launch = ended.launch
        self._choosers[device].ended(ended.exposure, _LATENCY(launch.rows), now_s)
        self.latencies_s += [now_s - request.arrival_s for request in launch.requests]
        self._controller.finished(launch, now_s - ended.began_s)
        self._set_end(device, now_s)
        self._ask(device, now_s)

    def _advance(self, gpu: _Gpu, now_s: float, serving: int | None = None) -> None:
        speed = self._speed(gpu, serving if serving is not None else len(self._serving)) if gpu.running else 0.0
        for each in gpu.running:
            each.left_s -= speed * (now_s - gpu.at_s)
        gpu.at_s = now_s

    def _speed(self, gpu: _Gpu, serving: int) -> float:
        return self._curve(serving)[len(gpu.running) - 1] / len(gpu.running)

    def _apply(self, effects: Effects, now_s: float) -> None:
        for device in effects.ask:
            self._ask(device, now_s)

    def _at(self, time_s: float, action: Callable[[float], None]) -> None:
        heappush(self._heap, (time_s, next(self._order), action))

    def _run_until(self, time_s: float) -> None:
        while self._heap and self._heap[0][0] <= time_s:
            due_s, _, action = heappop(self._heap)
            action(due_s)


def _host(device: str) -> Host:
    return Host(device, FAMILY, VARIANT, 0.9, MAX_BATCH, 1.0, CAPACITY_QPS, _LATENCY, _LATENCY)


def _plan(devices: Sequence[str]) -> Plan:
    rate_qps = 1.0
    placements = tuple(
        Placement(device, FAMILY, VARIANT, MAX_BATCH, rate_qps, 1 / len(devices), CAPACITY_QPS) for device in devices
    )
    demand = {FAMILY: rate_qps * len(devices)}
    return Plan(
        PLAN_FORMAT, MadeBy("0", "bench", "2026-01-01T00:00:00+00:00"), "proteus", "by hand", Rules(), 1.0, demand,
        demand, {FAMILY: 0.0}, None, None, Solver("none", "optimal", 0.0, 0.0), {"gpu": tuple(devices)}, placements, {},
    )  # fmt: skip


def _point(batch: int, took_s: float) -> Point:
    return Point(batch, 10, took_s, took_s, took_s, took_s, took_s, SLOTS * batch / took_s, slots=SLOTS)


_LATENCY = LatencyTable([_point(batch, took_s) for batch, took_s in BATCH_S.items()], lambda point: point.mean_s)


def p99_s(latencies_s: Sequence[float]) -> float:
    """The 99th percentile."""
    return sorted(latencies_s)[math.ceil(0.99 * len(latencies_s)) - 1]
