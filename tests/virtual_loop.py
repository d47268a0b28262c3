"""An event loop without waiting: its clock jumps to what is due next."""

import asyncio
import heapq
import itertools
import math
import selectors
from typing import Any


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time stands still while anything is ready, then jumps to the next timer.

    Timers of the same moment fire in the order in which they were set, as in the simulator.
    """

    _scheduled: "list[_Timer]"  # of asyncio, which makes a new list where many timers were cancelled

    def __init__(self) -> None:
        self.now_s = 0.0
        super().__init__(_JumpingSelector(self))
        self._sequence = itertools.count()

    def time(self) -> float:
        return self.now_s

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        timer = _Timer(when, callback, args, self, context)
        timer.sequence = next(self._sequence)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def hold_up(self, held_s: float) -> None:
        """Let time pass as if a callback took so long."""
        self._move_to(self.now_s + held_s)

    def jump(self) -> None:
        self._move_to(max(self.now_s, self._scheduled[0].when()))

    def _move_to(self, now_s: float) -> None:
        self.now_s = now_s
        self._clock_resolution = math.ulp(self.now_s)  # fire what is due now, and nothing early


class _Timer(asyncio.TimerHandle):
    sequence = 0

    def __lt__(self, other: object) -> bool:
        assert isinstance(other, _Timer)
        return (self.when(), self.sequence) < (other.when(), other.sequence)


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nothing is scheduled: the test would wait for ever")
        if timeout > 0:
            self._loop.jump()
        return super().select(0)
