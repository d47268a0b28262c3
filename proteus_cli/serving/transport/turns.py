"""Turns: no connection does more at once than the others can wait for.

A *unit* of work takes 2 to 20 µs: a frame, a message, 8 bytes of a header block, a request, a chunk of a body. A
connection that has spent the `WORK_PER_TURN` units of its turn handles and reads no more until its next turn. In each
turn of the event loop one connection of those that wait takes its turn; in between, the loop handles what others send.
Where turns add up because many send at once, the loop is crowded until its next turn: connections do little more than
answer short requests, and longer ones wait in turns, too.

A read that holds one request of HTTP/1, or one unary call of HTTP/2, and nothing else costs no units: before the loop
reads from that connection again, it looks at the others. Were it counted, connections that ask one request at a time
would use up their turns together, and wait for each other.
"""

from collections import deque
from collections.abc import Callable

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
    """What all connections do in one turn of the event loop. ``is_crowded``: `WORK_AT_ONCE` is done."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon, self._spent, self.is_crowded = call_soon, 0, False

    def spend(self, units: int) -> None:
        """Count work, of which short requests need not tell."""
        if not self._spent:
            self._call_soon(self._begin)
        self._spent += units
        self.is_crowded = self._spent >= WORK_AT_ONCE

    def _begin(self) -> None:
        self._spent, self.is_crowded = 0, False
