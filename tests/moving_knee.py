"""A device in virtual time that shares its work among all running batches, and whose throughput curve may change."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

Curve = Sequence[float]
"""Work per second with 1, 2, … batches running."""

LOOK_S = 0.1


def curve(knee: int, most: int, fall: float = 0.0) -> Curve:
    """Throughput rises up to the knee in proportion, and falls beyond by that part of a slot's for each more."""
    return [min(n, knee) - fall * max(n - knee, 0) for n in range(1, most + 1)]


class Chooser(Protocol):
    """Says with how many slots to run; told of each batch."""

    @property
    def slots(self) -> int: ...
    def began(self, now_s: float) -> object: ...
    def ended(self, exposure: object, work_s: float, now_s: float) -> None: ...
    def look(self, now_s: float) -> int: ...


@dataclass(slots=True)
class FixedSlots:
    slots: int

    def began(self, now_s: float) -> object:
        return now_s

    def ended(self, exposure: object, work_s: float, now_s: float) -> None:
        pass

    def look(self, now_s: float) -> int:
        return self.slots


@dataclass(slots=True)
class AimdSlots:
    """One slot more a look while batches take at most twice as long as the shortest of late, else half as many."""

    most: int
    slots: int = 1
    _stretch: list[float] = field(default_factory=list)
    _least: float = 1e9

    def began(self, now_s: float) -> object:
        return now_s

    def ended(self, exposure: object, work_s: float, now_s: float) -> None:
        assert isinstance(exposure, float)
        self._stretch.append((now_s - exposure) / work_s)

    def look(self, now_s: float) -> int:
        if len(self._stretch) >= 10:
            mean = sum(self._stretch) / len(self._stretch)
            self._least = min(self._least * 1.01, mean)
            is_slow = mean > 2 * self._least
            self.slots = max(1, self.slots // 2) if is_slow else min(self.slots + 1, self.most)
            self._stretch.clear()
        return self.slots


@dataclass(slots=True)
class Ran:
    """What happened: latencies of all batches, the slots at each look, and the work that was done."""

    latencies_s: list[float] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    work_s: float = 0.0

    def p99_s(self) -> float:
        return float(np.percentile(self.latencies_s, 99))

    @property
    def changes(self) -> int:
        return sum(one != other for one, other in zip(self.slots, self.slots[1:], strict=False))


@dataclass(slots=True)
class _Running:
    arrived_s: float
    work_s: float
    left_s: float
    exposure: object


def run(
    chooser: Chooser,
    curve_at: Callable[[float], Curve],
    arrivals: Iterator[tuple[float, float]],
    until_s: float,
) -> Ran:
    """Batches ``(arrival, work)`` run as they arrive; what waits at the end counts with the time that it has waited."""
    ran, running, waiting = Ran(), list[_Running](), deque[tuple[float, float]]()
    now_s, look_s, coming = 0.0, LOOK_S, next(arrivals, None)
    while now_s < until_s:
        curve_now = curve_at(now_s)
        speed = curve_now[len(running) - 1] / len(running) if running else 0.0
        first = min(running, key=lambda each: each.left_s) if running else None
        end_s = now_s + first.left_s / speed if first is not None else np.inf
        arrival_s = coming[0] if coming is not None else np.inf
        then_s = min(end_s, arrival_s, look_s)
        for each in running:
            each.left_s -= speed * (then_s - now_s)
        now_s = then_s
        if first is not None and then_s == end_s:
            running.remove(first)
            chooser.ended(first.exposure, first.work_s, now_s)
            ran.latencies_s.append(now_s - first.arrived_s)
            ran.work_s += first.work_s
        elif then_s == look_s:
            ran.slots.append(chooser.look(now_s))
            look_s += LOOK_S
        elif coming is not None:
            waiting.append(coming)
            coming = next(arrivals, None)
        while waiting and len(running) < chooser.slots:
            arrived_s, work_s = waiting.popleft()
            running.append(_Running(arrived_s, work_s, work_s, chooser.began(now_s)))
    ran.latencies_s += [now_s - arrived_s for arrived_s, _ in waiting]
    return ran


def poisson(
    rng: np.random.Generator, rate_at: Callable[[float], float], work_s: float = 0.01, scatter: float = 0.2
) -> Iterator[tuple[float, float]]:
    """Arrivals at a rate that may change, with work that scatters by that part of its mean."""
    now_s = 0.0
    shape = 1 / scatter**2
    while True:
        now_s += rng.exponential(1 / rate_at(now_s))
        yield now_s, work_s * rng.gamma(shape) / shape
