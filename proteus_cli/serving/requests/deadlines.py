"""Requests that run out of time: checked in ticks, as a timer for each request would cost more than the request."""

import asyncio
from collections.abc import Callable

from proteus_cli.serving.requests.in_flight import InFlightRequest

TICK_S = 0.005

MAX_TICKS = 200
"""A request that is due later is looked at again then, so that one that has ended is not kept for long."""


class TimingWheel:
    """Calls ``expired`` for each request that has not ended by its deadline, at most `TICK_S` and a timer late."""

    def __init__(self, clock: Callable[[], float], expired: Callable[[InFlightRequest], None]) -> None:
        self._clock, self._expired = clock, expired
        self._due: dict[int, list[InFlightRequest]] = {}
        self._tick = 0  # the last one that was checked
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, in_flight: InFlightRequest, now_s: float) -> None:
        if self._timer is None:
            self._tick = int(now_s / TICK_S)
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._check)
        tick = min(int(in_flight.deadline_s / TICK_S) + 1, self._tick + MAX_TICKS)
        if tick in self._due:
            self._due[tick].append(in_flight)
        else:
            self._due[tick] = [in_flight]

    def _check(self) -> None:
        now_s = self._clock()
        ticks = range(self._tick + 1, int(now_s / TICK_S) + 1)
        self._tick = max(self._tick, ticks.stop - 1)
        for tick in ticks:
            for in_flight in self._due.pop(tick, ()):
                if in_flight.has_ended:
                    continue
                if in_flight.deadline_s <= now_s:
                    self._expired(in_flight)
                else:
                    self.watch(in_flight, now_s)
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._check) if self._due else None
