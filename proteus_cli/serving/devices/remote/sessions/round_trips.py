"""How long the network takes between a server and an agent, there and back."""

import math

WINDOW_S = 1.0
"""As long as between two pings, so that an idle connection has one in each window."""


class RoundTrips:
    """``shortest_s`` is the shortest round trip of this window and the one before; 0 before the first.

    A long one may tell of an event loop that was late, at either end; if all are long, the network is slow.
    """

    def __init__(self) -> None:
        self.shortest_s = 0.0
        self._before_s = self._now_s = math.inf
        self._began_s = -math.inf

    def add(self, took_s: float, ended_s: float) -> None:
        """One has ended, by a clock that goes on."""
        if ended_s - self._began_s >= WINDOW_S:
            self._before_s, self._now_s, self._began_s = self._now_s, took_s, ended_s
        elif took_s < self._now_s:
            self._now_s = took_s
        else:
            return
        self.shortest_s = max(0.0, min(self._before_s, self._now_s))
