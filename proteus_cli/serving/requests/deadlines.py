"""Requests that run out of time: checked in ticks, as a timer for each request would cost more than the request."""

import asyncio
from collections.abc import Callable

from proteus_cli.serving.requests.in_flight import InFlightRequest

TICK_S = 0.005

MAX_TICKS = 200
"""A request that is due later is looked at again then, so that one that has ended is not kept for long."""


class TimingWheel:
    """Calls ``expired`` for each request that has not ended by its deadline, at most `TICK_S` and a timer late.

    Most requests have ended by the tick after their arrival. Only the others are sorted by the tick at which they are
    due; so the wheel keeps few that have ended, and their memory is soon used again. ``count`` is of all that were ever
    watched.
    """

    def __init__(self, clock: Callable[[], float], expired: Callable[[InFlightRequest], None]) -> None:
        self._clock, self._expired = clock, expired
        self._arrived: list[InFlightRequest] = []
        self._due: dict[int, list[InFlightRequest]] = {}
        self._tick = 0  # the last one that was checked
        self._timer: asyncio.TimerHandle | None = None
        self.count = 0

    def watch(self, in_flight: InFlightRequest) -> None:
        """Watch a request until its deadline; it is told there unless it has ended."""
        self.count += 1
        self._arrived.append(in_flight)
        if self._timer is None:
            self._check_later()

    def _check_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._check)

    def _check(self) -> None:
        now_s = self._clock()
        to_check, self._arrived = self._arrived, []
        before, self._tick = self._tick, max(self._tick, int(now_s / TICK_S))
        for tick in range(before + 1, self._tick + 1) if self._due else ():
            to_check += self._due.pop(tick, ())
        checking = iter(to_check)
        try:
            for in_flight in checking:
                if in_flight.has_ended:
                    continue
                if in_flight.deadline_s <= now_s:
                    self._expired(in_flight)
                else:
                    due = min(int(in_flight.deadline_s / TICK_S) + 1, self._tick + MAX_TICKS)
                    self._due.setdefault(due, []).append(in_flight)
        finally:  # also after a bug in `expired`: the others have deadlines, too
            self._arrived += checking
            if self._due or self._arrived:
                self._check_later()
            else:
                self._timer = None
