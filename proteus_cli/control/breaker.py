"""Whether a device, or an engine, may be used: a circuit breaker, as a table."""

from enum import StrEnum

FIRST_RETRY_S = 0.5  # of a device: a process that was killed can be started at once
FIRST_ENGINE_RETRY_S = 5.0  # a model doesn't mend itself
LONGEST_RETRY_S = 60.0
CALM_S = 60.0  # whoever worked for so long is tried again as early as ever
HANG_TIMEOUT_MULTIPLE = 10  # a batch that takes so many times longer than profiled …
MIN_HANG_TIMEOUT_S = 0.5  # … and this long does not end any more: shorter pauses are the machine's own


class BreakerState(StrEnum):
    """``half-open`` is probation: it is tried out, and nothing depends on it yet."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class BreakerEvent(StrEnum):
    DIED = "died"
    BROKE = "broke"  # it fails on what it could do before
    HUNG = "hung"
    RETRIED = "retried"
    PASSED = "passed"


_TROUBLE = dict.fromkeys((BreakerEvent.DIED, BreakerEvent.BROKE, BreakerEvent.HUNG), BreakerState.OPEN)

TRANSITIONS: dict[BreakerState, dict[BreakerEvent, BreakerState]] = {
    BreakerState.CLOSED: _TROUBLE,
    BreakerState.OPEN: {BreakerEvent.RETRIED: BreakerState.HALF_OPEN},
    BreakerState.HALF_OPEN: {**_TROUBLE, BreakerEvent.PASSED: BreakerState.CLOSED},
}


class Breaker:
    """Moves along `TRANSITIONS`; a move that isn't there is a bug and raises `KeyError`.

    ``reason``: why it isn't closed, and why it still isn't after its last probation. ``opened`` counts how often it
    left that state. Each time in a row that it fails its probation, or works for less than `CALM_S`, the next is twice
    as far away; the first after ``first_retry_s``.
    """

    def __init__(self, first_retry_s: float = FIRST_RETRY_S) -> None:
        self._first_retry_s = first_retry_s
        self.state = BreakerState.CLOSED
        self.reason: str | None = None
        self._first_reason: str | None = None
        self.since_s = 0.0
        self.opened = 0
        self._in_a_row = 0

    def on(self, event: BreakerEvent, now_s: float, reason: str | None = None) -> None:
        before, self.state = self.state, TRANSITIONS[self.state][event]
        if self.state is BreakerState.OPEN:
            is_calm = before is BreakerState.CLOSED and now_s - self.since_s >= CALM_S
            self._in_a_row = 1 if is_calm else self._in_a_row + 1
            if before is BreakerState.CLOSED:
                self.opened += 1
                self._first_reason = self.reason = reason
            elif reason != self._first_reason:
                self.reason = f"{self._first_reason}; then: {reason}"
        elif self.state is BreakerState.CLOSED:
            self.reason = None
        self.since_s = now_s

    @property
    def is_closed(self) -> bool:
        return self.state is BreakerState.CLOSED

    @property
    def retry_s(self) -> float:
        """When it should be tried again, once it is open."""
        return self.since_s + min(self._first_retry_s * 2.0 ** min(self._in_a_row - 1, 30), LONGEST_RETRY_S)


def hang_timeout_s(takes_s: float) -> float:
    """How long to wait for a batch that should take so long, before its device counts as hung."""
    return max(HANG_TIMEOUT_MULTIPLE * takes_s, MIN_HANG_TIMEOUT_S)
