"""An event loop whose callbacks are timed one by one, and whose clock jumps to what is due next."""

import asyncio
from collections.abc import Callable
from typing import Any

from fuzzing.watch import Watch
from virtual_loop import VirtualLoop


class WatchedLoop(VirtualLoop):
    """Times all callbacks and steps of tasks with ``watch``, which each input replaces."""

    def __init__(self) -> None:
        self.watch = Watch()
        super().__init__()

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        return super().call_soon(self._timed, callback, args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return super().call_at(when, self._timed, callback, args, context=context)

    def _timed(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.watch.call(callback, *args)
