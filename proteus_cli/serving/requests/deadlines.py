"""Requests that run out of time: looked for in rounds, as a timer for each would cost more than the request."""

import asyncio
from collections.abc import Callable

from proteus_cli.serving.requests.in_flight import InFlightRequest

ROUND_S = 0.005
FURTHEST = 200  # rounds: what is due later is looked at again then, so that what has ended is not kept for long


class TimingWheel:
    """Tells of each request that has not ended by its deadline, at most `ROUND_S` and a timer's resolution late."""

    def __init__(self, clock: Callable[[], float], expired: Callable[[InFlightRequest], None]) -> None:
        self._clock, self._expired = clock, expired
        self._rounds: dict[int, list[InFlightRequest]] = {}
        self._done = 0  # the last round that was looked at
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, pending: InFlightRequest, now_s: float) -> None:
        if self._timer is None:
            self._done = int(now_s / ROUND_S)
            self._timer = asyncio.get_running_loop().call_later(ROUND_S, self._look)
        self._put(pending)

    def _put(self, pending: InFlightRequest) -> None:
        due = min(int(pending.deadline_s / ROUND_S) + 1, self._done + FURTHEST)
        if due in self._rounds:
            self._rounds[due].append(pending)
        else:
            self._rounds[due] = [pending]

    def _look(self) -> None:
        now_s = self._clock()
        rounds = range(self._done + 1, int(now_s / ROUND_S) + 1)
        self._done = max(self._done, rounds.stop - 1)
        for number in rounds:
            for pending in self._rounds.pop(number, ()):
                if pending.has_ended:
                    continue
                if pending.deadline_s <= now_s:
                    self._expired(pending)
                else:
                    self._put(pending)
        self._timer = asyncio.get_running_loop().call_later(ROUND_S, self._look) if self._rounds else None
