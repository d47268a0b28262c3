"""When a host counts as lost, and when it is tried again: the same for the server's links and for the simulator."""

BEAT_S = 0.1
"""An agent sends something at least so often."""

MAX_SILENT = 5
"""A host is dead after so many looks, `BEAT_S` apart, without anything from it in between.

That is 500 ms, as long as a batch may hang at least: a machine whose cores are all busy pauses for less
(`python -m benchmarks.cluster`). An agent that ends is noticed at once, as its connection ends.
"""

CONNECT_S = 2.0
"""For a connection, TLS and the agent's answer, each."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0

STEADY_S = 10.0
"""A session that lasts for so long is steady: an agent that ends sooner, again and again, is tried at long pauses."""


class ConnectionPauses:
    """The pauses before a host is tried again; each is twice the one before, until a session has been steady."""

    def __init__(self) -> None:
        self._next_s = FIRST_PAUSE_S

    def next_s(self, session_s: float = 0.0) -> float:
        """The next pause, in seconds, after a session that lasted ``session_s``; 0 where no connection was made."""
        if session_s >= STEADY_S:
            self._next_s = FIRST_PAUSE_S
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, LONGEST_PAUSE_S)
        return pause_s
