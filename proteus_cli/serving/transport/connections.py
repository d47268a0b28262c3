"""All connections of the server: how many there may be, how long they may take, and that they close in the end."""

import asyncio
import logging
from typing import Protocol

log = logging.getLogger("proteus.connections")

LOOK_EVERY_S = 1.0
QUIET_S = 0.1
LEAVING = 256  # connections that were refused may, so many at once, still be read an answer


class Connection(Protocol):
    """What the server asks of a connection, of whichever protocol."""

    def look(self, now_s: float) -> None:
        """Close if the client takes too long."""
        ...

    def drain(self) -> None:
        """Take no more requests, and close once those that are inside have been answered."""
        ...

    def abort(self) -> None:
        """Close now."""
        ...


class Connections:
    """Counts connections, and the bytes of large bodies that wait in memory.

    ``now_s`` is the loop's time, exact to `LOOK_EVERY_S`: enough for patience, and free.
    """

    def __init__(self, *, most: int, max_body_bytes: int) -> None:
        self._most, self._max_body_bytes = most, max_body_bytes
        self._all: set[Connection] = set()
        self._refused: set[Connection] = set()
        self._body_bytes = 0
        self.turned_away = 0
        self.now_s = asyncio.get_running_loop().time()
        self.is_draining = False

    def __len__(self) -> int:
        return len(self._all)

    @property
    def body_bytes(self) -> int:
        """What large bodies take in memory."""
        return self._body_bytes

    def take(self, connection: Connection) -> bool:
        """Let a new connection in. One that isn't may say why, and must close."""
        if len(self._all) < self._most:
            self._all.add(connection)
            return True
        self.turned_away += 1
        if len(self._refused) < LEAVING:
            self._refused.add(connection)
        else:
            connection.abort()
        return False

    def release(self, connection: Connection) -> None:
        """It is closed."""
        self._all.discard(connection)
        self._refused.discard(connection)

    def reserve(self, body_bytes: int) -> bool:
        """Whether there is room in memory for a body of that size; `free` it later."""
        if self._body_bytes + body_bytes > self._max_body_bytes:
            return False
        self._body_bytes += body_bytes
        return True

    def free(self, body_bytes: int) -> None:
        self._body_bytes -= body_bytes

    async def watch(self, every_s: float = LOOK_EVERY_S) -> None:
        """Until cancelled, look after connections whose clients take too long."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(every_s)
            self.now_s = loop.time()
            for connection in [*self._all, *self._refused]:
                try:
                    connection.look(self.now_s)
                except Exception:
                    log.exception("a bug in a connection, which is closed")
                    connection.abort()

    async def close(self, within_s: float) -> None:
        """Let all finish what they are at, for so long; then close them.

        A request may still be on its way on a connection that seems idle, so those are closed a little later.
        """
        self.is_draining = True
        loop = asyncio.get_running_loop()
        stop_s = loop.time() + within_s
        await asyncio.sleep(min(QUIET_S, within_s))
        for connection in list(self._all):
            connection.drain()
        while self._all and loop.time() < stop_s:
            await asyncio.sleep(0.01)
        for connection in [*self._all, *self._refused]:
            connection.abort()
