"""The heartbeat of a server: it looks at all its connections to agents together, and pings some of them each time."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from proteus_cli.domain.cluster import BEAT_S

PING_BEATS = 10
"""An agent is pinged once in so many beats, each second: this measures the round trip where nothing else is sent, and
the agent hears of the server. Few are pinged at once, as answers that come together seem to take longer."""


class Watched(Protocol):
    """A connection that is looked at."""

    def look(self) -> None:
        """See whether something has come since the last look."""
        ...

    def ping(self) -> None:
        """Send a `Ping`."""
        ...


class Looks:
    """Looks at all connections each `BEAT_S`, and pings each once in `PING_BEATS`, while there are any."""

    def __init__(self) -> None:
        self._turns: list[dict[Watched, None]] = [{} for _ in range(PING_BEATS)]
        self._turn = 0
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def at(self, watched: Watched) -> Iterator[None]:
        """Look at a connection until left."""
        turn = min(self._turns, key=len)
        turn[watched] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BEAT_S, self._look)
        try:
            yield
        finally:
            del turn[watched]

    def _look(self) -> None:
        """A late timer moves the looks that follow, so a held-up event loop looks once and not many times in a row."""
        self._timer = None
        self._turn = (self._turn + 1) % PING_BEATS
        for number, turn in enumerate(self._turns):
            for watched in list(turn):
                watched.look()
                if number == self._turn:
                    watched.ping()
        if any(self._turns):
            self._timer = asyncio.get_running_loop().call_later(BEAT_S, self._look)
