"""The circuit breaker of a device or an engine, as a table."""

from collections.abc import Callable
from enum import StrEnum

FIRST_RETRY_S = 0.5  # s; of a device: a process that was killed can be started at once
FIRST_ENGINE_RETRY_S = 5.0  # s; a model does not mend itself
LONGEST_RETRY_S = 60.0
NEEDED_RETRY_S = 2.0  # s; opening takes about 1 s of CPU time, so a device that dies at once takes a third of a core
CHECK_EVERY_S = 0.1  # s between two looks for what hangs, or is to be retried
MAX_DOUBLINGS = 30  # any pause is the longest by then
STABLE_S = 60.0  # after working for so long, the first retry comes as early as ever
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
    """What happens to a device or an engine, as its breaker counts it."""

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
    the breaker fails its probation, or is closed for less than `STABLE_S`, doubles that. What is needed is retried
    after `NEEDED_RETRY_S` at the latest, as long as it passes its probations; each one that it fails in a row doubles
    that, too. ``on_change`` is called after each move.
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

    On a device that so many ``servers`` share, it may wait for a turn of each other one first.
    """
    return max(HANG_TIMEOUT_MULTIPLE * takes_s, MIN_HANG_TIMEOUT_S) + (servers - 1) * LONGEST_TURN_S
