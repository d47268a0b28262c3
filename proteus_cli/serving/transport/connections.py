"""All connections of the server, of every protocol: their number, memory for bodies, timeouts, and their end.

A connection calls `Connections.admit` when it opens, `reserve` and `free` for each large body, and `remove` when it is
closed. `Connections` calls the methods of `Connection`, on the event loop.

**Turns.** No connection does more at once than the others can wait for. A *unit* of work takes 2 to 20 µs: a frame, a
message, 8 bytes of a header block, a request, a chunk of a body. A connection that has spent the `WORK_PER_TURN` units
of its turn handles and reads no more until its next turn. In each turn of the event loop one of the connections that
wait takes its turn; in between, the loop handles what others send. Where many send at once, the loop is crowded until
its next turn: connections then do little more than answer short requests.

A read that holds one request of HTTP/1, or one unary call of HTTP/2, alone costs no units. The loop looks at all others
before it reads from that connection again.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Protocol

log = logging.getLogger("proteus.connections")

CHECK_EVERY_S = 1.0
GRACE_S = 0.1  # what a client sent before it could know of the end has arrived by then
MAX_REFUSED_OPEN = 256  # refused connections that stay open to be answered; one more closes the oldest
MIN_BYTES_PER_S = 64 * 1024  # the slowest that a client may send a large body, or read a large response


def client_of(transport: asyncio.BaseTransport) -> str:
    """The address of the client; of IPv6 the network of 64 bits, as one client may have all of its addresses."""
    peer = transport.get_extra_info("peername")
    host = str(peer[0]) if peer else ""
    if ":" not in host:
        return host
    address = IPv6Address(host.partition("%")[0])
    return str(address.ipv4_mapped or address.exploded[:19])


class Connection(Protocol):
    """What `Connections` asks of a connection."""

    def check_timeouts(self, now_s: float) -> None:
        """Close the connection if its client takes too long."""

    def drain(self) -> None:
        """Take no more requests, and close once the admitted ones have been answered."""

    def abort(self) -> None:
        """Close the connection now."""


class Connections:
    """Counts connections, and the bytes of large bodies in memory. ``now_s`` is the loop's time as of the last check.

    That is exact to `CHECK_EVERY_S`, which timeouts of seconds can bear, and costs no call per request. Connections
    with more to do than fits one turn wait in ``turns``. Requests that take long to decode are decoded one at a time,
    under ``long_turn``. ``loop_turn`` is what all do at once.

    Each protocol may have ``max_connections``, and each client of it three quarters of them.
    """

    def __init__(self, *, max_connections: int, max_body_bytes: int) -> None:
        self._max_connections, self._max_body_bytes = max_connections, max_body_bytes
        self._max_of_client = max_connections - max_connections // 4
        self._admitted: dict[Connection, tuple[tuple[str, ...], ...]] = {}  # with the keys of ``_counts``
        self._counts = Counter[tuple[str, ...]]()  # by protocol, and by protocol and client
        self._refused: dict[Connection, None] = {}  # oldest first
        self._body_bytes = 0
        self.refused_count = 0
        loop = asyncio.get_running_loop()
        self.now_s, self.loop_turn = loop.time(), LoopTurn(loop.call_soon)
        self.turns, self.long_turn = Turns(loop.call_soon), asyncio.Lock()
        self.is_draining = False

    def __len__(self) -> int:
        return len(self._admitted)

    @property
    def body_bytes(self) -> int:
        """Bytes that large bodies hold in memory."""
        return self._body_bytes

    def admit(self, connection: Connection, protocol: str, client: str) -> bool:
        """Count a new connection. False: its protocol or its client has too many, and it may ask for health only."""
        counts, keys = self._counts, ((protocol,), (protocol, client))
        if counts[keys[0]] < self._max_connections and counts[keys[1]] < self._max_of_client:
            self._admitted[connection] = keys
            for key in keys:
                counts[key] += 1
            return True
        self.refused_count += 1
        self._refused[connection] = None
        if len(self._refused) > MAX_REFUSED_OPEN:
            oldest = next(iter(self._refused))
            del self._refused[oldest]
            oldest.abort()
        return False

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._refused.pop(connection, None)
        for key in self._admitted.pop(connection, ()):
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]

    def reserve(self, body_bytes: int) -> bool:
        """Reserve memory for a body, to be given back by `free`. False: there is not enough left."""
        if self._body_bytes + body_bytes > self._max_body_bytes:
            return False
        self._body_bytes += body_bytes
        return True

    def free(self, body_bytes: int) -> None:
        """Give memory of a body back."""
        self._body_bytes -= body_bytes

    async def watch_timeouts(self, every_s: float = CHECK_EVERY_S) -> None:
        """Check the timeouts of all connections, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(every_s)
            self.check_timeouts(loop.time())

    def check_timeouts(self, now_s: float) -> None:
        """Have each connection close whose client takes too long, as of ``now_s`` of the loop's time."""
        self.now_s = now_s
        for connection in [*self._admitted, *self._refused]:
            try:
                connection.check_timeouts(now_s)
            except Exception:
                log.exception("a bug in a connection, which is closed")
                connection.abort()

    def begin_drain(self) -> None:
        """Have each connection close with the last response that it owes."""
        self.is_draining = True

    async def close(self, within_s: float) -> None:
        """Drain all connections, and abort them after ``within_s``."""
        self.begin_drain()
        loop = asyncio.get_running_loop()
        stop_s = loop.time() + within_s
        await asyncio.sleep(min(GRACE_S, within_s))
        for connection in list(self._admitted):
            connection.drain()
        while self._admitted and loop.time() < stop_s:
            await asyncio.sleep(0.01)
        for connection in [*self._admitted, *self._refused]:
            connection.abort()


WORK_PER_TURN = 128
"""Units. A turn takes 2 ms at most, and a turn of the loop, some 10 µs, costs little beside it."""

WORK_AT_ONCE = 4 * WORK_PER_TURN
"""Units in one turn of the loop, before it is crowded: some 5 ms."""

WORK_IN_CROWD = 8
"""Units: four requests of HTTP/1, so that clients that send little are answered at once, however many others send."""


class Turn:
    """The turn of one connection: ``left`` units of work, none when it is over."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = WORK_PER_TURN

    def end(self) -> None:
        """Do nothing more in this turn: what is done now costs as much as a whole one."""
        self.left = 0

    def shorten(self) -> None:
        """Do little more in this turn, as the turns of others add up."""
        self.left = min(self.left, WORK_IN_CROWD)


class Turns:
    """The connections that wait for their turn, first come first served."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon
        self._waiting: deque[Callable[[], None]] = deque()

    def wait(self, take_turn: Callable[[], None]) -> None:
        """Have ``take_turn`` called in a turn of the loop of its own."""
        if not self._waiting:
            self._call_soon(self._next)
        self._waiting.append(take_turn)

    def _next(self) -> None:
        take_turn = self._waiting.popleft()
        if self._waiting:
            self._call_soon(self._next)
        take_turn()


class LoopTurn:
    """The work of all connections in one turn of the event loop. ``is_crowded``: `WORK_AT_ONCE` is done."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon, self._spent, self.is_crowded = call_soon, 0, False

    def spend(self, units: int) -> None:
        """Count work; short requests need not be counted."""
        if not self._spent:
            self._call_soon(self._begin)
        self._spent += units
        self.is_crowded = self._spent >= WORK_AT_ONCE

    def _begin(self) -> None:
        self._spent, self.is_crowded = 0, False
