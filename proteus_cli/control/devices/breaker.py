"""The circuit breaker of a device or an engine, as a table; and which devices hang.

A device hangs where a batch ends long after it should, or never.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum

from proteus_cli.control.decision import Launch

FIRST_RETRY_S = 0.5  # s; of a device: a process that was killed can be started at once
FIRST_ENGINE_RETRY_S = 5.0  # s; a model does not mend itself
LONGEST_RETRY_S = 60.0
NEEDED_RETRY_S = 2.0  # s; opening takes about 1 s of CPU time, so a device that dies at once takes a third of a core
CHECK_EVERY_S = 0.1  # s between two looks for what hangs, or is to be retried
LATE_S = 2 * CHECK_EVERY_S  # s since the last look: the machine has no time for this process
MAX_DOUBLINGS = 30  # any pause is the longest by then
STABLE_S = 60.0  # s closed, after which the first retry is early again
HANG_TIMEOUT_MULTIPLE = 10  # of the profiled time: a batch that takes longer counts as hung …
MIN_HANG_TIMEOUT_S = 0.5  # … if it takes this long, too: machines pause for less
LONGEST_TURN_S = 1.0  # of a batch on a device that servers share: then the next server's batch runs beside it
NEW = "it has joined, and was not tried out yet"


class BreakerState(StrEnum):
    """Half-open is probation: the device or engine is tried out, and nothing depends on it yet."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class BreakerEvent(StrEnum):
    """An event of a device or an engine that its breaker counts."""

    DIED = "died"
    BROKE = "broke"  # every batch fails
    HUNG = "hung"
    RETRIED = "retried"
    PASSED = "passed"


_FAILURES = dict.fromkeys((BreakerEvent.DIED, BreakerEvent.BROKE, BreakerEvent.HUNG), BreakerState.OPEN)

TRANSITIONS: dict[BreakerState, dict[BreakerEvent, BreakerState]] = {
    BreakerState.CLOSED: _FAILURES,
    BreakerState.OPEN: {BreakerEvent.RETRIED: BreakerState.HALF_OPEN},
    BreakerState.HALF_OPEN: {**_FAILURES, BreakerEvent.PASSED: BreakerState.CLOSED},
}


class Breaker:
    """Moves along `TRANSITIONS`; a move that is not there raises `KeyError`.

    What ``is_new`` is open at first, for that reason, and is tried out at once. Else it is closed.
    ``reason``: why it is not closed, and why its last probation failed. ``opened`` counts how often it left the closed
    state, ``since_s`` is when it last changed. The first retry comes after ``first_retry_s``; each time in a row that
    the breaker fails its probation, or is closed for less than `STABLE_S`, doubles that. A needed device is retried
    after `NEEDED_RETRY_S` at the latest, while it passes its probations; each failed one in a row doubles that, too.
    ``on_change`` is called after each move.
    """

    def __init__(
        self,
        first_retry_s: float = FIRST_RETRY_S,
        *,
        since_s: float = 0.0,
        is_new: bool = False,
        on_change: Callable[[], object] = lambda: None,
    ) -> None:
        self._first_retry_s, self.since_s, self._on_change = first_retry_s, since_s, on_change
        self.state = BreakerState.OPEN if is_new else BreakerState.CLOSED
        self.reason = self._first_reason = NEW if is_new else None
        self.opened = 0
        self._in_a_row = self._failed_probations = 0

    def on(self, event: BreakerEvent, now_s: float, reason: str | None = None) -> None:
        """Move along `TRANSITIONS`. Raises `KeyError` where the state does not know the event: a bug."""
        before, self.state = self.state, TRANSITIONS[self.state][event]
        if self.state is BreakerState.OPEN:
            was_stable = before is BreakerState.CLOSED and now_s - self.since_s >= STABLE_S
            self._in_a_row = 1 if was_stable else self._in_a_row + 1
            self._failed_probations = 0 if before is BreakerState.CLOSED else self._failed_probations + 1
            if before is BreakerState.CLOSED:
                self.opened += 1
                self._first_reason = self.reason = reason
            elif reason != self._first_reason:
                self.reason = f"{self._first_reason}; then: {reason}"
        elif self.state is BreakerState.CLOSED:
            self.reason = None
        self.since_s = now_s
        self._on_change()

    @property
    def is_closed(self) -> bool:
        return self.state is BreakerState.CLOSED

    def retry_s(self, *, is_needed: bool = False) -> float:
        """When to retry, once it is open. A device is needed where no other is there for one of its families."""
        if not self._in_a_row:
            return self.since_s
        pause_s = min(self._first_retry_s * 2.0 ** min(self._in_a_row - 1, MAX_DOUBLINGS), LONGEST_RETRY_S)
        if is_needed:
            pause_s = min(pause_s, NEEDED_RETRY_S * 2.0 ** min(self._failed_probations, MAX_DOUBLINGS))
        return self.since_s + pause_s


def hang_timeout_s(takes_s: float, servers: int = 1) -> float:
    """How long a batch that should take ``takes_s`` may run before its device counts as hung.

    ``servers``: the number that share the device. The batch may wait for one turn of each other server.
    """
    return max(HANG_TIMEOUT_MULTIPLE * takes_s, MIN_HANG_TIMEOUT_S) + (servers - 1) * LONGEST_TURN_S


def overdue(
    running: Mapping[int, tuple[Launch, float]], ended_s: float, now_s: float, slowdown: float, servers: int = 1
) -> Launch | None:
    """The oldest of the ``running`` batches of a device, each with its start, if it should have ended long ago.

    The last one ended at ``ended_s``; the device has a ``slowdown``, and ``servers`` is the number that share it.
    """
    if not running:
        return None
    launch, started_s = next(iter(running.values()))
    takes_s = launch.hosted.latency(launch.rows) * slowdown
    return launch if now_s - max(started_s, ended_s) > hang_timeout_s(takes_s, servers) else None


class HangWatch:
    """Says which devices hang: a batch is overdue at two looks in a row, and both of them came in time.

    While the event loop is held up, batches end without being noticed; while the machine is starved, they take long.
    """

    def __init__(self, now_s: float = 0.0) -> None:
        self._overdue: Mapping[str, Launch] = {}
        self._looked_s = now_s

    def look(self, overdue: Mapping[str, Launch], now_s: float) -> list[str]:
        """By device, the batch that is ``overdue`` now; returns the devices that hang. Every `CHECK_EVERY_S`."""
        is_late, self._looked_s = now_s - self._looked_s > LATE_S, now_s
        before, self._overdue = self._overdue, {} if is_late else overdue
        return [device for device, launch in self._overdue.items() if launch is before.get(device)]
