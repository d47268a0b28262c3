"""One timer for all connections of a server: with hundreds of agents, a timer for each costs as much as their beats."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from proteus_cli.domain.cluster.connection import BEAT_S


class Looks:
    """Calls all who look for signs of life, each `BEAT_S`, while there are any."""

    def __init__(self) -> None:
        self._callbacks: dict[Callable[[], object], None] = {}
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def calling(self, look: Callable[[], object]) -> Iterator[None]:
        """``look`` is called until left; for the first time within `BEAT_S`."""
        self._callbacks[look] = None
        if self._timer is None:
            self._schedule()
        try:
            yield
        finally:
            del self._callbacks[look]
            if not self._callbacks and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(BEAT_S, self._look)

    def _look(self) -> None:
        self._schedule()
        for look in list(self._callbacks):
            look()
