"""When a server looks at its connections and pings agents: in groups, so that a host costs it few wake-ups.

A wake-up of the event loop costs more than the sign of life that it is for. So a group is looked at in one turn of the
loop, and its agents give their signs of life together. An agent counts beats from the last frame that it sent
(`serving/agent/beats.py`). Where nothing else is asked of it, that is the answer to a ping. All pings of a group go out
at the same moment of a beat, to a tenth of the group in each beat::

    beat of the group     |-----------------|-----------------|-----------------|
    looks at all          ^                 ^                 ^
    pings a tenth of them          ^                 ^                 ^
    signs of life of all            ^                 ^                 ^

Signs of life come half a beat before a look, so none is early in one beat and late in the next. A group is small, as
requests wait while its signs of life are read. Few hosts are pinged at once, as answers that come together seem to take
longer than they do.
"""

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from proteus_cli.domain.cluster import BEAT_S

GROUP = 25
"""Hosts that are looked at in one turn: to read what they send takes half a millisecond."""

PING_BEATS = 10
"""An agent is pinged once in so many beats, each second: this measures the round trip where nothing else is sent, and
the agent hears of the server."""

_APART = (math.sqrt(5) - 1) / 2  # groups begin at multiples of so many beats: no two of them at about the same moment


class Watched(Protocol):
    """A connection that is looked at."""

    def look(self) -> None:
        """See whether something has come since the last look."""
        ...

    def ping(self) -> None:
        """Send a `Ping`."""
        ...


class Looks:
    """Looks at all connections of a server each `BEAT_S`, and pings each once in `PING_BEATS`, while there are any."""

    def __init__(self) -> None:
        self._groups: list[_HostGroup] = []

    @contextmanager
    def at(self, watched: Watched) -> Iterator[None]:
        """Look at a connection until left; for the first time within a beat."""
        group = next((group for group in self._groups if group.size < GROUP), None)
        if group is None:
            group = _HostGroup(len(self._groups) * _APART % 1.0 * BEAT_S)
            self._groups.append(group)
        with group.having(watched):
            yield


class _HostGroup:
    """Connections that are looked at together, ``offset_s`` into each beat; each is pinged in one of the `_turns`."""

    def __init__(self, offset_s: float) -> None:
        self._turns: list[dict[Watched, None]] = [{} for _ in range(PING_BEATS)]
        self._offset_s, self._next_s, self._turn = offset_s, 0.0, 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def size(self) -> int:
        return sum(map(len, self._turns))

    @contextmanager
    def having(self, watched: Watched) -> Iterator[None]:
        turn = min(self._turns, key=len)
        turn[watched] = None
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._next_s = self._offset_s + (math.floor((loop.time() - self._offset_s) / BEAT_S) + 1) * BEAT_S
            self._timer = loop.call_at(self._next_s, self._look)
        try:
            yield
        finally:
            del turn[watched]
            if not self.size:
                self._timer.cancel()
                self._timer = None

    def _look(self) -> None:
        """A timer that is late does not move the looks that follow, but two are half a beat apart at least."""
        loop = asyncio.get_running_loop()
        self._next_s = max(self._next_s + BEAT_S, loop.time() + BEAT_S / 2)
        self._turn = (self._turn + 1) % PING_BEATS
        if self._turns[self._turn]:
            self._timer = loop.call_at(self._next_s - BEAT_S / 2, self._ping)
        else:
            self._timer = loop.call_at(self._next_s, self._look)
        for turn in self._turns:
            for watched in list(turn):
                watched.look()

    def _ping(self) -> None:
        self._timer = asyncio.get_running_loop().call_at(self._next_s, self._look)
        for watched in list(self._turns[self._turn]):
            watched.ping()
