"""How late the event loop is: the first thing to look at when latencies are long."""

import asyncio
from time import monotonic

from proteus_cli.serving.requests.counts import Histogram

EVERY_S = 0.25
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class LoopLag:
    """Counts how late a timer of the event loop is, every `EVERY_S`. Timers themselves are exact to 1 ms."""

    def __init__(self) -> None:
        self.late_s = Histogram(BOUNDS_S)

    async def watch(self) -> None:
        """Measure, until cancelled."""
        while True:
            due_s = monotonic() + EVERY_S
            await asyncio.sleep(EVERY_S)
            self.late_s.add(max(0.0, monotonic() - due_s))
